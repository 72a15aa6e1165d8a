"""Samplers that propose latents and learn from their scores: the built-in ones, in torch.

Every sampler serves R independent problems at the same time. It receives standard normal numbers
as an argument, so a sampler needs no random generator. Equation numbers are those of Hansen, "The
CMA evolution strategy: a tutorial", arXiv:1604.00772.
"""

from __future__ import annotations

import copy
import math
from typing import Protocol

import torch
from torch import Tensor

from gprior.checks import InputError

__all__ = ["CSA", "Fixed", "Sampler", "population_size"]


def population_size(d: int) -> int:
    """Return the usual number of members in d dimensions, 4 + floor(3 ln d) (equation 48).

    >>> population_size(128), population_size(512)
    (18, 22)
    """
    return 4 + int(3 * math.log(d))


class Sampler(Protocol):
    """A distribution of points (R, P, d) for R problems: P members of d dimensions each."""

    @property
    def mean(self) -> Tensor:
        """The means of the distributions (R, d)."""

    def ask(self, normal: Tensor) -> Tensor:
        """Return points, made from standard normal numbers.

        Parameters
        ----------
        normal : Tensor
            Standard normal numbers (R, P, d).

        Returns
        -------
        Tensor
            Points (R, P, d).
        """

    def tell(self, points: Tensor, values: Tensor, injected: bool = False) -> None:
        """Learn from the values of points.

        Parameters
        ----------
        points : Tensor
            Points (R, P, d).
        values : Tensor
            Their values (R, P), of which the lowest is the best. A value that is not finite ranks
            last.
        injected : bool
            Whether the points were moved after `ask`.
        """

    def take(self, rows: Tensor) -> Sampler:
        """Return the sampler of some of the problems, given by their numbers."""


class Fixed:
    """The distribution N(mean, sigma² I), which never changes.

    It gives random restarts, with which a search should be compared.

    Parameters
    ----------
    mean : Tensor
        (R, d).
    sigma : float
        Standard deviation, at least 0.
    """

    def __init__(self, mean: Tensor, sigma: float) -> None:
        self.mean, self.sigma = mean, sigma

    def ask(self, normal: Tensor) -> Tensor:
        """Return mean + sigma n."""
        return self.mean[:, None] + self.sigma * normal

    def tell(self, points: Tensor, values: Tensor, injected: bool = False) -> None:
        """Ignore the values, because this distribution never changes."""

    def take(self, rows: Tensor) -> Fixed:
        """Return the sampler of some of the problems, given by their numbers."""
        return Fixed(self.mean[rows], self.sigma)


class CSA:
    """CMA-ES with cumulative step-size adaptation, isotropic or diagonal, for many problems.

    A full covariance learns almost nothing in a few dozen generations in a hundred dimensions,
    because c₁ and c_μ fall with d². A diagonal covariance learns (d + 2) / 3 times as fast (Ros
    and Hansen 2008, "A simple modification in CMA-ES achieving linear time and space complexity",
    section 3.1). Injected points are clipped to the Mahalanobis length √d + 2 d / (d + 2), and the
    step size grows by at most a factor e in a generation (Hansen 2011, "Injecting external
    solutions into CMA-ES", arXiv:1110.4181).

    Parameters
    ----------
    mean : Tensor
        First means (R, d).
    sigma : float or Tensor
        Initial step size, above 0: one for all problems, or one for each problem (R,).
    members : int
        P, at least 2.
    diagonal : bool
        Whether to learn a variance for each coordinate. Otherwise the covariance stays isotropic.

    Attributes
    ----------
    mean : Tensor
        Means (R, d).
    sigma : Tensor
        Step sizes (R,).
    variance : Tensor
        The diagonal of C, (R, d).

    Raises
    ------
    InputError
        If there are fewer than 2 members.

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
        # Only the positive weights of equation 53 are used.
        self.weights = mean.new_tensor([w / sum(raw) for w in raw])
        mu_eff = 1 / float(self.weights.square().sum())
        self.mu_eff = mu_eff
        self.c_sigma = (mu_eff + 2) / (d + mu_eff + 5)  # (55)
        self.d_sigma = 1 + 2 * max(0.0, math.sqrt((mu_eff - 1) / (d + 1)) - 1) + self.c_sigma
        self.c_c = (4 + mu_eff / d) / (d + 4 + 2 * mu_eff / d)  # (56)
        speed = (d + 2) / 3  # of a diagonal covariance, Ros and Hansen 2008
        self.c_1 = min(speed * 2 / ((d + 1.3) ** 2 + mu_eff), 1.0)  # (57)
        c_mu = speed * 2 * (1 / 4 + mu_eff + 1 / mu_eff - 2) / ((d + 2) ** 2 + mu_eff)  # (58)
        self.c_mu = min(1 - self.c_1, c_mu)
        self.mean_norm = math.sqrt(d) * (1 - 1 / (4 * d) + 1 / (21 * d**2))  # E |N(0, I)|
        self.max_length = math.sqrt(d) + 2 * d / (d + 2)  # of an injected step, Hansen 2011

    def ask(self, normal: Tensor) -> Tensor:
        """Return m + σ √C n."""
        deviation = self.sigma[:, None] * self.variance.sqrt()
        return self.mean[:, None] + deviation[:, None] * normal

    def tell(self, points: Tensor, values: Tensor, injected: bool = False) -> None:
        """Update the mean, the path, the step size and the variances (equations 41 to 47)."""
        order = values.nan_to_num(torch.inf).argsort(dim=1, stable=True)[:, : len(self.weights)]
        best = points.gather(1, order[..., None].expand(-1, -1, points.shape[2]))
        y = (best - self.mean[:, None]) / self.sigma[:, None, None]
        root = self.variance.sqrt()
        if injected:
            length = (y / root[:, None]).norm(dim=2, keepdim=True)
            y = y * (self.max_length / length.clamp_min(1e-12)).clamp_max(1)
        step = torch.einsum("k,rkd->rd", self.weights, y)  # (41)
        self.mean = self.mean + self.sigma[:, None] * step  # (42)
        c = self.c_sigma
        whitened = math.sqrt(c * (2 - c) * self.mu_eff) * step / root
        self.p_sigma = (1 - c) * self.p_sigma + whitened  # (43)
        self.generation += 1
        length = self.p_sigma.norm(dim=1)
        if self.diagonal:
            self._update_variance(y, step, length)
        change = c / self.d_sigma * (length / self.mean_norm - 1)
        self.sigma = self.sigma * change.clamp_max(1).exp()  # (44)

    def _update_variance(self, y: Tensor, step: Tensor, length: Tensor) -> None:
        """Update the diagonal of C from the best steps y (R, μ, d) (equations 45 and 47)."""
        d = y.shape[2]
        bias = math.sqrt(1 - (1 - self.c_sigma) ** (2 * self.generation))  # of early generations
        h = (length / bias < (1.4 + 2 / (d + 1)) * self.mean_norm).to(y)[:, None]
        c = self.c_c
        self.p_c = (1 - c) * self.p_c + h * math.sqrt(c * (2 - c) * self.mu_eff) * step  # (45)
        correction = (1 - h) * c * (2 - c)
        decay = 1 + self.c_1 * correction - self.c_1 - self.c_mu
        rank_one = self.p_c.square()
        rank_mu = torch.einsum("k,rkd->rd", self.weights, y.square())
        self.variance = decay * self.variance + self.c_1 * rank_one + self.c_mu * rank_mu  # (47)

    def take(self, rows: Tensor) -> CSA:
        """Return the sampler of some of the problems, given by their numbers."""
        other = copy.copy(self)
        for name in ("mean", "sigma", "variance", "p_sigma", "p_c"):
            setattr(other, name, getattr(self, name)[rows])
        return other
