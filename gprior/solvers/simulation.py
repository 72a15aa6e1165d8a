"""Does the prior contain this image? A test by simulation, without ground truth.

If the prior contains the true image, its measurements are like those of the prior's own samples. So
the misfit of a search is compared with the misfits of searches of the same length on simulated
measurements of samples, by the same operator with the same noise.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from gprior.problem import Problem, root_mean_square
from gprior.randomness import normal
from gprior.search import Watch
from gprior.solvers.auto import Auto

__all__ = ["plausibility"]

SIMULATED = 39  # at most one of them has a larger misfit in 5 % of the cases
# A search from one start fails for a quarter of the prior's own samples at half mask, and then
# leaves as much as that for an image outside of the prior. From two starts it seldom does.
METHOD = Auto(steps=(40, 0))
STARTS = ("mean", "best-of:32")


def plausibility(problem: Problem, at_once: int = 32) -> Tensor:
    """Return the share of simulated problems whose misfit is larger, for each row, (R,).

    A prior that contains the images gives every share with the same probability. A share below
    0.05 says that it does not contain this one. Where the noise level is unknown, the simulated
    measurements have no noise.

    Parameters
    ----------
    problem : Problem
        One row per image. The simulated misfits are kept with the prior, for the next call with
        the same operator, noise level and label.
    at_once : int
        Images that go through the generator at the same time.
    """
    problem = replace(problem, latents=None, perceptual=None, maps=None).without_held_out()
    problem = replace(
        problem,
        fit=[fit + held for fit, held in zip(problem.fit, problem.held, strict=True)],
        held=[torch.zeros_like(held) for held in problem.held],
    )
    found = misfits(problem, at_once)
    shares = torch.empty_like(found)
    for row in range(len(problem)):
        one = problem.take(torch.tensor([row], device=problem.image.device))
        name = f"simulated misfits {_fingerprint(one)}"
        simulated = problem.prior.statistic(name, partial(_simulated_misfits, one, at_once))
        shares[row] = (simulated > found[row]).double().mean()
    return shares


def misfits(problem: Problem, at_once: int) -> Tensor:
    """Return the root mean square of what a short search leaves of y, (R,).

    It is the smaller one of searches from two starts, if the prior has styles.
    """
    starts = STARTS if "w" in problem.prior.inputs else STARTS[1:]
    parts = []
    for rows in torch.arange(len(problem), device=problem.image.device).split(at_once):  # type: ignore[no-untyped-call]
        part, left = problem.take(rows), []
        for start in starts:
            image = replace(METHOD, init=start).run(part, Watch()).image
            residual = [p - y for p, y in zip(part.measure(image), part.y, strict=True)]
            left.append(root_mean_square(residual, part.fit))
        parts.append(torch.stack(left).amin(0))
    return torch.cat(parts)


def _simulated_misfits(one: Problem, at_once: int) -> Tensor:
    return misfits(_simulated(one), at_once)


@torch.no_grad()
def _simulated(one: Problem) -> Problem:
    """Return problems of samples of the prior, with the operator and noise of a problem of one."""
    prior = one.prior
    rows = torch.zeros(SIMULATED, dtype=torch.long, device=one.image.device)
    problem = one.take(rows)
    problem = replace(problem, keys=[(k, 0) for k in range(SIMULATED)])
    images = prior.sample(SIMULATED, seed=SIMULATED, label=problem.label)
    noise = problem.noise_std
    y = []
    for k, clean in enumerate(problem.measure(images)):
        real = torch.view_as_real(clean) if clean.is_complex() else clean
        drawn = normal(problem.draw_keys(f"simulated noise {k}"), real.shape[1:], real)
        # σ² is the variance of a complex number, not of each of its parts.
        level = (noise / 2**0.5 if clean.is_complex() else noise).view(-1, *[1] * (real.ndim - 1))
        noisy = real + level * drawn
        y.append(torch.view_as_complex(noisy) if clean.is_complex() else noisy)
    masked = [torch.where(fit > 0, leaf, 0) for leaf, fit in zip(y, problem.fit, strict=True)]
    return replace(problem, y=masked)


def _fingerprint(one: Problem) -> str:
    """Return a name for what the simulated misfits depend on: A is named by what it measures."""
    x = normal([(0, "fingerprint")], one.forward.image_shape, one.prior.like)
    with torch.no_grad():
        tensors = [*one.measure(x), *one.fit, one.noise_std]
    if one.label is not None:
        tensors.append(one.label)
    sha = hashlib.sha256()
    for tensor in tensors:
        values = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        sha.update(values.detach().float().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()
