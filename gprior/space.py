"""Where a method searches: variables, and how they become generator inputs.

A space is stateless. Variables are a dictionary of tensors (R, ...) with one row per
problem; inputs are the keyword arguments of the prior. Spaces combine with ``&``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gprior.priors import Prior

__all__ = ["Space", "Variables", "WPlus", "Z", "inputs_of"]

Variables = dict[str, Tensor]


class Space:
    """A set of variables and their decoding.

    Attributes
    ----------
    needs : frozenset of str
        Names of the prior's inputs that the space sets.
    """

    needs: frozenset[str] = frozenset()

    def initial(self, prior: Prior, start: Variables) -> Variables:
        """Return the variables at a starting point with entries ``z``, ``w`` (and ``c``)."""
        raise NotImplementedError

    def decode(self, variables: Variables, start: Variables) -> dict[str, Any]:
        """Return the prior's inputs; ``start`` holds what is not searched, as the class c."""
        raise NotImplementedError

    def project(self, variables: Variables) -> Variables:
        """Return the nearest variables in the method's set; here every point is in it."""
        return variables

    def finish(self, variables: Variables, start: Variables) -> Variables:
        """Return the code by the names of `inputs_of`; here the variables have them."""
        return variables

    def __and__(self, other: Space) -> Space:
        return Product((self, other))


@dataclass(frozen=True)
class Product(Space):
    """The variables of several spaces together."""

    parts: tuple[Space, ...]

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """Union of what the parts need."""
        return frozenset().union(*(part.needs for part in self.parts))

    def initial(self, prior: Prior, start: Variables) -> Variables:
        return {k: v for part in self.parts for k, v in part.initial(prior, start).items()}

    def decode(self, variables: Variables, start: Variables) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for part in self.parts:
            found |= part.decode(variables, start)
        return found

    def project(self, variables: Variables) -> Variables:
        for part in self.parts:
            variables = part.project(variables)
        return variables

    def finish(self, variables: Variables, start: Variables) -> Variables:
        for part in self.parts:
            variables = part.finish(variables, start)
        return variables


class Z(Space):
    """The latent z (R, z_dim), through the whole generator."""

    needs = frozenset({"z"})

    def initial(self, prior: Prior, start: Variables) -> Variables:
        return {"z": start["z"].clone()}

    def decode(self, variables: Variables, start: Variables) -> dict[str, Any]:
        inputs = {"z": variables["z"]}
        return {**inputs, "c": start["c"]} if "c" in start else inputs


class WPlus(Space):
    """One style per layer, w+ (R, num_ws, w_dim)."""

    needs = frozenset({"w"})

    def initial(self, prior: Prior, start: Variables) -> Variables:
        return {"w": start["w"].clone()}

    def decode(self, variables: Variables, start: Variables) -> dict[str, Any]:
        return {"ws": variables["w"]}


@dataclass(frozen=True)
class Auxiliary(Space):
    """A variable that enters the objective but never reaches the generator."""

    name: str

    def initial(self, prior: Prior, start: Variables) -> Variables:
        return {self.name: start[self.name].clone()}

    def decode(self, variables: Variables, start: Variables) -> dict[str, Any]:
        return {}


def inputs_of(latents: Variables) -> dict[str, Any]:
    """Return the prior's inputs for a code by names: ``w`` before ``z`` and ``c``."""
    if "w" in latents:
        return {"ws": latents["w"]}
    return {k: latents[k] for k in ("z", "c") if k in latents}


def take(variables: Variables, rows: Tensor) -> Variables:
    """Return some rows of every variable."""
    return {k: v[rows.to(v.device)] for k, v in variables.items()}


def detach(variables: Variables, grad: bool = False) -> Variables:
    """Return the variables cut from their history, asking for gradients or not."""
    return {k: v.detach().requires_grad_(grad) for k, v in variables.items()}


def join(parts: list[Variables]) -> Variables:
    """Concatenate rows."""
    return {k: torch.cat([part[k] for part in parts]) for k in parts[0]}
