"""Where the object stands: shift, scale and brightness between the generator and A.

T maps a generated image into the frame of the measurement::

    (T x)(u) = γ x((u - t) / s),     φ = (log s_x, log s_y, t_x, t_y, log γ)

with u in [-1, 1]² over the image, so that t is in half-widths of it, towards the right and
down, and s > 1 enlarges. The inverse is φ⁻¹ = (-log s, -t / s, -log γ). Interpolation is
bilinear; where T shrinks, its kernel is widened to what a pixel covers, against aliasing.

Huh et al. 2020, arXiv:2005.01703, sections 3.3 and 3.4; `search` is lines 2 to 12 of their
algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from gprior.priors import Prior, Wrapped
from gprior.problem import Forward, Problem
from gprior.randomness import normal, uniform
from gprior.search import (
    CSA,
    Iterate,
    Objective,
    Optimizer,
    Outcome,
    PopulationSearch,
    Space,
    Step,
    Trial,
    Variables,
    Watch,
    evolve,
    minimise,
    population_size,
    total,
)

__all__ = [
    "Transformed",
    "box",
    "covered",
    "dense",
    "framed",
    "inverse",
    "placement",
    "search",
    "standing_out",
    "through",
    "transform",
    "usual_box",
]

SIZE = 5  # entries of φ
MEMBERS = population_size(SIZE)
SPREAD = math.sqrt(0.1)  # Σ = 0.1 I, algorithm 1, line 2
NEAR = 0.1  # the same about where the object was seen: the deviation in the authors' code
MOST = 1.4  # of every entry of φ / UNITS: scales from 1/4 to 4
# A darker image has the smaller error while its shape is still wrong: brightness varies less.
UNITS = (1.0, 1.0, 1.0, 1.0, 0.25)
AGAIN = 0.5  # spread of z about the running mean of the best ones, and that mean's decay


def transform(x: Tensor, phi: Tensor) -> Tensor:
    """Return T x for images x (R, C, H, W) and φ (R, 5); the border continues outwards.

    >>> x = torch.zeros(1, 1, 4, 4)
    >>> x[..., 1, 1] = 1.0
    >>> shifted = transform(x, torch.tensor([[0.0, 0.0, 0.5, 0.0, 0.0]]))  # a quarter: 1 pixel
    >>> shifted[0, 0, 1].tolist()
    [0.0, 0.0, 1.0, 0.0]
    """
    return phi[:, 4, None, None, None].exp() * _moved(x, phi)


def inverse(phi: Tensor) -> Tensor:
    """Return φ⁻¹ (R, 5), with which T undoes itself where nothing left the frame."""
    shift = -phi[:, 2:4] * (-phi[:, :2]).exp()
    return torch.cat([-phi[:, :2], shift, -phi[:, 4:]], 1)


def covered(phi: Tensor, size: Sequence[int]) -> Tensor:
    """Return which pixels (R, 1, H, W) of T x lie within x, 0 or 1."""
    x, y = _places(phi, size)
    inside = (y.abs() <= 1)[:, :, None] & (x.abs() <= 1)[:, None, :]
    return inside[:, None].to(phi)


def _places(phi: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return where the columns (R, W) and rows (R, H) of T x lie in x."""
    found = []
    for axis, n in enumerate((size[1], size[0])):
        u = (torch.arange(n, device=phi.device, dtype=phi.dtype) + 0.5) * 2 / n - 1
        found.append((u - phi[:, 2 + axis, None]) * (-phi[:, axis, None]).exp())
    return found[0], found[1]


def _moved(x: Tensor, phi: Tensor) -> Tensor:
    """Return the image at its new place: one resampling of its columns and one of its rows."""
    columns, rows = _places(phi, x.shape[2:])
    across, down = _weights(columns, phi[:, 0]), _weights(rows, phi[:, 1])
    return down[:, None] @ x @ across.transpose(1, 2)[:, None]


def _weights(places: Tensor, log_scale: Tensor) -> Tensor:
    """Return the weights (R, n, n) of pixels for places (R, n) between them.

    Triangles as wide as what a pixel covers: bilinear interpolation, or more where T shrinks.
    """
    n = places.shape[1]
    at = ((places + 1) * n / 2 - 0.5).clamp(0, n - 1)
    pixels = torch.arange(n, device=places.device, dtype=places.dtype)
    width = (-log_scale).exp().clamp_min(1)[:, None, None]
    found = (1 - (at[:, :, None] - pixels).abs() / width).clamp_min(0)
    return found / found.sum(2, keepdim=True)


def box(mask: Tensor) -> Tensor:
    """Return centre and half sizes (x, y, w, h) of the boxes (R, 4) around masks (R, 1, H, W).

    In half-widths of the image, as shifts are. An empty mask has the whole image.
    """
    found = []
    for axis in (3, 2):
        n, seen = mask.shape[axis], mask.amax((1, 5 - axis)) > 0
        seen, at = seen | ~seen.any(1, keepdim=True), torch.arange(n, device=mask.device)
        low, high = torch.where(seen, at, n).amin(1), torch.where(seen, at + 1, 0).amax(1)
        found.append(torch.stack([low + high - n, high - low]).to(mask) / n)
    x, y = found
    return torch.stack([x[0], y[0], x[1], y[1]], 1)


def standing_out(x: Tensor, known: Tensor | None = None) -> Tensor:
    """Return where images (R, C, H, W) have an object: a mask (R, 1, H, W), 0 or 1.

    What differs from the border by a quarter of the most, after a mean of the ``known`` ones of
    5 x 5 pixels against noise. An object that reaches the border, or a background that is not
    plain, is everywhere.
    """
    known = torch.ones_like(x) if known is None else known
    x = _blurred(x * known) / _blurred(known).clamp_min(1e-3)
    border = torch.cat([x[..., [0, -1]].flatten(2), x[..., [0, -1], :].flatten(2)], 2)
    far = (x - border.median(2).values[..., None, None]).abs().mean(1, keepdim=True)
    return (far > far.amax((2, 3), keepdim=True) / 4).to(x)


def dense(known: Tensor) -> Tensor:
    """Return whose pixels (R, C, H, W) are known in every window of 5 x 5, (R,)."""
    return (_blurred(known) > 1e-3).all(3).all(2).all(1)


def _blurred(x: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(x, (2, 2, 2, 2), "replicate"), 5, 1)


@torch.no_grad()
def usual_box(prior: Prior, n: int = 64) -> Tensor:
    """Return the box (4,) in which a prior draws its objects: the median over n samples."""
    compute = lambda: box(standing_out(prior.sample(n))).median(0).values  # noqa: E731
    return prior.statistic(f"usual_box_{n}", compute)


def placement(mask: Tensor, usual: Tensor) -> Tensor:
    """Return φ (R, 5) that brings the usual box (4,) to those of masks (R, 1, H, W).

    Section 3.4 of the paper: s = max(w / w̄, h / h̄), for both axes. Its shift is that of the
    centres; here t = u - s ū, so that the scaled box stands where the mask's does.

    >>> mask = torch.zeros(1, 1, 8, 8)
    >>> mask[..., 4:, 4:] = 1.0
    >>> placement(mask, torch.tensor([0.0, 0.0, 0.5, 0.5])).tolist()
    [[0.0, 0.0, 0.5, 0.5, 0.0]]
    """
    found = box(mask).to(usual)
    s = (found[:, 2:] / usual[2:]).amax(1, keepdim=True)
    shift = found[:, :2] - s * usual[:2]
    return torch.cat([s.log(), s.log(), shift, torch.zeros_like(s)], 1)


class Transformed(Wrapped):
    """A prior whose images are transformed: what the ``transform`` in a result's code means.

    Parameters
    ----------
    base : Prior
        The prior. Further inputs go to it.

    Examples
    --------
    >>> import gprior
    >>> prior = Transformed(gprior.load_prior("phantom-64"))
    >>> z, c = prior.draw([(0, "z")]), prior.classes(0, 1)
    >>> prior(z=z, c=c, transform=torch.zeros(1, 5)).shape
    torch.Size([1, 1, 64, 64])
    """

    def __init__(self, base: Prior) -> None:
        super().__init__(base)
        self.inputs = base.inputs | {"transform"}

    def forward(self, transform: Tensor, **inputs: Any) -> Tensor:  # type: ignore[override]
        """Return T G(inputs), (R, C, H, W), for a transform φ (R, 5)."""
        return _apply(self.base(**inputs), transform)


_apply = transform  # under a name that the argument of `Transformed.forward` does not hide


@dataclass(frozen=True)
class Placed(Space):
    """No variables: the transform is that of the starting point."""

    size: tuple[int, int]

    def initial(self, prior: Prior, start: Variables, step: Step) -> Variables:
        return {}

    def finish(self, variables: Variables, start: Variables, step: Step) -> Variables:
        return {**variables, "transform": start["transform"]}

    def diagnose(self, variables: Variables, code: Variables, step: Step) -> Variables:
        return uncovered(code["transform"], self.size)


def uncovered(phi: Tensor, size: Sequence[int]) -> Variables:
    """Return the share of pixels that T leaves uncovered, as a diagnostic."""
    return {"uncovered": 1 - covered(phi, size).mean((1, 2, 3))}


def pointwise(problem: Problem) -> bool:
    """Return whether A keeps images as they are, or leaves pixels out."""
    shape = problem.prior.image_shape
    if len(problem.y) != 1 or tuple(problem.y[0].shape[1:]) != shape:
        return False
    x = uniform((0, "pointwise"), shape).to(problem.prior.like)
    x = x.expand(len(problem), -1, -1, -1)
    with torch.no_grad():
        seen, ones = problem.measure(x)[0], problem.measure(torch.ones_like(x))[0]
    kept = bool(((ones - ones.round()).abs() < 1e-5).all()) and bool((ones.abs() < 1.5).all())
    return kept and torch.allclose(seen, ones * x, atol=1e-5)


def through(space: Space, objective: Objective, steps: int, optimizer: Optimizer) -> Trial:
    """Return the trial that descends A(T(G(u))) itself, for any A."""

    def trial(problem: Problem, start: Variables, watch: Watch) -> Outcome:
        whole = space & Placed(problem.prior.image_shape[1:])
        return minimise(problem, whole, objective, start, steps, optimizer, watch)

    return trial


def framed(space: Space, objective: Objective, steps: int, optimizer: Optimizer) -> Trial:
    """Return the trial that descends on the target brought to the generator's frame.

    For an A that is `pointwise`; scored on the untouched measurements.
    """

    def trial(problem: Problem, start: Variables, watch: Watch) -> Outcome:
        phi = start["transform"]
        found = minimise(_target(problem, phi), space, objective, start, steps, optimizer, watch)
        return _scored(problem, objective, found, phi)

    return trial


def _target(problem: Problem, phi: Tensor) -> Problem:
    """Return the problem of finding T⁻¹ y; pixels that it lacks have weight 0."""
    back, fit = inverse(phi), problem.fit[0]
    known = (fit > 0).to(fit)
    share = _moved(known, back)
    y = transform(problem.y[0] * known, back) / share.clamp_min(1e-3)
    weight = _moved(fit, back) * covered(back, y.shape[2:])
    pixels = weight.mean(1, keepdim=True) + 1e-6
    base = problem.prior.base if isinstance(problem.prior, Transformed) else problem.prior
    target = replace(
        problem,
        prior=base,
        forward=Forward(lambda x: x, base.image_shape, base.like, 1),
        y=[y * (share > 1e-3)],
        fit=[weight],
        held=[torch.zeros_like(weight)],
        weight=pixels,
        maps=None,
    )
    return target.judged_by_loss().prepared()


@torch.no_grad()
def _scored(problem: Problem, objective: Objective, found: Outcome, phi: Tensor) -> Outcome:
    """Return an outcome on the measurements themselves; its history stays the search's."""
    image = transform(found.image, phi)
    predicted = problem.measure(image)
    terms = objective(Iterate(problem, image, predicted), data_alone=True)
    loss = total(terms)
    return replace(
        found,
        code={**found.code, "transform": phi},
        image=image,
        terms=terms,
        loss=loss,
        criterion=problem.criterion(predicted, loss),
        diagnostics=uncovered(phi, image.shape[2:]),
    )


def search(
    problem: Problem,
    start: Variables,
    spread: Tensor,
    trial: Trial,
    generations: int,
    at_once: int,
    watch: Watch,
) -> tuple[Tensor, Tensor]:
    """Search φ by CMA-ES, with a latent of its own for each trial.

    Latents start about the running mean of each generation's best (their appendix D).

    Parameters
    ----------
    problem : Problem
        R rows, on a `Transformed` prior.
    start : dict
        Where they start; with ``transform``, the first mean of the distributions (R, 5).
    spread : Tensor
        Deviation of the first distributions in `UNITS` (R,).
    trial : callable
        From `through` or `framed`.
    generations, at_once, watch
        As for `gprior.search.evolve`.

    Returns
    -------
    phi : Tensor
        The means of the distributions, (R, 5).
    spent : Tensor
        Evaluations (R,).
    """
    R, like, units = len(problem), problem.prior.like, problem.prior.like.new_tensor(UNITS)
    centre, about, g = torch.zeros_like(start["z"]), 1.0, 0

    def insert(rows: Tensor, begin: Variables, points: Tensor) -> Variables:
        keys = problem.take(rows[::MEMBERS]).draw_keys("transform-z", g)
        numbers = normal(keys, (MEMBERS, centre.shape[1]), like).flatten(0, 1)
        z = centre[rows] + about * numbers
        place = points.clamp(-MOST, MOST)
        return {**begin, "z": z, "place": place, "transform": place * units}

    def follow_best(rows: Tensor, outcome: Outcome) -> None:
        nonlocal about, g
        table = outcome.loss.nan_to_num(torch.inf, torch.inf).view(len(rows), MEMBERS)
        first = torch.arange(len(rows), device=rows.device) * MEMBERS
        best = outcome.code["z"][first + table.argmin(1)]
        centre[rows] = best if g == 0 else AGAIN * centre[rows] + (1 - AGAIN) * best
        about, g = AGAIN, g + 1

    population = PopulationSearch(
        problem.judged_by_loss(), start, 0, at_once, Watch(watch.progress)
    )
    sampler = evolve(
        population,
        CSA(start["transform"] / units, spread, MEMBERS, diagonal=True),
        MEMBERS,
        trial,
        insert,
        generations,
        outer="place",
        learn_from="sampled",
        after=follow_best,
    )
    phi = like.new_zeros(R, SIZE)
    phi[population.rows] = sampler.mean.clamp(-MOST, MOST) * units
    return phi, population.record.evaluations
