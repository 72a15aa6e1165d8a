"""Sets that keep variables near where they started: spheres, balls, boxes and the simplex."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gprior.priors import Prior
from gprior.search.rows import Variables
from gprior.search.space import Space, Step

__all__ = ["Bound", "Box", "L1Ball", "Simplex", "Sphere"]


@dataclass(frozen=True)
class Bound(Space):
    """A space without variables, which keeps those of other spaces in a set.

    Attributes
    ----------
    names : tuple of str
        The variables, by their names up to the first dot.
    """

    names: tuple[str, ...]
    bounded = True

    def initial(self, prior: Prior, start: Variables, step: Step) -> Variables:
        return {}

    def project(self, variables: Variables, start: Variables, t: float) -> Variables:
        return {
            name: self.nearest(name, x, start[f"first.{name}"])
            if name.split(".")[0] in self.names
            else x
            for name, x in variables.items()
        }

    def nearest(self, name: str, x: Tensor, first: Tensor) -> Tensor:
        """Return the point of the set that is nearest to x, a variable that began at ``first``."""
        raise NotImplementedError


@dataclass(frozen=True)
class Sphere(Bound):
    """Each latent of a layer and each noise map keeps the norm that it started with."""

    def nearest(self, name: str, x: Tensor, first: Tensor) -> Tensor:
        dims = tuple(range(2, x.ndim)) if x.ndim > 2 else (1,)
        was, now = (v.square().sum(dims, keepdim=True) for v in (first, x))
        return x * torch.sqrt(was / (now + 1e-9))


@dataclass(frozen=True)
class L1Ball(Bound):
    """|x - first|_1 <= radius for each row, with one radius per name.

    Attributes
    ----------
    radii : tuple of float
        In the order of ``names``.
    per_entry : bool
        Whether radii bound the mean over entries instead of the sum.
    """

    radii: tuple[float, ...]
    per_entry: bool = False

    def nearest(self, name: str, x: Tensor, first: Tensor) -> Tensor:
        away = (x - first).flatten(1)
        radius = self.radii[self.names.index(name.split(".")[0])]
        radius *= away.shape[1] if self.per_entry else 1
        return first + onto_l1_ball(away, radius).view_as(x)


@dataclass(frozen=True)
class Box(Bound):
    """Every entry is within [-most, most]."""

    most: float

    def nearest(self, name: str, x: Tensor, first: Tensor) -> Tensor:
        return x.clamp(-self.most, self.most)


@dataclass(frozen=True)
class Simplex(Bound):
    """Every row is a distribution: its entries are not negative and sum to 1."""

    def nearest(self, name: str, x: Tensor, first: Tensor) -> Tensor:
        return onto_simplex(x)


def onto_l1_ball(v: Tensor, radius: float) -> Tensor:
    """Return the nearest point with ``|x|_1 <= radius`` to each row of v (R, n).

    Duchi et al. 2008, "Efficient projections onto the l1-ball", figure 1.
    """
    size = v.abs()
    mu = size.sort(1, descending=True).values
    excess = mu.cumsum(1) - radius
    count = torch.arange(1, v.shape[1] + 1, device=v.device, dtype=v.dtype)
    rho = (mu * count > excess).sum(1, keepdim=True).clamp_min(1)
    theta = (excess.gather(1, rho - 1) / rho).clamp_min(0)  # 0 inside the ball
    return v.sign() * (size - theta).clamp_min(0)


def onto_simplex(v: Tensor) -> Tensor:
    """Return the nearest distribution to each row of v (R, n); Duchi et al. 2008, figure 1."""
    mu = v.sort(1, descending=True).values
    excess = mu.cumsum(1) - 1
    count = torch.arange(1, v.shape[1] + 1, device=v.device, dtype=v.dtype)
    rho = (mu * count > excess).sum(1, keepdim=True)
    theta = excess.gather(1, rho - 1) / rho
    return (v - theta).clamp_min(0)
