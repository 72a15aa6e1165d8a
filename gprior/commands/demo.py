"""What ``gprior demo`` does: four problems, three kinds of images, one report.

Images come from the prior itself (in-range), from head phantoms that it never saw
(held-out), and from the real MR and CT slices inside nibabel and pydicom (out of its
domain). Each is measured by four operators and solved by L-BRGM with its default
constants, but for the number of steps. Scores compare with the truth, and nothing is
chosen by them.
"""

from __future__ import annotations

import statistics
import time
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
from gprior.solving import solve
from gprior.training import CONTRASTS, phantoms

__all__ = ["Size", "problems", "real_images", "run"]

DOMAINS = ("in-range", "held-out", "real")
NOISE = 0.1
SOLVER = "lbrgm"

# Weight of the total variation with the best mean PSNR on 24 phantoms of seed 2, which are
# neither trained on nor in the demo: 14.82, 20.07, 19.58 and 25.60 dB by
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
    """How much the demo computes.

    Attributes
    ----------
    steps : int
        Of L-BRGM.
    images : int
        In range, and as many held out.
    tv_steps : int
        Of the total variation.
    """

    steps: int = 200
    images: int = 4
    tv_steps: int = 200


@dataclass(frozen=True, eq=False)
class Solved:
    """One operator's answers to all images; tensors are (B, C, H, W), as the truth."""

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
        How much to compute.

    Returns
    -------
    str
        The table, for the terminal.

    Raises
    ------
    OSError
        If the folder cannot be written to, or nibabel or pydicom came without their samples.
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
    lost = ", ".join(f"{row[1]} {row[0]}" for row in failures.rows)
    return (
        f"{table.text()}\n\nWorse than A⁺ or TV: {lost} cases; real slices are outside the "
        f"prior's domain.\n{seconds:.0f} s; report: {out / 'report.html'} ({STAMP})"
    )


# --- Images and problems ---------------------------------------------------------------------


def _images(prior: Prior, count: int) -> tuple[list[tuple[str, str]], Tensor]:
    """Return (case, domain) of each image, and the images (B, C, H, W) in [0, 1]."""
    grid = prior.image_shape[1:]
    sampled = prior.sample(count, seed=1).clamp(0, 1)
    drawn, labels = phantoms(range(count), grid[0], seed=1)
    cases = [(f"sample {i + 1}", "in-range") for i in range(count)]
    cases += [(f"{CONTRASTS[k]} phantom {i + 1}", "held-out") for i, k in enumerate(labels)]
    names, real = real_images(grid)
    cases += [(name, "real") for name in names]
    return cases, torch.cat([sampled, drawn, real]).to(prior.like)


def real_images(grid: Sequence[int], mr: Sequence[int] = (10, 14)) -> tuple[list[str], Tensor]:
    """Return the names of the real slices, and the slices (n, 1, H, W) in [0, 1].

    Parameters
    ----------
    grid : sequence of int
        (H, W); slices are cropped to its shape and resampled.
    mr : sequence of int
        Which MR slices; the CT slice comes after them.
    """
    names, slices = [], []
    for name, path, index in _real_slices(mr):
        unit, _ = to_unit(read_image(path, slice=index))
        slices.append(torch.tensor(fit(unit, grid, "crop")[0], dtype=torch.float32).clamp(0, 1))
        names.append(name)
    return names, torch.stack(slices)


def _real_slices(indices: Sequence[int]) -> Iterator[tuple[str, Path, int | None]]:
    """Yield name, file and slice of the real images inside nibabel and pydicom."""
    mr = Path(str(files("nibabel") / "tests" / "data" / "example4d.nii.gz"))
    ct = Path(str(files("pydicom") / "data" / "test_files" / "CT_small.dcm"))
    for path, package in ((mr, "nibabel"), (ct, "pydicom")):
        if not path.is_file():
            raise FileNotFoundError(
                f"{package} came without its sample {path.name}; reinstall it from the package "
                f"index: pip install --force-reinstall {package}"
            )
    for index in indices:
        yield f"MR slice {index}", mr, index
    yield "CT slice", ct, None


def problems(image_shape: Sequence[int]) -> dict[str, Operator]:
    """Return the operators by the names of the metrics.

    Parameters
    ----------
    image_shape : sequence of int
        (C, H, W).
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
    """Measure all images by one operator and reconstruct them, as one batch."""
    end = bar.n + len(truth) * size.steps
    y = A(truth)
    bar.set_description(f"{name}: total variation")
    tv = total_variation(y, A, TV_WEIGHT[name], size.tv_steps)
    bar.set_description(f"{name}: L-BRGM")

    def tick(step: int, rows: Tensor, loss: Tensor, image: Tensor) -> None:
        bar.update(len(rows))

    # Without noise there is nothing to stop for, and 5 % of 256 pixels are too few to choose by.
    stop = "auto" if name == "noise:0.1" else "fixed"
    result = solve(y, A, prior, SOLVER, steps=size.steps, stop=stop, callback=tick)
    bar.update(end - bar.n)  # images that stopped early
    return Solved(name, y, A.A_dagger(y), tv, result, A.measurement_is_image)


# --- Numbers ---------------------------------------------------------------------------------


def _records(
    solved: Solved, cases: Sequence[tuple[str, str]], truth: Tensor
) -> list[dict[str, Any]]:
    """Return the records of one operator, one per image."""
    psnr, ssim = scores(solved.result.x, truth)
    psnr_baseline, ssim_baseline = scores(solved.baseline, truth)
    psnr_tv, _ = scores(solved.tv, truth)
    return [
        {
            "case": case,
            "domain": domain,
            "operator": solved.operator,
            "solver": SOLVER,
            "psnr": psnr[i],
            "psnr_baseline": psnr_baseline[i],
            "psnr_tv": psnr_tv[i],
            "ssim": ssim[i],
            "ssim_baseline": ssim_baseline[i],
            "seconds": solved.result.seconds / len(cases),  # they were solved together
        }
        for i, (case, domain) in enumerate(cases)
    ]


def _table(records: Sequence[dict[str, Any]]) -> Table:
    """Return medians by operator and domain."""
    columns = ("psnr_baseline", "psnr_tv", "psnr", "ssim_baseline", "ssim")
    rows = []
    for operator in dict.fromkeys(r["operator"] for r in records):
        for domain in DOMAINS:
            own = [r for r in records if (r["operator"], r["domain"]) == (operator, domain)]
            middle = [statistics.median(r[name] for r in own) for name in columns]
            cells = [f"{value:.1f}" for value in middle[:3]] + [f"{v:.2f}" for v in middle[3:]]
            least = min(r["psnr"] - r["psnr_baseline"] for r in own)
            rows.append([f"{operator}, {domain}", *cells, f"{least:+.1f}"])
    head = ["median", "PSNR A⁺", "TV", "L-BRGM", "SSIM A⁺", "L-BRGM", "least gain"]
    return Table("Results", head, rows)


def _failures(records: Sequence[dict[str, Any]]) -> Table:
    """List, by domain, where the method was worse than the pseudo-inverse or total variation."""
    rows = []
    for domain in DOMAINS:
        own = [r for r in records if r["domain"] == domain]
        lost = [
            f"{r['case']} / {r['operator']} ({r['psnr']:.1f} dB, "
            f"A⁺ {r['psnr_baseline']:.1f}, TV {r['psnr_tv']:.1f})"
            for r in own
            if r["psnr"] < max(r["psnr_baseline"], r["psnr_tv"])
        ]
        rows.append([domain, f"{len(lost)} of {len(own)}", "; ".join(lost) or "none"])
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
        f"{len(cases)} images, four operators, one method (L-BRGM, {size.steps} steps, its default "
        f"constants), one embedded prior (phantom-64); {seconds:.0f} seconds.",
        "In-range images are samples of the prior; held-out phantoms come from the drawing "
        "program that it was trained on, but were never shown to it; real slices are outside "
        "its domain: it has never seen a patient, and what it draws in them can be wrong.",
        "TV is total variation with deepinv's proximal operator, its weight tuned once per "
        "operator on other phantoms. A⁺ is the pseudo-inverse. Measurements without "
        "noise are fitted for all steps, noisy ones down to the noise level; these scores choose "
        "nothing.",
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
    """Return the pictures of one operator, one row per image."""
    own = [r for r in records if r["operator"] == solved.operator]
    found = solved.result.x.clamp(0, 1)
    # A vector of measurements is shown by its adjoint image, whose values are signed.
    seen, title = solved.y, "Measurement"
    if not solved.measures_images:
        seen, title = (solved.baseline + 1) / 2, "(1 + Aᵀy) / 2"

    def note(r: dict[str, Any], key: str) -> str:
        return f"{r[key]:.1f} dB"

    return [
        Case(
            case,
            [
                Panel("Truth", truth[i].numpy()),
                Panel(title, seen[i].numpy()),
                Panel("Pseudo-inverse A⁺", solved.baseline[i].numpy(), note(r, "psnr_baseline")),
                Panel("Total variation", solved.tv[i].numpy(), note(r, "psnr_tv")),
                Panel("L-BRGM", found[i].numpy(), note(r, "psnr")),
                Panel("L-BRGM − truth", (found - truth)[i].numpy(), signed=True),
            ],
            solved.result.history[i].tolist(),
            domain,
        )
        for i, ((case, domain), r) in enumerate(zip(cases, own, strict=True))
    ]
