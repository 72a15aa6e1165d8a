"""Attribute discovery: the direction along which a series of images of one object changes.

Subramanyam, Narayanaswamy, Naufel, Spanias and Thiagarajan 2022, "Improved StyleGAN-v2 based
inversion for out-of-distribution images", ICML (PMLR 162), appendix B. I_0, ..., I_K are images of
one object, in the order in which one attribute grows. The objective, over the styles w* of I_0, a
direction D and the intensities α_1, ..., α_K, is ::

    J = Σ_k L(A G(w* + α_k D / |D|), y_k),   α_0 = 0,   α_1 ≥ τ,   α_{k+1} - α_k ≥ τ

L is λ_pix times the mean square, plus λ_vgg times the perceptual distance if y is a series of
images.

Differs from the authors' code
------------------------------
- The images may be measured by any A. The paper's are complete.
- That α rises by at least the margin τ = 2 is a constraint, which every step obeys. In the paper it
  is a term max(0, τ - α_1) + Σ max(0, τ - α_{k+1} + α_k), with the weight 0.5 in the code, which an
  answer may violate.
- w* has one style for each layer, and is searched itself, from the mean style or from given
  latents. The authors leave open whether the projection head P_s makes it.
- |D| is the norm of D over all layers, as in the paper; the authors' code divides each layer by its
  norm. α is in units of the paper's generator (18 layers of 512 styles with a spread of 0.45): an α
  of 2 moves the styles by 5 % of their norm, in every generator.
- J is the mean over the images. As in `gprior.solvers.lbrgm`, λ_pix is 255² / 2 for images in
  [0, 1], and the perceptual distance is in units of its median over samples of the prior.
- D, w* and α have separate learning rates, and the step size rises over the first 5 % and falls
  over the last quarter of the run, as in SPHInX. The best iterate is returned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from gprior.checks import InputError, integer, number
from gprior.distances import choose
from gprior.editing.axes import Direction
from gprior.editing.edits import Edited
from gprior.priors import Label, Prior, Wrapped, moments
from gprior.problem import Forward, PerceptualTerm, as_leaves, build_problem
from gprior.randomness import in_plain_mode
from gprior.search import (
    GRAY_LEVEL,
    PERCEPTUAL,
    Adam,
    Init,
    Iterate,
    Objective,
    Outcome,
    Space,
    Step,
    Term,
    Variables,
    check_init,
    fidelity,
    latents_of,
    minimise,
    names_encoder,
    starting_point,
)
from gprior.solvers.terms import trapezoid

__all__ = ["Attribute", "discover"]

MARGIN = 2.0  # τ
PAPER_NORM = 0.45 * math.sqrt(18 * 512)  # of the deviation of w+ in the paper's generator
RATES = {"base": 0.1, "direction": 0.3, "rise": 1.0}


@dataclass(frozen=True, eq=False)
class Attribute:
    """What changes along series of images; every value is one per series.

    Attributes
    ----------
    x : Tensor
        The generated images of the series, (S, K + 1, C, H, W).
    start : Edited
        The first image of each series, with its styles w*. `edit` moves it along `direction`.
    direction : Direction
        D of each series, (S, num_ws, w_dim). An amount of α gives the image of the intensity α.
    alpha : Tensor
        Intensities (S, K + 1), which rise by at least the margin; the first is 0.
    loss : Tensor
        (S,), the objective at the returned latents.
    criterion : Tensor
        (S,), what the stopping rule compared.
    history : Tensor
        (S, steps), the loss at every step.
    reason : list of str
        Why each search stopped.
    evaluations : Tensor
        (S,), forward and backward passes of the generator for all images of a series.
    """

    x: Tensor
    start: Edited
    direction: Direction
    alpha: Tensor
    loss: Tensor
    criterion: Tensor
    history: Tensor
    reason: list[str]
    evaluations: Tensor

    def __len__(self) -> int:
        """Return the number of series."""
        return len(self.x)


@in_plain_mode
def discover(
    y: Any,
    A: Any,
    prior: Prior,
    *,
    label: Label = None,
    noise_std: float | Sequence[float] | Tensor | None = None,
    stop: str = "auto",
    init: Init | Tensor | dict[str, Tensor] = "mean",
    margin: float = MARGIN,
    steps: int = 500,
    pixel: float = GRAY_LEVEL,
    feature: float = 1.0,
    perceptual: bool | str | Callable[..., Any] | None = None,
    seed: int | Sequence[int] = 0,
    max_batch: int = 8,
) -> Attribute:
    """Find what changes along series of images, from their measurements.

    Parameters
    ----------
    y : Tensor
        Measurements (S, K + 1, ...) of S series of K + 1 images, each in the order in which the
        attribute grows. Every series is a problem of its own.
    A : object
        The operator, as for `gprior.solve`, which acts on the images (B, C, H, W) of the prior. It
        may hold one parameter for each of the K + 1 images.
    prior : Prior
        A generator with styles.
    label : int, sequence, tensor or None
        Class of each series, as for `gprior.solve`.
    noise_std : float, sequence or None
        Noise standard deviation in the units of y, one for all or one for each series; None takes
        that of A's Gaussian noise model, if it has one.
    stop : {"auto", "discrepancy", "holdout", "fixed"}
        As for `gprior.solve`, for all images of a series together.
    init : str, tensor or dict
        Where w* starts: ``"mean"``, ``"random"``, ``"best-of:N"``, or latents of the first images,
        such as those of `gprior.solve`.
    margin : float
        τ > 0, by which α rises at least from one image to the next.
    steps : int
        Number of steps.
    pixel, feature : float
        Weights λ_pix and λ_vgg ≥ 0.
    perceptual : bool, str, callable or None
        Whether there is a perceptual term, as for the methods of `gprior.solve`.
    seed : int or sequence of int
        One for all, or one for each series.
    max_batch : int
        Number of series that go through the generator at the same time.

    Returns
    -------
    Attribute
        The direction, the intensities and the images.

    Raises
    ------
    InputError
        If the prior has no styles, y does not fit A and the prior, or a value is out of range.

    References
    ----------
    Subramanyam et al. 2022, "Improved StyleGAN-v2 based inversion for out-of-distribution images",
    appendix B.

    Examples
    --------
    >>> import gprior
    >>> from gprior.training import phantoms
    >>> prior = gprior.load_prior("phantom-64")
    >>> growing = [phantoms([0], ventricles=size)[0] for size in (0.8, 1.1, 1.4)]
    >>> A = gprior.operators.from_spec("denoise", prior.image_shape)
    >>> found = discover(torch.stack(growing, 1), A, prior, label=0, steps=2, perceptual=False)
    >>> found.x.shape, bool((found.alpha.diff(dim=1) >= 2).all())
    (torch.Size([1, 3, 1, 64, 64]), True)
    >>> between = gprior.editing.edit(found.start, prior, found.direction, amount=1.0)
    """
    if "w" not in prior.inputs:
        raise InputError("discover needs a prior with styles ('w'); this one has none")
    steps, tau = integer("steps", steps, least=1), number("margin", margin, above=0)
    max_batch = integer("max_batch", max_batch, least=1)
    number("pixel", pixel, least=0), number("feature", feature, least=0)
    check_init(init)
    if callable(init) or names_encoder(init):
        raise InputError("init must be a name or latents; run the encoder on the first images")
    count = _count(y)
    one = Forward(A, prior.image_shape, prior.like, count)
    problem = build_problem(
        y,
        _OfSeries(one, count),
        _Series(prior, count),
        noise_std=one.noise_std() if noise_std is None else noise_std,
        stop=stop,
        seed=seed,
    )
    S = len(problem)
    problem = replace(problem, label=prior.classes(label, S) if label is not None else None)
    if not isinstance(init, str):
        given = {k: v.to(prior.like) for k, v in latents_of(init, S).items()}
        problem = replace(problem, latents={k: v.expand(S, *v.shape[1:]) for k, v in given.items()})
    if perceptual is not False and (perceptual is not None or one.measures_images):
        chosen = choose(perceptual, prior)
        problem = replace(problem, perceptual=None if chosen is None else PerceptualTerm(*chosen))
    objective = Objective(
        fidelity(pixel), Term(PERCEPTUAL, feature, _perceptual_distance, data=True)
    )
    space = _Line(count - 1, tau, float(moments(prior)[1].square().mean().sqrt()))
    adam, first = Adam(RATES, schedule=trapezoid(0.25)), init if isinstance(init, str) else "mean"
    outcomes = []
    for i in range(0, S, max_batch):
        part = problem.take(torch.arange(i, min(i + max_batch, S), device="cpu"))
        start, cost = starting_point(part, objective, first, max_batch)
        found = minimise(part, space, objective, start, steps, adam)
        outcomes.append(replace(found, evaluations=(found.evaluations + cost) * count))
    outcome = Outcome.join(outcomes)
    x = outcome.image.view(S, count, *prior.image_shape)
    return Attribute(
        x,
        Edited(x[:, 0], {"w": outcome.code["base"]}, x[:, 0]),
        Direction("w", space.way(outcome.code["direction"]), name="discovered"),
        space.alpha(outcome.code["rise"]),
        outcome.loss,
        outcome.criterion,
        outcome.history,
        outcome.reason,
        outcome.evaluations,
    )


@dataclass(frozen=True)
class _Line(Space):
    """The styles w* + α_k D / |D| of a series, k = 0, ..., K.

    The variables are w* (R, L, w_dim), D (R, L, w_dim) and the rises α_k - α_{k-1} (R, K).

    Attributes
    ----------
    K : int
        Number of images after the first.
    margin : float
        τ.
    s : float
        Spread of the styles of the prior.
    """

    K: int
    margin: float
    s: float
    needs = frozenset({"w"})
    bounded = True

    def initial(self, prior: Prior, start: Variables, step: Step) -> Variables:
        w = start["w"]
        direction = step.draw("direction", w.shape[1:])
        return {"base": w.clone(), "direction": direction, "rise": self.least(w)}

    def finish(self, variables: Variables, start: Variables, step: Step) -> Variables:
        alpha = self.alpha(variables["rise"])[:, :, None, None]
        w = variables["base"][:, None] + alpha * self.way(variables["direction"])[:, None]
        return {**variables, "w": w}

    def project(self, variables: Variables, start: Variables, t: float) -> Variables:
        return {**variables, "rise": variables["rise"].clamp_min(self.margin)}

    def least(self, like: Tensor) -> Tensor:
        """Return the least rises, (R, K)."""
        return like.new_full((len(like), self.K), self.margin)

    def alpha(self, rise: Tensor) -> Tensor:
        """Return α_0, ..., α_K, (R, K + 1)."""
        return torch.cat([torch.zeros_like(rise[:, :1]), rise.cumsum(1)], 1)

    def way(self, direction: Tensor) -> Tensor:
        """Return what an α of 1 adds to the styles: D / |D| in the paper's units."""
        size: Tensor = direction.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None]
        unit = self.s * math.sqrt(direction[0].numel()) / PAPER_NORM
        return direction * (unit / size)


class _Series(Wrapped):
    """A prior of whole series: the images of one series are channels of one image."""

    def __init__(self, base: Prior, count: int) -> None:
        super().__init__(base)
        C, H, W = base.image_shape
        self.count, self.image_shape = count, (count * C, H, W)
        self.inputs = base.inputs & {"z", "w", "label"}

    def forward(self, ws: Tensor) -> Tensor:  # type: ignore[override]
        """Return series (R, count C, H, W) of styles (R, count, L, w_dim), or of equal ones."""
        if ws.ndim == 3:
            ws = ws[:, None].expand(-1, self.count, -1, -1)
        x: Tensor = self.base(ws=ws.flatten(0, 1))
        return x.view(len(ws), *self.image_shape)


class _OfSeries:
    """An operator that measures each image of a series."""

    def __init__(self, one: Forward, count: int) -> None:
        self.one, self.count = one, count

    def __call__(self, x: Tensor) -> list[Tensor]:
        """Return the measurements (R, count, ...) of series x (R, count C, H, W)."""
        images = x.reshape(len(x) * self.count, *self.one.image_shape)
        numbers = torch.arange(self.count, device=x.device).repeat(len(x))
        leaves = self.one(images, numbers)
        return [leaf.view(len(x), self.count, *leaf.shape[1:]) for leaf in leaves]


def _perceptual_distance(at: Iterate) -> Tensor:
    """Return the perceptual distance between y and A x, the mean over the images, (R,)."""
    problem, predicted = at.problem, at.predicted[0]
    term = cast(PerceptualTerm, problem.perceptual)  # an objective asks only where there is one
    with torch.no_grad():
        seen = term.distance.maps(problem.seen(predicted).flatten(0, 1))
    distance = term.between(term.distance.maps(predicted.flatten(0, 1)), seen)
    return distance.view(len(predicted), -1).mean(1)


def _count(y: Any) -> int:
    """Return the number of images of each series."""
    leaves = as_leaves(y)
    sizes = {leaf.shape[1] if leaf.ndim > 2 else 0 for leaf in leaves}
    if len(sizes) != 1 or min(sizes) < 2:
        raise InputError(
            "y must have shape (S, K + 1, ...), series of at least 2 measurements, got "
            f"{[tuple(leaf.shape) for leaf in leaves]}"
        )
    return int(sizes.pop())
