"""Hamiltonian Monte Carlo from given samples, each chain for itself.

Neal 2011, "MCMC using Hamiltonian dynamics". The mass matrix of a chain is the Gauss-Newton
curvature where it starts. Its step size follows its own acceptance during the warm-up, by the rule
of Robbins and Monro, and stays fixed afterwards. Each step takes a random share of it, so that no
trajectory returns to where it began.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from gprior.randomness import Key, normal, uniform
from gprior.search import Target, pulled_back

__all__ = ["Chains", "hamiltonian", "split_r_hat"]

ACCEPT = 0.8  # wanted share of accepted steps


@dataclass(frozen=True, eq=False)
class Chains:
    """Where the chains ended, and what they visited.

    Attributes
    ----------
    u : Tensor
        Last states (R, n).
    visited : Tensor
        States after the warm-up, (R, draws, n).
    accepted : Tensor
        Share of accepted steps after the warm-up, (R,).
    """

    u: Tensor
    visited: Tensor
    accepted: Tensor


@torch.no_grad()
def hamiltonian(
    target: Target, u: Tensor, mass: Tensor, warmup: int, draws: int, leapfrog: int
) -> Chains:
    """Run one chain for each row.

    Parameters
    ----------
    target : Target
        R rows, with centre 0 and the measured y.
    u : Tensor
        Where the chains start, (R, n).
    mass : Tensor
        Mass matrices (R, n, n).
    warmup, draws : int
        Steps before and after the step sizes are fixed.
    leapfrog : int
        Gradients of a step.
    """
    root = torch.linalg.cholesky(mass)
    like, pull = _likelihood(target, u)
    log_size = torch.full_like(like, -1.0)
    share, visited = torch.zeros_like(like), []
    for i in range(warmup + draws):
        keys = target.problem.draw_keys("momentum", i)
        p = (root @ normal(keys, u.shape[1:], u)[:, :, None])[:, :, 0]
        before = like + target.prior(u) + _kinetic(p, root)
        # The prior's gradient is exact and free, so it is not kept with that of the likelihood.
        size = log_size.exp()[:, None] * (0.5 + 0.5 * _dice(keys, "size", u))[:, None]
        q, f, g = u, like, pull
        p = p - size / 2 * (g + (q - target.centre) / target.spread**2)
        for step in range(leapfrog):
            q = q + size * torch.cholesky_solve(p[:, :, None], root)[:, :, 0]
            f, g = _likelihood(target, q)
            half = 0.5 if step == leapfrog - 1 else 1.0
            p = p - half * size * (g + (q - target.centre) / target.spread**2)
        change = before - (f + target.prior(q) + _kinetic(p, root))
        chance = change.nan_to_num(-torch.inf).clamp_max(0).exp()
        moved = _dice(keys, "dice", u) < chance
        u = torch.where(moved[:, None], q, u)
        like, pull = torch.where(moved, f, like), torch.where(moved[:, None], g, pull)
        if i < warmup:
            log_size = log_size + (chance - ACCEPT) * (1 + i) ** -0.6
        else:
            share = share + chance / draws
            visited.append(u)
    return Chains(u, torch.stack(visited, 1), share)


def _dice(keys: Iterable[Key], name: str, like: Tensor) -> Tensor:
    """Return a number from the uniform distribution on [0, 1) for each row, (R,)."""
    return torch.stack([uniform((*key, name), ()) for key in keys]).to(like)


def _kinetic(p: Tensor, root: Tensor) -> Tensor:
    """Return p^T M^-1 p / 2, (R,)."""
    whitened = torch.linalg.solve_triangular(root, p[:, :, None], upper=False)
    return 0.5 * torch.square(whitened).sum((1, 2))


def _likelihood(target: Target, u: Tensor) -> tuple[Tensor, Tensor]:
    """Return the data term (R,) and its gradient with respect to u (R, n)."""
    value, gradient = target.slope(target.code(u))
    return value, pulled_back(target, u, gradient)


def split_r_hat(visited: Tensor, samples: int) -> Tensor:
    """Return split R-hat of each image: the largest one of its latents, (B,).

    Gelman et al. 2013, "Bayesian Data Analysis", section 11.4, with each chain split in two.

    Parameters
    ----------
    visited : Tensor
        (B K, draws, n), image-major.
    samples : int
        K, the chains of an image.
    """
    half = visited.shape[1] // 2
    if half < 2:
        return visited.new_full((len(visited) // samples,), torch.nan)
    parts = torch.stack([visited[:, :half], visited[:, half : 2 * half]], 1)
    chains = parts.view(-1, 2 * samples, *parts.shape[2:])  # (B, 2 K, half, n)
    within = chains.var(2).mean(1)
    between = chains.mean(2).var(1)
    ratio: Tensor = (half - 1) / half + between / within.clamp_min(1e-30)
    return ratio.sqrt().amax(1)
