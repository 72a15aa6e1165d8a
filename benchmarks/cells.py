"""Tables of reconstructions, cell by cell: a run that was killed goes on where it stopped.

A cell is one call of `gprior.solve` on a few images. Its scores, one value per image, go into a
JSON file as soon as they are there; a cell that is in the file is not computed again. Cells are
independent, so they run in several processes of one thread each.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import affine
from tqdm import tqdm

import gprior
from gprior.commands import report
from gprior.commands.baselines import total_variation
from gprior.commands.demo import TV_WEIGHT, real_images
from gprior.distances import perceptual_scores, scores
from gprior.files import atomic_write, write_json
from gprior.operators import Downsampling, Masking, Operator, PartialCirculant
from gprior.priors import Prior
from gprior.randomness import generator, normal
from gprior.search import inputs_of
from gprior.training import phantoms

PRIOR = "phantom-64"
RESULTS = Path(__file__).parent / "results"
TABLES = Path(__file__).parents[1] / "docs" / "tables"
UNSEEN = 7  # seed of phantoms; the prior was trained on those of seed 0
# Names in the demo of the operators that it has.
IN_DEMO = {
    "half": "half-mask",
    "x4": "downsample:4",
    "circulant 0.1": "circulant:0.1",
    "noise 0.1": "noise:0.1",
}
METRICS = {"psnr": 1, "ssim": 2, "perceptual": 3}  # and the digits that tables give


@dataclass(frozen=True)
class Cell:
    """One call of `gprior.solve`: everything that its result depends on."""

    images: str  # a name in `IMAGES`
    rows: tuple[int, int]  # from, to: of these images
    operator: str  # a name in `operator`
    solver: str
    constants: Mapping[str, Any] = field(default_factory=dict)
    jitter: tuple[int, ...] = ()  # signal-to-noise ratios in dB of styles that are scored too

    @property
    def key(self) -> str:
        """Name of the cell in the file."""
        constants = json.dumps(dict(self.constants), sort_keys=True)
        rows = f"{self.rows[0]}-{self.rows[1]}"
        return " | ".join([self.images, rows, self.operator, self.solver, constants])


# --- Images ----------------------------------------------------------------------------------


def in_range(prior: Prior, n: int) -> Tensor:
    """Return samples of the prior, of all classes in turn."""
    return prior.sample(n, seed=41, label=[i % prior.c_dim for i in range(n)]).clamp(0, 1)


def held_out(prior: Prior, n: int) -> Tensor:
    """Return phantoms that the prior was not trained on."""
    return phantoms(range(n), prior.image_shape[1], seed=UNSEEN)[0]


def moved(x: Tensor, angle: float = 0, scale: float = 1, shift: tuple[int, int] = (0, 0)) -> Tensor:
    """Return images rotated by degrees, scaled and shifted by (right, down) pixels."""
    shifts = list(shift)
    return affine(x, angle, shifts, scale, [0.0], InterpolationMode.BILINEAR).clamp(0, 1)


def outside(prior: Prior, n: int) -> Tensor:
    """Return 4 MR slices, 1 CT slice and 5 phantoms that were moved, in turn."""
    real = real_images(prior.image_shape[1:], mr=(6, 10, 14, 17))[1][[0, 1, 4, 2, 3]]
    drawn = phantoms(range(500, 505), prior.image_shape[1], seed=UNSEEN)[0]
    ways: list[dict[str, Any]] = [
        {"angle": 20}, {"scale": 7 / 8}, {"scale": 5 / 4}, {"shift": (8, 0)}, {"angle": -30}
    ]  # fmt: skip
    others = [moved(x, **way) for x, way in zip(drawn, ways, strict=True)]
    return torch.stack([x for pair in zip(real, others, strict=True) for x in pair])[:n]


IMAGES = {"in range": in_range, "held out": held_out, "outside": outside}


def truth(cell: Cell, prior: Prior) -> Tensor:
    """Return the images of a cell; ``"held out, angle 20"`` are moved."""
    name, *ways = cell.images.split(", ")
    x = IMAGES[name](prior, cell.rows[1])[cell.rows[0] :]
    for way in ways:
        kind, value = way.split(" ")
        x = moved(x, **{kind: (int(value), 0) if kind == "shift" else float(value)})
    return x


def operator(name: str, prior: Prior) -> Operator:
    """Return the operator of a name: ``half``, ``x4``, ``circulant 0.1``, ``noise 0.1``..."""
    from deepinv.physics import GaussianNoise

    kind, _, value = name.partition(" ")
    if kind == "circulant":
        return PartialCirculant(prior.image_shape, float(value))
    if kind == "noise":
        noise = GaussianNoise(float(value), rng=generator(0, "benchmark noise"))
        return Masking(prior.image_shape, torch.ones(prior.image_shape[1:]), noise_model=noise)
    if kind == "all":
        return Masking(prior.image_shape, torch.ones(prior.image_shape[1:]))
    if kind.startswith("x"):
        return Downsampling(prior.image_shape, int(kind[1:]))
    return Masking(prior.image_shape, kind)


# --- Running ---------------------------------------------------------------------------------


def compute(cell: Cell) -> dict[str, Any]:
    """Solve a cell and return its scores, one per image."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    prior = gprior.load_prior(PRIOR)
    x, A = truth(cell, prior), operator(cell.operator, prior)
    y = A(x)
    if cell.solver == "A+":
        return scored(A.A_dagger(y), x)
    if cell.solver == "tv":
        return scored(total_variation(y, A, TV_WEIGHT[IN_DEMO[cell.operator]]), x)
    # Without noise there is nothing to stop for.
    stop = "auto" if cell.operator.startswith("noise") else "fixed"
    result = gprior.solve(y, A, prior, cell.solver, stop=stop, **cell.constants)
    found = {**scored(result.x, x, result.features), **record(result)}
    for snr in cell.jitter:
        found[f"psnr at {snr} dB"] = shaken(result, prior, x, snr)
    return found


@torch.no_grad()
def shaken(result: gprior.Result, prior: Prior, x: Tensor, snr: int, draws: int = 4) -> list[float]:
    """Return the PSNR of each image after noise on its styles w, a mean over draws."""
    w = result.latents["w"]
    level = w.square().mean(tuple(range(1, w.ndim)), keepdim=True).sqrt() * 10 ** (-snr / 20)
    total = torch.zeros(len(w))
    for draw in range(draws):
        noise = normal([(i, "jitter", draw) for i in range(len(w))], w.shape[1:], w)
        image = prior(**inputs_of({**result.latents, "w": w + level * noise}))
        total += torch.tensor(scores(image, x)[0])
    return [round(v, 5) for v in (total / draws).tolist()]


def scored(found: Tensor, x: Tensor, optimised: str | None = None) -> dict[str, list[float]]:
    """Return PSNR, SSIM and a perceptual distance that was not optimised, rounded."""
    values = (*scores(found, x), perceptual_scores(found, x, optimised)[1])
    pairs = zip(METRICS, values, strict=True)
    return {name: [round(v, 5) for v in row] for name, row in pairs}


def record(result: gprior.Result) -> dict[str, Any]:
    """Return what a run says about itself."""
    said = {name: [round(float(v), 6) for v in d] for name, d in result.diagnostics.items()}
    placed = {k: v.tolist() for k, v in result.latents.items() if k == "transform"}
    return {
        **placed,
        "loss": [round(float(v), 6) for v in result.loss],
        "evaluations": [round(float(v), 2) for v in result.evaluations],
        "seconds": round(result.seconds, 2),
        **{name: row for name, row in said.items() if len(row) == len(result.x)},
    }


Results = Mapping[str, Mapping[str, Any]]


def run(cells: Sequence[Cell], path: Path, jobs: int) -> Results:
    """Compute the cells that the file lacks, and return all of them by their keys.

    Parameters
    ----------
    cells : sequence of Cell
        In the order in which they are taken.
    path : Path
        JSON file, ``{key: scores}``.
    jobs : int
        Processes.
    """
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    missing = {cell.key: cell for cell in cells if cell.key not in found}
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool,
        tqdm(total=len(missing), unit="cell", desc=path.stem) as bar,
    ):
        running = {pool.submit(compute, cell): key for key, cell in missing.items()}
        for done in as_completed(running):
            found[running[done]] = done.result()
            write_json(path, found, "the results")
            bar.update()
    return {cell.key: found[cell.key] for cell in cells}


def wins(better: Sequence[float], worse: Sequence[float]) -> str:
    """Return how many of paired images won and the p-value of the two-sided sign test."""
    from scipy.stats import binomtest

    pairs = [(a, b) for a, b in zip(better, worse, strict=True) if a != b]
    won = sum(a > b for a, b in pairs)
    chance = binomtest(won, len(pairs)).pvalue if pairs else 1
    return f"{won} of {len(pairs)}, p = {chance:.2g}"


def middle(values: Iterable[float], digits: int = 1) -> str:
    """Return a median as text."""
    return f"{statistics.median(values):.{digits}f}"


def trio(values: Mapping[str, Sequence[float]]) -> str:
    """Return the medians of PSNR, SSIM and perceptual distance as text."""
    return " / ".join(middle(values[metric], digits) for metric, digits in METRICS.items())


Table = list[list[str]]  # rows of cells, the head first


def main(
    script: str,
    about: str,
    build: Callable[[bool], list[Cell]],
    tables: Callable[[Results, bool], dict[str, Table]],
) -> None:
    """Run a script: compute what is missing, print the tables and write them for the docs.

    Parameters
    ----------
    script : str
        Its name, and that of its file of results.
    about : str
        Its description.
    build : callable
        Whether it is quick -> its cells.
    tables : callable
        The results, and whether it is quick -> tables by name.
    """
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a check, not a measurement")
    parser.add_argument("--jobs", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--results", type=Path, help="file of the cells; remove it to start anew")
    args = parser.parse_args()
    path = args.results or RESULTS / f"{script}{'-quick' * args.quick}.json"
    found = tables(run(build(args.quick), path, args.jobs), args.quick)
    for name, rows in found.items():
        print(f"\n{name}\n{report.Table(name, rows[0], rows[1:]).text()}")
        if not args.quick:
            TABLES.mkdir(exist_ok=True)
            with atomic_write(TABLES / f"{name}.csv") as place, place.open("w", newline="") as f:
                csv.writer(f, lineterminator="\n").writerows(rows)
