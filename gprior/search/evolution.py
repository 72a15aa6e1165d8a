"""Samplers that propose latents and learn from their scores: CSA-ES in torch, and `cma`.

Every sampler has R independent problems side by side. What is random comes in as standard
normal numbers, so a sampler has no generator of its own. Equation numbers are those of
Hansen, "The CMA evolution strategy: a tutorial", arXiv:1604.00772.
"""

from __future__ import annotations

import copy
import math
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from gprior.checks import InputError

__all__ = ["CSA", "CMAPackage", "Fixed", "Sampler", "population_size"]


def population_size(d: int) -> int:
    """Return the usual number of members in d dimensions, 4 + floor(3 ln d) (eq. 48).

    >>> population_size(128), population_size(512)
    (18, 22)
    """
    return 4 + int(3 * math.log(d))


class Sampler(Protocol):
    """A distribution over points (R, P, d), one for each of R problems."""

    @property
    def mean(self) -> Tensor:
        """The centres (R, d)."""

    def ask(self, normal: Tensor) -> Tensor:
        """Return points (R, P, d) made of standard normal numbers of that shape."""

    def tell(self, points: Tensor, values: Tensor, injected: bool = False) -> None:
        """Learn from points (R, P, d) and their values (R, P), the lowest being the best.

        Points that were moved after `ask` are ``injected``. A value that is not finite ranks
        last.
        """

    def take(self, rows: Tensor) -> Sampler:
        """Return some of the problems."""


class Fixed:
    """N(mean, sigma² I) for ever: random restarts, what a search is to be compared with."""

    def __init__(self, mean: Tensor, sigma: float) -> None:
        self.mean, self.sigma = mean, sigma

    def ask(self, normal: Tensor) -> Tensor:
        """Return mean + sigma n."""
        return self.mean[:, None] + self.sigma * normal

    def tell(self, points: Tensor, values: Tensor, injected: bool = False) -> None:
        """Learn nothing."""

    def take(self, rows: Tensor) -> Fixed:
        """Return some of the problems."""
        return Fixed(self.mean[rows], self.sigma)


class CSA:
    """CMA-ES with cumulative step-size adaptation, isotropic or diagonal, many at once.

    A full covariance learns next to nothing in a few dozen generations of a hundred
    dimensions (c₁ and c_μ fall with d²). The diagonal one learns (d + 2) / 3 times as fast
    (Ros and Hansen 2008, "A simple modification in CMA-ES achieving linear time and space
    complexity", section 3.1). Injected points are clipped to the Mahalanobis length
    √d + 2 d / (d + 2), and a step-size change to a factor e (Hansen 2011, "Injecting external
    solutions into CMA-ES", arXiv:1110.4181).

    Parameters
    ----------
    mean : Tensor
        (R, d).
    sigma : float or Tensor
        Initial step size, or one for each problem (R,).
    members : int
        P, at least 2.
    diagonal : bool
        Learn a variance for each coordinate.

    Attributes
    ----------
    mean : Tensor
        (R, d).
    sigma : Tensor
        (R,).
    variance : Tensor
        The diagonal of C, (R, d).

    Examples
    --------
    >>> search = CSA(torch.ones(2, 3), 0.5, 7, diagonal=True)
    >>> for g in range(60):
    ...     noise = torch.randn(2, 7, 3, generator=torch.Generator().manual_seed(g))
    ...     x = search.ask(noise)
    ...     search.tell(x, x.square().sum(2))
    >>> bool((search.mean.abs() < 1e-3).all())
    True
    """

    def __init__(
        self, mean: Tensor, sigma: float | Tensor, members: int, diagonal: bool = False
    ) -> None:
        if members < 2:
            raise InputError(f"members must be at least 2, got {members}")
        d = mean.shape[1]
        self.mean, self.diagonal, self.generation = mean, diagonal, 0
        self.sigma = torch.zeros_like(mean[:, 0]) + sigma
        self.variance = torch.ones_like(mean)
        self.p_sigma, self.p_c = torch.zeros_like(mean), torch.zeros_like(mean)

        mu = members // 2
        raw = [math.log((members + 1) / 2) - math.log(i + 1) for i in range(mu)]  # (49)
        self.weights = mean.new_tensor([w / sum(raw) for w in raw])  # (53), the positive ones
        mu_eff = 1 / float(self.weights.square().sum())
        self.mu_eff = mu_eff
        self.c_sigma = (mu_eff + 2) / (d + mu_eff + 5)  # (55)
        self.d_sigma = 1 + 2 * max(0.0, math.sqrt((mu_eff - 1) / (d + 1)) - 1) + self.c_sigma
        self.c_c = (4 + mu_eff / d) / (d + 4 + 2 * mu_eff / d)  # (56)
        faster = (d + 2) / 3  # Ros and Hansen 2008
        self.c_1 = min(faster * 2 / ((d + 1.3) ** 2 + mu_eff), 1.0)  # (57)
        c_mu = faster * 2 * (1 / 4 + mu_eff + 1 / mu_eff - 2) / ((d + 2) ** 2 + mu_eff)  # (58)
        self.c_mu = min(1 - self.c_1, c_mu)
        self.typical = math.sqrt(d) * (1 - 1 / (4 * d) + 1 / (21 * d**2))  # E |N(0, I)|
        self.longest = math.sqrt(d) + 2 * d / (d + 2)

    def ask(self, normal: Tensor) -> Tensor:
        """Return m + σ √C n."""
        spread = self.sigma[:, None] * self.variance.sqrt()
        return self.mean[:, None] + spread[:, None] * normal

    def tell(self, points: Tensor, values: Tensor, injected: bool = False) -> None:
        """Move mean, path, step size and variances (eqs. 41 to 47)."""
        order = values.nan_to_num(torch.inf).argsort(dim=1, stable=True)[:, : len(self.weights)]
        best = points.gather(1, order[..., None].expand(-1, -1, points.shape[2]))
        y = (best - self.mean[:, None]) / self.sigma[:, None, None]
        root = self.variance.sqrt()
        if injected:
            length = (y / root[:, None]).norm(dim=2, keepdim=True)
            y = y * (self.longest / length.clamp_min(1e-12)).clamp_max(1)
        step = torch.einsum("k,rkd->rd", self.weights, y)  # (41)
        self.mean = self.mean + self.sigma[:, None] * step  # (42)
        c = self.c_sigma
        ahead = math.sqrt(c * (2 - c) * self.mu_eff) * step / root
        self.p_sigma = (1 - c) * self.p_sigma + ahead  # (43)
        self.generation += 1
        length = self.p_sigma.norm(dim=1)
        if self.diagonal:
            self._learn(y, step, length)
        change = c / self.d_sigma * (length / self.typical - 1)
        self.sigma = self.sigma * change.clamp_max(1).exp()  # (44)

    def _learn(self, y: Tensor, step: Tensor, length: Tensor) -> None:
        """Move the diagonal of C from the best steps y (R, μ, d)."""
        d = y.shape[2]
        settled = math.sqrt(1 - (1 - self.c_sigma) ** (2 * self.generation))
        h = (length / settled < (1.4 + 2 / (d + 1)) * self.typical).to(y)[:, None]
        c = self.c_c
        self.p_c = (1 - c) * self.p_c + h * math.sqrt(c * (2 - c) * self.mu_eff) * step  # (45)
        lost = (1 - h) * c * (2 - c)
        kept = 1 + self.c_1 * lost - self.c_1 - self.c_mu
        spread = torch.einsum("k,rkd->rd", self.weights, y.square())
        self.variance = kept * self.variance + self.c_1 * self.p_c.square() + self.c_mu * spread

    def take(self, rows: Tensor) -> CSA:
        """Return some of the problems."""
        other = copy.copy(self)
        for name in ("mean", "sigma", "variance", "p_sigma", "p_c"):
            setattr(other, name, getattr(self, name)[rows])
        return other


class CMAPackage:
    """The package ``cma``, with full covariance: the reference, one problem after the other.

    The step size is adapted by CSA whatever the dimension: from 300 on, ``cma`` would change
    to another rule, to which injected points are foreign.

    Parameters
    ----------
    mean : Tensor
        (R, d).
    sigma : float
        Initial step size.
    members : int
        P, at least 2.

    Raises
    ------
    ModuleNotFoundError
        If ``cma`` is not installed.
    """

    def __init__(self, mean: Tensor, sigma: float, members: int) -> None:
        cma = _package()
        self.like = mean.new_zeros(())
        options = {
            "popsize": members,
            "AdaptSigma": cma.sigma_adaptation.CMAAdaptSigmaCSA,
            "CMA_mirrors": 0,  # which small populations would have
            "seed": np.nan,  # NumPy's global generator stays as it is
            "verbose": -9,
            "verb_log": 0,
            "verb_disp": 0,
        }
        self.numbers = [_Numbers() for _ in mean]
        self.searches = [
            cma.CMAEvolutionStrategy(row, sigma, {**options, "randn": numbers})
            for row, numbers in zip(mean.double().cpu().numpy(), self.numbers, strict=True)
        ]

    @property
    def mean(self) -> Tensor:
        """The centres of the distributions (R, d)."""
        return self._place(np.stack([search.mean for search in self.searches]))

    def ask(self, normal: Tensor) -> Tensor:
        """Return points from the given normal numbers."""
        for numbers, given in zip(self.numbers, normal.double().cpu().numpy(), strict=True):
            numbers.given = given
        return self._place(np.stack([np.stack(search.ask()) for search in self.searches]))

    def tell(self, points: Tensor, values: Tensor, injected: bool = False) -> None:
        """Let ``cma`` learn; it recognises injected points itself and clips them."""
        scores = values.double().nan_to_num(1e300, 1e300, -1e300).cpu().numpy()
        places = points.double().cpu().numpy()
        for search, x, f in zip(self.searches, places, scores, strict=True):
            search.tell(list(x), list(f))

    def take(self, rows: Tensor) -> CMAPackage:
        """Return some of the problems."""
        other = copy.copy(self)
        other.searches = [self.searches[i] for i in rows.tolist()]
        other.numbers = [self.numbers[i] for i in rows.tolist()]
        return other

    def _place(self, x: Any) -> Tensor:
        return torch.from_numpy(x).to(self.like)


class _Numbers:
    """A source of normal numbers for one search: those that it was given."""

    given: np.ndarray[Any, Any]

    def __call__(self, *shape: int) -> np.ndarray[Any, Any]:
        return self.given.reshape(shape)


def _package() -> Any:
    """Import ``cma``, which is an extra."""
    try:
        import cma
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "outer='cma' needs the package cma: pip install 'gprior[cma]', or take the built-in "
            "sampler, outer='csa'"
        ) from error
    return cma
