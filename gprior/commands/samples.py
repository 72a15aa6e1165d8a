"""``gprior reconstruct --samples``: posterior samples, their files and their part of the report."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from gprior.checks import InputError
from gprior.commands.outcome import SHOWN, shown
from gprior.commands.report import Case, Panel, Section
from gprior.commands.task import Options, Task
from gprior.files import atomic_write
from gprior.sampling import Posterior, posterior

__all__ = ["KINDS", "check_samples", "draw", "facts_of_samples", "section_of", "write_samples"]

LEVEL = 0.9
SIX = 6  # samples that the report shows
# What is written on the grid of the input: name of the file -> what it is.
KINDS = {
    "mean": "posterior mean",
    "std": "posterior standard deviation",
    "low": f"posterior {100 * LEVEL:g} % interval: low",
    "high": f"posterior {100 * LEVEL:g} % interval: high",
}


def check_samples(source: Path, options: Options) -> None:
    """Refuse a number of samples that nobody can draw, before anything is computed."""
    if options.samples == 1 or options.samples < 0:
        raise InputError(f"samples must be at least 2, or 0 for none, got {options.samples}")
    if options.samples and (options.slices is not None or source.is_dir()):
        raise InputError("samples are for single images; give one file, and --slice N for a slice")


def draw(task: Task, options: Options) -> Posterior:
    """Draw samples of the images of a task. The reconstruction has the check of the prior."""
    with warnings.catch_warnings():
        # The report says how many samples have not converged.
        warnings.filterwarnings("ignore", ".*have not converged", RuntimeWarning)
        return posterior(
            task.y,
            task.A,
            task.prior,
            options.samples,
            noise_std=task.noise_std(options.noise),
            label=options.label,
            correction=None if options.correction == "default" else options.correction,
            check=False,
            seed=options.seed,
            progress=True,
        )


def write_samples(place: Path, task: Task, drawn: Posterior, how: str) -> None:
    """Write the samples, and their statistics in the units and on the grid of the input."""
    drawn.save(place / "samples.safetensors")
    if task.source is not None:
        lo, hi = task.source.intensity
        for name, image in statistics(magnitudes(drawn.samples)).items():
            x = image[0].cpu().numpy()
            window = (0.0, hi - lo) if name == "std" else (lo, hi)
            task.source.write(place, x, f"{KINDS[name]}; {how}", name, window)
    if task.acquisition is not None:
        units = task.acquisition.in_file_units
        values = statistics(drawn.samples)
        for name, image in values.items():
            array = units(image)[0]
            if name == "std":  # units may have an offset
                array = np.abs(units(values["mean"] + image)[0] - units(values["mean"])[0])
            with atomic_write(place / f"{name}-on-input-grid.npy", "an image") as temporary:
                np.save(temporary, array, allow_pickle=False)


def statistics(samples: Tensor) -> dict[str, Tensor]:
    """Return mean, standard deviation and interval (B, C, H, W) of samples (B, K, C, H, W)."""
    low, high = Posterior.interval_of(samples, LEVEL)
    return {"mean": samples.mean(1), "std": samples.std(1), "low": low, "high": high}


def magnitudes(samples: Tensor) -> Tensor:
    """Return samples of complex images (two channels) as magnitudes."""
    return samples.square().sum(2, keepdim=True).sqrt() if samples.shape[2] == 2 else samples


def section_of(drawn: Posterior) -> Section:
    """Return the part of the report: mean, standard deviation, interval width and six samples."""
    samples = magnitudes(drawn.samples)
    values = statistics(samples)
    width = values["high"] - values["low"]
    cases = []
    for i in range(min(len(samples), SHOWN)):
        panels = [Panel("Mean", values["mean"][i].clamp(0, 1).cpu().numpy())]
        panels += [
            scaled(title, image[i])
            for title, image in (
                ("Standard deviation", values["std"]),
                (f"{100 * LEVEL:g} % interval width", width),
            )
        ]
        panels += [
            Panel(f"Sample {k + 1}", shown(samples[i, k : k + 1])[0].cpu().numpy())
            for k in range(min(SIX, samples.shape[1]))
        ]
        cases.append(Case(f"Image {i + 1}", panels, note=_said(drawn, i)))
    note = (
        f"{samples.shape[1]} images of the prior that explain the measurements. They differ where "
        "the measurements leave something open. If the prior does not contain the true image, they "
        "may agree and be wrong."
    )
    return Section("Posterior samples", cases, note)


def scaled(title: str, image: Tensor) -> Panel:
    """Return a picture of values from 0 to their maximum, which the note states."""
    most = float(image.max())
    return Panel(title, (image / max(most, 1e-12)).cpu().numpy(), f"white is {most:.2g}")


def facts_of_samples(drawn: Posterior) -> dict[str, Any]:
    """Return what was drawn, as JSON values."""
    return {
        "samples": drawn.samples.shape[1],
        "sampling_method": f"{drawn.method} in {drawn.space}",
        "sampling_noise": drawn.noise,
        "sampling_converged": drawn.converged.sum(1).tolist(),
        "sampling_misfit": [round(v, 4) for v in drawn.misfit.mean(1).tolist()],
        "sampling_evaluations": [round(v) for v in drawn.evaluations.tolist()],
        "sampling_seconds": round(drawn.seconds, 2),
    }


def _said(drawn: Posterior, i: int) -> str:
    said: Sequence[str] = (
        f"{int(drawn.converged[i].sum())} of {drawn.converged.shape[1]} samples have converged",
        f"mean misfit {float(drawn.misfit[i].mean()):.2g} times the noise",
        f"noise level {float(drawn.noise_std[i].mean()):.2g}, {drawn.noise}",
    )
    return "; ".join(said)
