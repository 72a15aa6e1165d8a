"""P-norm+: one style per layer, in the whitened space of styles.

Zhu, Abdal, Qin, Femiani and Wonka 2020, "Improved StyleGAN embedding: Where are the good
latents?", arXiv:2012.09036. Before the last leaky ReLU of the mapping network, the styles are
nearly Gaussian. Let μ be their mean and C Λ² Cᵀ their covariance. Then ::

    v = Λ⁻¹ Cᵀ (LeakyReLU_5(w) - μ)

is nearly N(0, I). The objective, over v_1, ..., v_L from the mean style, is ::

    J = λ_pix |y - A G|² + λ_vgg |φ(y) - φ(A G)|² + λ |v|²

Differs from the authors' code
------------------------------
- The authors take steps in w+. gprior takes them in v, so that a step means the same in every
  direction and for every generator.
- gprior estimates μ and C Λ² Cᵀ from 4096 samples (the authors use 10⁶), and within the classes
  if the prior has classes. A deviation below a hundredth of the largest deviation is set to this
  hundredth.
- The authors have λ = 0.001 with a pixel weight of 1 on images in [-1, 1]. This is 8 with the
  weight 255² / 2 on [0, 1].
- The noise maps are the constants of the generator. The authors draw new noise maps at each step,
  so the latents that they save do not reproduce the image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from gprior.priors import Prior, samples_by_class
from gprior.problem import Problem
from gprior.search import (
    GRAY_LEVEL,
    Adam,
    Init,
    Objective,
    Outcome,
    Space,
    Step,
    Term,
    Variables,
    Watch,
    absolute,
    fidelity,
    perceptual,
)
from gprior.solvers.base import Solver

__all__ = ["PNorm"]

LEAST = 0.01  # least standard deviation, as a fraction of the largest


@dataclass(frozen=True)
class PNorm(Solver):
    """Search w+ in its whitened space (Zhu et al. 2020).

    Parameters
    ----------
    pixel : float
        Weight λ_pix ≥ 0 of the mean of (y - A x)² over the observed entries, for images in [0, 1].
    absolute : float
        Weight λ_abs ≥ 0 of the mean of |y - A x|.
    feature : float
        Weight λ_vgg ≥ 0 of the perceptual distance, in units of its median over prior samples.
    norm : float
        Weight λ ≥ 0 of the mean of v².
    lr : float
        Step size of Adam for v, whose entries have the variance 1 under the prior.
    steps, init, perceptual, max_batch
        See `Solver`. The paper has 1300 steps and ``init="mean"``.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"z", "w"})
    PAPER: ClassVar[Mapping[str, Any]] = {"pixel": 4.0, "norm": 1e-3}
    steps: int = 1300
    init: Init = "mean"
    pixel: float = GRAY_LEVEL
    absolute: float = 0.0
    feature: float = 1.0
    norm: float = 8.0
    lr: float = 0.1

    def run(self, problem: Problem, watch: Watch) -> Outcome:
        """Minimise J from the starting point."""
        space = Whitened(*moments(problem.prior))
        objective = Objective(
            fidelity(self.pixel),
            absolute(self.absolute),
            perceptual(self.feature),
            Term("norm", self.norm, lambda at: at.variables["v"].square().mean((1, 2))),
        )
        return self.search(problem, watch, objective, (space, Adam(self.lr)))


@dataclass(frozen=True)
class Whitened(Space):
    """The space of v (R, num_ws, w_dim), with w = LeakyReLU_0.2(μ + C Λ v).

    Attributes
    ----------
    mean : Tensor
        μ, (w_dim,), or (c_dim, w_dim) if the prior has classes.
    basis : Tensor
        C (w_dim, w_dim), with the principal axes as columns.
    deviation : Tensor
        The diagonal of Λ (w_dim,): standard deviations along the axes.
    """

    mean: Tensor
    basis: Tensor
    deviation: Tensor
    needs = frozenset({"w"})

    def initial(self, prior: Prior, start: Variables, step: Step) -> Variables:
        linear = F.leaky_relu(start["w"], 5.0)
        return {"v": (linear - self.centre(start)) @ self.basis / self.deviation}

    def finish(self, variables: Variables, start: Variables, step: Step) -> Variables:
        linear = (variables["v"] * self.deviation) @ self.basis.t() + self.centre(start)
        return {**variables, "w": F.leaky_relu(linear, 0.2)}

    def centre(self, start: Variables) -> Tensor:
        """Return μ of each row, in a shape that can be added to (R, num_ws, w_dim)."""
        return (start["c"] @ self.mean)[:, None] if "c" in start else self.mean


def moments(prior: Prior) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean, the principal axes and the deviations of LeakyReLU_5(w).

    Returns
    -------
    mean : Tensor
        (w_dim,), or (c_dim, w_dim) if the prior has classes.
    basis : Tensor
        The axes as columns (w_dim, w_dim).
    deviation : Tensor
        Standard deviations along the axes (w_dim,), at least a hundredth of the largest.
    """
    core = prior.core

    def compute() -> tuple[Tensor, Tensor, Tensor]:
        linear = [F.leaky_relu(w.double(), 5.0) for w in samples_by_class(core)]
        means = torch.stack([x.mean(0) for x in linear])
        centred = torch.cat([x - mean for x, mean in zip(linear, means, strict=True)])
        values, basis = torch.linalg.eigh(centred.t() @ centred / len(centred))
        deviation = values.clamp_min(0).sqrt()
        deviation = deviation.clamp_min(LEAST * float(deviation.max()))
        mean = means if core.c_dim else means[0]
        return mean.to(core.like), basis.to(core.like), deviation.to(core.like)

    return core.statistic("moments_of_w", compute)
