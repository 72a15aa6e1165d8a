"""Which latents are sampled."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gprior.checks import InputError
from gprior.priors import Prior, moments, samples_by_class
from gprior.search import Direct, Latents, Variables, latents_of_z, scale
from gprior.solvers import Auto

__all__ = ["Deviations", "latents_for", "principal_axes"]

SPACES = ("z", "w+")
COMPONENTS = 16  # of the deviation of a layer: they have 80 % of the variance of the styles


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
    if space == "z":
        return latents_of_z(prior)
    if "w" not in prior.inputs:
        raise InputError("space='w+' needs a prior with styles; take space='z'")
    ws = prior.mapping(prior.draw([(0, "layers")]), prior.classes(0, 1) if prior.c_dim else None)
    return Deviations(prior, ws.shape[1])
