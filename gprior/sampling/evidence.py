"""Which class an image has, if it is not known: classes are drawn by their evidence."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from gprior.problem import Problem
from gprior.randomness import uniform
from gprior.sampling.rto import Settings, search_from_draws
from gprior.search import Latents, Target, Watch, curvature_of_latents, descend

__all__ = ["MOST_CLASSES", "classes_by_evidence", "log_evidence"]

MOST_CLASSES = 10  # of more, every sample takes the class of its best candidate
TRIES = 4  # searches of the most probable latents of each class


def log_evidence(
    problem: Problem, latents: Latents, settings: Settings, at_once: int
) -> tuple[Tensor, Tensor]:
    """Return Laplace's approximation of log p(y | class), up to a constant, (B, c_dim).

    It is -J - 1/2 log det(curvature of J) at the most probable latents, the best of a few searches.
    Also return the evaluations (B,).

    Parameters
    ----------
    problem : Problem
        One row for each image.
    """
    C, B, device = problem.prior.c_dim, len(problem), problem.image.device
    rows = torch.arange(B, device=device).repeat_interleave(C * TRIES)
    label = torch.arange(C, device=device).repeat_interleave(TRIES).repeat(B)
    many = problem.take(rows)
    keys = [(seed, k) for seed, _ in problem.keys for k in list(range(TRIES)) * C]
    many = replace(many, keys=keys, label=problem.prior.classes(label, len(rows)))
    zero = torch.zeros_like(problem.prior.draw(many.draw_keys("start")))
    start, cost = search_from_draws(many, zero, settings, at_once, Watch())
    u = latents.begin(start)
    target = Target(many, latents, start, torch.zeros_like(u), torch.ones_like(u), at_once)
    pairs = rows * C + label  # rows of one image and class share their curvature
    found = descend(target, u, pairs, settings.rounds, settings.newton)
    H = curvature_of_latents(target, found)
    evidence = -found.objective - 0.5 * torch.logdet(H)
    return evidence.view(B, C, TRIES).amax(2), (cost + found.evaluations).view(B, -1).sum(1)


def classes_by_evidence(
    problem: Problem, latents: Latents, settings: Settings, samples: int, at_once: int
) -> tuple[Problem, Tensor]:
    """Return the rows with a class for each sample, drawn by the evidence of the classes.

    Also return the evaluations of each image, (B,).
    """
    nothing = torch.zeros(len(problem) // samples, dtype=torch.float64, device="cpu")
    if problem.label is not None or not 0 < problem.prior.c_dim <= MOST_CLASSES:
        return problem, nothing
    first = torch.arange(0, len(problem), samples, device=problem.image.device)
    evidence, cost = log_evidence(problem.take(first), latents, settings, at_once)
    shares = evidence.softmax(1).cumsum(1).repeat_interleave(samples, 0)
    draws = [uniform(key, ()) for key in problem.draw_keys("posterior class")]
    label = (torch.stack(draws).to(shares)[:, None] > shares).sum(1)
    label = label.clamp_max(problem.prior.c_dim - 1)
    return replace(problem, label=problem.prior.classes(label, len(problem))), cost
