"""L-BRGM: joint search over styles and the latent that should have made them.

Conmy, Mukherjee and Schönlieb 2021, "StyleGAN-induced data-driven regularization for
inverse problems", arXiv:2110.03814.

Objective (their eq. 5), over w_1, ..., w_L and z with x = G(w_1, ..., w_L)::

    J = λ_pix |y - A x|² + λ_vgg |φ(y) - φ(A x)|² + λ_map Σ_i |w_i - M(z)|² + λ_lat |z|²

minimised by Adam from the best of N = 100 latents z, with w_i = M(z). M is the mapping network:
it models the distribution of w, which BRGM takes as Gaussian.

Differs from the authors' code
------------------------------
- Every term is a mean over its entries, as in their code (the paper writes sums).
  λ_pix is 2e-5 in the paper and 2e-4 in their code, on pixels in 0..255: 1.3 and 13.0 on
  [0, 1]. With either, the VGG term carries the data, which the features of a small
  discriminator cannot do, and a circulant or a sinogram has no such term at all. The default
  is 1 / 2σ² at a σ of one gray level of 8 bits, 255² / 2, and the stopping rule guards against
  overfitting; theirs are ``pixel=1.3`` and ``pixel=13.0``.
- The perceptual term is off by default. Their λ_vgg = 2e7 acts on the mean over about 8.0e6
  VGG features at 256 pixels whose sum of squares is LPIPS: 2.5 LPIPS, and with a median LPIPS
  of about 0.7 between two faces, 1.75 in our unit (the median between two samples of the
  prior). Beside our λ_pix it is 0.1 to 0.4 % of the loss on the features of a discriminator:
  it changes no measured score, and doubles the time. ``perceptual=True`` switches it on.
- Candidates of the start are compared by all data terms, with ``start_by="data"``. The paper
  compares them by the perceptual term alone, which a measurement that is no image does not
  have: ``start_by="perceptual"``. In half of the cases the two choose another candidate.
- w is measured in units of its own spread, s² = E (w - w̄)² per entry, in steps and in
  the map term: λ_map = 30 acts on w of s = 0.45, 30 · 0.45² = 6 in our unit, and the
  step 0.1 on w is 0.22 s. So the constants do not depend on a generator's scale of W.
- The pixel mean runs over observed entries only, not over the zeros of a mask.
- Their best iterate is chosen by LPIPS against the ground truth. Ours never sees it: see
  ``stop`` in `gprior.solve`.
- Adam's betas are (0.9, 0.999), as their code runs; the paper's (0.96, 0.9999) are one
  keyword away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from gprior.checks import InputError
from gprior.problem import Problem
from gprior.search import (
    GRAY_LEVEL,
    Adam,
    Auxiliary,
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

__all__ = ["LBRGM"]


@dataclass(frozen=True)
class LBRGM(Solver):
    """Search w+ and z jointly, each w_i drawn towards M(z) (Conmy et al. 2021).

    Parameters
    ----------
    pixel : float
        λ_pix, on the mean of (y - A x)² over observed entries, images in [0, 1]; 1.3 in the
        paper, 13 in its code.
    feature : float
        λ_vgg, on the perceptual distance in units of its median over prior samples, where
        ``perceptual`` switches it on.
    map : float
        λ_map, on the mean of ((w_i - M(z)) / s)².
    latent : float
        λ_lat, on the mean of z².
    lr, lr_z : float
        Adam's steps of w, in units of s, and of z.
    betas : (float, float)
        Adam's decays; the paper has (0.96, 0.9999), its code runs (0.9, 0.999).
    start_by : {"data", "perceptual"}
        What chooses between the candidates of the start: all data terms, or the perceptual one
        alone as in the paper, which ``perceptual`` must then switch on.
    steps, init, perceptual, max_batch
        See `Solver`; the paper has 2000 steps and ``init="best-of:100"``. ``perceptual`` is
        False by default.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"z", "w"})
    steps: int = 500
    init: Init = "best-of:100"
    pixel: float = GRAY_LEVEL
    feature: float = 1.75
    map: float = 6.0
    latent: float = 0.4
    lr: float = 0.22
    lr_z: float = 0.1
    betas: tuple[float, float] = (0.9, 0.999)
    start_by: str = "data"
    perceptual: bool | str | Callable[..., Any] | None = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start_by not in ("data", "perceptual"):
            raise InputError(f"start_by must be 'data' or 'perceptual', got {self.start_by!r}")

    def run(self, problem: Problem, watch: Watch) -> Outcome:
        """Minimise J from the best candidate."""
        prior, s = problem.prior, spread(problem.prior)

        def map_term(at: Iterate) -> Tensor:
            w = prior.mapping(at.variables["z"], at.start.get("c"))
            return ((at.variables["w"] - w) / s).square().mean((1, 2))

        objective = Objective(
            fidelity(self.pixel),
            perceptual(self.feature),
            Term("map", self.map, map_term),
            Term("latent", self.latent, lambda at: at.variables["z"].square().mean(1)),
        )
        adam = Adam({"w": self.lr * s, "z": self.lr_z}, self.betas)
        stage = WPlus() & Auxiliary("z"), adam
        start_by = objective
        if self.start_by == "perceptual":
            if problem.perceptual is None:
                raise InputError(
                    "start_by='perceptual' needs a perceptual term: pass perceptual=True, and a "
                    "measurement that is an image; or leave start_by='data'"
                )
            start_by = Objective(perceptual(1.0))
        return self.search(problem, watch, objective, stage, candidates_by=start_by)
