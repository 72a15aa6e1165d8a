"""From a user's measurements and operator to the rows of a problem: everything is checked here."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from gprior.checks import InputError, integer
from gprior.priors import Prior
from gprior.problem.forward import Forward, Leaves, as_leaves, observed
from gprior.problem.problem import Problem, entries, root_mean_square
from gprior.problem.stopping import AllSteps, Discrepancy, HoldOut, Rule, hold_out, informative
from gprior.randomness import uniform

__all__ = ["BACKGROUND", "build_problem", "pseudo_inverse"]

STOPS = ("auto", "discrepancy", "holdout", "fixed")
UNITS = 100  # ratio from which on y is said to be in other units than A of the prior's samples
SAMPLES = 4  # of them
BACKGROUND = 0.3  # weight of the pixels outside a foreground (Huh et al. 2020, section 3.3)


def build_problem(
    y: Any,
    A: Any,
    prior: Prior,
    *,
    noise_std: float | Sequence[float] | Tensor | None = None,
    stop: str = "auto",
    restarts: int = 1,
    seed: int | Sequence[int] = 0,
    per_image: Sequence[str] | None = None,
    foreground: Tensor | None = None,
) -> Problem:
    """Return the rows of a problem: every image, ``restarts`` times, image-major.

    Parameters
    ----------
    y, A, prior, noise_std, stop, restarts, seed, per_image, foreground
        As for `gprior.solve`.

    Returns
    -------
    Problem
        Without label, latents and perceptual distance, which its caller adds.

    Raises
    ------
    InputError
        If y does not fit A and the prior, is not finite, or an argument is out of range.
    """
    leaves, B = _measurements(y, prior)
    forward = Forward(A, prior.image_shape, prior.like, B, per_image)
    seeds = _seeds(seed, B)
    image = torch.arange(B, device=prior.like.device)
    usual = _check_measurements(leaves, forward, image)
    masks = informative(forward, leaves, image)
    leaves, masks, masked = _without_missing(leaves, masks, observed(y))
    _warn_of_nothing_measured(masks)
    _warn_of_other_units(leaves, usual, masks, forward, prior)
    rules, sigma = _rules(stop, noise_std, forward, masks, B)
    wanted = torch.tensor([rule == HoldOut() for rule in rules], device=image.device)
    fit, held = hold_out(masks, seeds, prior.image_shape[0] == 2, wanted)
    rules = _where_possible(rules, entries(held), stop)
    rows = image.repeat_interleave(restarts)
    problem = Problem(
        prior=prior,
        forward=forward,
        y=[leaf[rows] for leaf in leaves],
        fit=[mask[rows] for mask in fit],
        held=[mask[rows] for mask in held],
        image=rows,
        keys=[(s, r) for s in seeds for r in range(restarts)],
        rules=[rules[i] for i in rows.tolist()],
        noise_std=sigma[rows],
        masked=masked,
    )
    if foreground is None:
        return problem
    return _weighted(problem, torch.as_tensor(foreground, device=image.device))


def pseudo_inverse(problem: Problem, restarts: int) -> Tensor:
    """Return the pseudo-inverse of the measurements, (B, C, H, W), for an encoder to start from.

    Held-out entries are 0, as those of an empty image, so that they stay unseen.

    Raises
    ------
    InputError
        If the measurement has several tensors, or A has no pseudo-inverse.
    """
    if len(problem.y) != 1:
        raise InputError("an encoder or classifier needs a measurement of one tensor; pass latents")
    x = problem.forward.pseudo_inverse((problem.y[0] * (1 - problem.held[0]))[::restarts])
    if x is None:
        raise InputError("an encoder or classifier needs an A with a pseudo-inverse; pass latents")
    return x.to(problem.prior.like)


def _measurements(y: Any, prior: Prior) -> tuple[Leaves, int]:
    """Check y, and place it where the prior is."""
    like = prior.like
    leaves = []
    for leaf in as_leaves(y):
        kind = torch.promote_types(like.dtype, torch.complex32) if leaf.is_complex() else like.dtype
        leaf = leaf.clone() if leaf.is_inference() else leaf.detach()
        leaf = leaf if leaf.layout == torch.strided else leaf.to_dense()
        leaves.append(leaf.to(device=like.device, dtype=kind))
        if leaf.ndim < 2:
            raise InputError(f"y must have a batch dimension, (B, ...), got {tuple(leaf.shape)}")
    sizes = {len(leaf) for leaf in leaves}
    if len(sizes) != 1 or 0 in sizes:
        raise InputError(f"y must have one batch size of at least 1, got {sorted(sizes)}")
    return leaves, sizes.pop()


def _seeds(seed: int | Sequence[int], images: int) -> list[int]:
    if isinstance(seed, Integral):
        return [int(seed)] * images
    seeds = [integer("seed", s) for s in seed]  # type: ignore[union-attr]
    if len(seeds) != images:
        raise InputError(f"seed must be one or one per image ({images}), got {len(seeds)}")
    return seeds


def _check_measurements(y: Leaves, forward: Forward, image: Tensor) -> Leaves:
    """Refuse a y that is not of the shape that A makes, and an A without gradients.

    Returns what A makes of a random image in [0, 1], for each image of the batch.
    """
    shape = forward.image_shape
    x = uniform(("units",), shape).to(forward.like).repeat(len(image), 1, 1, 1)
    with torch.enable_grad():
        measured = forward(x.requires_grad_(), image)
    expected = [tuple(leaf.shape) for leaf in measured]
    given = [tuple(leaf.shape) for leaf in y]
    if expected != given:
        raise InputError(
            f"y must have the shape of A's measurements of {len(image)} images {shape}: "
            f"expected {expected}, got {given}"
        )
    if any(leaf.device != forward.like.device for leaf in measured):
        raise InputError(
            f"A must return its measurements on {forward.like.device}, where its images are, but "
            f"they are on {measured[0].device}"
        )
    if not all(leaf.requires_grad for leaf in measured):
        raise InputError("A must be differentiable: no gradient passes from A(x) to x")
    return [leaf.detach() for leaf in measured]


def _without_missing(
    y: Leaves, masks: Leaves, observed_entries: list[Tensor | None]
) -> tuple[Leaves, Leaves, bool]:
    """Return y with 0 where nothing was measured, the entries to fit, and if some are masked.

    Entries on which A does not depend may hold anything. Masked entries of a masked array are not
    fitted. All other entries must be finite.
    """
    leaves, informative_masks, masked = [], [], False
    for leaf, mask, given in zip(y, masks, observed_entries, strict=True):
        if given is not None:
            given = given.to(mask.device)
            masked = masked or bool((mask[~given] > 0).any())
            mask = mask * given
        bad = int((~leaf.isfinite() & (mask > 0)).sum())
        if bad:
            raise InputError(
                f"y must be finite, but {bad} of {leaf.numel()} entries are NaN or infinite and "
                "depend on the image; remove them with a mask operator, or pass a masked array "
                "(numpy.ma)"
            )
        leaves.append(torch.where(mask > 0, leaf, 0))
        informative_masks.append(mask)
    return leaves, informative_masks, masked


def _warn_of_nothing_measured(masks: Leaves) -> None:
    images = (entries(masks) == 0).nonzero()[:, 0].tolist()
    if images:
        warnings.warn(
            f"nothing is measured of image {', '.join(map(str, images))} of the batch: every entry "
            "of y is masked or does not depend on the image; the answer only shows what the prior "
            "looks like",
            RuntimeWarning,
            stacklevel=5,
        )


def _warn_of_other_units(
    y: Leaves, measured: Leaves, masks: Leaves, forward: Forward, prior: Prior
) -> None:
    """Warn if y and the measurements of samples of the prior differ by orders of magnitude.

    The image with the largest ratio decides, because a dark image has small measurements and no
    image has very large ones. Samples are drawn only if y is far from the measurements of a random
    image in [0, 1], too.
    """
    given, usual = (root_mean_square(leaves, masks) for leaves in (y, measured))
    image = int((given / usual.clamp_min(1e-30)).argmax())
    if not _far(float(given[image]), float(usual[image]), UNITS / 10):
        return
    rows = torch.arange(len(given), device=prior.like.device)
    with torch.no_grad():
        samples = prior.sample(SAMPLES, seed=0)
        each = [forward(x.expand(len(rows), -1, -1, -1), rows) for x in samples]
    powers = [root_mean_square(leaves, masks).square() for leaves in each]
    size, sample = float(given[image]), float(torch.stack(powers).mean(0)[image].sqrt())
    if _far(size, sample, UNITS):
        warnings.warn(
            f"y and the measurements of samples of the prior differ in size: their root mean "
            f"squares are {size:.2g} and {sample:.2g}. If y is in other units, multiply y (and "
            f"noise_std) by about {sample / size:.2g}",
            RuntimeWarning,
            stacklevel=5,
        )


def _far(a: float, b: float, factor: float) -> bool:
    """Return whether two numbers, neither of which is 0, differ by more than a factor."""
    return a > 0 and b > 0 and not 1 / factor < a / b < factor


def _rules(
    stop: str,
    noise_std: float | Sequence[float] | Tensor | None,
    forward: Forward,
    masks: Leaves,
    images: int,
) -> tuple[list[Rule], Tensor]:
    """Return the stopping rule that is wanted for each image, and sigma (B,), 0 where unknown."""
    if stop not in STOPS:
        raise InputError(f"stop must be one of {STOPS}, got {stop!r}")
    sigma = forward.noise_std()
    if noise_std is not None:
        sigma = torch.as_tensor(noise_std, dtype=torch.float32, device="cpu").flatten()
    if sigma is None:
        sigma = torch.zeros(images, dtype=torch.float64, device="cpu")
    elif noise_std is not None and not bool((sigma > 0).all() & sigma.isfinite().all()):
        raise InputError(
            f"noise_std must be positive and finite, got {sigma.tolist()}; leave it None where "
            "it is unknown"
        )
    if sigma.numel() not in (1, images):
        raise InputError(f"noise_std must be one or one per image ({images}), got {sigma.numel()}")
    sigma = torch.where(sigma > 0, sigma, 0).to(forward.like).expand(images)
    if stop == "discrepancy" and not bool((sigma > 0).all()):
        raise InputError("stop='discrepancy' needs noise_std, or an A with Gaussian noise")
    if stop == "fixed":
        return [AllSteps()] * images, sigma
    known = [value > 0 and stop != "holdout" for value in sigma.tolist()]
    return [Discrepancy() if use else HoldOut() for use in known], sigma


def _where_possible(rules: list[Rule], held_out: Tensor, stop: str) -> list[Rule]:
    """Return the rules, with a fixed number of steps where nothing could be held out."""
    lacking = [
        rule == HoldOut() and not n for rule, n in zip(rules, held_out.tolist(), strict=True)
    ]
    if stop == "holdout" and any(lacking):
        raise InputError("stop='holdout' needs more entries in y: 200 must remain for the fit")
    return [AllSteps() if lacks else rule for rule, lacks in zip(rules, lacking, strict=True)]


def _weighted(problem: Problem, foreground: Tensor) -> Problem:
    """Return the problem with the background's weight lowered in every data term."""
    y = problem.y[0]
    mask = foreground if foreground.ndim == 4 else foreground[None, None]
    if len(problem.y) != 1 or y.ndim != 4 or y.is_complex():
        raise InputError("foreground needs a measurement that is one batch of images")
    images = int(problem.image.max()) + 1
    if tuple(mask.shape[1:]) != (1, *y.shape[2:]) or len(mask) not in (1, images):
        raise InputError(
            f"foreground must have shape {tuple(y.shape[2:])}, or (B, 1, {y.shape[2]}, "
            f"{y.shape[3]}) with one mask for each image, got {tuple(foreground.shape)}"
        )
    rows = problem.image if len(mask) > 1 else torch.zeros_like(problem.image)
    weight = BACKGROUND + (1 - BACKGROUND) * (mask[rows] > 0).to(y)
    return replace(problem, fit=[problem.fit[0] * weight], weight=weight)
