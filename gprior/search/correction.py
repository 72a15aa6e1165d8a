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

The problem is convex. It is solved by the primal-dual method of Condat 2013 (J. Optim. Theory
Appl. 158, 460-479, algorithm 3.1). Every image has its own step sizes, prior weight a and λ.

a and λ are chosen from y alone:

- Where A mixes all pixels into every measurement, as a circulant does, or measures every region of
  the image, as a random mask does, entries that were held out tell which a and λ predict best.
- Elsewhere held-out entries say nothing about what A does not see, such as the missing half of an
  image. There a follows from the residual of G(u^): an image that the prior contains leaves
  nothing but noise (`gprior.search.residuals`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from gprior.problem import Leaves, Problem, entries
from gprior.randomness import normal
from gprior.search.residuals import observed, response, root_mean_square, smooth_image, trust

__all__ = ["Corrected", "LinearRows", "correct", "minimise_tv"]

# The iteration starts at G(u^), and these are few steps: what A does not see stays near to G(u^).
# With more of them, a < 1/2 leads to the answer of total variation alone, which is worse there.
STEPS = 120
TRIAL_STEPS = 80  # of a candidate, which starts where the one before ended
DOUBTED, TRUSTED = 0.3, 0.75  # bounds of a, which is otherwise how far the prior is trusted
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


class LinearRows:
    """A, its adjoint and its size, for the rows of a problem.

    The adjoint is the vector-Jacobian product of A. Its graph is built once, because it is the
    same at every image if A is linear.

    Parameters
    ----------
    problem : Problem
        R rows.

    Attributes
    ----------
    norm2 : Tensor
        Upper estimate of the largest eigenvalue of A^T A for each row, (R,).
    gain : Tensor
        Root mean square of the columns of A, estimated from one random image, (R,).
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        shape = problem.forward.image_shape
        keys = [(0, "correction", "norm")] * len(problem)
        u = normal(keys, shape, problem.prior.like)
        with torch.enable_grad():
            self._x = torch.zeros_like(u).requires_grad_()
            self._measured = problem.measure(self._x)
        self._offset = [leaf.detach() for leaf in self._measured]
        size = math.prod(shape)
        self.gain = (inner(self.forward(u), self.forward(u)) / size).sqrt()
        self.norm2 = self._power(u)

    def forward(self, x: Tensor) -> Leaves:
        """Return A x."""
        with torch.no_grad():
            return [p - o for p, o in zip(self.problem.measure(x), self._offset, strict=True)]

    def residual(self, x: Tensor) -> Leaves:
        """Return A x - y."""
        with torch.no_grad():
            measured = self.problem.measure(x)
            return [p - y for p, y in zip(measured, self.problem.y, strict=True)]

    def adjoint(self, r: Leaves) -> Tensor:
        """Return A^T r, (R, C, H, W)."""
        (x,) = torch.autograd.grad(self._measured, self._x, r, retain_graph=True)
        return x

    def _power(self, u: Tensor, iterations: int = 12) -> Tensor:
        for _ in range(iterations):
            u = u / spread_out(inner([u], [u]).sqrt().clamp_min(1e-30), u)
            u = self.adjoint(self.forward(u))
        return 1.1 * inner([u], [u]).sqrt()

    def are_linear(self, tolerance: float = 1e-3) -> Tensor:
        """Return where A is linear up to a constant and `adjoint` its adjoint, (R,) bool."""
        keys = [[(k, "correction", "linear")] * len(self.problem) for k in range(2)]
        shape, like = self.problem.forward.image_shape, self.problem.prior.like
        u, v = (normal(key, shape, like) for key in keys)
        Au, Av, both = self.forward(u), self.forward(v), self.forward(u + 2 * v)
        wrong = [c - a - 2 * b for a, b, c in zip(Au, Av, both, strict=True)]
        linear = inner(wrong, wrong).sqrt() <= tolerance * inner(both, both).sqrt()
        left, right = inner(Au, Av), inner([u], [self.adjoint(Av)])
        size = (inner(Au, Au) * inner(Av, Av)).sqrt()
        return linear & ((left - right).abs() <= tolerance * size)


def inner(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Return the inner product of each row, (R,)."""
    parts = [(u * v.conj()).real.flatten(1).sum(1) for u, v in zip(a, b, strict=True)]
    return torch.stack(parts).sum(0)


def spread_out(values: Tensor, like: Tensor) -> Tensor:
    """Return values (R,) in the shape (R, 1, ...) that multiplies ``like``."""
    return values.view(-1, *[1] * (like.ndim - 1))


def gradient(x: Tensor) -> Tensor:
    """Return the forward differences of images (R, C, H, W) in both directions, (R, C, 2, H, W)."""
    g = x.new_zeros(*x.shape[:2], 2, *x.shape[2:])
    g[:, :, 0, :, :-1] = x[..., 1:] - x[..., :-1]
    g[:, :, 1, :-1] = x[..., 1:, :] - x[..., :-1, :]
    return g


def gradient_adjoint(p: Tensor) -> Tensor:
    """Return the adjoint of `gradient`, (R, C, H, W)."""
    across, down = p[:, :, 0], p[:, :, 1]
    x = torch.zeros_like(across)
    x[..., 1:] += across[..., :-1]
    x[..., :-1] -= across[..., :-1]
    x[..., 1:, :] += down[..., :-1, :]
    x[..., :-1, :] -= down[..., :-1, :]
    return x


def total_variation(x: Tensor) -> Tensor:
    """Return the isotropic total variation, with the channels of a pixel in one norm, (R,)."""
    return gradient(x).square().sum((1, 2)).sqrt().flatten(1).sum(1)


def shrunk(p: Tensor, radius: Tensor) -> Tensor:
    """Return the nearest dual field with a norm of at most the row's radius at every pixel."""
    size = p.square().sum((1, 2), keepdim=True).sqrt()
    radius = spread_out(radius, p)
    return p * (radius / torch.maximum(size, radius).clamp_min(1e-30))


@torch.no_grad()
def minimise_tv(
    rows: LinearRows,
    masks: Leaves,
    prior_image: Tensor,
    weight: Tensor,
    strength: Tensor,
    steps: int,
    start: Tensor | None = None,
) -> Tensor:
    """Minimise the objective of this module over images.

    Parameters
    ----------
    rows : LinearRows
        A and y of R rows.
    masks : list of Tensor
        Weights (R, ...) of the entries of y, in [0, 1].
    prior_image : Tensor
        G(u^), (R, C, H, W).
    weight, strength : Tensor
        a in [0, 1] and λ > 0, each (R,).
    steps : int
        Number of iterations.
    start : Tensor, optional
        Image to start from (R, C, H, W); the default is ``prior_image``.

    Returns
    -------
    Tensor
        Images (R, C, H, W).
    """
    x = prior_image if start is None else start
    jumps = gradient(prior_image)
    # Both dual fields are bounded by λ, so their steps are in its proportion. τ makes the
    # iteration converge: τ (|A|² / 2 + σ |∇|²) < 1, with |∇|² = 8 for each of the two fields.
    sigma = torch.minimum((10 * strength).clamp_min(1e-3 * rows.norm2), rows.norm2)
    tau = spread_out(0.99 / (rows.norm2 / 2 + 16 * sigma), x)
    sigma = spread_out(sigma, jumps)
    plain = torch.zeros_like(jumps)
    towards = torch.zeros_like(jumps)
    for _ in range(steps):
        weighted = [r * m for r, m in zip(rows.residual(x), masks, strict=True)]
        following = x - tau * (rows.adjoint(weighted) + gradient_adjoint(plain + towards))
        slope = gradient(2 * following - x)
        plain = shrunk(plain + sigma * slope, strength * (1 - weight))
        towards = shrunk(towards + sigma * (slope - jumps), strength * weight)
        x = following
    return x


@torch.no_grad()
def correct(
    problem: Problem, prior_image: Tensor, kind: str = "auto", belief: Tensor | None = None
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
    weight = belief.clamp(DOUBTED, TRUSTED)
    best = Trial(prior_image, weight, strength, masks)
    if kind == "tv":
        best = replace(best, weight=torch.zeros_like(belief))
    predictive = sees_all(rows, masks)
    if bool(predictive.any()):
        if kind == "auto":
            weight = torch.where(predictive, best.weight.clamp_min(UNDECIDED), best.weight)
            best = replace(best, weight=weight)
        best = best.where(predictive, _predicted_best(rows, best, kind))
    image = minimise_tv(
        rows, masks, prior_image, best.weight, best.strength, STEPS, start=best.image
    )
    sound = linear & image.flatten(1).isfinite().all(1)
    return Corrected(
        torch.where(spread_out(sound, image), image, prior_image),
        torch.where(sound, best.weight, torch.nan),
        torch.where(sound, best.strength, torch.nan),
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
    """Candidates for a and λ: one for each row.

    Attributes
    ----------
    image : Tensor
        The minimiser, (R, C, H, W).
    weight, strength : Tensor
        a and λ, (R,).
    squares : list of Tensor
        Squared errors of the predictions of held-out entries, 0 elsewhere, (R, ...).
    """

    image: Tensor
    weight: Tensor
    strength: Tensor
    squares: Leaves

    def where(self, rows: Tensor, other: Trial) -> Trial:
        """Return the candidates of ``other`` in the given rows (R,) bool, and these elsewhere."""

        def pick(mine: Tensor, others: Tensor) -> Tensor:
            return torch.where(spread_out(rows, mine), others, mine)

        return Trial(
            pick(self.image, other.image),
            pick(self.weight, other.weight),
            pick(self.strength, other.strength),
            [pick(a, b) for a, b in zip(self.squares, other.squares, strict=True)],
        )

    def or_better(self, other: Trial, held: Leaves) -> Trial:
        """Return the candidates of ``other`` where they predict better by a standard error."""
        gain = [a - b for a, b in zip(self.squares, other.squares, strict=True)]
        n = entries(held).clamp_min(1)
        mean = torch.stack([g.flatten(1).sum(1) for g in gain]).sum(0) / n
        square = torch.stack([g.square().flatten(1).sum(1) for g in gain]).sum(0) / n
        error = ((square - mean.square()).clamp_min(0) / n).sqrt()
        return self.where(mean > error, other)


def _predicted_best(rows: LinearRows, usual: Trial, kind: str) -> Trial:
    """Return the candidates that predict the held-out entries best.

    First the best λ for the usual a, then the best a for this λ. Where nothing is held out, the
    usual a and λ stay. The prior image itself, the answer for a = 1 and a large λ, is a
    candidate, too.
    """
    fit, held, prior_image = rows.problem.fit, rows.problem.held, usual.image

    def candidate(weight: Tensor, strength: Tensor, image: Tensor) -> Trial:
        squares = [r.abs().square() * h for r, h in zip(rows.residual(image), held, strict=True)]
        return Trial(image, weight, strength, squares)

    def trial(weight: Tensor, strength: Tensor, start: Tensor) -> Trial:
        image = minimise_tv(rows, fit, prior_image, weight, strength, TRIAL_STEPS, start)
        return candidate(weight, strength, image)

    tried = [trial(usual.weight, FACTORS[0] * usual.strength, prior_image)]
    for factor in FACTORS[1:]:
        tried.append(trial(usual.weight, factor * usual.strength, tried[-1].image))
    best = tried[FACTORS.index(1.0)]
    for other in tried:
        best = best.or_better(other, held)
    if kind == "tv":
        return best
    start, strength = best.image, best.strength
    for weights in ((0.5, 0.75, 1.0), (0.25, 0.0)):
        image = start
        for weight in weights:
            other = trial(torch.full_like(strength, weight), strength, image)
            image, best = other.image, best.or_better(other, held)
    ones = torch.ones_like(strength)
    return best.or_better(candidate(ones, 100 * usual.strength, prior_image), held)
