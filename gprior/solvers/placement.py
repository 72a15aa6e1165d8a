"""Search for the position, size and brightness of the object: a transform T between G and A.

`gprior.solvers.transforms` defines T and its parameters φ = (log s_x, log s_y, t_x, t_y, log γ).
The method is that of Huh et al. 2020, arXiv:2005.01703, sections 3.3 and 3.4; `search` has lines 2
to 12 of algorithm 1 of the paper.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from gprior.priors import Prior
from gprior.problem import Problem
from gprior.randomness import normal, uniform
from gprior.search import (
    CSA,
    Outcome,
    PopulationSearch,
    Trial,
    Variables,
    Watch,
    evolve,
    population_size,
)
from gprior.solvers.frames import in_generator_frame, in_measurement_frame
from gprior.solvers.transforms import Transformed, covered, inverse, transform

__all__ = [
    "Transformed",
    "box",
    "covered",
    "densely_known",
    "in_generator_frame",
    "in_measurement_frame",
    "inverse",
    "salient_mask",
    "search",
    "transform",
    "transform_onto",
    "usual_box",
]

SIZE = 5  # entries of φ
# What ``transform`` of `BasinCMA` may be -> the entries of φ that are searched.
SEARCHED: dict[bool | str | None, list[int]] = {
    None: [], False: [], True: [0, 1, 2, 3, 4], "spatial": [0, 1, 2, 3], "color": [4],
}  # fmt: skip
MEMBERS = population_size(SIZE)
SPREAD = math.sqrt(0.1)  # first deviation of φ / UNITS: Σ = 0.1 I, algorithm 1, line 2
SPREAD_AT_OBJECT = 0.1  # the same if the object is located in y, as in the authors' code
LIMIT = 1.4  # largest absolute value of φ / UNITS: scales from 1/4 to 4
# While the shape is still wrong, a darker image has a smaller error. Brightness varies less.
UNITS = (1.0, 1.0, 1.0, 1.0, 0.25)
REUSE = 0.5  # deviation of z around the running mean of the best z, and decay of that mean


def box(mask: Tensor) -> Tensor:
    """Return the bounding boxes of masks.

    Parameters
    ----------
    mask : Tensor
        Masks (R, 1, H, W), not 0 on the object.

    Returns
    -------
    Tensor
        Centre and half sizes (x, y, w, h) of each box, (R, 4), in units of half the width or height
        of the image, as shifts are. If a mask is empty, its box is the whole image.
    """
    intervals = []
    for axis in (3, 2):
        n, inside = mask.shape[axis], mask.amax((1, 5 - axis)) > 0
        inside, at = inside | ~inside.any(1, keepdim=True), torch.arange(n, device=mask.device)
        low, high = torch.where(inside, at, n).amin(1), torch.where(inside, at + 1, 0).amax(1)
        intervals.append(torch.stack([low + high - n, high - low]).to(mask) / n)
    x, y = intervals
    return torch.stack([x[0], y[0], x[1], y[1]], 1)


def salient_mask(x: Tensor, known: Tensor | None = None) -> Tensor:
    """Return masks of the objects in images.

    Every pixel is replaced by the mean of the known pixels in its window of 5 x 5 pixels, which
    reduces noise. The difference of a pixel from the median of the border is averaged over the
    channels. The object is where this difference is more than a quarter of its maximum. If the
    object reaches the border, or if the background is not uniform, the mask can cover the whole
    image.

    Parameters
    ----------
    x : Tensor
        Images (R, C, H, W).
    known : Tensor, optional
        Which pixels are known, 0 or 1, in the shape of x. None means all.

    Returns
    -------
    Tensor
        Masks (R, 1, H, W), 0 or 1.
    """
    known = torch.ones_like(x) if known is None else known
    x = _window_mean(x * known) / _window_mean(known).clamp_min(1e-3)
    border = torch.cat([x[..., [0, -1]].flatten(2), x[..., [0, -1], :].flatten(2)], 2)
    contrast = (x - border.median(2).values[..., None, None]).abs().mean(1, keepdim=True)
    return (contrast > contrast.amax((2, 3), keepdim=True) / 4).to(x)


def densely_known(known: Tensor) -> Tensor:
    """Return whether every window of 5 x 5 pixels has a known pixel.

    Parameters
    ----------
    known : Tensor
        Which pixels are known, 0 or 1, (R, C, H, W).

    Returns
    -------
    Tensor
        One bool per row, (R,).
    """
    return (_window_mean(known) > 1e-3).all(3).all(2).all(1)


def _window_mean(x: Tensor) -> Tensor:
    """Return the mean over the window of 5 x 5 pixels around each pixel."""
    return F.avg_pool2d(F.pad(x, (2, 2, 2, 2), "replicate"), 5, 1)


@torch.no_grad()
def usual_box(prior: Prior, n: int = 64) -> Tensor:
    """Return the box (4,) in which a prior draws its objects: the median over n samples."""
    compute = lambda: box(salient_mask(prior.sample(n))).median(0).values  # noqa: E731
    return prior.statistic(f"usual_box_{n}", compute)


def transform_onto(mask: Tensor, usual: Tensor) -> Tensor:
    """Return the transforms that move the usual box onto the boxes of masks.

    The scale of both axes is s = max(w / w̄, h / h̄), as in section 3.4 of the paper. In the paper,
    the shift is the difference of the centres. Here it is t = u - s ū, so that the scaled box has
    the centre of the mask's box.

    Parameters
    ----------
    mask : Tensor
        Masks (R, 1, H, W) of the objects.
    usual : Tensor
        The box (4,) in which the prior draws its objects, from `usual_box`.

    Returns
    -------
    Tensor
        φ (R, 5).

    Examples
    --------
    >>> mask = torch.zeros(1, 1, 8, 8)
    >>> mask[..., 4:, 4:] = 1.0
    >>> transform_onto(mask, torch.tensor([0.0, 0.0, 0.5, 0.5])).tolist()
    [[0.0, 0.0, 0.5, 0.5, 0.0]]
    """
    target = box(mask).to(usual)
    s = (target[:, 2:] / usual[2:]).amax(1, keepdim=True)
    shift = target[:, :2] - s * usual[:2]
    return torch.cat([s.log(), s.log(), shift, torch.zeros_like(s)], 1)


def pointwise(problem: Problem) -> bool:
    """Return whether A returns the image itself, with some pixels possibly replaced by 0."""
    shape = problem.prior.image_shape
    if len(problem.y) != 1 or tuple(problem.y[0].shape[1:]) != shape:
        return False
    x = uniform((0, "pointwise"), shape).to(problem.prior.like)
    x = x.expand(len(problem), -1, -1, -1)
    with torch.no_grad():
        measured, ones = problem.measure(x)[0], problem.measure(torch.ones_like(x))[0]
    selects = bool(((ones - ones.round()).abs() < 1e-5).all()) and bool((ones.abs() < 1.5).all())
    return selects and torch.allclose(measured, ones * x, atol=1e-5)


def search(
    problem: Problem,
    start: Variables,
    searched: list[int],
    spread: Tensor,
    trial: Trial,
    generations: int,
    at_once: int,
    watch: Watch,
) -> tuple[Tensor, Tensor]:
    """Search entries of φ by CMA-ES; each trial has a separate latent.

    The latents start near the running mean of the best latent of each generation (appendix D of the
    paper).

    Parameters
    ----------
    problem : Problem
        R rows, with a `Transformed` prior.
    start : dict
        The starting point. Its ``transform`` (R, 5) is the first mean of the distributions.
    searched : list of int
        The entries of φ to search, d of them. The others keep their first values.
    spread : Tensor
        First standard deviation of φ / `UNITS`, (R,).
    trial : callable
        From `in_measurement_frame` or `in_generator_frame`.
    generations : int
        Number of generations.
    at_once : int
        Number of members that go through the generator at the same time.
    watch : Watch
        Receives the progress.

    Returns
    -------
    phi : Tensor
        The last means of the distributions, (R, 5).
    spent : Tensor
        Evaluations (R,).
    """
    like, first = problem.prior.like, start["transform"]
    units = like.new_tensor(UNITS)[searched]
    centre, deviation, g = torch.zeros_like(start["z"]), 1.0, 0

    def insert(rows: Tensor, starts: Variables, points: Tensor) -> Variables:
        keys = problem.take(rows[::MEMBERS]).draw_keys("transform-z", g)
        numbers = normal(keys, (MEMBERS, centre.shape[1]), like).flatten(0, 1)
        z = centre[rows] + deviation * numbers
        place = points.clamp(-LIMIT, LIMIT)  # (members, d)
        phi = first[rows].clone()
        phi[:, searched] = place * units
        return {**starts, "z": z, "place": place, "transform": phi}

    def follow_best(rows: Tensor, outcome: Outcome) -> None:
        nonlocal deviation, g
        table = outcome.loss.nan_to_num(torch.inf, torch.inf).view(len(rows), MEMBERS)
        first = torch.arange(len(rows), device=rows.device) * MEMBERS
        best = outcome.code["z"][first + table.argmin(1)]
        centre[rows] = best if g == 0 else REUSE * centre[rows] + (1 - REUSE) * best
        deviation, g = REUSE, g + 1

    population = PopulationSearch(
        problem.judged_by_loss(), start, MEMBERS, 0, at_once, Watch(watch.progress)
    )
    sampler = evolve(
        population,
        CSA(first[:, searched] / units, spread, MEMBERS, diagonal=True),
        MEMBERS,
        trial,
        insert,
        generations,
        outer="place",
        learn_from="sampled",
        after=follow_best,
    )
    phi = torch.zeros_like(first)
    phi[population.rows] = first[population.rows]
    phi[population.rows[:, None], searched] = sampler.mean.clamp(-LIMIT, LIMIT) * units
    return phi, population.record.evaluations
