"""Image2StyleGAN and Image2StyleGAN++: one style per layer, then the noise maps.

Abdal, Qin and Wonka 2019, "Image2StyleGAN: How to embed images into the StyleGAN latent
space?", arXiv:1904.03189, and 2020, "Image2StyleGAN++: How to edit the embedded images?",
arXiv:1911.11544. Over w+ = (w_1, ..., w_L) from the mean style, by Adam::

    J = λ_pix |y - A G(w+)|² + λ_vgg |φ(y) - φ(A G(w+))|²

I2S++ then holds w+ and minimises J over the noise maps.

Differs from the authors' code
------------------------------
- Their step 0.01 on w is 0.022 of the spread s of its entries, for 5000 iterations. The
  default is ten times as large, which a few hundred iterations need; theirs is
  ``lr=0.022``. Step sizes of the noise maps are not in the papers.
- Their pixel weight is 1 on images in [-1, 1]: 4 on [0, 1]. As in `gprior.solvers.lbrgm`
  the default is 255² / 2, theirs is ``pixel=4``.
- The noise maps start from the generator's constants.
- They embed images (A = 1); the masked losses of I2S++ are A here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

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
    fidelity,
    perceptual,
)
from gprior.solvers.base import Solver
from gprior.solvers.styles import spread

__all__ = ["I2S", "I2SPlusPlus"]


@dataclass(frozen=True)
class I2S(Solver):
    """Search w+ (Abdal et al. 2019).

    Parameters
    ----------
    pixel : float
        λ_pix, on the mean of (y - A x)² over observed entries, images in [0, 1]; the
        paper's is 4.
    feature : float
        λ_vgg, on the perceptual distance in units of its median over prior samples.
    lr : float
        Adam's step of w, in units of its spread s; the paper's is 0.022.
    steps, init, perceptual, max_batch
        See `Solver`; the paper has 5000 steps and ``init="mean"``.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"z", "w"})
    steps: int | tuple[int, ...] = 1000
    init: Init = "mean"
    pixel: float = GRAY_LEVEL
    feature: float = 1.0
    lr: float = 0.22

    def run(self, problem: Problem, watch: Watch) -> Outcome:
        """Minimise J over w+."""
        objective = Objective(fidelity(self.pixel), perceptual(self.feature))
        adam = Adam(self.lr * spread(problem.prior))
        return self.search(problem, watch, objective, (WPlus(), adam))


@dataclass(frozen=True)
class I2SPlusPlus(I2S):
    """Search w+, then the noise maps (Abdal et al. 2020).

    Parameters
    ----------
    lr_noise : float
        Adam's step of the noise maps.
    pixel, feature, lr, steps, init, perceptual, max_batch
        As for `I2S`; steps are those of w+ and of the noise maps.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"z", "w", "noise"})
    steps: int | tuple[int, ...] = (800, 400)
    lr_noise: float = 0.1

    def run(self, problem: Problem, watch: Watch) -> Outcome:
        """Minimise J over w+, then over the noise maps."""
        objective = Objective(fidelity(self.pixel), perceptual(self.feature))
        adam = Adam({"w": self.lr * spread(problem.prior), "noise": self.lr_noise})
        stages = (WPlus(), adam), (FixedStyles() & Noise(), adam)
        return self.search(problem, watch, objective, *stages)
