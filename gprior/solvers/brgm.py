"""BRGM: Bayesian reconstruction through generative models.

Marinescu, Moyer and Golland 2020, "Bayesian image reconstruction using deep generative
models", arXiv:2012.04567.

Objective, over w_1, ..., w_L with x = G(w_1, ..., w_L)::

    J = λ_pix |y - A x|² + λ_vgg |φ(y) - φ(A x)|²
        + λ_w Σ_i |w_i - w̄|² / s² + λ_c mean_{i≠j} (1 - cos(w_i, w_j))

minimised by Adam from the mean style w̄. The prior on styles is Gaussian and their
agreement across layers is a cosine similarity, both set by hand: what L-BRGM learns.

Differs from the authors' code
------------------------------
- Their λ_pix = 1e-3 acts on the mean over pixels in 0..255: 1e-3 · 255² = 65 on [0, 1];
  the default is 255² / 2 for the reasons given in `gprior.solvers.lbrgm`.
- Their λ_vgg = 1e7 acts on the mean over about 8.0e6 VGG features: 1.25 LPIPS, 0.87 in
  our unit (see `gprior.solvers.lbrgm`).
- Their λ_w = 100 divides by the squared norm of the whole vector, so that the term is
  100 / 512 of the mean of ((w - w̄) / s)² over entries: 0.195 in our unit, as weak.
- The cosine term is the mean over pairs with weight 3, as in their TensorFlow original;
  their PyTorch port sums over pairs (0.1, or 1 beyond 16x super-resolution), which grows
  with the number of layers, and takes the first image's styles for the whole batch.
- Steps of w are in units of s, as in `gprior.solvers.lbrgm`.
- The noise maps are the generator's constants. Their code redraws them between the
  optimisation and the rendering, so that the saved image is not the optimised one.
- The best iterate by the stopping criterion is returned, not the last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from gprior.problem import Problem
from gprior.search import (
    GRAY_LEVEL,
    Adam,
    Init,
    Iterate,
    Objective,
    Outcome,
    Term,
    Watch,
    WPlus,
    fidelity,
    perceptual,
)
from gprior.solvers.base import Solver
from gprior.solvers.styles import spread

__all__ = ["BRGM"]


@dataclass(frozen=True)
class BRGM(Solver):
    """Search w+ under a Gaussian prior and a cosine similarity (Marinescu et al. 2020).

    Parameters
    ----------
    pixel : float
        λ_pix, on the mean of (y - A x)² over observed entries, images in [0, 1]; the
        paper's is 65.
    feature : float
        λ_vgg, on the perceptual distance in units of its median over prior samples.
    gaussian : float
        λ_w, on the mean of ((w - w̄) / s)².
    cosine : float
        λ_c, on the mean over pairs of layers of 1 - cos(w_i, w_j).
    lr : float
        Adam's step of w, in units of s.
    steps, init, perceptual, max_batch
        See `Solver`; the paper has 500 steps and ``init="mean"``.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"w"})
    steps: int = 500
    init: Init = "mean"
    pixel: float = GRAY_LEVEL
    feature: float = 0.87
    gaussian: float = 0.195
    cosine: float = 3.0
    lr: float = 0.22

    def run(self, problem: Problem, watch: Watch) -> Outcome:
        """Minimise J from the starting point."""
        prior, s = problem.prior, spread(problem.prior)

        def gaussian(at: Iterate) -> Tensor:
            w = at.variables["w"]
            mean = prior.mean_style(at.start.get("c")).expand(len(w), -1)
            return ((w - mean[:, None]) / s).square().mean((1, 2))

        objective = Objective(
            fidelity(self.pixel),
            perceptual(self.feature),
            Term("gaussian", self.gaussian, gaussian),
            Term("cosine", self.cosine, lambda at: cosine_disagreement(at.variables["w"])),
        )
        return self.search(problem, watch, objective, (WPlus(), Adam(self.lr * s)))


def cosine_disagreement(w: Tensor) -> Tensor:
    """Return the mean over pairs i ≠ j of 1 - cos(w_i, w_j) for w (R, L, w_dim), (R,)."""
    unit = F.normalize(w, dim=2)
    L = w.shape[1]
    together = torch.einsum("rid,rjd->r", unit, unit) - L  # without the pairs i = j
    return 1 - together / (L * (L - 1))
