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
  image. There a and λ follow from the residual of G(u^): an image that the prior contains leaves
  nothing but noise (`gprior.search.residuals`). Where A misses a part of the image or its details,
  and the residual is so large that the prior says nothing about them, a falls to 0.

The constants of these rules were chosen on the 12 problems of ``benchmarks/default.py``, with 8
samples of the prior and 19 other images (phantoms, moved phantoms, MR slices) of other seeds and
slices than those of any table, among about 15 variants.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gprior.problem import Leaves, Problem, entries, root_mean_square
from gprior.search.linear import LinearRows, inner, spread_out
from gprior.search.residuals import (
    PROBES,
    coarse_trust,
    observed,
    probe,
    regions,
    response,
    smooth_image,
    trust,
)
from gprior.search.tv import minimise_tv

__all__ = ["Corrected", "correct"]

# The iteration starts at G(u^), and these are few steps: what A does not see stays near to G(u^).
# With more of them, a < 1/2 leads to the answer of total variation alone, which is worse there.
STEPS = 120
TRIAL_STEPS = 80  # of a candidate, which starts where the one before ended
DOUBTED, TRUSTED = 0.3, 0.75  # bounds of a, which is otherwise the trust, its square with noise
CERTAIN = 0.95  # trust, from which on an image in range has nothing that could be corrected
UNDECIDED = 0.5  # a at least, where A sees the whole image, and noise or held-out entries are left
FACTORS = (10.0, 3.0, 1.0, 0.3)  # of the usual λ, for the candidates
# Where A does not see the whole image, a falls to 0 at about the trust 0.115 + 0.125 m / n, for m
# measurements of n pixels, over a range of this width.
LOST, LOST_BY_SHARE, WIDTH = 0.115, 0.125, 0.04
# A smooth and a random image of one norm may be measured at powers that differ by this factor ...
SELECTIVE = 8
# ... and the least seen region of 8 x 8 pixels must have this share of the mean power.
SEEN = 0.3


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
    belief = torch.minimum(belief, coarse_trust(rows, prior_image, masks))
    start = prior_image
    incoherent = sees_all(rows, masks)
    predictive = incoherent & (entries(problem.held) > 0)
    noisy = problem.noise_std > 0
    informed = predictive | (incoherent & noisy)
    hope = torch.where(incoherent, 1.0, hope_of(belief, masks, rows.pixels))
    strength = usual_strength(rows, masks, residual, belief, hope)
    weight = torch.zeros_like(belief)
    if kind == "auto":
        weight = torch.where(noisy, belief.square(), belief).clamp(DOUBTED, TRUSTED) * hope
        weight = torch.where(informed, weight.clamp_min(UNDECIDED), weight)
    if bool(predictive.any()):
        chosen = _predicted_best(rows, Trial(start, weight, strength), kind)
        start = torch.where(spread_out(predictive, start), chosen.image, start)
        weight = torch.where(predictive, chosen.weight, weight)
        strength = torch.where(predictive, chosen.strength, strength)
    image = minimise_tv(rows, masks, prior_image, weight, strength, STEPS, start)
    if kind == "auto" and in_range is not None:
        # Few measurements of all pixels at once, none of them held out, can correct nothing.
        certain = (in_range > 0) & ((belief >= CERTAIN) | (incoherent & ~informed))
        image = torch.where(spread_out(certain, image), prior_image, image)
        weight = torch.where(certain, 1.0, weight)
    sound = linear & image.flatten(1).isfinite().all(1)
    return Corrected(
        torch.where(spread_out(sound, image), image, prior_image),
        torch.where(sound, weight, torch.nan),
        torch.where(sound, strength, torch.nan),
    )


def hope_of(belief: Tensor, masks: Leaves, pixels: int) -> Tensor:
    """Return whether the prior says something about what A does not see, in [0, 1], (R,).

    The more of the image is measured, the more a prior leaves that knows nothing about it.
    """
    share = (entries(masks) / pixels).clamp_max(1)
    lost = LOST + LOST_BY_SHARE * share
    return (0.5 + (belief - lost) / WIDTH).clamp(0, 1)


def usual_strength(
    rows: LinearRows, masks: Leaves, residual: Tensor, belief: Tensor, hope: Tensor
) -> Tensor:
    """Return a λ of the right order for each row, (R,).

    It is the noise, more of it where the prior image is to be trusted or the noise is strong, and a
    tenth of the residual that is not noise, as they appear in A^T y. Without noise, any small λ has
    nearly the same minimiser, but where the prior image is wrong a very small one needs too many
    iterations.

    Parameters
    ----------
    rows : LinearRows
        A and y of R rows.
    masks : list of Tensor
        Weights (R, ...) of the entries of y.
    residual, belief, hope : Tensor
        What G(u^) leaves of y, how far the prior is to be trusted, and `hope_of`: each (R,).
    """
    sigma = rows.problem.noise_std
    excess = (residual.square() - sigma.square()).clamp_min(0).sqrt()
    # The mean square of the singular values, with room for its error: most of them are far below
    # |A| in a tomograph.
    size = 2 * rows.gain.square() * rows.pixels / entries(masks).clamp_min(1)
    least = size.minimum(rows.norm2) * (2e-4 + 8e-4 * (1 - belief) + 5e-3 * (1 - hope))
    strong = (1.6 * sigma / rows.gain.clamp_min(1e-30)).clamp_max(0.5)  # noise in units of pixels
    return torch.maximum(
        rows.gain * (sigma * (0.55 + strong + 2 * belief**4) + 0.1 * excess),
        torch.where(sigma > 0, 0, least),
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
        signs = [leaf.sgn() for leaf in probe(k, measured, masks)]
        seen = seen + rows.adjoint(signs).square().sum(1, keepdim=True)
    means = regions(seen).flatten(1)
    return (selective < SELECTIVE) & (means.amin(1) > SEEN * means.mean(1))


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
