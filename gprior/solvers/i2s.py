"""Image2StyleGAN and Image2StyleGAN++: one style per layer, then the noise maps.

Abdal, Qin and Wonka 2019, "Image2StyleGAN: How to embed images into the StyleGAN latent
space?", arXiv:1904.03189, and 2020, "Image2StyleGAN++: How to edit the embedded images?",
arXiv:1911.11544. The objective, over w+ = (w_1, ..., w_L), is ::

    J = λ_pix |y - A G(w+)|² + λ_vgg |φ(y) - φ(A G(w+))|²

Adam minimises J from the mean style. I2S++ then keeps w+ constant and minimises J over the noise
maps.

Differs from the authors' code
------------------------------
- The authors' step size 0.01 for w is 0.022 of the spread s of the entries of w, and they take
  5000 steps. The default here is ten times as large, because a few hundred steps need it;
  ``lr=0.022`` is the authors' value. The papers do not give step sizes for the noise maps.
- The authors' pixel weight is 1 on images in [-1, 1], which is 4 on [0, 1]. As in
  `gprior.solvers.lbrgm` the default is 255² / 2; ``pixel=4`` is the authors' value.
- The noise maps start from the constants of the generator.
- The authors embed images, so their A is the identity. The masked losses of I2S++ are
  expressed by A here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from gprior.priors import spread
from gprior.problem import Problem
from gprior.search import (
    GRAY_LEVEL,
    Adam,
    FixedStyles,
    Init,
    Noise,
    Objective,
    Outcome,
    Watch,
    WPlus,
    absolute,
    fidelity,
    perceptual,
)
from gprior.solvers.base import Solver

__all__ = ["I2S", "I2SPlusPlus"]


@dataclass(frozen=True)
class I2S(Solver):
    """Search w+ (Abdal et al. 2019).

    Parameters
    ----------
    pixel : float
        Weight λ_pix ≥ 0 of the mean of (y - A x)² over the observed entries, for images in [0, 1].
        The paper's value is 4.
    absolute : float
        Weight λ_abs ≥ 0 of the mean of |y - A x|.
    feature : float
        Weight λ_vgg ≥ 0 of the perceptual distance, in units of its median over prior samples.
    lr : float
        Step size of Adam for w, in units of the spread s of w. The paper's value is 0.022.
    steps, init, perceptual, max_batch
        See `Solver`. The paper has 5000 steps and ``init="mean"``.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"z", "w"})
    PAPER: ClassVar[Mapping[str, Any]] = {"steps": 5000, "pixel": 4.0, "lr": 0.022}
    steps: int | tuple[int, ...] = 1000
    init: Init = "mean"
    pixel: float = GRAY_LEVEL
    absolute: float = 0.0
    feature: float = 1.0
    lr: float = 0.22

    def run(self, problem: Problem, watch: Watch) -> Outcome:
        """Minimise J over w+."""
        objective = Objective(
            fidelity(self.pixel), absolute(self.absolute), perceptual(self.feature)
        )
        adam = Adam(self.lr * spread(problem.prior))
        return self.search(problem, watch, objective, (WPlus(), adam))


@dataclass(frozen=True)
class I2SPlusPlus(I2S):
    """Search w+, then the noise maps (Abdal et al. 2020).

    Parameters
    ----------
    steps : int or tuple of 2 int
        Number of steps for w+ and for the noise maps.
    lr_noise : float
        Step size of Adam for the entries of the noise maps.
    pixel, absolute, feature, lr, init, perceptual, max_batch
        See `I2S`.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"z", "w", "noise"})
    PAPER: ClassVar[Mapping[str, Any]] = {"pixel": 4.0, "lr": 0.022}
    steps: int | tuple[int, ...] = (800, 400)
    lr_noise: float = 0.1

    def run(self, problem: Problem, watch: Watch) -> Outcome:
        """Minimise J over w+, then over the noise maps."""
        objective = Objective(
            fidelity(self.pixel), absolute(self.absolute), perceptual(self.feature)
        )
        adam = Adam({"w": self.lr * spread(problem.prior), "noise": self.lr_noise})
        stages = (WPlus(), adam), (FixedStyles() & Noise(), adam)
        return self.search(problem, watch, objective, *stages)
