"""The correction: what the measurements say and the generator cannot.

The answer of a search is an image G(u^) of the generator. Where the prior does not contain the
true image, G(u^) is the wrong image, however long the search. The correction minimises over images
x ::

    1/2 |A x - y|² + λ [ (1 - a) TV(x) + a TV(x - G(u^)) ]

TV is the isotropic total variation, with all channels of a pixel in one norm. For a = 0 this is
total variation alone (Rudin, Osher and Fatemi 1992). For a = 1 the image may differ from G(u^) by
sparse gradients, in the sense of Dhar, Grover and Ermon 2018, "Modeling sparse deviations for
compressed sensing using generative models". The sum is prior image constrained compressed sensing
(Chen, Tang and Leng 2008, Medical Physics 35, 660-663) with G(u^) as the prior image.

The problem is convex. Every image has its own prior weight a and λ, chosen from y alone:

- Where A mixes all pixels into every measurement, as a circulant does, or measures every region of
  the image, as a random mask does, entries that were held out tell which a and λ predict best.
- Elsewhere held-out entries say nothing about what A does not see, such as the missing half of an
  image. There a follows from the residual of G(u^): an image that the prior contains leaves
  nothing but noise (`gprior.search.residuals`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from gprior.problem import Leaves, Problem, entries
from gprior.randomness import normal
from gprior.search.linear import LinearRows, inner, spread_out
from gprior.search.residuals import observed, response, root_mean_square, smooth_image, trust
from gprior.search.tv import minimise_tv

__all__ = ["Corrected", "correct"]

# The iteration starts at G(u^), and these are few steps: what A does not see stays near to G(u^).
# With more of them, a < 1/2 leads to the answer of total variation alone, which is worse there.
STEPS = 120
TRIAL_STEPS = 80  # of a candidate, which starts where the one before ended
DOUBTED, TRUSTED = 0.3, 0.75  # bounds of a, which is otherwise how far the prior is trusted
CERTAIN = 0.95  # trust, from which on an image in range has nothing that could be corrected
UNDECIDED = 0.5  # a at least, where A sees the whole image
FACTORS = (10.0, 3.0, 1.0, 0.3)  # of the usual λ, for the candidates
# A smooth and a random image of one norm may be measured at powers that differ by this factor ...
SELECTIVE = 8
# ... and the least seen region of 8 x 8 pixels must have this share of the mean power.
SEEN = 0.3
PROBES = 8  # random measurements to find out which regions A sees


@dataclass(frozen=True, eq=False)
class Corrected:
    """Corrected images.

    Attributes
    ----------
    image : Tensor
        x (R, C, H, W).
    weight : Tensor
        The prior weight a (R,), in [0, 1].
    strength : Tensor
        λ (R,).
    """

    image: Tensor
    weight: Tensor
    strength: Tensor


@torch.no_grad()
def correct(
    problem: Problem,
    prior_image: Tensor,
    kind: str = "auto",
    belief: Tensor | None = None,
    in_range: Tensor | None = None,
) -> Corrected:
    """Correct images of the generator, each row for itself, from y alone.

    Parameters
    ----------
    problem : Problem
        R rows.
    prior_image : Tensor
        G(u^), (R, C, H, W).
    kind : {"auto", "tv"}
        ``"auto"`` chooses the prior weight a of each row. ``"tv"`` sets it to 0.
    belief : Tensor, optional
        How far the prior is to be trusted, (R,), see `trust`. The default is what the residual
        of ``prior_image`` says.
    in_range : Tensor, optional
        1 where ``prior_image`` was found by a search for images that the prior contains, else 0,
        (R,). Where it is also trusted, it stays as it is, with a = 1.

    Returns
    -------
    Corrected
        Where A is not linear, or something is not finite, the image stays as it is, and a and λ
        are NaN.
    """
    rows = LinearRows(problem)
    linear = rows.are_linear()
    if not bool(linear.any()):
        nothing = torch.full_like(rows.norm2, torch.nan)
        return Corrected(prior_image, nothing, nothing)
    masks = observed(problem)
    residual = root_mean_square(rows.residual(prior_image), masks)
    if belief is None:
        belief = trust(problem, residual, masks, response(problem))
    strength = usual_strength(rows, residual, belief)
    weight = belief.clamp(DOUBTED, TRUSTED) if kind == "auto" else torch.zeros_like(belief)
    start = prior_image
    incoherent = sees_all(rows, masks)
    if kind == "auto":
        weight = torch.where(incoherent, weight.clamp_min(UNDECIDED), weight)
    predictive = incoherent & (entries(problem.held) > 0)
    if bool(predictive.any()):
        chosen = _predicted_best(rows, Trial(start, weight, strength), kind)
        start = torch.where(spread_out(predictive, start), chosen.image, start)
        weight = torch.where(predictive, chosen.weight, weight)
        strength = torch.where(predictive, chosen.strength, strength)
    image = minimise_tv(rows, masks, prior_image, weight, strength, STEPS, start)
    if kind == "auto" and in_range is not None:
        certain = (in_range > 0) & (belief >= CERTAIN)
        image = torch.where(spread_out(certain, image), prior_image, image)
        weight = torch.where(certain, 1.0, weight)
    sound = linear & image.flatten(1).isfinite().all(1)
    return Corrected(
        torch.where(spread_out(sound, image), image, prior_image),
        torch.where(sound, weight, torch.nan),
        torch.where(sound, strength, torch.nan),
    )


def usual_strength(rows: LinearRows, residual: Tensor, belief: Tensor) -> Tensor:
    """Return a λ of the right order for each row, (R,).

    It is the noise, more of it the more the prior image is to be trusted, and a tenth of the
    residual that is not noise, as they appear in A^T y. Without noise, any small λ has nearly the
    same minimiser, but where the prior image is wrong a very small one needs too many iterations.
    """
    sigma = rows.problem.noise_std
    excess = (residual.square() - sigma.square()).clamp_min(0).sqrt()
    least = rows.norm2 * (2e-4 + 3e-3 * (1 - belief))
    return torch.maximum(
        rows.gain * (sigma * (0.7 + 2 * belief) + 0.1 * excess), torch.where(sigma > 0, 0, least)
    )


def sees_all(rows: LinearRows, masks: Leaves) -> Tensor:
    """Return whether held-out entries of y tell which of two images is the better one, (R,) bool.

    They do where A measures smooth and random images, and all regions, with about the same power.
    """
    x = smooth_image(rows.problem)
    measured = rows.forward(x)
    power = inner(measured, [m * p for m, p in zip(masks, measured, strict=True)])
    selective = power / inner([x], [x]) / rows.gain.square()
    seen = torch.zeros_like(x[:, :1])
    for k in range(PROBES):
        keys = [(k, "correction", "probe")] * len(x)
        probe = [normal(keys, m.shape[1:], m).sign() * m for m in masks]
        seen = seen + rows.adjoint(
            [p.to(leaf) for p, leaf in zip(probe, measured, strict=True)]
        ).square().sum(1, keepdim=True)
    regions = avg_pool2d(seen, min(8, *x.shape[2:]), ceil_mode=True).flatten(1)
    return (selective < SELECTIVE) & (regions.amin(1) > SEEN * regions.mean(1))


@dataclass(frozen=True, eq=False)
class Trial:
    """A candidate for a and λ in each row, and its minimiser: each (R, ...)."""

    image: Tensor
    weight: Tensor
    strength: Tensor


def _predicted_best(rows: LinearRows, usual: Trial, kind: str) -> Trial:
    """Return the candidates that predict the held-out entries best.

    First the best λ for the usual a, then the best a for this λ. A candidate must be better by a
    standard error. The prior image itself, the answer for a = 1 and a large λ, is a candidate, too.
    """
    fit, held, prior_image = rows.problem.fit, rows.problem.held, usual.image

    def trial(weight: Tensor, strength: Tensor, start: Tensor) -> Trial:
        image = minimise_tv(rows, fit, prior_image, weight, strength, TRIAL_STEPS, start)
        return Trial(image, weight, strength)

    def better(best: Trial, other: Trial) -> Trial:
        squares = [
            [r.abs().square() * h for r, h in zip(rows.residual(t.image), held, strict=True)]
            for t in (best, other)
        ]
        gain = [a - b for a, b in zip(*squares, strict=True)]
        n = entries(held).clamp_min(1)
        mean = torch.stack([g.flatten(1).sum(1) for g in gain]).sum(0) / n
        square = torch.stack([g.square().flatten(1).sum(1) for g in gain]).sum(0) / n
        wins = mean > ((square - mean.square()).clamp_min(0) / n).sqrt()
        return Trial(
            torch.where(spread_out(wins, best.image), other.image, best.image),
            torch.where(wins, other.weight, best.weight),
            torch.where(wins, other.strength, best.strength),
        )

    tried = [trial(usual.weight, FACTORS[0] * usual.strength, prior_image)]
    for factor in FACTORS[1:]:
        tried.append(trial(usual.weight, factor * usual.strength, tried[-1].image))
    best = tried[FACTORS.index(1.0)]
    for other in tried:
        best = better(best, other)
    if kind == "tv":
        return best
    start, strength = best.image, best.strength
    for weights in ((0.5, 0.75, 1.0), (0.25, 0.0)):
        image = start
        for weight in weights:
            other = trial(torch.full_like(strength, weight), strength, image)
            image, best = other.image, better(best, other)
    return better(best, Trial(prior_image, torch.ones_like(strength), 100 * usual.strength))
