"""``gprior reconstruct``: reconstruct the images of a file and write a folder of results."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gprior import __version__
from gprior.checkpoints import load_prior
from gprior.checks import InputError, InputTypeError, number
from gprior.commands.arguments import parse_constants, parse_intensity, read_measurements
from gprior.commands.devices import pick_device
from gprior.commands.report import (
    Case,
    Panel,
    Section,
    Table,
    encode_png,
    write_figure,
    write_report,
)
from gprior.commands.staging import staged
from gprior.distances import scores
from gprior.files import atomic_write, write_bytes, write_json
from gprior.images import (
    EXTENSIONS,
    STAMP,
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
from gprior.solving import UNLIKELY, solve

__all__ = ["Options", "run"]

SHOWN = 16  # images of a batch that the report shows
SIGNED = ("Residual", "y − A x")  # panels with values around 0


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
    constants : tuple of str
        Constants of the solver, ``NAME=VALUE``.
    budget, label, restarts, correction, check, seed
        See `gprior.solve`.
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
    constants: tuple[str, ...] = ()
    budget: float | None = None
    label: int | None = None
    restarts: int = 1
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

    def write(self, place: Path, x: NDArray[Any], how: str) -> None:
        """Write an image (C, H, W) in the format and on the grid of the input."""
        if self.image.spacing is not None and not is_square(self.image.spacing):
            how = f"{how}; pixels of {self.pixels}"
        write_like(place / self.name, unfit(x, self.fitted), self.image, self.intensity, how)

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


def run(source: Path, out: Path, options: Options) -> str:
    """Reconstruct a file and write the results.

    Parameters
    ----------
    source : Path
        File of measurements, or with ``options.simulate`` of an image.
    out : Path
        Folder for ``reconstruction.npy`` (B, C, H, W) in [0, 1], ``reconstruction.png``,
        ``result.safetensors``, ``result.json``, ``record.json``, ``report.html`` and
        ``figure.png``. For an image also ``on-input-grid`` in the format, units and geometry of
        the input, and for the file of a scanner ``on-input-grid.npy`` in its units. All files are
        written, or none.
    options : Options
        The options.

    Returns
    -------
    str
        A summary for the terminal.

    Raises
    ------
    InputError, OSError
        See `gprior.solve` and the functions that read the files.
    """
    task = prepare(source, options)
    how = f"{options.solver}, {options.measured}"
    with staged(out) as place:
        if task.source is not None:
            # An image that cannot be written like its source is refused before the search.
            task.source.write(place, _shown(task.source.truth)[0].cpu().numpy(), how)
        with warnings.catch_warnings():
            # The summary and the report say it in their own words.
            warnings.filterwarnings("ignore", "the prior does not contain", RuntimeWarning)
            result = solve(
                task.y,
                task.A,
                task.prior,
                options.solver,
                label=options.label,
                noise_std=task.noise_std(options.noise),
                restarts=options.restarts,
                correction=options.correction,
                check=options.check,
                seed=options.seed,
                budget=options.budget,
                progress=True,
                **task.constants,
            )
        summary = _write(place, task, options, result, how)
    _forget(out, task.own_grid)
    return f"{summary}\nwritten to {out / 'report.html'} ({STAMP})"


def prepare(source: Path, options: Options) -> Task:
    """Read and check the input, before anything is computed."""
    constants = parse_constants(options.solver, options.constants)
    device = pick_device(options.device)
    if options.noise is not None:
        number("noise", options.noise, least=0)
    prior = load_prior(options.prior, str(device))
    if options.simulate:
        return _simulated(source, options, prior, constants)
    usable = {"mri": ("slice",), "ct": ("intensity",)}.get(options.scanner or "", ())
    for name in ("fit", "intensity", "slice", "axis"):
        if getattr(options, name) is not None and name not in usable:
            raise InputError(f"--{name} is for images; add --simulate to measure one")
    if options.scanner is not None:
        return _scanned(source, options, prior, constants)
    y = read_measurements(source).to(prior.like)
    A, forward = _operator(options, prior)
    one = forward(torch.zeros(1, *prior.image_shape).to(prior.like), _rows(1))[0].shape[1:]
    y = y[None] if y.shape == one else y  # one measurement without a batch dimension
    if y.shape[1:] != one or not len(y):
        raise InputError(
            f"measurements must have shape (B, {', '.join(map(str, one))}) for {options.operator} "
            f"of images {prior.image_shape}, {source} has {tuple(y.shape)}"
        )
    # Gaps that A does not look at, such as NaN, are 0 in what the report compares and shows.
    unseen = informative(forward, [y], _rows(len(y)))[0] == 0
    return Task(torch.where(unseen & ~y.isfinite(), 0, y), A, prior, forward, None, constants)


def _simulated(path: Path, options: Options, prior: Prior, constants: dict[str, Any]) -> Task:
    """Fit an image to the prior's grid and measure it."""
    image = read_image(path, slice=options.slice, axis=options.axis)
    unit, intensity = to_unit(image, parse_intensity(options.intensity))
    if len(unit) != prior.image_shape[0]:
        prior = prior.adapt((len(unit), *prior.image_shape[1:]))
    if kind_of(options.operator) == "mri":
        if len(unit) != 1:
            raise InputError(f"operator mri needs a gray image, {path} is in colour")
        prior = prior.adapt((2, *prior.image_shape[1:]))
    mode: Any = options.fit or "pad"
    grid, fitted = fit(unit, prior.image_shape[1:], mode, image.spacing)
    truth = torch.as_tensor(grid).clamp(0, 1).to(prior.like)[None]
    if prior.image_shape[0] == 2:  # the measured image is real
        truth = torch.cat([truth, torch.zeros_like(truth)], 1)
    A, forward = _operator(options, prior)
    y = forward(truth, _rows(1))[0]
    if options.noise:
        observed = informative(forward, [y], _rows(1))[0]
        noise = normal([(options.seed, 0, "noise", 0)], y.shape[1:], y)
        y = y + options.noise * observed * noise
    return Task(y, A, prior, forward, Source(image, intensity, fitted, truth), constants)


def _scanned(path: Path, options: Options, prior: Prior, constants: dict[str, Any]) -> Task:
    """Read the file of a scanner, and adapt the prior to its image."""
    if options.scanner == "mri":
        acquisition = read_kspace(path, options.operator, options.slice, options.seed)
    else:
        window = parse_intensity(options.intensity)
        if window == "percentile":
            raise InputError("intensity must be LO,HI in Hounsfield units for a sinogram")
        acquisition = read_sinogram(path, window)
    prior = acquisition.adapt(prior)
    A, y = acquisition.A.to(prior.like.device), acquisition.y.to(prior.like)
    forward = Forward(A, prior.image_shape, prior.like, 1)
    return Task(y, A, prior, forward, None, constants, acquisition)


def _operator(options: Options, prior: Prior) -> tuple[Any, Forward]:
    A = from_spec(options.operator, prior.image_shape, options.seed)
    A = A.to(prior.like.device) if isinstance(A, nn.Module) else A
    return A, Forward(A, prior.image_shape, prior.like, 1)


def _rows(count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.long)


def _forget(out: Path, kept: str | None) -> None:
    """Remove the image that an earlier run wrote in another format."""
    for kind in (end for ends in EXTENSIONS.values() for end in ends):
        name = f"on-input-grid{kind}"
        if name != kept:
            (out / name).unlink(missing_ok=True)


# --- What is written -------------------------------------------------------------------------


def _write(place: Path, task: Task, options: Options, result: Result, how: str) -> str:
    """Write every file, and return the summary for the terminal."""
    x = _shown(result.x).cpu().numpy()
    result.save(place / "result.safetensors")
    with atomic_write(place / "reconstruction.npy", "the reconstruction") as temporary:
        pixels = result.x.cpu().numpy() if result.x.shape[1] == 2 else x
        np.save(temporary, pixels, allow_pickle=False)
    write_bytes(place / "reconstruction.png", encode_png(np.concatenate(x[:SHOWN], 2)), "a picture")
    facts = _facts(task, options, result)
    record: dict[str, Any] = {"note": STAMP, "gprior": __version__, **facts}
    if task.source is not None:
        task.source.write(place, x[0], how)
        record["image"] = task.source.record()
    if task.acquisition is not None:
        with atomic_write(place / "on-input-grid.npy", "the reconstruction") as temporary:
            np.save(temporary, task.acquisition.in_file_units(result.x)[0], allow_pickle=False)
        record["acquisition"] = task.acquisition.record | {
            "intensity": list(task.acquisition.intensity)
        }
    write_json(place / "record.json", record, "the record")
    cases = _cases(task, result)
    lead = [
        f"{len(x)} image(s) reconstructed by {options.solver} from {options.measured}, with the "
        f"prior {task.prior.name}.",
        "Scores compare with the image that was measured. The method did not use it."
        if task.source
        else "The true image is not known. The residual y − A x compares measurements.",
    ]
    if len(x) > SHOWN:
        lead.append(f"The first {SHOWN} images are shown.")
    rows = [[name.replace("_", " "), _words(value)] for name, value in facts.items()]
    if task.source is not None:
        rows.append(["intensity", "{:g} … {:g}".format(*task.source.intensity)])
        rows.append(["pixels (height x width)", task.source.pixels])
    if task.acquisition is not None:
        rows += [[k.replace("_", " "), _words(v)] for k, v in record["acquisition"].items()]
    write_report(
        place / "report.html",
        "Reconstruction",
        lead,
        [Section("Images", cases), Table("Record", [], rows)],
    )
    write_figure(place / "figure.png", cases)
    return "\n".join(
        "  ".join([case.title, *(f"{p.title} {p.note}" for p in case.panels if p.note), case.note])
        for case in cases
    )


def _words(value: Any) -> str:
    """Return a JSON value as text for the report."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_words, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def _facts(task: Task, options: Options, result: Result) -> dict[str, Any]:
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
def _cases(task: Task, result: Result) -> list[Case]:
    """Return the rows of the report, one for each image."""
    count = min(len(result.x), SHOWN)
    x, y = _shown(result.x[:count]), task.y[:count]
    residual = y - task.forward(result.x[:count], _rows(count))[0]
    columns = [
        ("Measurement" if task.forward.measures_images else "Aᵀ y, rescaled", _picture(task, y)),
        ("Pseudo-inverse", _baseline(task, y)),
    ]
    if result.prior_weight is not None:
        columns.append(("Generated", _shown(result.generated[:count])))
    columns.append(("Reconstruction", x))
    notes = {}
    if task.source is not None:
        truth = _shown(task.source.truth)
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


def _shown(x: Tensor) -> Tensor:
    """Return images in [0, 1]; of complex images (two channels) the magnitude."""
    x = x.square().sum(1, keepdim=True).sqrt() if x.shape[1] == 2 else x
    return x.clamp(0, 1)


@torch.no_grad()
def _consistency(task: Task, x: Tensor) -> list[float]:
    """Return |A x - y| / |y| of each image: how far it is from what was measured."""
    shares = []
    for image, y in zip(x, task.y, strict=False):
        misfit = torch.linalg.vector_norm(task.forward(image[None], _rows(1))[0][0] - y)
        shares.append(float(misfit / torch.linalg.vector_norm(y).clamp_min(1e-12)))
    return shares


def _picture(task: Task, y: Tensor) -> Tensor:
    """Return images of the measurements: y itself, or Aᵀ y rescaled to [0, 1]."""
    if task.forward.measures_images:
        return y.clamp(0, 1)
    with torch.enable_grad():
        x = torch.zeros(len(y), *task.prior.image_shape).to(task.prior.like).requires_grad_()
        (adjoint,) = torch.autograd.grad(task.forward(x, _rows(len(y)))[0], x, y)
    if adjoint.shape[1] == 2:
        adjoint = adjoint.square().sum(1, keepdim=True).sqrt()
    lo, hi = adjoint.amin((1, 2, 3), keepdim=True), adjoint.amax((1, 2, 3), keepdim=True)
    return (adjoint - lo) / (hi - lo).clamp_min(1e-12)


def _baseline(task: Task, y: Tensor) -> Tensor:
    """Return the pseudo-inverse in [0, 1]."""
    image = task.forward.pseudo_inverse(y)
    if image is None:
        raise InputTypeError(f"operator {type(task.A).__name__} has no pseudo-inverse")
    return _shown(image)
