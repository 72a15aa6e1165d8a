"""Which latents are sampled, and how a generator is divided for Gauss-Newton steps.

A style generator is G(u) = S(M(u)): a small mapping network M and a large synthesis network S. M is
far from linear, but costs nothing. S is nearly linear over the distances that matter, but expensive.
So the steps of `gprior.sampling.gauss_newton` linearise S alone, in the code v = M(u).
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from gprior.checks import InputError
from gprior.priors import Prior
from gprior.search import Variables
from gprior.solvers import moments

__all__ = ["Deviations", "Direct", "Latents", "ThroughStyles", "latents_for"]

SPACES = ("z", "w+")


class Latents(Protocol):
    """Latents u (R, n) with the prior distribution N(0, diag(spread^2))."""

    prior: Prior

    def begin(self, start: Variables) -> Tensor:
        """Return u (R, n) at a starting point with ``z`` and, where there are classes, ``c``."""

    def code(self, u: Tensor, start: Variables) -> Tensor:
        """Return the code v = M(u), (R, m), cheaply and with gradients."""

    def inputs(self, code: Tensor, start: Variables) -> dict[str, Any]:
        """Return the prior's inputs for a code."""

    def unit(self, start: Variables) -> Tensor:
        """Return a typical size of the entries of a code, (R, 1) or (R, m)."""

    def keep(self, u: Tensor, start: Variables) -> Variables:
        """Return the latents by the names of ``Result.latents``."""


class Direct:
    """z of any generator, which is its own code."""

    def __init__(self, prior: Prior) -> None:
        self.prior = prior

    def begin(self, start: Variables) -> Tensor:
        return start["z"]

    def code(self, u: Tensor, start: Variables) -> Tensor:
        return u

    def inputs(self, code: Tensor, start: Variables) -> dict[str, Any]:
        return self.keep(code, start)

    def unit(self, start: Variables) -> Tensor:
        return torch.ones_like(start["z"][:, :1])

    def keep(self, u: Tensor, start: Variables) -> Variables:
        return {"z": u, **({"c": start["c"]} if "c" in start else {})}


class ThroughStyles(Direct):
    """z of a generator with styles. The code is w, the same for all layers."""

    def __init__(self, prior: Prior, num_ws: int) -> None:
        super().__init__(prior)
        self.num_ws = num_ws

    def code(self, u: Tensor, start: Variables) -> Tensor:
        return self.prior.mapping(u, start.get("c"))[:, 0]

    def inputs(self, code: Tensor, start: Variables) -> dict[str, Any]:
        return {"ws": code[:, None].expand(-1, self.num_ws, -1)}

    def unit(self, start: Variables) -> Tensor:
        return scale(self.prior, start)[1]


class Deviations:
    """Styles of all layers, in units of their spread: shared e and d of each layer.

    They are those of the method ``auto``: w_l = mean + s (e + d_l), with e ~ N(0, 1). The code is
    all styles together.
    """

    def __init__(self, prior: Prior, num_ws: int) -> None:
        self.prior, self.num_ws = prior, num_ws

    def begin(self, start: Variables) -> Tensor:
        mean, spread = scale(self.prior, start)
        w = self.prior.mapping(start["z"], start.get("c"))[:, 0]
        shared = (w - mean) / spread
        return torch.cat([shared, shared.new_zeros(len(w), self.num_ws * w.shape[1])], 1)

    def code(self, u: Tensor, start: Variables) -> Tensor:
        mean, spread = scale(self.prior, start)
        n = mean.shape[1]
        scaled = u[:, :n, None] + u[:, n:].unflatten(1, (self.num_ws, n)).mT
        return (mean[:, :, None] + spread[:, :, None] * scaled).mT.flatten(1)

    def inputs(self, code: Tensor, start: Variables) -> dict[str, Any]:
        return {"ws": code.unflatten(1, (self.num_ws, -1))}

    def unit(self, start: Variables) -> Tensor:
        return scale(self.prior, start)[1].repeat(1, self.num_ws)

    def keep(self, u: Tensor, start: Variables) -> Variables:
        w = self.code(u, start).unflatten(1, (self.num_ws, -1))
        return {"w": w, **({"c": start["c"]} if "c" in start else {})}


def scale(prior: Prior, start: Variables) -> tuple[Tensor, Tensor]:
    """Return the mean and the standard deviations of w in the class of each row, (R, w_dim)."""
    mean, spread = moments(prior)
    if "c" in start:
        return start["c"] @ mean, start["c"] @ spread
    rows = len(start["z"])
    return mean.expand(rows, -1), spread.expand(rows, -1)


@torch.no_grad()
def latents_for(prior: Prior, space: str) -> Latents:
    """Return the latents of a space, ``"z"`` or ``"w+"``.

    Raises
    ------
    InputError
        If the space is unknown, or the prior lacks it.
    """
    if space not in SPACES:
        raise InputError(f"space must be one of {SPACES}, got {space!r}")
    if "z" not in prior.inputs:
        raise InputError(f"posterior samples need a prior with z, this one has {prior.inputs}")
    if "phase" in prior.inputs:
        raise InputError(
            "posterior samples need a known phase: leave phase_size out of prior.adapt"
        )
    if "w" not in prior.inputs:
        if space == "w+":
            raise InputError("space='w+' needs a prior with styles; take space='z'")
        return Direct(prior)
    z = prior.draw([(0, "layers")])
    ws = prior.mapping(z, prior.classes(0, 1) if prior.c_dim else None)
    if space == "w+":
        return Deviations(prior, ws.shape[1])
    shared = ws.ndim == 3 and bool((ws == ws[:, :1]).all())
    return ThroughStyles(prior, ws.shape[1]) if shared else Direct(prior)
