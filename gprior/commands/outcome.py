"""What a reconstruction says and shows: facts, and the rows of the report."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gprior.checks import InputTypeError
from gprior.commands.report import Case, Panel
from gprior.commands.task import Options, Task, first_rows
from gprior.distances import scores
from gprior.result import Result
from gprior.solving import UNLIKELY

__all__ = ["SHOWN", "cases_of", "facts_of", "shown", "words"]

SHOWN = 16  # images of a batch that the report shows
SIGNED = ("Residual", "y − A x")  # panels with values around 0


def words(value: Any) -> str:
    """Return a JSON value as text for the report."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {words(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(words, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def facts_of(task: Task, options: Options, result: Result) -> dict[str, Any]:
    """Return what was done, and what the result says about each image, as JSON values."""
    return {
        "operator": options.measured,
        "simulated": options.simulate,
        "noise": options.noise,
        "solver": result.solver,
        "prior": task.prior.name,
        "prior_sha256": task.prior.record.get("sha256"),
        "adapted": task.prior.record.get("adapted"),
        "label": result.label,
        "stopping_rule": result.stop,
        "reason": sorted(set(result.reason)),
        "perceptual_term": result.perceptual,
        "perceptual_features": result.features,
        "restarts": options.restarts,
        "correction": result.correction,
        **{name: result.facts()[name] for name in ("prior_weight", "misfit", "plausibility")},
        "data_consistency": [round(value, 6) for value in _consistency(task, result.x)],
        "seed": options.seed,
        "seconds": round(result.seconds, 2),
    }


@torch.no_grad()
def cases_of(task: Task, result: Result) -> list[Case]:
    """Return the rows of the report, one for each image."""
    count = min(len(result.x), SHOWN)
    x, y = shown(result.x[:count]), task.y[:count]
    residual = y - task.forward(result.x[:count], first_rows(count))[0]
    columns = [
        ("Measurement" if task.forward.measures_images else "Aᵀ y, rescaled", _picture(task, y)),
        ("Pseudo-inverse", _baseline(task, y)),
    ]
    if result.prior_weight is not None:
        columns.append(("Generated", shown(result.generated[:count])))
    columns.append(("Reconstruction", x))
    notes = {}
    if task.source is not None:
        truth = shown(task.source.truth)
        columns = [("Image", truth), *columns, ("Residual", x - truth)]
        for title, images in columns[2:-1]:
            psnr, ssim = scores(images.to(truth), truth)
            notes[title] = f"{psnr[0]:.1f} dB, SSIM {ssim[0]:.2f}"
    elif task.forward.measures_images:
        columns.append(("y − A x", residual))
    rms = residual.flatten(1).square().mean(1).sqrt().tolist()
    share = _consistency(task, result.x[:count])
    return [
        Case(
            f"Image {i + 1}",
            [
                Panel(title, images[i].cpu().numpy(), notes.get(title, ""), title in SIGNED)
                for title, images in columns
            ],
            result.history[i].tolist(),
            "; ".join(
                [f"y − A x: {rms[i]:.2g} rms, {100 * share[i]:.2g} % of y", *_said(result, i)]
            ),
        )
        for i in range(count)
    ]


def _said(result: Result, i: int) -> list[str]:
    """Return what the result says about the fit of the prior to an image."""
    said = []
    if result.prior_weight is not None:
        said.append(f"prior weight {float(result.prior_weight[i]):.2f} of 1")
    if result.misfit is not None:
        said.append(f"misfit of the generated image {float(result.misfit[i]):.2g}")
    if result.plausibility is not None:
        share = float(result.plausibility[i])
        said.append(f"plausibility {share:.2f}")
        if share < UNLIKELY:
            said.append("the prior does not contain this image: do not trust what was not measured")
    return said


def shown(x: Tensor) -> Tensor:
    """Return images in [0, 1]; of complex images (two channels) the magnitude."""
    x = x.square().sum(1, keepdim=True).sqrt() if x.shape[1] == 2 else x
    return x.clamp(0, 1)


@torch.no_grad()
def _consistency(task: Task, x: Tensor) -> list[float]:
    """Return |A x - y| / |y| of each image: how far it is from what was measured."""
    shares = []
    for image, y in zip(x, task.y, strict=False):
        misfit = torch.linalg.vector_norm(task.forward(image[None], first_rows(1))[0][0] - y)
        shares.append(float(misfit / torch.linalg.vector_norm(y).clamp_min(1e-12)))
    return shares


def _picture(task: Task, y: Tensor) -> Tensor:
    """Return images of the measurements: y itself, or Aᵀ y rescaled to [0, 1]."""
    if task.forward.measures_images:
        return y.clamp(0, 1)
    with torch.enable_grad():
        x = torch.zeros(len(y), *task.prior.image_shape).to(task.prior.like).requires_grad_()
        (adjoint,) = torch.autograd.grad(task.forward(x, first_rows(len(y)))[0], x, y)
    if adjoint.shape[1] == 2:
        adjoint = adjoint.square().sum(1, keepdim=True).sqrt()
    lo, hi = adjoint.amin((1, 2, 3), keepdim=True), adjoint.amax((1, 2, 3), keepdim=True)
    return (adjoint - lo) / (hi - lo).clamp_min(1e-12)


def _baseline(task: Task, y: Tensor) -> Tensor:
    """Return the pseudo-inverse in [0, 1]."""
    image = task.forward.pseudo_inverse(y)
    if image is None:
        raise InputTypeError(f"operator {type(task.A).__name__} has no pseudo-inverse")
    return shown(image)
