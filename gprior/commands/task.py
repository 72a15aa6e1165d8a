"""A reconstruction up to its result: options, the file that was read, the problem, the search."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gprior.checkpoints import load_prior
from gprior.checks import InputError, number
from gprior.commands.arguments import parse_constants, parse_intensity, read_measurements
from gprior.commands.devices import pick_device
from gprior.images import (
    EXTENSIONS,
    ImageFile,
    fit,
    is_square,
    read_image,
    to_unit,
    unfit,
    write_like,
)
from gprior.measurements import Acquisition, read_kspace, read_sinogram
from gprior.operators import from_spec, kind_of, without_path
from gprior.priors import Prior
from gprior.problem import Forward, informative
from gprior.randomness import normal
from gprior.result import Result
from gprior.solving import solve

__all__ = [
    "Options",
    "Scene",
    "Scenes",
    "Source",
    "Task",
    "first_rows",
    "measured",
    "prepare",
    "scanned",
    "solve_each",
    "solve_tasks",
]


@dataclass(frozen=True)
class Options:
    """The options of the command.

    Attributes
    ----------
    operator : str
        See `gprior.operators.from_spec`. ``mri``, and ``ct`` without a number of angles, read
        the file of a scanner.
    solver, prior : str
        Name of the method; name or file of the prior.
    simulate : bool
        Whether the input is an image, which is measured first.
    noise : float, optional
        Standard deviation of the noise, in the units of the measurements.
    fit, intensity, slice, axis
        How an image is fitted to the prior's size, mapped to [0, 1], and taken from a volume.
        Only with ``simulate``, except for the intensity of a sinogram and the slice of k-space.
    slices : str, optional
        ``"all"`` or ``"LO-HI"``: reconstruct these slices, counted from 0, as a volume.
    constants : tuple of str
        Constants of the solver, ``NAME=VALUE``.
    budget, label, restarts, correction, check, seed
        See `gprior.solve`.
    samples : int
        Number of posterior samples; 0 for none.
    device : str
        ``"auto"``, ``"cpu"`` or ``"cuda"``.
    """

    operator: str
    solver: str = "auto"
    prior: str = "phantom-64"
    simulate: bool = False
    noise: float | None = None
    fit: str | None = None
    intensity: str | None = None
    slice: int | None = None
    axis: int | None = None
    slices: str | None = None
    constants: tuple[str, ...] = ()
    budget: float | None = None
    label: int | None = None
    restarts: int = 1
    samples: int = 0
    correction: str | None = "default"
    check: bool = True
    device: str = "auto"
    seed: int = 0

    @property
    def measured(self) -> str:
        """The operator without the path of its file, which may name a patient."""
        return without_path(self.operator)

    @property
    def scanner(self) -> str | None:
        """``"mri"`` or ``"ct"`` where the file of a scanner is read, else None."""
        if self.simulate:
            return None
        return "mri" if kind_of(self.operator) == "mri" else "ct" if self.operator == "ct" else None


@dataclass(frozen=True)
class Source:
    """An image on the prior's grid, and what is needed to return to its original grid."""

    image: ImageFile
    intensity: tuple[float, float]
    fitted: dict[str, Any]
    truth: Tensor  # (1, C, H, W) in [0, 1]

    @property
    def name(self) -> str:
        """Name of the file for the reconstruction in the format and on the grid of the input."""
        return f"on-input-grid{EXTENSIONS[self.image.format][0]}"

    @property
    def pixels(self) -> str:
        """What was done about the shape of the pixels, in words."""
        if self.image.spacing is None:
            return "size unknown, taken as square"
        height, width = self.image.spacing
        unit = "mm" if self.image.geometry["spacing_unit"] == "mm" else "(unit unknown)"
        size = f"{height:.4g} x {width:.4g} {unit}"
        if is_square(self.image.spacing):
            return size
        if self.fitted["mode"] == "stretch":
            return f"{size}, stretched to the prior's grid"
        return f"{size}, resampled to square ones and back"

    def write(
        self,
        place: Path,
        x: NDArray[Any],
        how: str,
        kind: str = "",
        intensity: tuple[float, float] | None = None,
    ) -> None:
        """Write an image (C, H, W) in the format and on the grid of the input.

        ``kind`` is what the name of the file begins with, and ``intensity`` the values that 0 and 1
        become, if not those of the input.
        """
        if self.image.spacing is not None and not is_square(self.image.spacing):
            how = f"{how}; pixels of {self.pixels}"
        name = f"{kind}-{self.name}" if kind else self.name
        window = intensity or self.intensity
        write_like(place / name, unfit(x, self.fitted), self.image, window, how)

    def record(self) -> dict[str, Any]:
        """Return format, geometry and mapping as JSON values."""
        unit = to_unit(self.image, self.intensity)[0]
        return {
            "format": self.image.format,
            "shape": list(self.image.pixels.shape),
            "stored_dtype": self.image.stored_dtype,
            "geometry": self.image.geometry,
            "intensity": list(self.intensity),
            "outside_intensity": float(np.mean((unit < 0) | (unit > 1))),
            "fit": self.fitted,
            "pixels": self.pixels,
        }


@dataclass(frozen=True)
class Scene:
    """What the images of a volume share."""

    prior: Prior
    A: Any
    forward: Forward
    constants: dict[str, Any]


@dataclass(frozen=True)
class Task:
    """The arguments of `gprior.solve`, and the image or the scanner's file, if there is one."""

    y: Tensor
    A: Any
    prior: Prior
    forward: Forward
    source: Source | None = None
    constants: dict[str, Any] = field(default_factory=dict)
    acquisition: Acquisition | None = None

    @property
    def own_grid(self) -> str | None:
        """Name of the file for the reconstruction in the units and on the grid of the input."""
        if self.acquisition is not None:
            return "on-input-grid.npy"
        return None if self.source is None else self.source.name

    def noise_std(self, noise: float | None) -> float | None:
        """Return the standard deviation of the noise in y, from that in the file's units."""
        unit = 1 if self.acquisition is None else self.acquisition.unit
        return noise / unit if noise else None


class Scenes:
    """The prior of a command, its adaptations and its operators, each made once.

    Parameters
    ----------
    options : Options
        The options of the command. Its seed is that of random operators, also for tasks that have
        another one.

    Raises
    ------
    InputError
        If an option of the method is wrong.
    """

    def __init__(self, options: Options) -> None:
        self.constants = parse_constants(options.solver, options.constants)
        device = pick_device(options.device)
        if options.noise is not None:
            number("noise", options.noise, least=0)
        self.seed, self.prior = options.seed, load_prior(options.prior, str(device))
        self._priors: dict[Any, Prior] = {}
        self._known: dict[Any, Scene] = {}

    def of(self, options: Options, image: ImageFile | None = None) -> Scene:
        """Return the scene of measurements, or of an image that is to be measured."""
        prior = self.prior if image is None else self._adapted(image, kind_of(options.operator))
        key = (options.operator, prior.image_shape)
        if key not in self._known:
            A = from_spec(options.operator, prior.image_shape, self.seed)
            A = A.to(prior.like.device) if isinstance(A, nn.Module) else A
            forward = Forward(A, prior.image_shape, prior.like, 1)
            self._known[key] = Scene(prior, A, forward, self.constants)
        return self._known[key]

    def _adapted(self, image: ImageFile, kind: str) -> Prior:
        """Return the prior with the channels of an image, or of its complex image for MRI."""
        channels, size = len(image.pixels), self.prior.image_shape[1:]
        if kind == "mri" and channels != 1:
            raise InputError(f"operator mri needs a gray image, {image.path} is in colour")
        key = (channels, kind == "mri")
        if key not in self._priors:
            prior = self.prior
            if channels != prior.image_shape[0]:
                prior = prior.adapt((channels, *size))
            self._priors[key] = prior.adapt((2, *size)) if kind == "mri" else prior
        return self._priors[key]


def prepare(source: Path, options: Options, scenes: Scenes | None = None) -> Task:
    """Read and check the input, before anything is computed."""
    scenes = scenes or Scenes(options)
    if options.simulate:
        image = read_image(source, slice=options.slice, axis=options.axis)
        scene = scenes.of(options, image)
        return measured(image, parse_intensity(options.intensity), options, scene)
    usable = {"mri": ("slice",), "ct": ("intensity",)}.get(options.scanner or "", ())
    for name in ("fit", "intensity", "slice", "axis"):
        if getattr(options, name) is not None and name not in usable:
            raise InputError(f"--{name} is for images; add --simulate to measure one")
    if options.scanner is not None:
        return scanned(source, options, scenes)
    scene = scenes.of(options)
    prior, forward = scene.prior, scene.forward
    y = read_measurements(source).to(prior.like)
    one = forward(torch.zeros(1, *prior.image_shape).to(prior.like), first_rows(1))[0].shape[1:]
    y = y[None] if y.shape == one else y  # one measurement without a batch dimension
    if y.shape[1:] != one or not len(y):
        raise InputError(
            f"measurements must have shape (B, {', '.join(map(str, one))}) for {options.operator} "
            f"of images {prior.image_shape}, {source} has {tuple(y.shape)}"
        )
    # Gaps that A does not look at, such as NaN, are 0 in what the report compares and shows.
    unseen = informative(forward, [y], first_rows(len(y)))[0] == 0
    y = torch.where(unseen & ~y.isfinite(), 0, y)
    return Task(y, scene.A, prior, forward, None, scene.constants)


def measured(
    image: ImageFile,
    intensity: tuple[float, float] | Literal["percentile"] | None,
    options: Options,
    scene: Scene,
    index: int = 0,
) -> Task:
    """Fit an image to the prior's grid and measure it; `index` keys the noise."""
    unit, window = to_unit(image, intensity)
    mode: Any = options.fit or "pad"
    shape, like = scene.prior.image_shape, scene.prior.like
    grid, fitted = fit(unit, shape[1:], mode, image.spacing)
    truth = torch.as_tensor(grid).clamp(0, 1).to(like)[None]
    if shape[0] == 2:  # the measured image is real
        truth = torch.cat([truth, torch.zeros_like(truth)], 1)
    y = scene.forward(truth, first_rows(1))[0]
    if options.noise:
        observed = informative(scene.forward, [y], first_rows(1))[0]
        noise = normal([(options.seed, 0, "noise", index)], y.shape[1:], y)
        y = y + options.noise * observed * noise
    source = Source(image, window, fitted, truth)
    return Task(y, scene.A, scene.prior, scene.forward, source, scene.constants)


def scanned(path: Path, options: Options, scenes: Scenes) -> Task:
    """Read the file of a scanner, and adapt the prior to its image."""
    if options.scanner == "mri":
        acquisition = read_kspace(path, options.operator, options.slice, scenes.seed)
    else:
        window = parse_intensity(options.intensity)
        if window == "percentile":
            raise InputError("intensity must be LO,HI in Hounsfield units for a sinogram")
        acquisition = read_sinogram(path, window)
    prior = acquisition.adapt(scenes.prior)
    A, y = acquisition.A.to(prior.like.device), acquisition.y.to(prior.like)
    forward = Forward(A, prior.image_shape, prior.like, 1)
    return Task(y, A, prior, forward, None, scenes.constants, acquisition)


def first_rows(count: int) -> Tensor:
    """Return the number of the operator's row for each image: there is one operator for all."""
    return torch.zeros(count, dtype=torch.long)


def solve_tasks(tasks: Sequence[Task], options: Options, progress: bool = False) -> Result:
    """Solve tasks that share an operator and a prior, in one batch."""
    first = tasks[0]
    with warnings.catch_warnings():
        # The summary and the report say it in their own words.
        warnings.filterwarnings("ignore", "the prior does not contain", RuntimeWarning)
        return solve(
            torch.cat([task.y for task in tasks]),
            first.A,
            first.prior,
            options.solver,
            label=options.label,
            noise_std=first.noise_std(options.noise),
            restarts=options.restarts,
            correction=options.correction,
            check=options.check,
            seed=options.seed,
            budget=options.budget,
            progress=progress,
            **first.constants,
        )


def solve_each(tasks: Sequence[Task], options: Sequence[Options], max_batch: int) -> list[Result]:
    """Solve tasks that share an operator and a prior in one batch, each with its own options.

    Those are the label, the noise and the seed; each of the first two is given for all tasks or
    for none.
    """
    first, counts = tasks[0], [len(task.y) for task in tasks]

    def spread(values: Sequence[Any]) -> list[Any] | None:
        if values[0] is None:
            return None
        return [value for value, count in zip(values, counts, strict=True) for _ in range(count)]

    together = solve(
        torch.cat([task.y for task in tasks]),
        first.A,
        first.prior,
        options[0].solver,
        label=spread([one.label for one in options]),
        noise_std=spread([t.noise_std(o.noise) for t, o in zip(tasks, options, strict=True)]),
        restarts=options[0].restarts,
        correction=options[0].correction,
        check=options[0].check,
        seed=spread([one.seed for one in options]) or 0,
        budget=options[0].budget,
        **{"max_batch": max_batch, **first.constants},
    )
    ends = list(itertools.accumulate(counts))
    return [together.take(range(end - n, end)) for n, end in zip(counts, ends, strict=True)]
