"""Randomize-then-optimize: every sample is the minimiser of a problem of its own.

Bardsley, Solonen, Haario and Laine 2014, "Randomize-then-optimize: a method for sampling from
posterior distributions in nonlinear inverse problems", SIAM J. Sci. Comput. 36. Sample k of an
image is ::

    y_k = y + σ n_k,    c_k ~ N(0, s²),
    u_k = argmin_u  1/2 |A G(u) - y_k|² / σ² + 1/2 |u - c_k|² / s²

For a linear A G these are exact samples of the posterior. Otherwise they are approximate, and modes
have the weight of their basins of attraction.

The search of a sample: the best of draws of the prior, some steps of Adam, then Gauss-Newton steps.
A sample that is stuck, with an objective far above that of the others of its image, goes on from
the one of them where its own objective is least. That is another start of the same minimisation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gprior.problem import Problem
from gprior.randomness import normal
from gprior.search import (
    Adam,
    Descent,
    Latents,
    Objective,
    Target,
    Variables,
    Watch,
    Z,
    descend,
    likelihood_term,
    minimise,
    prior_term,
    starting_point,
)
from gprior.solvers import cosine

__all__ = ["Settings", "perturbed", "randomize_then_optimize", "search_from_draws"]

STUCK = 6.0  # of sqrt(entries + latents): how far J is above the least of an image
LR = 0.1  # of Adam, falling to 2 % as a cosine


@dataclass(frozen=True)
class Settings:
    """How long a sample is searched.

    Attributes
    ----------
    candidates : int
        Draws of the prior of which the best is the start.
    steps : int
        Steps of Adam.
    rounds, newton : int
        Rounds of Gauss-Newton steps, each with a new curvature, and the steps of a round.
    """

    candidates: int = 32
    steps: int = 30
    rounds: int = 3
    newton: int = 6


def perturbed(problem: Problem) -> Problem:
    """Return the rows with noise added to y, of the noise level of y."""
    y = []
    for k, (leaf, fit) in enumerate(zip(problem.y, problem.fit, strict=True)):
        real = torch.view_as_real(leaf) if leaf.is_complex() else leaf
        noise = normal(problem.draw_keys(f"posterior noise {k}"), real.shape[1:], real)
        if leaf.is_complex():  # σ² is the variance of both parts together
            noise = torch.view_as_complex(noise / 2**0.5)
        level = problem.noise_std.view(-1, *[1] * (leaf.ndim - 1)).to(fit)
        y.append(leaf + torch.where(fit > 0, level * fit.clamp_min(1e-30).rsqrt(), 0) * noise)
    return replace(problem, y=y)


def centres(problem: Problem, like: Tensor) -> Tensor:
    """Return a draw c of the prior N(0, 1) of u for each row, (R, n)."""
    return normal(problem.draw_keys("posterior centre"), like.shape[1:], like)


def search_from_draws(
    problem: Problem, centre: Tensor, settings: Settings, at_once: int, watch: Watch
) -> tuple[Variables, Tensor]:
    """Search z from draws of the prior; return the starting point of what follows, and its cost."""
    objective = Objective(likelihood_term(), prior_term("centre"))
    parts: list[Variables] = []
    costs = []
    every = torch.arange(len(problem), device=problem.image.device)
    for rows in every.split(at_once):  # type: ignore[no-untyped-call]
        part = problem.take(rows)
        start, cost = starting_point(part, objective, f"best-of:{settings.candidates}", at_once)
        start = {**start, "centre": centre[rows]}
        adam = Adam(LR, schedule=cosine)
        outcome = minimise(part, Z(), objective, start, settings.steps, adam, watch)
        parts.append({k: v for k, v in {**start, **outcome.code}.items() if k in ("z", "c")})
        costs.append(outcome.evaluations + cost)
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}, torch.cat(costs)


def randomize_then_optimize(
    problem: Problem, latents: Latents, settings: Settings, at_once: int, watch: Watch
) -> tuple[Target, Descent, Tensor]:
    """Sample the posterior of every image; a row of the problem is one sample.

    Returns
    -------
    target : Target
        The perturbed problems. Its ``problem.y`` is y_k.
    descent : Descent
        The samples u_k.
    redone : Tensor
        Which samples were stuck and went on from another one, (R,) bool.
    """
    changed = perturbed(problem)
    z = problem.prior.draw(problem.draw_keys("start"))
    start, cost = search_from_draws(changed, centres(changed, z), settings, at_once, watch)
    u = latents.begin(start)
    draws, spread = centres(changed, u), latents.spread(u, problem.image)
    target = Target(changed, latents, start, spread * draws, spread, at_once)
    descent = descend(target, u, problem.image, settings.rounds, settings.newton)
    descent = replace(descent, evaluations=descent.evaluations + cost)
    descent, redone = redo(target, descent, settings)
    for _ in range(latents.sweeps):
        spread = latents.spread(descent.u, problem.image)
        target = replace(target, centre=spread * draws, spread=spread)
        descent = go_on(target, descent, settings)
    return target, descent, redone


def go_on(target: Target, descent: Descent, settings: Settings) -> Descent:
    """Go on from the samples of a descent, after their target has changed a little."""
    found = descend(target, descent.u, target.problem.image, 1, settings.newton)
    return replace(found, evaluations=found.evaluations + descent.evaluations)


@torch.no_grad()
def redo(target: Target, descent: Descent, settings: Settings) -> tuple[Descent, Tensor]:
    """Let stuck rows go on from the row of their image where their own objective is least."""
    image, objective = target.problem.image, descent.objective
    counts = torch.stack([f.flatten(1).count_nonzero(1) for f in target.problem.fit]).sum(0)
    freedom = (counts + descent.u.shape[1]).to(objective)
    least = torch.stack([objective[image == i].amin() for i in image])
    stuck = ~(objective <= least + STUCK * freedom.sqrt()) | ~descent.converged
    rows = stuck.nonzero()[:, 0]
    if not len(rows):
        return descent, stuck
    u, cost = descent.u.clone(), descent.evaluations.clone()
    for row in rows.tolist():
        others = (image == image[row]).nonzero()[:, 0]
        own = target.take(torch.full_like(others, row))
        code = own.code(u[others])
        u[row] = u[others][(own.data(code) + own.prior(u[others])).argmin()]
        cost[row] += len(others) / 3
    part = descend(target.take(rows), u[rows], image[rows], settings.rounds, settings.newton)
    u[rows] = part.u
    values = {"u": u, "evaluations": cost}
    for name in ("objective", "mean_square", "converged", "curvature"):
        whole = getattr(descent, name).clone()
        whole[rows] = getattr(part, name)
        values[name] = whole
    values["evaluations"][rows.cpu()] += part.evaluations
    return Descent(**values), stuck
