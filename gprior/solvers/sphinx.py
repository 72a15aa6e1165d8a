"""SPHInX: projection heads that generate the styles, the content and the noise of one image.

Subramanyam, Narayanaswamy, Naufel, Spanias and Thiagarajan 2022, "Improved StyleGAN-v2 based
inversion for out-of-distribution images", ICML (PMLR 162). The objective, over the weights θ of a
style head P_s, the weights φ of a content head P_c and the noise maps b, is ::

    J = E_{z+, s} λ_pix |y - A x|² + λ_vgg |φ(y) - φ(A x)|²,   x = G(P_s(z+), P_c(s), b)

Every step draws new z+ and s from N(0, I), so that every draw has to reproduce y. The answer is
therefore a neighbourhood of codes and not a single point. P_s takes the z of each layer through a
bottleneck 512-256-16, which all layers share, and a decoder 32-64-w_dim, which each layer has for
itself. P_c takes s (8 channels of 4x4) through 1x1 convolutions, 32-128-C. The step size of Adam
rises over the first 5 % and falls over the last quarter of the run.

The returned code is the mean of P_s and of P_c over 64 fixed draws. This code is judged at every
tenth step and at the end. The best code, the stop and the reported loss therefore never depend on
a single lucky draw. The weights of the heads and the draws are part of the code, as ``style.*`` and
``content.*`` in ``Result.latents``, so that `gprior.editing.neighbours` can draw other codes from
the heads of a result. ``Result.diagnostics`` has ``spread``, the root mean square
deviation of P_s(z+) over the draws, relative to that of the styles of the prior. If it is near 0,
the head has collapsed to a constant (then ``collapsed`` is 1), and there is no neighbourhood.

Figure 2 of the paper puts the mapping network f of the prior in the place of P_s. All layers share
f, and each layer has a z. ``head="pretrained"`` starts from the weights of f, and
``head="untrained"`` from random ones.

Differs from the authors' code
------------------------------
- The schedule of the step size acts on all variables. In the authors' code it acts on the first
  group, P_s, alone.
- Each group has a separate learning rate: 0.001 for the style head, 0.03 for the content head and
  1 for the noise maps. The noise maps gain most from a separate rate. ``lr_content=0.001,
  lr_noise=0.001`` gives the paper's 0.001 for all groups. A larger step size of the style head
  fits y better, but the head then ends as a constant.
- The bottleneck has width 16, as in the paper. The authors' code has width 32, and a shared
  encoder whose last two layers reduce to one.
- The authors' final image is that of the last draw before the last update, and their code saves no
  latent code.
- ``full=False`` is the default: it searches the style head alone. The paper's method always has
  the content head and the noise maps as well, which is ``full=True``.
- The input s of the content head is 8 x 4 x 4, as in the authors' code; the paper writes
  4 x 4 x 512.
- In the paper, λ_vgg / λ_pix = 1.5 on images in [-1, 1], with VGG features. As in
  `gprior.solvers.lbrgm`, the default λ_pix is 255² / 2 on [0, 1]. If the measurement is not an
  image, the objective has only the term of λ_pix, as in the paper.
- For denoising, the authors' code compares y, which is clipped, with a clipped x + new noise at
  every step. Without the clipping, added noise does not change the minimum of the mean square.
  The default is therefore the likelihood alone; ``clip_noise=σ`` is the authors' way. The noise
  changes the loss that the search minimises, but never the criterion.
- P_s is an offset from the styles of the starting point, scaled by the spread of w of the prior
  over 0.45, which is the spread in the paper's generator. The authors' head starts near w = 0 for
  every prior.
- The heads of all layers and images run as batched matrix products.
- f starts where its weights put it, and not at the starting point. Its weights are those that its
  layers apply. StyleGAN2 trains them times 0.01, with which a step of 0.001 would hardly move
  them; the paper does not say which it takes. Random weights have the root mean square of the
  weights of f, and the biases are 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from gprior.checks import InputError, integer
from gprior.priors import Prior, spread
from gprior.problem import Problem
from gprior.search import (
    GRAY_LEVEL,
    Adam,
    Init,
    Iterate,
    Noise,
    Objective,
    Outcome,
    Space,
    Term,
    Variables,
    Watch,
    absolute,
    judgements,
    perceptual,
)
from gprior.solvers.base import Solver
from gprior.solvers.projection_heads import ContentHead, Head, MappingHead, StyleHead
from gprior.solvers.terms import trapezoid

__all__ = ["SPHInX"]

Draw = Callable[[str, Sequence[int]], Tensor]
HEADS = ("decoders", "pretrained", "untrained")


@dataclass(frozen=True)
class SPHInX(Solver):
    """Search the weights of projection heads (Subramanyam et al. 2022).

    Parameters
    ----------
    full : bool
        True searches the content head and the noise maps too. The content head then replaces the
        learned content of the generator and starts from random weights. This is for images outside
        the domain of the prior, with thousands of steps. False searches the style head alone.
    pixel : float
        Weight λ_pix ≥ 0 of the mean of (y - A x)² over the observed entries, for images in [0, 1].
    absolute : float
        Weight λ_abs ≥ 0 of the mean of |y - A x|, where ``clip_noise`` adds nothing to x.
    feature : float
        Weight λ_vgg ≥ 0 of the perceptual distance, in units of its median over prior samples.
    head : {"decoders", "pretrained", "untrained"}
        The network P_s: the paper's, with a decoder for each layer; or the mapping network of the
        prior, from its own weights or from random weights (figure 2 of the paper). A mapping
        network takes only the class from ``init``.
    bottleneck : int
        Width d ≥ 1 of the bottleneck of the paper's P_s. A mapping network has none.
    clip_noise : float
        Standard deviation σ ≥ 0 of the noise for the authors' way of denoising, in pixel units. At
        every step, clip(x + σ n, 0, 1) with new noise n takes the place of x. It is meant for a y
        that is clipped to [0, 1]. 0 compares x itself with y.
    lr, lr_content, lr_noise : float
        Largest step sizes of Adam for the weights of the style head, for those of the content head
        and for the noise maps. The paper's value is 0.001 for all.
    steps, init, perceptual, max_batch
        See `Solver`. The paper has 10000 steps. The output of the style head starts around the
        styles of ``init``.

    Raises
    ------
    InputError
        If ``head`` is another name, if ``bottleneck`` is less than 1, or, when an image is
        solved, if ``head`` needs a mapping network and the prior has none.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"z", "w", "content", "noise"})
    PAPER: ClassVar[Mapping[str, Any]] = {
        "steps": 10_000, "full": True, "pixel": 4.0, "feature": 1.05,
        "lr_content": 1e-3, "lr_noise": 1e-3,
    }  # fmt: skip
    steps: int = 1000
    init: Init = "mean"
    full: bool = False
    pixel: float = GRAY_LEVEL
    absolute: float = 0.0
    feature: float = 1.0
    head: str = "decoders"
    bottleneck: int = 16
    clip_noise: float = 0.0
    lr: float = 1e-3
    lr_content: float = 0.03
    lr_noise: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        integer("bottleneck", self.bottleneck, least=1)
        if self.head not in HEADS:
            raise InputError(f"head must be one of {list(HEADS)}, got {self.head!r}")

    def cost(self, classes: int) -> float:
        """Return the evaluations, which include those that judge the mean over the draws."""
        return super().cost(classes) + judgements(self.total) / 3

    def run(self, problem: Problem, watch: Watch) -> Outcome:
        """Minimise J over the heads."""
        space: Space = self.style_head(problem.prior)
        if self.full:
            space = space & ContentHead() & Noise(drawn=True)

        def mean_square(at: Iterate) -> Tensor:
            if at.step is None or not self.clip_noise:
                return at.problem.mean_square(at.predicted, at.problem.fit)
            noise = self.clip_noise * at.step.draw("clip-noise", at.image.shape[1:])
            predicted = at.problem.measure((at.image + noise).clamp(0, 1))
            return at.problem.mean_square(predicted, at.problem.fit)

        objective = Objective(
            Term("fidelity", self.pixel, mean_square, data=True),
            absolute(self.absolute),
            perceptual(self.feature),
        )
        adam = Adam(
            {"style": self.lr, "content": self.lr_content, "noise": self.lr_noise},
            schedule=trapezoid(0.25),
        )
        return self.search(problem, watch, objective, (space, adam))

    def style_head(self, prior: Prior) -> Head:
        """Return P_s for a prior.

        Raises
        ------
        InputError
            If it is the mapping network, and the prior has none.
        """
        if self.head == "decoders":
            return StyleHead(spread(prior), self.bottleneck)
        network = getattr(prior.core, "mapping_network", None)
        if not isinstance(network, nn.Module):
            raise InputError(
                f"head={self.head!r} needs a prior with a module mapping_network, as StyleGAN2 "
                f"has, and {prior.name} has none; use head='decoders'"
            )
        return MappingHead(spread(prior), network, self.head == "pretrained")

    def neighbours(self, code: Variables, prior: Prior, n: int, draw: Draw) -> Variables:
        """Return codes that are drawn from the heads of a code, each (R n, ...).

        Parameters
        ----------
        code : dict of Tensor
            A code that the method returned, such as ``Result.latents``, each (R, ...).
        prior : Prior
            The generator.
        n : int
            Number of codes for each row of the code.
        draw : callable
            (name, shape) -> standard normal numbers (R, n, *shape).
        """
        head, fixed = self.style_head(prior), code["style.draws"]
        centre = code["w"] - head.offsets(code, fixed).mean(1)
        z = draw("style", fixed.shape[2:])
        drawn = {"w": centre[:, None] + head.offsets(code, z)}
        if "content.draws" in code:
            s = draw("content", code["content.draws"].shape[2:])
            drawn["content"] = ContentHead().contents(code, s)
        same = {
            name: value.repeat_interleave(n, 0)
            for name, value in code.items()
            if name not in drawn and not name.startswith(("style.", "content."))
        }
        return same | {name: value.flatten(0, 1) for name, value in drawn.items()}
