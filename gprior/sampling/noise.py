"""The noise of the measurements: known, of a model of deepinv, or sampled with the latents."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gprior.checks import InputError
from gprior.problem import Leaves, Problem, entries
from gprior.randomness import normal
from gprior.search import Latents, Objective, Target, descend, profile_likelihood, starting_point

__all__ = ["draw_noise", "estimate_noise", "with_noise_model"]

ROUNDS = 5  # of the estimate, each with a new curvature


def with_noise_model(problem: Problem) -> tuple[Problem, str]:
    """Return the rows with the noise of A's model, and what is known of it, in words.

    Poisson and Poisson-Gaussian noise of deepinv are approximated by Gaussian noise whose variance
    at an entry follows from y there: gain y + σ², with y at least one photon.
    """
    known = problem.noise_std > 0
    if bool(known.all()):
        return problem, "known"
    if bool(known.any()):
        raise InputError(
            "A's noise level must be known for all images or for none: some of its sigma are 0; "
            "pass noise_std, or solve these images apart"
        )
    model: Any = getattr(problem.forward.physics, "noise_model", None)
    name = type(model).__name__
    if name not in ("PoissonNoise", "PoissonGaussianNoise"):
        return problem, "unknown: sampled with the latents"
    if not bool(getattr(model, "normalize", True)):
        raise InputError(
            "A has Poisson noise with normalize=False, whose y is not in the units of A x; "
            "multiply y by the gain and set normalize=True"
        )
    images = int(problem.image.max()) + 1

    def per_row(value: Tensor) -> Tensor:
        rows = problem.image if value.numel() == images else problem.image * 0
        return value.flatten().to(problem.noise_std)[rows.to(problem.noise_std.device)]

    gain = per_row(torch.as_tensor(model.gain))
    sigma = per_row(torch.as_tensor(getattr(model, "sigma", 0.0)))
    if problem.y[0].is_complex():
        raise InputError("Poisson noise needs real measurements, y is complex")
    return _with_variances(problem, gain, sigma), f"{name}, approximated by Gaussian noise"


def _with_variances(problem: Problem, gain: Tensor, sigma: Tensor) -> Problem:
    """Return the rows with the noise level of each entry, in units of the least one of its row."""
    variances: Leaves = []
    for leaf in problem.y:
        shape = (-1, *[1] * (leaf.ndim - 1))
        photon, square = gain.view(shape), sigma.square().view(shape)
        variances.append(photon * torch.maximum(leaf, photon) + square)
    least = torch.stack(
        [
            torch.where(fit > 0, variance, torch.inf).flatten(1).amin(1)
            for variance, fit in zip(variances, problem.fit, strict=True)
        ]
    ).amin(0)
    fit = [
        fit * least.view(-1, *[1] * (fit.ndim - 1)) / variance
        for variance, fit in zip(variances, problem.fit, strict=True)
    ]
    return replace(problem, fit=fit, noise_std=least.sqrt())


@torch.no_grad()
def estimate_noise(
    problem: Problem, latents: Latents, candidates: int, at_once: int
) -> tuple[Problem, Tensor]:
    """Return the rows with the noise level at which the most probable latents explain y.

    The level follows the residual in a few rounds of Gauss-Newton steps. Rows of one image get the
    least level of them. Also return the evaluations, (R,).
    """
    zero = [torch.zeros_like(leaf) for leaf in problem.y]
    least = 1e-5 * problem.mean_square(zero, problem.fit).sqrt().clamp_min(1e-12)
    objective = Objective(profile_likelihood(1.0, ""))
    start, cost = starting_point(problem, objective, f"best-of:{candidates}", at_once)
    u = latents.begin(start)
    problem = replace(problem, noise_std=least.to(problem.noise_std))
    target = Target(problem, latents, start, torch.zeros_like(u), torch.ones_like(u), at_once)
    found = descend(target, u, problem.image, ROUNDS, 4, follow=True)
    level = torch.maximum(found.mean_square.sqrt(), least.to(u)).to(problem.noise_std)
    level = torch.stack([level[problem.image == i].amin() for i in problem.image])
    return replace(problem, noise_std=level), cost + found.evaluations


@torch.no_grad()
def draw_noise(target: Target, u: Tensor, sweep: int) -> Tensor:
    """Return σ (R,) from its distribution for given latents: an inverse gamma distribution of σ².

    Its parameters are m/2 and half the sum of the m squared residuals, for a prior that is
    proportional to 1/σ.
    """
    problem = target.problem
    m = entries(problem.fit).round().long().tolist()
    keys = problem.draw_keys("posterior noise level", sweep)
    squares = [normal([key], (n,), u).square().sum() for key, n in zip(keys, m, strict=True)]
    return (_residual(target, u) * (entries(problem.fit) / torch.stack(squares)).sqrt()).to(u)


def _residual(target: Target, u: Tensor) -> Tensor:
    """Return the root mean square of y - A G(u), (R,)."""
    twice = 2 * target.data(target.code(u)) * target.problem.noise_std.square()
    return (twice / entries(target.problem.fit).clamp_min(1)).sqrt()
