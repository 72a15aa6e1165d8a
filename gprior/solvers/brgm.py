"""BRGM: Bayesian reconstruction through generative models.

Marinescu, Moyer and Golland 2020, "Bayesian image reconstruction using deep generative
models", arXiv:2012.04567.

The objective, over w_1, ..., w_L with x = G(w_1, ..., w_L), is ::

    J = λ_pix |y - A x|² + λ_vgg |φ(y) - φ(A x)|²
        + λ_w Σ_i |w_i - w̄|² / s² + λ_c mean_{i≠j} (1 - cos(w_i, w_j))

Adam minimises J from the mean style w̄. The third term is a Gaussian prior on the styles, and the
fourth term is small if the styles of all layers have similar directions. Both are chosen by hand;
L-BRGM replaces them by a term that uses the mapping network.

Differs from the authors' code
------------------------------
- The authors' λ_pix = 1e-3 acts on the mean over pixels in 0..255. This is 1e-3 · 255² = 65 on
  [0, 1]. The default here is 255² / 2; `gprior.solvers.lbrgm` gives the reasons.
- The authors' λ_vgg = 1e7 acts on the mean over about 8.0e6 VGG features. This is 1.25 LPIPS, or
  0.87 in the unit of gprior (see `gprior.solvers.lbrgm`).
- The authors' λ_w = 100 multiplies a term that is divided by the squared norm of the whole
  vector. The term is therefore 100 / 512 of the mean of ((w - w̄) / s)² over the entries: 0.195 in
  the unit of gprior, which is equally weak.
- The cosine term is the mean over pairs and has the weight 3, as in the authors' original
  TensorFlow code. Their PyTorch code has a sum over pairs (with the weight 0.1, or 1 beyond 16x
  super-resolution). That sum grows with the number of layers, and it uses the styles of the first
  image for the whole batch.
- Step sizes of w are in units of s, as in `gprior.solvers.lbrgm`.
- The noise maps are the constants of the generator. The authors' code draws new noise maps between
  the optimisation and the rendering, so the image that it saves is not the optimised image.
- gprior returns the best iterate by the stopping criterion, not the last iterate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from gprior.priors import spread
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
    absolute,
    fidelity,
    perceptual,
)
from gprior.solvers.base import Solver

__all__ = ["BRGM"]


@dataclass(frozen=True)
class BRGM(Solver):
    """Search w+ under a Gaussian prior and a cosine similarity (Marinescu et al. 2020).

    Parameters
    ----------
    pixel : float
        Weight λ_pix ≥ 0 of the mean of (y - A x)² over the observed entries, for images in [0, 1].
        The paper's value is 65.
    absolute : float
        Weight λ_abs ≥ 0 of the mean of |y - A x|.
    feature : float
        Weight λ_vgg ≥ 0 of the perceptual distance, in units of its median over prior samples.
    gaussian : float
        Weight λ_w ≥ 0 of the mean of ((w - w̄) / s)².
    cosine : float
        Weight λ_c ≥ 0 of the mean of 1 - cos(w_i, w_j) over pairs of layers.
    lr : float
        Step size of Adam for w, in units of s.
    steps, init, perceptual, max_batch
        See `Solver`. The paper has 500 steps and ``init="mean"``.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"w"})
    PAPER: ClassVar[Mapping[str, Any]] = {"steps": 5000, "pixel": 65.0}
    steps: int = 500
    init: Init = "mean"
    pixel: float = GRAY_LEVEL
    absolute: float = 0.0
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
            absolute(self.absolute),
            perceptual(self.feature),
            Term("gaussian", self.gaussian, gaussian),
            Term("cosine", self.cosine, lambda at: cosine_disagreement(at.variables["w"])),
        )
        return self.search(problem, watch, objective, (WPlus(), Adam(self.lr * s)))


def cosine_disagreement(w: Tensor) -> Tensor:
    """Return the mean of 1 - cos(w_i, w_j) over pairs of layers i ≠ j.

    Parameters
    ----------
    w : Tensor
        Styles (R, L, w_dim).

    Returns
    -------
    Tensor
        One value per row (R,), in [0, 2].
    """
    unit = F.normalize(w, dim=2)
    L = w.shape[1]
    similarity = torch.einsum("rid,rjd->r", unit, unit) - L  # the pairs i = j sum to L
    return 1 - similarity / (L * (L - 1))
