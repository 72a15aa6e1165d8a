"""Gauss-Newton steps that linearise the synthesis alone, many rows at once.

At the code v = M(u) of a row, with the gradient g of the data term and its curvature H there, a
step minimises the model ::

    q(u') = g.(v' - v) + 1/2 (v' - v).(H + μI)(v' - v) + 1/2 |u' - c|² / s²,      v' = M(u')

exactly, by the Levenberg-Marquardt method on M, which costs nothing next to the generator. The step
is taken if J falls. μ follows how well the model predicts the fall (Nielsen 1999, "Damping
parameter in Marquardt's method"). Rows of one image share H, which is computed at the best of them:
near the solution it is the same for all, and elsewhere it only has to be good enough for J to fall.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gprior.sampling.target import Target
from gprior.search import take

__all__ = ["Descent", "curvature_of_latents", "descend"]

INNER = 30  # Levenberg-Marquardt steps on the model
MAPPING = 1e-3  # step of the finite differences of M, in units of u
DONE = 0.5  # predicted fall of J below which a row has converged: J differs by more among samples


@dataclass(frozen=True, eq=False)
class Descent:
    """Where a descent ended, row by row.

    Attributes
    ----------
    u : Tensor
        Latents (R, n).
    objective : Tensor
        J (R,).
    converged : Tensor
        Whether the last step promised less than `DONE`, (R,) bool.
    curvature : Tensor
        H of the image of each row, (R, m, m), in units of 1 / σ².
    evaluations : Tensor
        (R,), float64 on the CPU. What rows share is divided among them.
    """

    u: Tensor
    objective: Tensor
    converged: Tensor
    curvature: Tensor
    evaluations: Tensor


@torch.no_grad()
def descend(target: Target, u: Tensor, image: Tensor, rounds: int, steps: int) -> Descent:
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
    """
    R = len(target)
    u, v = u.clone(), target.code(u)
    data, gradient = target.slope(v)
    objective = data + target.prior(u)
    cost = torch.ones(R, dtype=torch.float64, device="cpu")
    damping, growth = torch.full_like(objective, 1e-3), torch.full_like(objective, 2.0)
    running = torch.ones_like(objective, dtype=torch.bool)
    scale = 1 / target.problem.noise_std.square().to(objective)
    H = v.new_zeros(R, v.shape[1], v.shape[1])
    for _ in range(rounds):
        _share_curvature(target, v, objective, image, running, H, cost)
        for _ in range(steps):
            rows = running.nonzero()[:, 0]
            if not len(rows):
                break
            part, curved = target.take(rows), H[rows] * scale[rows, None, None]
            mu = damping[rows] * curved.diagonal(dim1=1, dim2=2).mean(1)
            new, promised = minimise_model(part, u[rows], v[rows], gradient[rows], curved, mu)
            code = part.code(new)
            value = part.data(code) + part.prior(new)
            better = value < objective[rows]
            ratio = (objective[rows] - value) / promised.clamp_min(1e-9)
            easier = damping[rows] * (1 - (2 * ratio - 1).clamp(-1, 1) ** 3).clamp_min(1 / 3)
            damping[rows] = torch.where(better, easier, damping[rows] * growth[rows])
            growth[rows] = torch.where(better, 2.0, 2 * growth[rows])
            won = rows[better]
            u[won], v[won], objective[won] = new[better], code[better], value[better]
            cost[rows.cpu()] += 1 / 3
            running[rows[promised < DONE]] = False
            on = won[running[won]]
            if len(on):
                gradient[on] = target.take(on).slope(v[on])[1]
                cost[on.cpu()] += 1
    return Descent(u, objective, ~running, H, cost)


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
    target: Target, u: Tensor, v: Tensor, gradient: Tensor, H: Tensor, damping: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the minimiser u' (R, n) of the model q, and by how much q falls, (R,)."""
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
        other, other_pull = model(u + step)
        better = running & (other < value)
        ratio = (value - other) / promised.clamp_min(1e-9)
        easier = mu * (1 - (2 * ratio - 1).clamp(-1, 1) ** 3).clamp_min(1 / 3)
        mu, growth = torch.where(better, easier, mu * growth), torch.where(better, 2.0, 2 * growth)
        u = torch.where(better[:, None], u + step, u)
        pull = torch.where(better[:, None], other_pull, pull)
        value = torch.where(better, other, value)
        running = running & (promised >= DONE / 100)
        if not bool(running.any()):
            break
    return u, first - value


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


def curvature_of_latents(target: Target, u: Tensor, H: Tensor) -> Tensor:
    """Return the Gauss-Newton curvature of J with respect to u, (R, n, n)."""
    J = jacobian_of_mapping(target, u)
    scale = 1 / target.problem.noise_std.square().to(u)
    return J.mT @ (H * scale[:, None, None]) @ J + torch.diag_embed(target.spread**-2)
