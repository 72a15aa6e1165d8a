"""Starting points, shared by every method."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from gprior.checks import InputError
from gprior.priors import Prior
from gprior.problem import Problem
from gprior.randomness import generator
from gprior.search.objective import Objective, total
from gprior.search.space import Variables, inputs_of, join, take

__all__ = ["Init", "candidates", "check_init", "latents_of", "starting_point"]

Init = str | Tensor | Mapping[str, Tensor] | Callable[[Tensor], Any]

NEAREST = 100  # draws among which the z of a mean style is looked for
CLASSES = 100  # that are tried where the class is unknown, unless best-of:N has more candidates


def check_init(init: Init) -> None:
    """Refuse an ``init`` that is none of the known kinds."""
    named = init in ("mean", "random") or candidates(init) if isinstance(init, str) else False
    if not (named or isinstance(init, (Tensor, Mapping)) or callable(init)):
        raise InputError(
            "init must be 'mean', 'random', 'best-of:N' with N >= 1, latents (a tensor or a "
            f"dictionary with 'z' or 'w'), or a callable image -> latents; got {init!r}"
        )


def latents_of(init: Init, guess: Callable[[], Tensor], images: int) -> Init:
    """Return ``init`` with its encoder called, its latents named and counted.

    Parameters
    ----------
    init : str, tensor, mapping or callable
        See `check_init`; a name is returned as it is.
    guess : callable
        Makes the images (B, C, H, W) that an encoder starts from.
    images : int
        B: latents must be one for each image, or one for all.
    """
    if isinstance(init, str):
        return init
    with torch.no_grad():
        found = init(guess()) if callable(init) else init
    if isinstance(found, Tensor):
        found = {"w" if found.ndim == 3 else "z": found}
    if (
        not isinstance(found, Mapping)
        or set(found) - {"z", "w", "c"}
        or not {"z", "w"} & set(found)
    ):
        names = sorted(found) if isinstance(found, Mapping) else type(found).__name__
        raise InputError(f"latents must have 'z' or 'w' (and 'c'), got {names}")
    latents = {name: torch.as_tensor(value, device="cpu") for name, value in found.items()}
    for name, value in latents.items():
        if value.ndim == 0 or len(value) not in (1, images):
            raise InputError(
                f"init must have one {name} for each of the {images} images or one for all, got "
                f"shape {tuple(value.shape)}"
            )
    return latents


def candidates(init: Init) -> int:
    """Return N of ``"best-of:N"``, else 0."""
    found = re.fullmatch(r"best-of:(\d+)", init) if isinstance(init, str) else None
    return int(found[1]) if found else 0


def tried(init: Init, classes: int) -> int:
    """Return the images generated per row before the search starts.

    ``classes`` is the number of classes to choose from: 1 where the label is known.
    """
    if not isinstance(init, str):
        return 0
    n = candidates(init)
    classes = min(classes, max(n, CLASSES))
    return -(-n // classes) * classes if n else (classes if classes > 1 else 0)


def starting_point(
    problem: Problem, objective: Objective, init: Init, c: Tensor | None, at_once: int
) -> tuple[Variables, Tensor]:
    """Return where each row starts, and what finding it cost.

    Parameters
    ----------
    problem : Problem
        R rows.
    objective : Objective
        Its data terms choose between candidates.
    init : str or mapping
        A name, or latents from `latents_of`.
    c : Tensor or None
        Class vectors (R, c_dim); None where there are no classes, or where the class is
        to be found: then candidates of every class are scored on y, or of max(100, N)
        classes that are drawn for each row where there are more of them.
    at_once : int
        Candidates through the generator at once.

    Returns
    -------
    start : dict
        ``z`` (R, z_dim) and, where the prior has them, ``w`` (R, num_ws, w_dim) and
        ``c`` (R, c_dim).
    cost : Tensor
        Evaluations spent, (R,).
    """
    prior, R = problem.prior, len(problem)
    if not isinstance(init, str):
        return _given(problem, init, c), _spent(R, 0.0)
    n = max(candidates(init), 1)
    classes = _classes(problem, n) if prior.c_dim and c is None else [c]
    options: list[Variables] = []
    for own in classes:
        for k in range(-(-n // len(classes))):
            options.append(_mean(problem, own) if init == "mean" else _draw(problem, own, k))
    if len(options) == 1:
        return options[0], _spent(R, 0.0)
    return _best(problem, objective, options, at_once), _spent(R, len(options) / 3)


def _spent(rows: int, evaluations: float) -> Tensor:
    return torch.full((rows,), evaluations, dtype=torch.float64, device="cpu")


def _classes(problem: Problem, n: int) -> list[Tensor | None]:
    """Return the class vectors (R, c_dim) to try: all, or max(100, n) drawn for each row."""
    prior, most = problem.prior, max(n, CLASSES)
    draws = [generator(*key, "classes") for key in problem.keys]
    orders = [torch.randperm(prior.c_dim, generator=draw, device="cpu") for draw in draws]
    labels = torch.stack([order[:most].sort().values for order in orders], 1)
    return [prior.classes(label, len(problem)) for label in labels]


def _complete(prior: Prior, z: Tensor, c: Tensor | None) -> Variables:
    start = {"z": z} if c is None else {"z": z, "c": c}
    if "w" in prior.inputs:
        with torch.no_grad():
            start["w"] = prior.mapping(z, c).clone()
    return start


def _draw(problem: Problem, c: Tensor | None, k: int) -> Variables:
    return _complete(problem.prior, problem.prior.draw(problem.draw_keys("start", k)), c)


def _mean(problem: Problem, c: Tensor | None) -> Variables:
    """Return the mean style of the class, and of some draws the z that maps nearest to it."""
    prior = problem.prior
    if "w" not in prior.inputs:
        shape = prior.draw(problem.draw_keys("start")[:1])
        return _complete(prior, torch.zeros_like(shape).expand(len(problem), -1), c)
    mean = prior.mean_style(c).expand(len(problem), -1)
    draws = [_draw(problem, c, k) for k in range(NEAREST)]
    far = torch.stack([(d["w"][:, 0] - mean).square().sum(1) for d in draws])
    nearest = _pick(draws, far.argmin(0))
    return {**nearest, "w": mean[:, None].expand_as(nearest["w"]).clone()}


@torch.no_grad()
def _best(
    problem: Problem, objective: Objective, options: list[Variables], at_once: int
) -> Variables:
    """Return for each row the option of least data term."""
    R, prior = len(problem), problem.prior
    every = join(options)  # candidate k of row r stands at k R + r
    inputs = inputs_of(every)
    scores = []
    for rows in torch.arange(len(options) * R, device=problem.image.device).split(at_once):  # type: ignore[no-untyped-call]
        own = problem.take(rows % R)
        predicted = own.measure(prior(**take(inputs, rows)))
        scores.append(total(objective.data(own, predicted)).nan_to_num(torch.inf))
    return _pick(options, torch.cat(scores).view(-1, R).argmin(0))


def _pick(options: list[Variables], index: Tensor) -> Variables:
    rows = torch.arange(len(index), device=index.device)
    return {k: torch.stack([o[k] for o in options])[index, rows] for k in options[0]}


def _given(problem: Problem, latents: Any, c: Tensor | None) -> Variables:
    """Return a starting point from a user's latents, one per image or one for all."""
    prior, rows = problem.prior, {}
    for name, value in latents.items():
        image = problem.image if len(value) > 1 else torch.zeros_like(problem.image)
        rows[name] = value.to(prior.like)[image]
    if prior.c_dim and c is None:
        c = rows.get("c")
        if c is None:
            raise InputError("this prior has classes: pass label= together with latents")
    start = _draw(problem, c, 0)
    for name in set(rows) - {"c"}:
        if name not in start:
            raise InputError(f"init has {name}, which this prior lacks; it has {sorted(start)}")
        if rows[name].shape != start[name].shape:
            raise InputError(
                f"{name} must have shape (B, {', '.join(map(str, start[name].shape[1:]))}), "
                f"got {tuple(rows[name].shape)}"
            )
    if "z" in rows:
        start = _complete(prior, rows["z"], c)
    return {**start, "w": rows["w"]} if "w" in rows else start
