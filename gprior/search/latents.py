"""How a generator is divided for Gauss-Newton steps.

A style generator is G(u) = S(M(u)): a small mapping network M and a large synthesis network S. M is
far from linear, but costs nothing. S is nearly linear over the distances that matter, but
expensive. So the steps of `gprior.search.gauss_newton` linearise S alone, in the code v = M(u).
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from gprior.priors import Prior, moments
from gprior.search.rows import Variables

__all__ = ["Direct", "Latents", "ThroughStyles", "latents_of_z", "scale"]


class Latents(Protocol):
    """Latents u (R, n) with the prior distribution N(0, diag(s²)).

    Attributes
    ----------
    prior : Prior
        The generator.
    sweeps : int
        How often s is found from the samples and they are drawn again; 0 where it is known.
    """

    prior: Prior
    sweeps: int

    def begin(self, start: Variables) -> Tensor:
        """Return u (R, n) at a starting point with ``z`` and, where there are classes, ``c``."""

    def code(self, u: Tensor, start: Variables) -> Tensor:
        """Return the code v = M(u), (R, m), cheaply and with gradients."""

    def inputs(self, code: Tensor, start: Variables) -> dict[str, Any]:
        """Return the prior's inputs for a code."""

    def unit(self, start: Variables) -> Tensor:
        """Return a typical size of the entries of a code, (R, 1) or (R, m)."""

    def spread(self, u: Tensor, image: Tensor) -> Tensor:
        """Return s (R, n) for samples u of the images of these numbers, (R,)."""

    def keep(self, u: Tensor, start: Variables) -> Variables:
        """Return the latents by the names of ``Result.latents``."""


class Direct(Latents):
    """z of any generator, which is its own code."""

    sweeps = 0

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

    def spread(self, u: Tensor, image: Tensor) -> Tensor:
        return torch.ones_like(u)

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


def scale(prior: Prior, start: Variables) -> tuple[Tensor, Tensor]:
    """Return the mean and the standard deviations of w in the class of each row, (R, w_dim)."""
    mean, spread = moments(prior)
    if "c" in start:
        return start["c"] @ mean, start["c"] @ spread
    rows = len(start["z"])
    return mean.expand(rows, -1), spread.expand(rows, -1)


@torch.no_grad()
def latents_of_z(prior: Prior) -> Direct:
    """Return z of a prior, divided where all layers have the style of its mapping network."""
    if "w" not in prior.inputs:
        return Direct(prior)
    z = prior.draw([(0, "layers")])
    ws = prior.mapping(z, prior.classes(0, 1) if prior.c_dim else None)
    shared = ws.ndim == 3 and bool((ws == ws[:, :1]).all())
    return ThroughStyles(prior, ws.shape[1]) if shared else Direct(prior)
