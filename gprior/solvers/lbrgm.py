"""L-BRGM: joint search over the styles and over a latent z whose style M(z) is near to them.

Conmy, Mukherjee and Schönlieb 2021, "StyleGAN-induced data-driven regularization for
inverse problems", arXiv:2110.03814.

The objective (equation 5 of the paper), over w_1, ..., w_L and z with x = G(w_1, ..., w_L), is ::

    J = λ_pix |y - A x|² + λ_vgg |φ(y) - φ(A x)|² + λ_map Σ_i |w_i - M(z)|² + λ_lat |z|²

Adam minimises J from the best of N = 100 latents z, with w_i = M(z). M is the mapping network. It
models the distribution of w, which BRGM assumes to be Gaussian.

Differs from the authors' code
------------------------------
- Every term is a mean over its entries, as in the authors' code; the paper writes sums. λ_pix is
  2e-5 in the paper and 2e-4 in the code, on pixels in 0..255. This is 1.3 and 13.0 on [0, 1]. With
  either value, most of the data fit comes from the VGG term. The features of a small
  discriminator cannot do this, and a circulant or a sinogram has no such term at all. The default
  is therefore 1 / 2σ² at a σ of one gray level of 8 bits, 255² / 2, and the stopping rule
  prevents overfitting. ``pixel=1.3`` is the paper's value, and ``pixel=13.0`` is the value in the
  code.
- The perceptual term is off by default. The authors' λ_vgg = 2e7 acts on the mean over about 8.0e6
  VGG features at 256 pixels, whose sum of squares is LPIPS. This is 2.5 LPIPS. The median LPIPS
  between two faces is about 0.7, so the weight is 1.75 in the unit of gprior, which is the median
  between two samples of the prior. With the λ_pix of gprior and the features of a discriminator,
  the term is 0.1 to 0.4 % of the loss: it changes no measured score, and it doubles the time.
  ``perceptual=True`` switches it on.
- All data terms together choose between the candidates of the start (``start_by="data"``). In the
  paper, the perceptual term alone chooses (``start_by="perceptual"``), but a measurement that is
  not an image has no such term. In half of the cases the two rules choose different candidates.
- Step sizes and the map term measure w in units of its spread s, where s² = E (w - w̄)² per entry.
  The authors' λ_map = 30 acts on w with s = 0.45. This is 30 · 0.45² = 6 in the unit of gprior, and
  their step size 0.1 for w is 0.22 s. The constants therefore do not depend on the scale of W of
  a generator.
- The pixel mean is taken over the observed entries only, not over the zeros of a mask.
- The authors choose the best iterate by LPIPS against the ground truth. gprior never uses the
  ground truth: see ``stop`` in `gprior.solve`.
- The betas of Adam are (0.9, 0.999), as in the authors' code. The paper has (0.96, 0.9999), which
  you can set by ``betas``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from gprior.checks import InputError
from gprior.priors import spread
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
    absolute,
    fidelity,
    perceptual,
)
from gprior.solvers.base import Solver

__all__ = ["LBRGM"]


@dataclass(frozen=True)
class LBRGM(Solver):
    """Search w+ and z jointly, with each w_i near to M(z) (Conmy et al. 2021).

    Parameters
    ----------
    pixel : float
        Weight λ_pix ≥ 0 of the mean of (y - A x)² over the observed entries, for images in [0, 1].
        The value is 1.3 in the paper and 13 in the authors' code.
    absolute : float
        Weight λ_abs ≥ 0 of the mean of |y - A x|.
    feature : float
        Weight λ_vgg ≥ 0 of the perceptual distance, in units of its median over prior samples. It
        acts only if ``perceptual`` switches the term on.
    map : float
        Weight λ_map ≥ 0 of the mean of ((w_i - M(z)) / s)².
    latent : float
        Weight λ_lat ≥ 0 of the mean of z².
    lr, lr_z : float
        Step sizes of Adam for w, in units of s, and for z.
    betas : (float, float)
        Decay rates of Adam's moments, in [0, 1). The paper has (0.96, 0.9999), and the authors'
        code has (0.9, 0.999).
    start_by : {"data", "perceptual"}
        Which terms choose between the candidates of the start: all data terms, or the perceptual
        term alone as in the paper. ``"perceptual"`` needs a perceptual term, see ``perceptual``.
    steps, init, perceptual, max_batch
        See `Solver`. The paper has 2000 steps and ``init="best-of:100"``. ``perceptual`` is
        False by default.

    Raises
    ------
    InputError
        If ``start_by`` is unknown.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"z", "w"})
    PAPER: ClassVar[Mapping[str, Any]] = {
        "steps": 2000, "pixel": 1.3, "betas": (0.96, 0.9999), "start_by": "perceptual",
        "perceptual": True,
    }  # fmt: skip
    steps: int = 500
    init: Init = "best-of:100"
    pixel: float = GRAY_LEVEL
    absolute: float = 0.0
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
            absolute(self.absolute),
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
                    "start_by='perceptual' needs a perceptual term, but this problem has none; "
                    "pass perceptual=True and a measurement that is an image, or "
                    "start_by='data'"
                )
            start_by = Objective(perceptual(1.0))
        return self.search(problem, watch, objective, stage, candidates_by=start_by)
