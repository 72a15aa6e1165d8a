"""The posterior of the latents: what Gauss-Newton steps maximise and `posterior` samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gprior.problem import Leaves, Problem
from gprior.search.latents import Latents
from gprior.search.objective import Iterate, Term
from gprior.search.passes import PASSES
from gprior.search.rows import Variables, take

__all__ = ["Target", "likelihood", "likelihood_term", "prior_term"]

DIFFERENCE = 1e-2  # step of the finite differences of the synthesis, in units of the code


@dataclass(frozen=True, eq=False)
class Target:
    """The negative log density of latents u, up to a constant::

        J(u) = 1/2 Σ_i f_i |A G(u) - y|_i² / σ² + 1/2 Σ_j (u_j - c_j)² / s_j²

    The weights f and σ are `Problem.fit` and `Problem.noise_std`.

    Attributes
    ----------
    problem : Problem
        R rows.
    latents : Latents
        What u means.
    start : dict
        What does not change during the search, such as the class ``c``, each (R, ...).
    centre, spread : Tensor
        c and s (R, n). The posterior itself has c = 0.
    at_once : int
        Rows that go through the generator at the same time.
    """

    problem: Problem
    latents: Latents
    start: Variables
    centre: Tensor
    spread: Tensor
    at_once: int = 32

    def __len__(self) -> int:
        return len(self.problem)

    def take(self, rows: Tensor) -> Target:
        """Return some of the rows."""
        return replace(
            self,
            problem=self.problem.take(rows),
            start=take(self.start, rows),
            centre=self.centre[rows],
            spread=self.spread[rows],
        )

    def code(self, u: Tensor) -> Tensor:
        """Return the codes (R, m)."""
        return self.latents.code(u, self.start)

    def image(self, code: Tensor) -> Tensor:
        """Return the images (R, C, H, W) of codes, as many at once as fit."""
        x: Tensor = self.latents.prior(**self.latents.inputs(code, self.start))
        return x

    def prior(self, u: Tensor) -> Tensor:
        """Return the second term, (R,)."""
        return 0.5 * ((u - self.centre) / self.spread).square().sum(1)

    def data(self, code: Tensor) -> Tensor:
        """Return the first term, (R,)."""
        return self._in_parts(_data, code)[0]

    def slope(self, code: Tensor) -> tuple[Tensor, Tensor]:
        """Return the first term (R,) and its gradient with respect to the code (R, m)."""
        value, gradient = self._in_parts(_slope, code)
        return value, gradient

    def curvature(self, code: Tensor) -> Tensor:
        """Return J^T diag(f) J, (R, m, m), for the Jacobian J of A S at the codes (R, m).

        It is computed by finite differences: m + 1 evaluations of the generator for each row.
        """
        (H,) = self._in_parts(_curvature, code, at_once=1)
        return H

    def images(self, code: Tensor) -> Tensor:
        """Return all images (R, C, H, W), without gradients."""
        (x,) = self._in_parts(lambda part, code: (part.image(code),), code)
        return x

    def _in_parts(
        self,
        function: Callable[[Target, Tensor], tuple[Tensor, ...]],
        code: Tensor,
        at_once: int | None = None,
    ) -> tuple[Tensor, ...]:
        rows = torch.arange(len(self), device=code.device)
        with torch.no_grad():
            parts = [
                function(self.take(some), code[some])
                for some in rows.split(at_once or self.at_once)  # type: ignore[no-untyped-call]
            ]
        return tuple(torch.cat(values) for values in zip(*parts, strict=True))


def likelihood(problem: Problem, predicted: Leaves) -> Tensor:
    """Return 1/2 Σ f |A x - y|² / σ² of each row, (R,)."""
    total = torch.zeros_like(problem.noise_std, dtype=predicted[0].real.dtype)
    for p, y, f in zip(predicted, problem.y, problem.fit, strict=True):
        total = total + ((p - y).abs().square() * f).flatten(1).sum(1)
    return 0.5 * total / problem.noise_std.square()


def prior_term(centre: str) -> Term:
    """Return 1/2 |z - c|² as a term, with c in the starting point by this name."""
    return Term(
        "latent", 0.5, lambda at: (at.variables["z"] - at.start[centre]).square().flatten(1).sum(1)
    )


def likelihood_term() -> Term:
    """Return `likelihood` as a term."""
    return Term("likelihood", 1.0, _likelihood_at, data=True)


def _likelihood_at(at: Iterate) -> Tensor:
    return likelihood(at.problem, at.predicted)


def _data(part: Target, code: Tensor) -> tuple[Tensor, ...]:
    return (likelihood(part.problem, part.problem.measure(part.image(code))),)


def _slope(part: Target, code: Tensor) -> tuple[Tensor, ...]:
    passes = PASSES.get()
    with torch.enable_grad():
        code = code.detach().requires_grad_()
        image = passes.images(part.latents.prior, part.latents.inputs(code, part.start))
        value = likelihood(part.problem, part.problem.measure(image))
        (gradient,) = passes.slopes(value.sum(), [code])
    return value.detach(), gradient


def _curvature(part: Target, code: Tensor) -> tuple[Tensor, ...]:
    """For one row."""
    unit = part.latents.unit(part.start).expand_as(code)
    steps = DIFFERENCE * torch.diag(unit[0])
    moved = torch.cat([code, code + steps])
    columns: list[Tensor] = []
    rows = torch.zeros(len(moved), dtype=torch.long, device=code.device)
    for some in torch.arange(len(moved), device=code.device).split(part.at_once):  # type: ignore[no-untyped-call]
        many = part.take(rows[some])
        leaves = many.problem.measure(many.image(moved[some]))
        weighted = [leaf * f.sqrt() for leaf, f in zip(leaves, many.problem.fit, strict=True)]
        flat = [torch.view_as_real(w) if w.is_complex() else w for w in weighted]
        columns.append(torch.cat([w.flatten(1) for w in flat], 1))
    values = torch.cat(columns)
    J = (values[1:] - values[:1]) / (DIFFERENCE * unit[0])[:, None]  # (m, entries)
    return ((J @ J.T)[None],)
