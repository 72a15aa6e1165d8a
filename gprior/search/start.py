"""Starting points, shared by every method."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from gprior.checks import InputError
from gprior.priors import Encoder, Prior
from gprior.problem import Problem
from gprior.randomness import generator
from gprior.search.latent_spaces import ZPlus
from gprior.search.objective import Iterate, Objective, total
from gprior.search.rows import Variables, join, take
from gprior.search.space import inputs_of

__all__ = [
    "ENCODER", "LATENTS", "LAYERS", "Init", "candidates", "check_init", "latents_of",
    "names_encoder", "starting_point",
]  # fmt: skip

Init = str | os.PathLike[str] | Callable[[Tensor], Any]

ENCODER = "encoder"  # the ``init`` of a search that starts from the prior's own encoder
LAYERS = "random-layers"  # the ``init`` of a search that starts from a random latent per layer
LATENTS = "latents"  # the ``init`` of a search that starts from `Problem.latents`
NEAREST = 100  # draws among which the z of a mean style is looked for
CLASSES = 100  # tried where the class is unknown, unless "best-of:N" has more candidates


def check_init(init: Any) -> None:
    """Refuse an ``init`` that is none of the known kinds.

    Raises
    ------
    InputError
        The message lists the kinds.
    """
    named = isinstance(init, str) and (
        init in ("mean", "random", LAYERS, LATENTS) or candidates(init)
    )
    named = named or names_encoder(init)
    if not (named or isinstance(init, (Tensor, Mapping)) or callable(init)):
        raise InputError(
            "init must be 'mean', 'random', 'best-of:N' with N >= 1, 'random-layers', 'encoder', "
            "the .safetensors file of an encoder, latents (a tensor or a dictionary with 'z' or "
            f"'w'), or a callable image -> latents; got {init!r}"
        )


def names_encoder(init: Any) -> bool:
    """Return whether an ``init`` is ``"encoder"``, or names a file that ends in ``.safetensors``.

    Examples
    --------
    >>> names_encoder("encoder"), names_encoder("mine.safetensors"), names_encoder("mean")
    (True, True, False)
    """
    if not isinstance(init, (str, os.PathLike)):
        return False
    return init == ENCODER or os.fspath(init).endswith(".safetensors")


def latents_of(latents: Any, images: int) -> dict[str, Tensor]:
    """Return latents by their names, with their number checked.

    Parameters
    ----------
    latents : tensor or mapping
        A tensor is ``w`` if it has three dimensions, else ``z``. A mapping has the names ``z``,
        ``w`` and ``c``, with ``z`` or ``w`` among them.
    images : int
        B: latents must be one for each image, or one for all.

    Raises
    ------
    InputError
        If a name or a number does not fit.
    """
    if isinstance(latents, Tensor):
        latents = {"w" if latents.ndim == 3 else "z": latents}
    names = set(latents) if isinstance(latents, Mapping) else set()
    if names - {"z", "w", "c"} or not {"z", "w"} & names:
        given = sorted(names) if names else type(latents).__name__
        raise InputError(f"latents must have 'z' or 'w' (and 'c'), got {given}")
    tensors = {name: torch.as_tensor(value, device="cpu") for name, value in latents.items()}
    for name, value in tensors.items():
        if value.ndim == 0 or len(value) not in (1, images):
            raise InputError(
                f"init must have one {name} for each of the {images} images or one for all, got "
                f"shape {tuple(value.shape)}"
            )
    return tensors


def candidates(init: Any) -> int:
    """Return N of ``"best-of:N"``, else 0."""
    match = re.fullmatch(r"best-of:(\d+)", init) if isinstance(init, str) else None
    return int(match[1]) if match else 0


def tried(init: Init, classes: int) -> int:
    """Return how many images are generated per row before the search starts.

    ``classes`` is the number of classes to choose from: 1 where the label is known.
    """
    if isinstance(init, Encoder):
        return init.rounds - 1
    if not isinstance(init, str) or init == LATENTS:
        return 0
    n = candidates(init)
    classes = min(classes, max(n, CLASSES))
    return -(-n // classes) * classes if n else (classes if classes > 1 else 0)


def starting_point(
    problem: Problem, objective: Objective, init: Init, at_once: int
) -> tuple[Variables, Tensor]:
    """Return where each row starts, and what choosing it cost.

    Where the class is unknown, candidates of every class are scored on y, or of max(100, N)
    classes that are drawn for each row where there are more of them.

    Parameters
    ----------
    problem : Problem
        R rows.
    objective : Objective
        Its data terms choose between candidates.
    init : str
        ``"mean"``, ``"random"``, ``"best-of:N"``, ``"random-layers"``, or ``"latents"`` for those
        of the problem.
    at_once : int
        Candidates through the generator at once.

    Returns
    -------
    start : dict
        ``z`` (R, z_dim) and, where the prior has them, ``w`` (R, num_ws, w_dim) and
        ``c`` (R, c_dim). ``"random-layers"`` adds ``z+`` (R, num_ws, z_dim), with w_i = M(z_i) and
        the first of them as ``z``.
    cost : Tensor
        Evaluations spent, (R,).

    Raises
    ------
    InputError
        If the prior has no style per layer for ``"random-layers"``, or latents are missing.
    """
    prior, R, c = problem.prior, len(problem), problem.label
    nothing = torch.zeros(R, dtype=torch.float64, device="cpu")
    if problem.latents is not None:
        return _given(problem, problem.latents), nothing
    if not isinstance(init, str) or init == LATENTS or names_encoder(init):
        raise InputError(f"init={init!r} needs latents: call gprior.solve with init=latents")
    n = max(candidates(init), 1)
    classes = _classes(problem, n) if prior.c_dim and c is None else [c]
    options: list[Variables] = []
    for vectors in classes:
        for k in range(-(-n // len(classes))):
            if init == "mean":
                options.append(_mean(problem, vectors))
            elif init == LAYERS:
                options.append(_layers(problem, vectors))
            else:
                options.append(_draw(problem, vectors, k))
    if len(options) == 1:
        return options[0], nothing
    return _best(problem, objective, options, at_once), nothing + len(options) / 3


def _classes(problem: Problem, n: int) -> list[Tensor | None]:
    """Return the class vectors (R, c_dim) to try: all, or max(100, n) drawn for each row."""
    prior, most = problem.prior, max(n, CLASSES)
    orders = [
        torch.randperm(prior.c_dim, generator=generator(*key, "classes"), device="cpu")
        for key in problem.keys
    ]
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


def _layers(problem: Problem, c: Tensor | None) -> Variables:
    """Return a random latent for each layer: the candidates that ``"best-of:L"`` would have."""
    prior = problem.prior
    if "w" not in prior.inputs:
        raise InputError(
            f"init={LAYERS!r} needs a prior with one style per layer, and this prior has the "
            f"inputs {sorted(prior.inputs)}; choose init='random'"
        )
    first = _draw(problem, c, 0)
    layers = range(first["w"].shape[1])
    z = torch.stack([prior.draw(problem.draw_keys("start", k)) for k in layers], 1)
    with torch.no_grad():
        return {**first, "z+": z, "w": ZPlus(prior).styles(z, c).clone()}


def _mean(problem: Problem, c: Tensor | None) -> Variables:
    """Return the mean style of the class, and of some draws the z that maps nearest to it."""
    prior = problem.prior
    if "w" not in prior.inputs:
        shape = prior.draw(problem.draw_keys("start")[:1])
        start = _complete(prior, torch.zeros_like(shape).expand(len(problem), -1), c)
        if "filters" not in prior.inputs:
            return start
        # One style per output filter, in which every style is the mean.
        with torch.no_grad():
            w = prior.mapping(start["z"], c)
        mean = prior.mean_style(c).reshape(-1, *[1] * (w.ndim - 2), w.shape[-1])
        return {**start, "w": mean.expand_as(w).clone()}
    mean = prior.mean_style(c).expand(len(problem), -1)
    draws = [_draw(problem, c, k) for k in range(NEAREST)]
    far = torch.stack([(d["w"][:, 0] - mean).square().sum(1) for d in draws])
    nearest = _pick(draws, far.argmin(0))
    return {**nearest, "w": mean[:, None].expand_as(nearest["w"]).clone()}


@torch.no_grad()
def _best(
    problem: Problem, objective: Objective, options: list[Variables], at_once: int
) -> Variables:
    """Return for each row the option of least data terms."""
    R, prior = len(problem), problem.prior
    inputs = inputs_of(join(options))  # candidate k of row r stands at k R + r
    scores = []
    for rows in torch.arange(len(options) * R, device=problem.image.device).split(at_once):  # type: ignore[no-untyped-call]
        part = problem.take(rows % R)
        image = prior(**take(inputs, rows))
        terms = objective(Iterate(part, image, part.measure(image)), data_alone=True)
        scores.append(total(terms).nan_to_num(torch.inf))
    return _pick(options, torch.cat(scores).view(-1, R).argmin(0))


def _pick(options: list[Variables], index: Tensor) -> Variables:
    rows = torch.arange(len(index), device=index.device)
    return {k: torch.stack([o[k] for o in options])[index, rows] for k in options[0]}


def _given(problem: Problem, latents: Variables) -> Variables:
    """Return a starting point from given latents, completed by what they leave open."""
    prior = problem.prior
    c = latents.get("c") if problem.label is None else problem.label
    if prior.c_dim and c is None:
        raise InputError("this prior has classes: pass label= together with latents")
    start = _draw(problem, c if prior.c_dim else None, 0)
    for name, value in latents.items():
        if name == "c":
            continue
        if name not in start:
            raise InputError(f"init has {name}, which this prior lacks; it has {sorted(start)}")
        if value.shape != start[name].shape:
            raise InputError(
                f"{name} must have shape (B, {', '.join(map(str, start[name].shape[1:]))}), "
                f"got {tuple(value.shape)}"
            )
    if "z" in latents:
        start = _complete(prior, latents["z"], c if prior.c_dim else None)
    return {**start, "w": latents["w"]} if "w" in latents else start
