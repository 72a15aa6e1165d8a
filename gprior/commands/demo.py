"""``gprior demo``: four problems, three kinds of images, one report.

The images are samples of the prior (in-range), head phantoms that the prior was not trained on
(held-out), and the real MR and CT slices inside nibabel and pydicom, which are outside its
domain. Each image is measured by four operators and reconstructed by `auto` with its default
constants, except for the number of steps. The scores compare with the truth. They choose
nothing.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from gprior.checkpoints import load_prior
from gprior.commands.baselines import total_variation
from gprior.commands.report import Case, Panel, Section, Table, write_figure, write_report
from gprior.commands.staging import staged
from gprior.distances import scores
from gprior.files import write_json
from gprior.images import STAMP, fit, read_image, to_unit
from gprior.operators import Downsampling, Masking, Operator, PartialCirculant
from gprior.priors import Prior
from gprior.randomness import generator
from gprior.result import Result
from gprior.solving import UNLIKELY, solve
from gprior.training import CONTRASTS, phantoms

__all__ = ["Size", "problems", "real_images", "run"]

DOMAINS = ("in-range", "held-out", "real")
NOISE = 0.1
SOLVER = "auto"

# Weight of the total variation with the best mean PSNR on 24 phantoms of seed 2, which are in
# neither the training set nor the demo: 14.82, 20.07, 19.58 and 25.60 dB by
# `python benchmarks/tune_tv.py`.
TV_WEIGHT = {"half-mask": 0.01, "downsample:4": 1e-4, "circulant:0.1": 3e-3, "noise:0.1": 0.06}

TITLES = {
    "half-mask": "Half mask: the left half is missing",
    "downsample:4": "Super-resolution: 4x bicubic downsampling, no noise",
    "circulant:0.1": "Compressed sensing: 10 % partial circulant, no noise",
    "noise:0.1": "Denoising: Gaussian noise of standard deviation 0.1",
}


@dataclass(frozen=True)
class Size:
    """Size of the demo.

    Attributes
    ----------
    steps : int
        Number of steps of the search.
    images : int
        Number of images in range. There are as many held-out images.
    tv_steps : int
        Number of steps of the total variation.
    """

    steps: int = 200
    images: int = 4
    tv_steps: int = 200


@dataclass(frozen=True, eq=False)
class Solved:
    """The reconstructions of all images from one operator, tensors (B, C, H, W)."""

    operator: str
    y: Tensor
    baseline: Tensor
    tv: Tensor
    result: Result
    measures_images: bool


def run(out: Path, size: Size | None = None) -> str:
    """Run the demo.

    Parameters
    ----------
    out : Path
        Folder for ``report.html``, ``figure.png`` and ``metrics.json``.
    size : Size, optional
        Numbers of steps and images.

    Returns
    -------
    str
        The table, for the terminal.

    Raises
    ------
    OSError
        If the folder cannot be written to, or the sample of nibabel or pydicom is missing.
    """
    started, size = time.perf_counter(), size or Size()
    with staged(out) as place:
        prior = load_prior("phantom-64")
        cases, truth = _images(prior, size.images)
        named = problems(prior.image_shape)
        total = len(named) * (len(truth) * size.steps)
        with tqdm(total=total, unit="step", smoothing=0.05, mininterval=0.5) as bar:
            solved = [_solve(name, A, truth, prior, size, bar) for name, A in named.items()]
            bar.set_description("report")
            records = [r for one in solved for r in _records(one, cases, truth)]
            write_json(place / "metrics.json", records, "the metrics")
            seconds = time.perf_counter() - started
            table, failures = _table(records), _failures(records)
            _draw(place, cases, truth, solved, records, table, failures, seconds, size)
    worse = ", ".join(f"{row[1]} {row[0]}" for row in failures.rows)
    return (
        f"{table.text()}\n\nWorse than A⁺ or TV: {worse} cases; real slices are outside the "
        f"prior's domain.\n{seconds:.0f} s; report: {out / 'report.html'} ({STAMP})"
    )


# --- Images and problems ---------------------------------------------------------------------


def _images(prior: Prior, count: int) -> tuple[list[tuple[str, str]], Tensor]:
    """Return the (case, domain) of each image, and the images (B, C, H, W) in [0, 1]."""
    grid = prior.image_shape[1:]
    sampled = prior.sample(count, seed=1).clamp(0, 1)
    drawn, labels = phantoms(range(count), grid[0], seed=1)
    cases = [(f"sample {i + 1}", "in-range") for i in range(count)]
    cases += [(f"{CONTRASTS[k]} phantom {i + 1}", "held-out") for i, k in enumerate(labels)]
    names, real = real_images(grid)
    cases += [(name, "real") for name in names]
    return cases, torch.cat([sampled, drawn, real]).to(prior.like)


def real_images(grid: Sequence[int], mr: Sequence[int] = (10, 14)) -> tuple[list[str], Tensor]:
    """Read the real slices, (n, 1, H, W) in [0, 1], and return them with their names.

    Parameters
    ----------
    grid : sequence of int
        Size (H, W). Slices are cropped to its aspect ratio and resampled.
    mr : sequence of int
        Indices of the MR slices. The CT slice comes after them.
    """
    names, slices = [], []
    for name, path, index in _real_slices(mr):
        image = read_image(path, slice=index)
        x, _ = fit(to_unit(image)[0], grid, "crop", image.spacing)
        slices.append(torch.tensor(x, dtype=torch.float32).clamp(0, 1))
        names.append(name)
    return names, torch.stack(slices)


def _real_slices(indices: Sequence[int]) -> Iterator[tuple[str, Path, int | None]]:
    """Yield the name, file and slice of the real images inside nibabel and pydicom."""
    mr = Path(str(files("nibabel") / "tests" / "data" / "example4d.nii.gz"))
    ct = Path(str(files("pydicom") / "data" / "test_files" / "CT_small.dcm"))
    for path, package in ((mr, "nibabel"), (ct, "pydicom")):
        if not path.is_file():
            raise FileNotFoundError(
                f"the sample {path.name} of {package} is missing; reinstall it: "
                f"pip install --force-reinstall {package}"
            )
    for index in indices:
        yield f"MR slice {index}", mr, index
    yield "CT slice", ct, None


def problems(image_shape: Sequence[int]) -> dict[str, Operator]:
    """Return the operators of the demo, by their names in ``metrics.json``.

    Parameters
    ----------
    image_shape : sequence of int
        Shape (C, H, W) of the images.
    """
    from deepinv.physics import GaussianNoise

    noise = GaussianNoise(NOISE, rng=generator(0, "demo noise"))
    everything = torch.ones(tuple(image_shape[1:]))
    return {
        "half-mask": Masking(image_shape, "half"),
        "downsample:4": Downsampling(image_shape, 4),
        "circulant:0.1": PartialCirculant(image_shape, 0.1),
        "noise:0.1": Masking(image_shape, everything, noise_model=noise),
    }


def _solve(
    name: str, A: Operator, truth: Tensor, prior: Prior, size: Size, bar: tqdm[Any]
) -> Solved:
    """Measure all images by one operator and reconstruct them as one batch."""
    end = bar.n + len(truth) * size.steps
    y = A(truth)
    bar.set_description(f"{name}: total variation")
    tv = total_variation(y, A, TV_WEIGHT[name], size.tv_steps)
    bar.set_description(f"{name}: {SOLVER}")

    def tick(step: int, rows: Tensor, loss: Tensor, image: Tensor) -> None:
        bar.update(len(rows))

    with warnings.catch_warnings():
        # The report says which images the prior does not contain.
        warnings.filterwarnings("ignore", "the prior does not contain", RuntimeWarning)
        result = solve(y, A, prior, SOLVER, steps=size.steps, callback=tick, check=True)
    bar.update(end - bar.n)  # the steps of images that stopped early
    return Solved(name, y, A.A_dagger(y), tv, result, A.measurement_is_image)


# --- Numbers ---------------------------------------------------------------------------------


def _records(
    solved: Solved, cases: Sequence[tuple[str, str]], truth: Tensor
) -> list[dict[str, Any]]:
    """Return the records of one operator, one for each image."""
    result = solved.result
    psnr, ssim = scores(result.x, truth)
    psnr_generated, ssim_generated = scores(result.generated, truth)
    psnr_baseline, ssim_baseline = scores(solved.baseline, truth)
    psnr_tv, _ = scores(solved.tv, truth)
    said = result.facts()
    return [
        {
            "case": case,
            "domain": domain,
            "operator": solved.operator,
            "solver": SOLVER,
            "psnr": psnr[i],
            "psnr_baseline": psnr_baseline[i],
            "psnr_tv": psnr_tv[i],
            "psnr_generated": psnr_generated[i],
            "ssim": ssim[i],
            "ssim_baseline": ssim_baseline[i],
            "ssim_generated": ssim_generated[i],
            "prior_weight": float(said["prior_weight"][i]),
            "misfit": float(said["misfit"][i]),
            "plausibility": float(said["plausibility"][i]),
            "seconds": result.seconds / len(cases),  # they were solved as one batch
        }
        for i, (case, domain) in enumerate(cases)
    ]


def _table(records: Sequence[dict[str, Any]]) -> Table:
    """Return the medians by operator and domain."""
    columns = ("psnr_baseline", "psnr_tv", "psnr_generated", "psnr", "ssim_generated", "ssim")
    rows = []
    for operator in dict.fromkeys(r["operator"] for r in records):
        for domain in DOMAINS:
            group = [r for r in records if (r["operator"], r["domain"]) == (operator, domain)]
            medians = [statistics.median(r[name] for r in group) for name in columns]
            cells = [f"{value:.1f}" for value in medians[:4]] + [f"{v:.2f}" for v in medians[4:]]
            weight = statistics.median(r["prior_weight"] for r in group)
            unlikely = sum(r["plausibility"] < UNLIKELY for r in group)
            said = [f"{weight:.2f}", f"{unlikely} of {len(group)}"]
            rows.append([f"{operator}, {domain}", *cells, *said])
    head = ["median", "PSNR A⁺", "TV", "generated", "final", "SSIM generated", "final"]
    head += ["prior weight", "implausible"]
    return Table("Results", head, rows)


def _failures(records: Sequence[dict[str, Any]]) -> Table:
    """Return, by domain, the cases worse than the pseudo-inverse or total variation."""
    rows = []
    for domain in DOMAINS:
        group = [r for r in records if r["domain"] == domain]
        worse = [
            f"{r['case']} / {r['operator']} ({r['psnr']:.1f} dB, "
            f"A⁺ {r['psnr_baseline']:.1f}, TV {r['psnr_tv']:.1f})"
            for r in group
            if r["psnr"] < max(r["psnr_baseline"], r["psnr_tv"])
        ]
        rows.append([domain, f"{len(worse)} of {len(group)}", "; ".join(worse) or "none"])
    return Table("Where the method failed: worse than A⁺ or TV", [], rows)


# --- Report ----------------------------------------------------------------------------------


def _draw(
    place: Path,
    cases: Sequence[tuple[str, str]],
    truth: Tensor,
    solved: Sequence[Solved],
    records: Sequence[dict[str, Any]],
    table: Table,
    failures: Table,
    seconds: float,
    size: Size,
) -> None:
    """Write the report and the figure."""
    rows = [_rows(one, cases, truth, records) for one in solved]
    lead = [
        f"{len(cases)} images, four operators, the default method ({SOLVER}, {size.steps} steps), "
        f"one embedded prior (phantom-64); {seconds:.0f} seconds.",
        "In-range images are samples of the prior. Held-out phantoms come from the program that "
        "drew its training images, but were not among them. Real slices are outside its domain: "
        "it was never trained on a patient, and the details that it generates can be wrong.",
        "TV is total variation with deepinv's proximal operator; its weight was tuned once for "
        "each operator on other phantoms. A⁺ is the pseudo-inverse. The scores choose nothing.",
        "“Generated” is what the generator makes of the latents that were found. “Final” is the "
        "image after the correction, in which the generated image has the prior weight. It is "
        "chosen from the measurements alone. “Implausible” counts the images that the prior does "
        "not contain: their misfit is larger than those of simulated measurements of its samples.",
    ]
    sections = [Section(TITLES[one.operator], row) for one, row in zip(solved, rows, strict=True)]
    write_report(place / "report.html", "gprior demo", lead, [table, failures, *sections])
    first = [next(i for i, (_, d) in enumerate(cases) if d == domain) for domain in DOMAINS[1:]]
    shown = [
        Case(f"{one.operator}\n{cases[i][0]}", row[i].panels)
        for one, row in zip(solved, rows, strict=True)
        for i in first
    ]
    write_figure(place / "figure.png", shown)


def _rows(
    solved: Solved,
    cases: Sequence[tuple[str, str]],
    truth: Tensor,
    records: Sequence[dict[str, Any]],
) -> list[Case]:
    """Return the pictures of one operator, one row for each image."""
    records = [r for r in records if r["operator"] == solved.operator]
    x, generated = solved.result.x.clamp(0, 1), solved.result.generated.clamp(0, 1)
    # A vector of measurements is shown by its adjoint image, whose values are signed.
    measured, title = solved.y, "Measurement"
    if not solved.measures_images:
        measured, title = (solved.baseline + 1) / 2, "(1 + Aᵀy) / 2"

    def note(r: dict[str, Any], key: str) -> str:
        return f"{r[key]:.1f} dB"

    return [
        Case(
            case,
            [
                Panel("Truth", truth[i].numpy()),
                Panel(title, measured[i].numpy()),
                Panel("Pseudo-inverse A⁺", solved.baseline[i].numpy(), note(r, "psnr_baseline")),
                Panel("Total variation", solved.tv[i].numpy(), note(r, "psnr_tv")),
                Panel("Generated", generated[i].numpy(), note(r, "psnr_generated")),
                Panel("Final", x[i].numpy(), note(r, "psnr")),
                Panel("Final − truth", (x - truth)[i].numpy(), signed=True),
            ],
            solved.result.history[i].tolist(),
            f"{domain}; prior weight {r['prior_weight']:.2f}, misfit {r['misfit']:.2g}, "
            f"plausibility {r['plausibility']:.2f}",
        )
        for i, ((case, domain), r) in enumerate(zip(cases, records, strict=True))
    ]
