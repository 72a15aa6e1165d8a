"""The run of `gprior.solve_many`: how a worker reads, solves and writes measurements."""

from __future__ import annotations

import copy
import hashlib
import inspect
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gprior.batch.items import Item
from gprior.batch.memory import places
from gprior.checks import InputError
from gprior.priors import Prior, sha256_of, tensors_of
from gprior.result import Result
from gprior.solvers import find_solver, name_of
from gprior.solving import solve

__all__ = ["SolveJob"]

PER_ITEM = ("label", "noise_std", "seed")
OPTIONS = (
    "stop", "restarts", "init", "correction", "check", "budget", "label", "noise_std", "seed",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Measured:
    """An item whose measurement was read."""

    item: Item
    y: Any
    rows: int
    key: Hashable


@dataclass(eq=False)
class SolveJob:
    """Items that `gprior.solve` solves with one prior.

    Attributes
    ----------
    list : sequence of Item
        The items.
    A, prior : object, Prior
        The operator of items that have none of their own, and the generator.
    solver : str, Solver or None
        See `gprior.solve`.
    max_batch : int or None
        Rows in the generator at once; None is as many as the memory is enough for.
    options : dict
        Other options of `gprior.solve`, and constants of the solver.
    """

    list: Sequence[Item]
    A: Any
    prior: Prior
    solver: Any = None
    max_batch: int | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        constants = {k: v for k, v in self.options.items() if k not in OPTIONS}
        refused = set(constants) & set(inspect.signature(solve).parameters)
        if refused:
            raise InputError(
                f"{sorted(refused)[0]} is not an option of solve_many, which solves each image for "
                f"itself; use gprior.solve, or one of {sorted(OPTIONS)}"
            )
        self.method = find_solver(self.solver, self.prior, constants)
        self.items = [item.id for item in self.list]
        self._by_id = {item.id: item for item in self.list}

    def facts(self) -> dict[str, Any]:
        """Return what the results depend on, as JSON values."""
        constants = self.method.constants()
        constants.pop("max_batch")  # changes no result
        options = {name: _plain(self.options[name]) for name in OPTIONS if name in self.options}
        return {
            "solver": name_of(self.method),
            **constants,
            **options,
            "prior": self.prior.digest(),
            "operator": described(self.A),
        }

    def inputs(self) -> dict[str, str | None]:
        """Return a digest of each item: of its measurement, if it is in memory, and its options."""
        return {item.id: _digest(item) for item in self.list}

    def open(self, device: str) -> SolveWork:
        """Place the prior and the operator on a device."""
        return SolveWork(self, device)

    def item(self, name: str) -> Item:
        """Return an item."""
        return self._by_id[name]


class SolveWork:
    """What a worker does with the items of a `SolveJob`."""

    def __init__(self, job: SolveJob, device: str) -> None:
        self.job, self.prior = job, job.prior
        if torch.device(device) != self.prior.like.device:
            self.prior = copy.deepcopy(self.prior).to(device)  # `to` would move the user's
        self.device, self.A = device, placed(job.A, device)
        self.restarts = job.options.get("restarts", 1)

    def places(self) -> int:
        """Return how many rows the memory is enough for."""
        return self.job.max_batch or places(self.prior)

    def load(self, name: str) -> Measured:
        """Read the measurement of an item."""
        item = self.job.item(name)
        y = item.y() if callable(item.y) else item.y
        shapes = tuple((tuple(leaf.shape), str(leaf.dtype)) for leaf in _leaves(y))
        own = [getattr(item, name) is not None for name in PER_ITEM]
        # A masked array cannot be joined with others: its mask would have to be, too.
        alone = item.id if isinstance(y, np.ma.MaskedArray) else None
        key = (id(item.A) if item.A is not None else None, shapes, *own, alone)
        return Measured(item, y, self.restarts, key)

    def solve(self, loaded: Sequence[Measured], places: int) -> Sequence[Result]:
        """Solve items of one shape and operator in one call."""
        items, options = [one.item for one in loaded], dict(self.job.options)
        for name in PER_ITEM:
            values = [getattr(item, name) for item in items]
            if values[0] is not None:
                options[name] = values
        A = self.A if items[0].A is None else placed(items[0].A, self.device)
        y = _stacked([one.y for one in loaded])
        solver = self.job.solver
        if solver is None or isinstance(solver, str):
            options["max_batch"] = places
        together = solve(y, A, self.prior, solver, **options)
        return [together.take([row]) for row in range(len(items))]

    def write(
        self, place: Path, loaded: Measured, answer: Result, seconds: float
    ) -> dict[str, Any]:
        """Write the result of an item, and return what the summary says about it."""
        result = replace(answer, seconds=seconds)
        result.save(place / "result.safetensors")
        return summary_of(result)


def placed(A: Any, device: str) -> Any:
    """Return an operator on a device; the user's own stays where it is."""
    if not isinstance(A, nn.Module) or all(t.device == torch.device(device) for t in tensors_of(A)):
        return A
    return copy.deepcopy(A).to(device)


def summary_of(result: Result) -> dict[str, Any]:
    """Return the numbers of the first image of a result, as JSON values."""
    facts = result.facts()
    names = ("misfit", "criterion", "plausibility", "prior_weight", "evaluations", "reason")
    row = {name: facts[name][0] if facts[name] else None for name in (*names, "label", "seed")}
    return {**row, "seconds": round(result.seconds, 4)}


def _leaves(y: Any) -> list[Any]:
    parts = getattr(y, "x", y)
    return [parts] if isinstance(parts, (Tensor, np.ndarray)) else list(parts)


def _stacked(measurements: Sequence[Any]) -> Any:
    """Return measurements of one shape with a batch dimension."""
    first = measurements[0]
    if isinstance(first, np.ma.MaskedArray):
        return first[None]
    if isinstance(first, Tensor):
        return torch.stack(list(measurements))
    if isinstance(first, np.ndarray):
        return np.stack(measurements)
    return [_stacked(parts) for parts in zip(*map(_leaves, measurements), strict=True)]


def described(A: Any) -> str | None:
    """Return a digest of an operator, or the name of what cannot be digested."""
    if A is None:
        return None
    name = getattr(A, "__qualname__", type(A).__qualname__)
    if isinstance(A, nn.Module):
        return f"{name} {sha256_of(A.state_dict())[:32]}"
    if isinstance(A, (Tensor, np.ndarray)):
        return f"{name} {_hash(A)}"
    return str(name)


def _hash(value: Any) -> str:
    array = value.detach().cpu().resolve_conj() if isinstance(value, Tensor) else value
    if isinstance(array, Tensor) and array.layout != torch.strided:
        array = array.to_dense()
    found = hashlib.blake2b(digest_size=16)
    for part in (np.ma.getdata(array), np.ma.getmask(array)):
        part = np.ascontiguousarray(part)
        found.update(f"{part.shape} {part.dtype.str}".encode() + part.tobytes())
    return found.hexdigest()


def _digest(item: Item) -> str | None:
    own = [_plain(getattr(item, name)) for name in PER_ITEM]
    y = ["function"] if callable(item.y) else [_hash(leaf) for leaf in _leaves(item.y)]
    text = f"{own} {y} {described(item.A)}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _plain(value: Any) -> Any:
    """Return an option as a JSON value: for an object, a digest or the name of its type."""
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    if isinstance(value, (Tensor, np.ndarray)):
        return _hash(value)
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return getattr(value, "__qualname__", type(value).__qualname__)
