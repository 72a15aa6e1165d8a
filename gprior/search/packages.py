"""Samplers of the packages ``cma`` and ``nevergrad``, which solve one problem at a time.

`PackageSampler` has one search for each problem, and one adapter of a few lines for each package.
Both packages are optional and are imported when a sampler is made.
"""

from __future__ import annotations

import copy
import difflib
import importlib
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from gprior.checks import InputError

__all__ = ["PackageSampler", "in_package"]

Array = np.ndarray[Any, Any]
WORST = 1e20  # in place of values that are larger or not finite; nevergrad warns from 5e20 on
# Variant of ``cma`` -> its options. Without "active", no weight is negative.
CMA_VARIANTS: dict[str, dict[str, Any]] = {
    "cma": {},
    "cma:diagonal": {"CMA_diagonal": True},
    "cma:positive": {"CMA_active": False},
}
NEVERGRAD = "nevergrad:"


def in_package(name: str) -> bool:
    """Return whether a sampler has the name of one in ``cma`` or could be one in ``nevergrad``."""
    return name in CMA_VARIANTS or (name.startswith(NEVERGRAD) and name != NEVERGRAD)


class _Search(Protocol):
    """The search of one problem, in arrays of float64."""

    @property
    def mean(self) -> Array: ...
    def ask(self, normal: Array) -> Array: ...
    def tell(self, points: Array, values: Array, injected: bool) -> None: ...


class PackageSampler:
    """Samplers of another package: one for each problem.

    Parameters
    ----------
    name : str
        ``"cma"``, CMA-ES with a full covariance; ``"cma:diagonal"``; ``"cma:positive"``, without
        the negative weights of active CMA-ES; or ``"nevergrad:"`` and a name in the registry of
        nevergrad, such as ``"nevergrad:DE"``.
    mean : Tensor
        First means (R, d).
    sigma : float
        Initial standard deviation, above 0.
    members : int
        P, at least 2.
    generations : int
        Number of generations, for methods of nevergrad that depend on the budget.

    Raises
    ------
    ModuleNotFoundError
        If the package is not installed.
    InputError
        If nevergrad has no method of this name, or if the method has no populations.
    """

    def __init__(
        self, name: str, mean: Tensor, sigma: float, members: int, generations: int
    ) -> None:
        self.like = mean.new_zeros(())
        rows = mean.double().cpu().numpy()
        make: Callable[[Array], _Search]
        if name in CMA_VARIANTS:
            cma = _import("cma", name, "gprior[cma]")
            make = lambda row: _CMA(cma, row, sigma, members, CMA_VARIANTS[name])  # noqa: E731
        else:
            nevergrad = _import("nevergrad", name, "gprior[nevergrad]")
            budget = members * max(generations, 1)
            make = lambda row: _Nevergrad(nevergrad, name, row, sigma, members, budget)  # noqa: E731
        self.searches = [make(row) for row in rows]

    @property
    def mean(self) -> Tensor:
        """The means of the distributions (R, d). For nevergrad, the points that it recommends."""
        return self._tensor([search.mean for search in self.searches])

    def ask(self, normal: Tensor) -> Tensor:
        """Return points, made from the given normal numbers."""
        numbers = normal.double().cpu().numpy()
        pairs = zip(self.searches, numbers, strict=True)
        return self._tensor([search.ask(row) for search, row in pairs])

    def tell(self, points: Tensor, values: Tensor, injected: bool = False) -> None:
        """Pass the values to the package, in which a value that is not finite ranks last."""
        scores = values.double().nan_to_num(WORST, WORST, -WORST).clamp_max(WORST).cpu().numpy()
        arrays = points.double().cpu().numpy()
        for search, x, f in zip(self.searches, arrays, scores, strict=True):
            search.tell(x, f, injected)

    def take(self, rows: Tensor) -> PackageSampler:
        """Return the sampler of some of the problems, given by their numbers."""
        other = copy.copy(self)
        other.searches = [self.searches[i] for i in rows.tolist()]
        return other

    def _tensor(self, rows: list[Array]) -> Tensor:
        return torch.from_numpy(np.stack(rows)).to(self.like)


class _CMA:
    """The search of one problem by ``cma``, which recognises and clips injected points itself.

    The step size is adapted by CSA in every dimension. From 300 dimensions on, ``cma`` would use
    another rule, which does not work with injected points.
    """

    def __init__(
        self, cma: Any, mean: Array, sigma: float, members: int, variant: dict[str, Any]
    ) -> None:
        self.normal = np.empty((0, len(mean)))
        options = {
            "popsize": members,
            "AdaptSigma": cma.sigma_adaptation.CMAAdaptSigmaCSA,
            "CMA_mirrors": 0,  # small populations would otherwise have mirrored samples
            "seed": np.nan,  # this leaves the global generator of NumPy alone
            "verbose": -9,
            "verb_log": 0,
            "verb_disp": 0,
            "randn": lambda *shape: self.normal.reshape(shape),
            **variant,
        }
        self.search = cma.CMAEvolutionStrategy(mean, sigma, options)

    @property
    def mean(self) -> Array:
        mean: Array = self.search.mean
        return mean

    def ask(self, normal: Array) -> Array:
        self.normal = normal
        return np.stack(self.search.ask(len(normal)))

    def tell(self, points: Array, values: Array, injected: bool) -> None:
        self.search.tell(list(points), list(values))


class _Nevergrad:
    """The search of one problem by a method of nevergrad.

    Its random generator gets the normal numbers as its seed in every generation, so that all draws
    depend on the key of the problem alone.
    """

    def __init__(
        self, nevergrad: Any, name: str, mean: Array, sigma: float, members: int, budget: int
    ) -> None:
        self.nevergrad, self.name, method = nevergrad, name, _method(nevergrad, name)
        self.random = np.random.RandomState(0)
        space = nevergrad.p.Array(init=mean).set_mutation(sigma=sigma)
        space.random_state = self.random
        try:
            self.search = method(space, budget=budget, num_workers=members)
        except ValueError as error:
            raise InputError(
                f"outer must be a method of nevergrad that has populations, got {name!r} "
                f"({error}); take 'nevergrad:DE' for example"
            ) from error
        self.asked: list[Any] = []

    @property
    def mean(self) -> Array:
        mean: Array = self.search.provide_recommendation().value
        return mean

    def ask(self, normal: Array) -> Array:
        self.random.seed(np.ascontiguousarray(normal).view(np.uint32).ravel())
        self.asked = [self.search.ask() for _ in normal]
        return np.stack([candidate.value for candidate in self.asked])

    def tell(self, points: Array, values: Array, injected: bool) -> None:
        candidates = self.asked
        if injected:
            candidates = [self.search.parametrization.spawn_child(new_value=x) for x in points]
        try:
            for candidate, value in zip(candidates, values.tolist(), strict=True):
                self.search.tell(candidate, value)
        except self.nevergrad.errors.TellNotAskedNotSupportedError as error:
            raise InputError(
                f"learn_from must be 'sampled' with outer={self.name!r}, because this method "
                "learns only from points that it proposed"
            ) from error


def _method(nevergrad: Any, name: str) -> Any:
    """Return a method from the registry of nevergrad."""
    registry, wanted = nevergrad.optimizers.registry, name.removeprefix(NEVERGRAD)
    if wanted not in registry:
        near = difflib.get_close_matches(wanted, sorted(registry)) or ["DE", "OnePlusOne", "PSO"]
        raise InputError(
            f"outer must be '{NEVERGRAD}' and a name in nevergrad.optimizers.registry, such as "
            f"{', '.join(near)}; got {name!r}"
        )
    return registry[wanted]


def _import(package: str, name: str, extra: str) -> Any:
    """Import an optional package."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"outer={name!r} needs the package {package}; install it with pip install '{extra}', "
            "or use the built-in sampler, outer='csa'"
        ) from error
