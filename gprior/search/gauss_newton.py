"""Gauss-Newton steps that linearise the synthesis alone, many rows at once.

At the code v = M(u) of a row, with the gradient g of the data term and its curvature H there, a
step minimises the model ::

    q(u') = g.(v' - v) + 1/2 (v' - v).(H + μI)(v' - v) + 1/2 |u' - c|² / s²,      v' = M(u')

exactly, by the Levenberg-Marquardt method on M, which costs nothing next to the generator. The step
is taken if J falls. μ follows how well the model predicts the fall (Nielsen 1999, "Damping
parameter in Marquardt's method"). Rows of one image share H, which is computed at the best of them:
near the solution it is the same for all, and elsewhere it only has to be good enough for J to fall.

Where the noise level is not known, or the start is far away, σ² may follow the mean square of the
residual: the prior then binds as tightly as the residual allows, and less and less.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gprior.problem import entries
from gprior.search.rows import take
from gprior.search.target import Target

__all__ = ["Descent", "curvature_of_latents", "descend", "minimise_model", "nearest", "pulled_back"]

INNER = 30  # Levenberg-Marquardt steps on the model
MAPPING = 1e-3  # step of the finite differences of M, in units of u
POOL, NEAREST = 2048, 8  # draws among which a code is looked for, and those that are refined
METRIC = 10.0  # weight of the distance of codes, in units of their spread
GRID = 2.0**-26
DONE = 0.5  # J differs by more among samples


@dataclass(frozen=True, eq=False)
class Descent:
    """Where a descent ended, row by row.

    Attributes
    ----------
    u : Tensor
        Latents (R, n).
    objective : Tensor
        J (R,).
    mean_square : Tensor
        Of the residual, over the fitted entries of y, (R,).
    converged : Tensor
        Whether the last step promised less than ``done``, (R,) bool.
    curvature : Tensor
        Of the data term with respect to the code, (R, m, m).
    evaluations : Tensor
        (R,), float64 on the CPU. What rows share is divided among them.
    """

    u: Tensor
    objective: Tensor
    mean_square: Tensor
    converged: Tensor
    curvature: Tensor
    evaluations: Tensor


@torch.no_grad()
def descend(
    target: Target,
    u: Tensor,
    image: Tensor,
    rounds: int,
    steps: int,
    follow: bool = False,
    done: float = DONE,
    after: Callable[[int, Tensor, Tensor, Tensor], Tensor] | None = None,
) -> Descent:
    """Minimise J from u (R, n), each row for itself.

    Parameters
    ----------
    target : Target
        R rows.
    u : Tensor
        Where to start, (R, n).
    image : Tensor
        Number of the image of each row, (R,): rows of one image share their curvature.
    rounds : int
        How often the curvature is computed.
    steps : int
        Steps between two computations.
    follow : bool
        Whether σ² of each row is the mean square of its residual, where that is larger than the
        noise level of the problem.
    done : float
        Predicted fall of J below which a row has converged.
    after : callable, optional
        Called after each round as ``after(round, rows, u, mean_square)``, with the numbers (r,) of
        the rows that took part, their latents and what these leave of y. It returns which of them
        go on, (r,) bool.
    """
    least = target.problem.noise_std.square().to(u)
    m = entries(target.problem.fit).clamp_min(1).to(u)
    # With σ = 1, the data term is half the sum of the squared residuals.
    one = replace(target.problem, noise_std=torch.ones_like(target.problem.noise_std))
    target = replace(target, problem=one)

    def level(half: Tensor) -> Tensor:
        return torch.maximum(least, 2 * half / m) if follow else least

    R = len(target)
    u, v = u.clone(), target.code(u)
    half, gradient = target.slope(v)
    variance = level(half)
    objective = half / variance + target.prior(u)
    cost = torch.ones(R, dtype=torch.float64, device="cpu")
    damping, growth = torch.full_like(objective, 1e-3), torch.full_like(objective, 2.0)
    running, converged = objective.isfinite(), torch.zeros_like(objective, dtype=torch.bool)
    H = v.new_zeros(R, v.shape[1], v.shape[1])
    for number in range(rounds):
        if not bool(running.any()):
            break
        _share_curvature(target, v, objective, image, running, H, cost)
        live = running.nonzero()[:, 0]
        running &= H.flatten(1).isfinite().all(1)
        for _ in range(steps):
            rows = running.nonzero()[:, 0]
            if not len(rows):
                break
            part, scale = target.take(rows), 1 / variance[rows]
            curved = H[rows] * scale[:, None, None]
            mu = damping[rows] * curved.diagonal(dim1=1, dim2=2).mean(1)
            slope = gradient[rows] * scale[:, None]
            new, promised = minimise_model(part, u[rows], v[rows], slope, curved, mu, done / 100)
            code = part.code(new)
            squares = part.data(code)
            value = squares * scale + part.prior(new)
            better = value < objective[rows]
            ratio = (objective[rows] - value) / promised.clamp_min(1e-9)
            easier = damping[rows] * (1 - (2 * ratio - 1).clamp(-1, 1) ** 3).clamp_min(1 / 3)
            damping[rows] = torch.where(better, easier, damping[rows] * growth[rows])
            growth[rows] = torch.where(better, 2.0, 2 * growth[rows])
            won = rows[better]
            u[won], v[won], half[won] = new[better], code[better], squares[better]
            variance[won] = level(half)[won]
            objective[won] = half[won] / variance[won] + target.take(won).prior(u[won])
            cost[rows.cpu()] += 1 / 3
            converged[rows] = promised < done
            running &= ~converged
            on = won[running[won]]
            if len(on):
                gradient[on] = target.take(on).slope(v[on])[1]
                cost[on.cpu()] += 1
        if after is not None:
            running[live] &= after(number, live, u[live], 2 * half[live] / m[live])
    return Descent(u, objective, 2 * half / m, converged, H / variance[:, None, None], cost)


def _share_curvature(
    target: Target,
    v: Tensor,
    objective: Tensor,
    image: Tensor,
    running: Tensor,
    H: Tensor,
    cost: Tensor,
) -> None:
    """Compute the curvature of each image that still runs at its best row, for all its rows."""
    for number in sorted(set(image[running].tolist())):
        rows = (image == number).nonzero()[:, 0]
        best = rows[objective[rows].argmin()][None]
        H[rows] = target.take(best).curvature(v[best])
        cost[rows.cpu()] += (v.shape[1] + 1) / 3 / len(rows)


def minimise_model(
    target: Target,
    u: Tensor,
    v: Tensor,
    gradient: Tensor,
    H: Tensor,
    damping: Tensor,
    done: float = DONE / 100,
) -> tuple[Tensor, Tensor]:
    """Return the minimiser u' (R, n) of the model q, and by how much q falls, (R,).

    A row has converged when a step promises that q falls by less than ``done``.
    """
    m, n = v.shape[1], u.shape[1]
    damped = H + damping[:, None, None] * torch.eye(m, dtype=v.dtype, device=v.device)
    precision = target.spread.square().reciprocal()

    def model(u: Tensor) -> tuple[Tensor, Tensor]:
        """Return q (R,) and the gradient of its first two terms with respect to v'."""
        step = target.code(u) - v
        bent = (damped @ step[:, :, None])[:, :, 0]
        return (step * (gradient + 0.5 * bent)).sum(1) + target.prior(u), gradient + bent

    first, pull = model(u)
    value = first
    mu, growth = torch.full_like(value, 1e-3), torch.full_like(value, 2.0)
    running = torch.ones_like(value, dtype=torch.bool)
    for _ in range(INNER):
        slope = pulled_back(target, u, pull) + (u - target.centre) * precision
        J = jacobian_of_mapping(target, u)
        curved = J.mT @ damped @ J + torch.diag_embed(precision)
        size = mu * curved.diagonal(dim1=1, dim2=2).mean(1)
        lifted = curved + size[:, None, None] * torch.eye(n, dtype=u.dtype, device=u.device)
        step = torch.linalg.solve(lifted, -slope)
        promised = 0.5 * (step * (size[:, None] * step - slope)).sum(1)
        moved = on_grid(u + step)
        other, other_pull = model(moved)
        better = running & (other < value)
        ratio = (value - other) / promised.clamp_min(1e-9)
        easier = mu * (1 - (2 * ratio - 1).clamp(-1, 1) ** 3).clamp_min(1 / 3)
        mu, growth = torch.where(better, easier, mu * growth), torch.where(better, 2.0, 2 * growth)
        u = torch.where(better[:, None], moved, u)
        pull = torch.where(better[:, None], other_pull, pull)
        value = torch.where(better, other, value)
        running = running & (promised >= done)
        if not bool(running.any()):
            break
    return u, first - value


def on_grid(u: Tensor) -> Tensor:
    """Return u of float64 rounded to multiples of 2^-26, half of its digits.

    Rounding errors depend on the batch. On the grid they vanish after each step; without it they
    grow by a factor with each one, and some rows end elsewhere. Float32 has no digits to spare.
    """
    return (u / GRID).round() * GRID if u.dtype == torch.float64 else u


@torch.no_grad()
def nearest(target: Target, code: Tensor) -> Tensor:
    """Return probable latents (R, n) whose codes are near to those given, (R, m).

    They minimise 10/2 |M(u) - v|² + 1/2 |u|², with the distance in units of the spread of codes,
    from the best of 2048 draws. The generator is not needed for it.
    """
    unit = target.latents.unit(target.start).expand_as(code)
    pool = target.latents.prior.draw([(0, "nearest", i) for i in range(POOL)])
    first = []
    for row in range(len(target)):
        one = take(target.start, torch.full((POOL,), row, device=code.device))
        distance = (target.latents.code(pool, one) - code[row]) / unit[row]
        first.append(pool[distance.square().sum(1).argsort()[:NEAREST]])
    rows = torch.arange(len(target), device=code.device).repeat_interleave(NEAREST)
    many, v = target.take(rows), code[rows]
    H = torch.diag_embed(METRIC * unit[rows] ** -2)
    nothing = torch.zeros_like(v)
    u, _ = minimise_model(many, torch.cat(first), v, nothing, H, nothing[:, 0])
    distance = (many.code(u) - v) / unit[rows]
    value = METRIC / 2 * distance.square().sum(1) + many.prior(u)
    best = value.view(-1, NEAREST).argmin(1, keepdim=True)
    return u.view(len(target), NEAREST, -1).take_along_dim(best[:, :, None], 1)[:, 0]


def pulled_back(target: Target, u: Tensor, pull: Tensor) -> Tensor:
    """Return the gradient (R, n) with respect to u, for that with respect to the code (R, m)."""
    with torch.enable_grad():
        u = u.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(target.code(u), u, pull)
    return gradient


def jacobian_of_mapping(target: Target, u: Tensor) -> Tensor:
    """Return the Jacobian of the code with respect to u, (R, m, n), by finite differences."""
    R, n = u.shape
    moved = u[:, None] + MAPPING * torch.eye(n, dtype=u.dtype, device=u.device)
    start = take(target.start, torch.arange(R, device=u.device).repeat_interleave(n))
    codes = target.latents.code(moved.flatten(0, 1), start).view(R, n, -1)
    change: Tensor = (codes - target.code(u)[:, None]).mT / MAPPING
    return change


def curvature_of_latents(target: Target, found: Descent) -> Tensor:
    """Return the Gauss-Newton curvature of J with respect to u, (R, n, n)."""
    J = jacobian_of_mapping(target, found.u)
    return J.mT @ found.curvature @ J + torch.diag_embed(target.spread**-2)
