"""SPHInX: projection heads that make styles, content and noise of one image.

Subramanyam, Narayanaswamy, Naufel, Spanias and Thiagarajan 2022, "Improved StyleGAN-v2 based
inversion for out-of-distribution images", ICML (PMLR 162). Over the weights θ of a style head
P_s, the weights φ of a content head P_c and the noise maps b::

    J = E_{z+, s} λ_pix |y - A x|² + λ_vgg |φ(y) - φ(A x)|²,   x = G(P_s(z+), P_c(s), b)

with fresh z+ and s from N(0, I) at every step, so that any draw has to reproduce y: a
neighbourhood of codes around the answer, not a point. P_s takes each layer's z through one
bottleneck, 512-256-16, and a decoder of that layer, 32-64-w_dim; P_c takes s, 8 channels of
4x4, through 1x1 convolutions, 32-128-C.
Adam with a step that rises over 5 % and falls over the last quarter.

The code that is returned is the mean of P_s and of P_c over 64 fixed draws. It is judged for
itself, every tenth step and at the end: the best code, the stop and the reported loss never
depend on a single lucky draw. The weights of the heads and the draws are part of the code, as
``style.*`` and ``content.*`` in ``Result.latents``. ``diagnostics`` has ``spread``, the root mean
square deviation of
P_s(z+) over the draws relative to that of the prior's own styles: near 0 the head has
collapsed to a constant (``collapsed`` is then 1), and there is no neighbourhood.

Differs from the authors' code
------------------------------
- The step schedule acts on all variables; theirs on the first group, P_s, alone.
- One learning rate for each group: 0.001, 0.03 for the content head and 1 for the noise maps,
  which gain most from their own. The paper's 0.001 for all is ``lr_content=0.001,
  lr_noise=0.001``. A larger step of the style head fits y better and ends in a constant.
- The bottleneck is the paper's 16; their code has 32 and a shared encoder whose last two
  layers collapse into one.
- Their last image is that of the last draw before the last update, and no code is saved.
- ``full=False`` is the default: the style head alone. The paper's method always has the content
  head and the noise maps as well, which is ``full=True``.
- The input s of the content head is 8 x 4 x 4, as in their code; the paper writes 4 x 4 x 512.
- λ_vgg / λ_pix = 1.5 on images in [-1, 1], for VGG. As in `gprior.solvers.lbrgm` the
  default λ_pix is 255² / 2 on [0, 1]. Where the measurement is no image there is λ_pix
  alone, as in the paper.
- Denoising: their code compares y, clipped, with a clipped x + fresh noise at every step.
  Apart from the clipping, added noise does not change the minimum of the mean square, so the
  likelihood alone is the default; ``clip_noise=σ`` is theirs. It changes what the search sees,
  never the criterion.
- P_s is an offset from the styles of the starting point, in units of the prior's spread of
  w, 0.45 there; their head starts near w = 0 whatever the prior.
- Heads of all layers and images run as batched matrix products.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from gprior.priors import HasContent, Prior
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
    judgements,
    perceptual,
)
from gprior.solvers.base import Solver
from gprior.solvers.styles import spread
from gprior.solvers.terms import trapezoid

__all__ = ["SPHInX"]

BOTTLENECK = (512, 256, 16)
DECODER = (32, 64)
CONTENT = (8, 32, 128)  # channels of s, and of the layers before the last
DRAWS = 64
THEIRS = 0.45  # spread of the styles of the paper's generator, which their head is scaled for
COLLAPSED = 0.01  # of the spread of the prior's styles


@dataclass(frozen=True)
class SPHInX(Solver):
    """Search the weights of projection heads (Subramanyam et al. 2022).

    Parameters
    ----------
    full : bool
        Search the content head and the noise maps too. The content head starts from random
        weights in place of the learnt content: for images outside the prior's domain, with
        thousands of steps. False searches the style head alone.
    pixel : float
        λ_pix, on the mean of (y - A x)² over observed entries.
    feature : float
        λ_vgg, on the perceptual distance in units of its median over prior samples.
    clip_noise : float
        σ of the authors' denoising: x becomes clip(x + σ n, 0, 1) with fresh n at every
        step, to be compared with a y that was clipped. 0 for the likelihood.
    lr, lr_content, lr_noise : float
        Adam's largest steps of the style head, the content head and the noise maps; the
        paper's is 0.001 for all.
    steps, init, perceptual, max_batch
        See `Solver`; the paper has 10000 steps. The style head's output starts around the
        styles of ``init``.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"z", "w", "content", "noise"})
    steps: int = 1000
    init: Init = "mean"
    full: bool = False
    pixel: float = GRAY_LEVEL
    feature: float = 1.0
    clip_noise: float = 0.0
    lr: float = 1e-3
    lr_content: float = 0.03
    lr_noise: float = 1.0

    def cost(self, classes: int) -> float:
        """Return the evaluations, those that judge the mean over the draws included."""
        return super().cost(classes) + judgements(self.total) / 3

    def run(self, problem: Problem, watch: Watch) -> Outcome:
        """Minimise J over the heads."""
        prior = problem.prior
        space: Space = StyleHead(spread(prior))
        if self.full:
            space = space & ContentHead() & Noise(drawn=True)

        def seen(at: Iterate) -> Tensor:
            if at.step is None or not self.clip_noise:
                return at.problem.mean_square(at.predicted, at.problem.fit)
            noise = self.clip_noise * at.step.draw("clip-noise", at.image.shape[1:])
            predicted = at.problem.measure((at.image + noise).clamp(0, 1))
            return at.problem.mean_square(predicted, at.problem.fit)

        objective = Objective(
            Term("fidelity", self.pixel, seen, data=True), perceptual(self.feature)
        )
        adam = Adam(
            {"style": self.lr, "content": self.lr_content, "noise": self.lr_noise},
            schedule=trapezoid(0.25),
        )
        return self.search(problem, watch, objective, (space, adam))


@dataclass(frozen=True)
class StyleHead(Space):
    """Weights of P_s: z+ (R, L, z_dim) -> w+ (R, L, w_dim), one head per row.

    Attributes
    ----------
    s : float
        Spread of the prior's styles.
    """

    s: float
    needs = frozenset({"w"})

    def initial(self, prior: Prior, start: Variables, step: Step) -> Variables:
        layers, w_dim = int(start["w"].shape[1]), int(start["w"].shape[2])
        shared = (start["z"].shape[1], *BOTTLENECK)
        own = (BOTTLENECK[-1], *DECODER, w_dim)
        found: Variables = {}
        parts: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = (
            ("bottleneck", shared, ()),
            ("decoder", own, (layers,)),
        )
        for part, widths, copies in parts:
            for k, (n_in, n_out) in enumerate(pairwise(widths)):
                for kind, shape in (("weight", (n_in, n_out)), ("bias", (1, n_out))):
                    name = f"style.{part}.{k}.{kind}"
                    found[name] = uniform(step.draw(name, (*copies, *shape))) / math.sqrt(n_in)
        return found

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
        """Return the ``spread`` of the styles over draws, and whether the head ``collapsed``."""
        w = self.offsets(variables, self.fixed_draws(variables, step))
        spread = (w - w.mean(1, keepdim=True)).square().mean((1, 2, 3)).sqrt() / self.s
        return {"spread": spread, "collapsed": (spread < COLLAPSED).to(spread)}

    def fixed_draws(self, variables: Variables, step: Step) -> Tensor:
        """Return the 64 draws of z+ over which the code is a mean, (R, 64, L, z_dim)."""
        layers = variables["style.decoder.0.weight"].shape[1]
        z_dim = variables["style.bottleneck.0.weight"].shape[1]
        return step.fixed("style-mean", (DRAWS, layers, z_dim))

    def offsets(self, variables: Variables, z: Tensor) -> Tensor:
        """Return offsets of the styles (R, n, L, w_dim) for z (R, n, L, z_dim)."""
        R, n, L = z.shape[:3]
        x = dense(variables, "style.bottleneck", z.reshape(R, n * L, -1), len(BOTTLENECK))
        x = x.view(R, n, L, -1).transpose(1, 2)  # (R, L, n, 16): one product per layer
        x = dense(variables, "style.decoder", x, len(DECODER) + 1)
        return x.transpose(1, 2) * (self.s / THEIRS)


@dataclass(frozen=True)
class ContentHead(Space):
    """Weights of P_c: s (R, 8, 4, 4) -> content (R, C, 4, 4), one head per row."""

    needs = frozenset({"content"})

    def initial(self, prior: Prior, start: Variables, step: Step) -> Variables:
        widths = (*CONTENT, cast(HasContent, prior).content_shape[0])
        found: Variables = {}
        for k, shape in enumerate(pairwise(widths)):
            found[f"content.{k}.weight"] = step.draw(f"content.{k}", shape)
            if k < len(CONTENT) - 1:
                bias = torch.zeros_like(found[f"content.{k}.weight"][:, :1])
                found[f"content.{k}.bias"] = bias
        return found

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
        """Return contents (R, n, C, 4, 4) for s (R, n, 8, 16)."""
        R, n = s.shape[:2]
        x = s.transpose(2, 3).reshape(R, n * 16, -1)
        for k in range(len(CONTENT)):
            weight = variables[f"content.{k}.weight"]
            x = x @ weight / math.sqrt(weight.shape[1])
            if k < len(CONTENT) - 1:
                x = F.leaky_relu(x + variables[f"content.{k}.bias"], 0.2) * math.sqrt(2)
        return x.view(R, n, 16, -1).transpose(2, 3).reshape(R, n, -1, 4, 4)


def dense(variables: Variables, name: str, x: Tensor, layers: int) -> Tensor:
    """Apply fully connected layers with a ReLU between them, one set of weights per row."""
    for k in range(layers):
        x = x @ variables[f"{name}.{k}.weight"] + variables[f"{name}.{k}.bias"]
        if k < layers - 1:
            x = x.relu()
    return x


def uniform(x: Tensor) -> Tensor:
    """Map standard normal numbers to uniform ones on [-1, 1]."""
    return torch.erf(x / math.sqrt(2))
