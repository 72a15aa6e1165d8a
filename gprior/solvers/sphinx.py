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
``content.*`` in ``Result.latents``. ``Result.diagnostics`` has ``spread``, the root mean square
deviation of P_s(z+) over the draws, relative to that of the styles of the prior. If it is near 0,
the head has collapsed to a constant (then ``collapsed`` is 1), and there is no neighbourhood.

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
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from gprior.priors import HasContent, Prior, spread
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
    Step,
    Term,
    Variables,
    Watch,
    absolute,
    judgements,
    perceptual,
)
from gprior.solvers.base import Solver
from gprior.solvers.terms import trapezoid

__all__ = ["SPHInX"]

BOTTLENECK = (512, 256, 16)  # widths of the layers that all decoders share
DECODER = (32, 64)  # widths of the hidden layers of a decoder
CONTENT = (8, 32, 128)  # channels of s, and of the layers before the last
DRAWS = 64  # fixed draws over which the returned code is a mean
PAPER_SPREAD = 0.45  # spread of the styles of the paper's generator, which fits this head
COLLAPSED = 0.01  # a head has collapsed below this fraction of the spread of the prior's styles


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
    clip_noise: float = 0.0
    lr: float = 1e-3
    lr_content: float = 0.03
    lr_noise: float = 1.0

    def cost(self, classes: int) -> float:
        """Return the evaluations, which include those that judge the mean over the draws."""
        return super().cost(classes) + judgements(self.total) / 3

    def run(self, problem: Problem, watch: Watch) -> Outcome:
        """Minimise J over the heads."""
        prior = problem.prior
        space: Space = StyleHead(spread(prior))
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


@dataclass(frozen=True)
class StyleHead(Space):
    """The weights of P_s, which maps z+ (R, L, z_dim) to w+ (R, L, w_dim).

    Each row has one head.

    Attributes
    ----------
    s : float
        Spread of the styles of the prior.
    """

    s: float
    needs = frozenset({"w"})

    def initial(self, prior: Prior, start: Variables, step: Step) -> Variables:
        layers, w_dim = int(start["w"].shape[1]), int(start["w"].shape[2])
        bottleneck = (start["z"].shape[1], *BOTTLENECK)
        decoder = (BOTTLENECK[-1], *DECODER, w_dim)
        weights: Variables = {}
        parts: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = (
            ("bottleneck", bottleneck, ()),
            ("decoder", decoder, (layers,)),
        )
        for part, widths, copies in parts:
            for k, (n_in, n_out) in enumerate(pairwise(widths)):
                for kind, shape in (("weight", (n_in, n_out)), ("bias", (1, n_out))):
                    name = f"style.{part}.{k}.{kind}"
                    weights[name] = uniform(step.draw(name, (*copies, *shape))) / math.sqrt(n_in)
        return weights

    def draws(self, t: float) -> bool:
        return True

    def draw(self, variables: Variables, start: Variables, step: Step) -> Variables:
        z = step.draw("style", (1, *start["w"].shape[1:2], start["z"].shape[1]))
        return {**variables, "w": start["w"] + self.offsets(variables, z)[:, 0]}

    def finish(self, variables: Variables, start: Variables, step: Step) -> Variables:
        z = self.fixed_draws(variables, step)
        w = start["w"] + self.offsets(variables, z).mean(1)
        return {**variables, "style.draws": z, "w": w}

    def diagnose(self, variables: Variables, code: Variables, step: Step) -> Variables:
        """Return ``spread`` and ``collapsed``, each (R,).

        ``spread`` is the deviation of the styles over the draws relative to that of the prior, and
        ``collapsed`` is 1 if it is below 0.01.
        """
        w = self.offsets(variables, self.fixed_draws(variables, step))
        spread = (w - w.mean(1, keepdim=True)).square().mean((1, 2, 3)).sqrt() / self.s
        return {"spread": spread, "collapsed": (spread < COLLAPSED).to(spread)}

    def fixed_draws(self, variables: Variables, step: Step) -> Tensor:
        """Return the 64 draws of z+ over which the code is a mean, (R, 64, L, z_dim)."""
        layers = variables["style.decoder.0.weight"].shape[1]
        z_dim = variables["style.bottleneck.0.weight"].shape[1]
        return step.fixed("style-mean", (DRAWS, layers, z_dim))

    def offsets(self, variables: Variables, z: Tensor) -> Tensor:
        """Return the offsets of the styles (R, n, L, w_dim) for z (R, n, L, z_dim)."""
        R, n, L = z.shape[:3]
        x = fully_connected(variables, "style.bottleneck", z.reshape(R, n * L, -1), len(BOTTLENECK))
        x = x.view(R, n, L, -1).transpose(1, 2)  # (R, L, n, 16): one product per layer
        x = fully_connected(variables, "style.decoder", x, len(DECODER) + 1)
        return x.transpose(1, 2) * (self.s / PAPER_SPREAD)


@dataclass(frozen=True)
class ContentHead(Space):
    """The weights of P_c, which maps s (R, 8, 4, 4) to the content (R, C, 4, 4).

    Each row has one head.
    """

    needs = frozenset({"content"})

    def initial(self, prior: Prior, start: Variables, step: Step) -> Variables:
        widths = (*CONTENT, cast(HasContent, prior).content_shape[0])
        weights: Variables = {}
        for k, shape in enumerate(pairwise(widths)):
            weight = step.draw(f"content.{k}", shape)
            weights[f"content.{k}.weight"] = weight
            if k < len(CONTENT) - 1:
                weights[f"content.{k}.bias"] = torch.zeros_like(weight[:, :1])
        return weights

    def draws(self, t: float) -> bool:
        return True

    def draw(self, variables: Variables, start: Variables, step: Step) -> Variables:
        s = step.draw("content", (1, CONTENT[0], 16))
        return {**variables, "content": self.contents(variables, s)[:, 0]}

    def finish(self, variables: Variables, start: Variables, step: Step) -> Variables:
        s = step.fixed("content-mean", (DRAWS, CONTENT[0], 16))
        content = self.contents(variables, s).mean(1)
        return {**variables, "content.draws": s, "content": content}

    def contents(self, variables: Variables, s: Tensor) -> Tensor:
        """Return the contents (R, n, C, 4, 4) for s (R, n, 8, 16)."""
        R, n = s.shape[:2]
        x = s.transpose(2, 3).reshape(R, n * 16, -1)
        for k in range(len(CONTENT)):
            weight = variables[f"content.{k}.weight"]
            x = x @ weight / math.sqrt(weight.shape[1])
            if k < len(CONTENT) - 1:
                x = F.leaky_relu(x + variables[f"content.{k}.bias"], 0.2) * math.sqrt(2)
        return x.view(R, n, 16, -1).transpose(2, 3).reshape(R, n, -1, 4, 4)


def fully_connected(variables: Variables, name: str, x: Tensor, layers: int) -> Tensor:
    """Apply fully connected layers with a ReLU between them; each row has separate weights."""
    for k in range(layers):
        x = x @ variables[f"{name}.{k}.weight"] + variables[f"{name}.{k}.bias"]
        if k < layers - 1:
            x = x.relu()
    return x


def uniform(x: Tensor) -> Tensor:
    """Map standard normal numbers to uniform ones on [-1, 1]."""
    return torch.erf(x / math.sqrt(2))
