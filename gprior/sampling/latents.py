"""Which latents are sampled, and how a generator is divided for Gauss-Newton steps.

A style generator is G(u) = S(M(u)): a small mapping network M and a large synthesis network S. M is
far from linear, but costs nothing. S is nearly linear over the distances that matter, but
expensive. So the steps of `gprior.sampling.gauss_newton` linearise S alone, in the code v = M(u).
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from gprior.checks import InputError
from gprior.priors import Prior
from gprior.search import Variables
from gprior.solvers import Auto, moments, samples_by_class

__all__ = ["Deviations", "Direct", "Latents", "ThroughStyles", "latents_for"]

SPACES = ("z", "w+")
COMPONENTS = 16  # of the deviation of a layer: they have 80 % of the variance of the styles


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


class Deviations(Direct):
    """Styles of all layers by principal components: shared e, and deviations d of each layer.

    The prior of ``auto`` is meant, w_l = mean + s (e + d_l), with two changes that make it a
    density from which one can draw. e has the covariance of the styles, by its principal
    components, and d_l has the first few of them. The term ρ n/2 log(1 + |d|² / (n τ²)) of ``auto``
    cannot be normalised. Its curvature is that of a normal distribution of variance (τ² + |d|²/n) /
    ρ, and this is the prior of d here, with the d of the mean of the samples.
    """

    sweeps = 2

    def __init__(self, prior: Prior, num_ws: int) -> None:
        super().__init__(prior)
        self.num_ws, self.axes = num_ws, principal_axes(prior)
        self.shared = self.axes.shape[2]

    def begin(self, start: Variables) -> Tensor:
        mean, spread = scale(self.prior, start)
        w = self.prior.mapping(start["z"], start.get("c"))[:, 0]
        inverse = torch.linalg.pinv(self._axes(start))
        shared = (inverse @ ((w - mean) / spread)[:, :, None])[:, :, 0]
        return torch.cat([shared, shared.new_zeros(len(w), self.num_ws * COMPONENTS)], 1)

    def inputs(self, code: Tensor, start: Variables) -> dict[str, Any]:
        mean, spread = scale(self.prior, start)
        axes = self._axes(start)
        units = axes[:, :, :COMPONENTS] / axes[:, :, :COMPONENTS].norm(dim=1, keepdim=True)
        e = (axes @ code[:, : self.shared, None]).mT  # (R, 1, w_dim)
        d = code[:, self.shared :].view(len(code), self.num_ws, COMPONENTS) @ units.mT
        return {"ws": mean[:, None] + spread[:, None] * (e + d)}

    def spread(self, u: Tensor, image: Tensor) -> Tensor:
        means = torch.stack([u[image == i].mean(0) for i in image])[:, self.shared :]
        square = means.square().mean(1, keepdim=True)
        d = ((Auto.tightness**2 + square) / Auto.release).sqrt()
        return torch.cat([torch.ones_like(u[:, : self.shared]), d.expand_as(means)], 1)

    def keep(self, u: Tensor, start: Variables) -> Variables:
        w = self.inputs(u, start)["ws"]
        return {"w": w, **({"c": start["c"]} if "c" in start else {})}

    def _axes(self, start: Variables) -> Tensor:
        """Return the axes of the class of each row, (R, w_dim, components)."""
        if "c" in start:
            return torch.einsum("rc,cwk->rwk", start["c"], self.axes)
        return self.axes.expand(len(start["z"]), -1, -1)


def principal_axes(prior: Prior) -> Tensor:
    """Return the principal axes of the styles of each class, (c_dim or 1, w_dim, components).

    Styles are in units of their spread, and an axis has the length of its standard deviation.
    """
    core = prior.core

    def compute() -> Tensor:
        found = []
        for w, mean, spread in zip(samples_by_class(core), *moments(core), strict=True):
            scaled = ((w - mean) / spread).double()
            _, size, axes = torch.linalg.svd(scaled, full_matrices=False)
            found.append(axes.mT * size / len(w) ** 0.5)
        return torch.stack(found).to(core.like)

    return core.statistic("principal_axes_of_w", compute)


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
