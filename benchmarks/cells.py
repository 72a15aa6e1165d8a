"""Shared code of the benchmarks that compare reconstructions.

A cell is one call of `gprior.solve` on a few images. Its scores, one value per image, are written
to a JSON file as soon as it ends, and a cell that is in the file is not computed again. So a run
that was interrupted continues where it stopped. Cells are independent of each other and run in
several processes of one thread each.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import time
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
from gprior.distances import random_distance, scores
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
# Names that the demo gives to these operators.
IN_DEMO = {
    "half": "half-mask",
    "x4": "downsample:4",
    "circulant 0.1": "circulant:0.1",
    "noise 0.1": "noise:0.1",
}
WEIGHTS = (1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.06, 0.1, 0.2, 0.4)  # of total variation
RIVALS = ("deepinv csgm", "dip")  # methods of deepinv
METRICS = {"psnr": 1, "ssim": 2, "perceptual": 3}  # metric -> digits after the point in tables
LOWER_IS_BETTER = ("perceptual",)
TITLES = {"psnr": "PSNR", "ssim": "SSIM", "perceptual": "perceptual distance"}


@dataclass(frozen=True)
class Cell:
    """One call of `gprior.solve`: everything that its result depends on."""

    images: str  # a name in `IMAGES`, perhaps with a movement: see `truth`
    rows: tuple[int, int]  # the first of these images, and the one after the last
    operator: str  # a name that the function `operator` knows
    solver: str
    constants: Mapping[str, Any] = field(default_factory=dict)
    # The image is scored again after noise on its styles, at each signal-to-noise ratio (dB).
    jitter: tuple[int, ...] = ()
    # The stopping rule of `gprior.solve`. None is "auto" for measurements with noise and "fixed"
    # for those without, where all steps can be used.
    stop: str | None = None

    @property
    def key(self) -> str:
        """The name of the cell in the file of results."""
        constants = json.dumps(dict(self.constants), sort_keys=True)
        rows = f"{self.rows[0]}-{self.rows[1]}"
        parts = [self.images, rows, self.operator, self.solver, constants]
        return " | ".join(parts if self.stop is None else [*parts, f"stop={self.stop}"])


# --- Images ----------------------------------------------------------------------------------


def in_range(prior: Prior, n: int) -> Tensor:
    """Return samples of the prior, whose classes take turns."""
    return prior.sample(n, seed=41, label=[i % prior.c_dim for i in range(n)]).clamp(0, 1)


def held_out(prior: Prior, n: int) -> Tensor:
    """Return phantoms on which the prior was not trained."""
    return phantoms(range(n), prior.image_shape[1], seed=UNSEEN)[0]


def moved(x: Tensor, angle: float = 0, scale: float = 1, shift: tuple[int, int] = (0, 0)) -> Tensor:
    """Return images rotated by degrees, scaled and shifted by (right, down) pixels."""
    shifts = list(shift)
    return affine(x, angle, shifts, scale, [0.0], InterpolationMode.BILINEAR).clamp(0, 1)


def real(prior: Prior, n: int) -> Tensor:
    """Return up to 4 MR slices and 1 CT slice, which is the third."""
    return real_images(prior.image_shape[1:], mr=(6, 10, 14, 17))[1][[0, 1, 4, 2, 3]][:n]


def outside(prior: Prior, n: int) -> Tensor:
    """Return the real slices, alternating with 5 phantoms that were moved."""
    drawn = phantoms(range(500, 505), prior.image_shape[1], seed=UNSEEN)[0]
    movements: list[dict[str, Any]] = [
        {"angle": 20}, {"scale": 7 / 8}, {"scale": 5 / 4}, {"shift": (8, 0)}, {"angle": -30}
    ]  # fmt: skip
    others = [moved(x, **movement) for x, movement in zip(drawn, movements, strict=True)]
    return torch.stack([x for pair in zip(real(prior, 5), others, strict=True) for x in pair])[:n]


def all_domains(prior: Prior, n: int) -> Tensor:
    """Return n / 3 images of each domain: in range, held out and outside."""
    parts = [images(prior, n // 3).to(prior.like) for images in (in_range, held_out, outside)]
    return torch.cat(parts)


IMAGES = {
    "in range": in_range,
    "held out": held_out,
    "outside": outside,
    "real": real,
    "all": all_domains,
}


def truth(cell: Cell, prior: Prior) -> Tensor:
    """Return the true images of a cell.

    A name as ``"held out, angle 20"`` stands for images that are rotated by 20 degrees.
    """
    name, *movements = cell.images.split(", ")
    x = IMAGES[name](prior, cell.rows[1])[cell.rows[0] :]
    for movement in movements:
        kind, value = movement.split(" ")
        x = moved(x, **{kind: (int(value), 0) if kind == "shift" else float(value)})
    return x


def operator(name: str, prior: Prior) -> Operator:
    """Return the operator with a name such as half, x4, circulant 0.1, noise 0.1 or all.

    ``"random 0.2"`` keeps a fifth of the pixels, ``"box"`` loses 24 x 24 of them, and
    ``"blur 0.02"`` is a Gaussian blur of 1.5 pixels with noise of standard deviation 0.02.
    """
    from deepinv.physics import BlurFFT, GaussianNoise
    from deepinv.physics.blur import gaussian_blur

    kind, _, value = name.partition(" ")
    if kind == "blur":
        noise = GaussianNoise(float(value), rng=generator(0, "benchmark noise"))
        kernel = gaussian_blur(sigma=1.5)
        return BlurFFT(prior.image_shape, filter=kernel, noise_model=noise)
    if kind == "random":
        return Masking(prior.image_shape, "random", keep=float(value))
    if kind == "box":
        return Masking(prior.image_shape, "box", box=(20, 20, 24, 24))
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


def posed(cell: Cell, device: str) -> tuple[Prior, Operator, Tensor, Tensor]:
    """Return the prior, A, the true images and their measurements, for a process of one thread."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    prior = gprior.load_prior(PRIOR)
    x, A = truth(cell, prior), operator(cell.operator, prior)
    y = A(x)  # on the CPU, so that the noise is the same for every device
    return prior.to(device), A.to(device), x.to(device), y.to(device)


def compute(cell: Cell, device: str = "cpu") -> dict[str, Any]:
    """Solve a cell and return its scores, one per image."""
    prior, A, x, y = posed(cell, device)
    if cell.solver == "A+":
        return scored(A.A_dagger(y), x)
    if cell.solver == "tv":
        demo = IN_DEMO.get(cell.operator)
        weight = tuned_weight(A, prior) if demo is None else TV_WEIGHT[demo]
        return scored(total_variation(y, A, weight), x)
    if cell.solver in RIVALS:
        return scored(rival(cell.solver, y, A, prior, **cell.constants), x)
    stop = cell.stop or ("auto" if cell.operator.startswith("noise") else "fixed")
    started = time.process_time()
    result = gprior.solve(y, A, prior, cell.solver, stop=stop, **cell.constants)
    spent = round(time.process_time() - started, 2)
    restarts = {}
    if result.restarts is not None:  # keep="all"
        restarts["average_loss"] = [round(float(row.mean()), 6) for row in result.loss]
        result = result.best()
    values = {**scored(result.x, x), **record(result), **restarts, "processor seconds": spent}
    if result.prior_weight is not None:
        generated = scored(result.generated, x)
        values |= {f"generated {metric}": row for metric, row in generated.items()}
    for snr in cell.jitter:
        values |= scores_with_noise(result, prior, x, snr)
    return values


def rival(name: str, y: Tensor, A: Operator, prior: Prior, iterations: int) -> Tensor:
    """Return the images of a method of deepinv with its own constants, one image after the other.

    Its CSGM knows no classes. It gets a third of the iterations for each class, and the image that
    leaves least of y counts.
    """
    from deepinv.models import ConvDecoder, CSGMGenerator, DeepImagePrior

    images = []
    for row in y.split(1):
        torch.manual_seed(0)
        found: list[Tensor] = []
        if name == "dip":
            decoder = ConvDecoder(prior.image_shape, layers=5).to(y)
            input_shape = (256, 4, 4)
            found = [DeepImagePrior(decoder, input_shape, iterations=iterations)(row, A).detach()]
        else:
            for label in range(max(1, prior.c_dim)):
                backbone = Backbone(prior, label)
                steps = iterations // max(1, prior.c_dim)
                found.append(CSGMGenerator(backbone, inf_max_iter=steps).eval()(row, A).detach())
        left = [float((A.A(image) - row).square().mean()) for image in found]
        images.append(found[left.index(min(left))])
    return torch.cat(images)


class Backbone(torch.nn.Module):
    """A prior with one class as deepinv's CSGM takes a generator: latents are (B, nz, 1, 1)."""

    def __init__(self, prior: Prior, label: int) -> None:
        super().__init__()
        self.prior, self.label = prior, label
        self.nz = prior.z_dim

    def forward(self, z: Tensor) -> Tensor:
        """Return images (B, C, H, W)."""
        c = {"c": self.prior.classes(self.label, len(z))} if self.prior.c_dim else {}
        image: Tensor = self.prior(z=z.flatten(1), **c)
        return image


def tuned_weight(A: Operator, prior: Prior) -> float:
    """Return the weight of total variation with the best mean PSNR on 8 phantoms of seed 2."""
    truth = phantoms(range(8), prior.image_shape[1], seed=2)[0].to(prior.like)
    y = A(truth)
    return max(WEIGHTS, key=lambda w: sum(scores(total_variation(y, A, w), truth)[0]))


@torch.no_grad()
def scores_with_noise(
    result: gprior.Result, prior: Prior, x: Tensor, snr: int, draws: int = 4
) -> dict[str, list[float]]:
    """Return the scores of each image after noise on its styles w, averaged over draws.

    Their names are as ``"psnr at 20 dB"``.
    """
    w = result.latents["w"]
    level = w.square().mean(tuple(range(1, w.ndim)), keepdim=True).sqrt() * 10 ** (-snr / 20)
    found = []
    for draw in range(draws):
        noise = normal([(i, "jitter", draw) for i in range(len(w))], w.shape[1:], w)
        found.append(scored(prior(**inputs_of({**result.latents, "w": w + level * noise})), x))
    return {
        f"{metric} at {snr} dB": [
            round(statistics.fmean(values), 5)
            for values in zip(*(part[metric] for part in found), strict=True)
        ]
        for metric in METRICS
    }


@torch.no_grad()
def scored(image: Tensor, x: Tensor) -> dict[str, list[float]]:
    """Return PSNR, SSIM and perceptual distance of each image from the truth, rounded.

    The perceptual distance is always the one on fixed random features, which no method
    optimises, so that the results do not depend on the weights that a machine has.
    """
    distance = random_distance()(image.clamp(0, 1), x.clamp(0, 1)).tolist()
    values = (*scores(image, x), distance)
    pairs = zip(METRICS, values, strict=True)
    return {name: [round(v, 5) for v in row] for name, row in pairs}


def record(result: gprior.Result) -> dict[str, Any]:
    """Return the numbers that a result reports, one per image, and the seconds of the call."""

    def rounded(values: Iterable[Any], digits: int = 6) -> list[float]:
        return [round(float(v), digits) for v in values]

    transforms = {k: v.tolist() for k, v in result.latents.items() if k == "transform"}
    diagnostics = {k: rounded(v) for k, v in result.diagnostics.items() if v.ndim == 1}
    label = {} if result.label is None else {"label": result.label}
    if result.prior_weight is not None:
        diagnostics["prior weight"] = rounded(result.prior_weight, 3)
    return {
        **transforms,
        **label,
        "loss": rounded(result.loss),
        **{f"term {name}": rounded(values) for name, values in result.terms.items()},
        "evaluations": rounded(result.evaluations, 2),
        "seconds": round(result.seconds, 2),
        **{name: row for name, row in diagnostics.items() if len(row) == len(result.x)},
    }


Results = Mapping[str, Mapping[str, Any]]


def run(
    cells: Sequence[Any],
    path: Path,
    jobs: int,
    device: str = "cpu",
    function: Callable[[Any, str], dict[str, Any]] = compute,
) -> Results:
    """Compute the cells that are missing in the file, and return all of them by key.

    Parameters
    ----------
    cells : sequence of Cell
        They are computed in this order. Anything with a ``key`` can be a cell.
    path : Path
        JSON file with an object ``{key: scores}``.
    jobs : int
        Number of processes.
    device : str
        Where the cells are computed, such as ``"cuda"``.
    function : callable
        Function of a cell and the device that returns the scores.
    """
    stored: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    missing = {cell.key: cell for cell in cells if cell.key not in stored}
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool,
        tqdm(total=len(missing), unit="cell", desc=path.stem) as bar,
    ):
        running = {pool.submit(function, cell, device): key for key, cell in missing.items()}
        for done in as_completed(running):
            stored[running[done]] = done.result()
            write_json(path, stored, "the results")
            bar.update()
    return {cell.key: stored[cell.key] for cell in cells}


# --- Tables ----------------------------------------------------------------------------------

Table = list[list[str]]  # rows of cells; the first row is the head
Scores = Mapping[str, Sequence[float]]  # metric -> one value per image


def joined(cells: Iterable[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Return the scores of several cells as one row of images per metric."""
    parts = list(cells)
    return {metric: [value for part in parts for value in part[metric]] for metric in METRICS}


def better(first: Sequence[float], second: Sequence[float], lower: bool = False) -> tuple[int, int]:
    """Return in how many pairs the first value is better, and the number of unequal pairs.

    Parameters
    ----------
    first, second : sequence of float
        One value per image, of the same images.
    lower : bool
        Whether the lower value is the better one.
    """
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a != b]
    return sum((a < b) if lower else (a > b) for a, b in pairs), len(pairs)


def wins(first: Sequence[float], second: Sequence[float], lower: bool = False) -> str:
    """Return in how many pairs the first value is better, and the p-value of a sign test.

    See `better`. An example is ``"38 of 60, p = 0.052"``; the test is two-sided.
    """
    from scipy.stats import binomtest

    won, pairs = better(first, second, lower)
    chance = binomtest(won, pairs).pvalue if pairs else 1
    return f"{won} of {pairs}, p = {chance:.2g}"


def metric_wins(first: Scores, second: Scores) -> list[str]:
    """Return the wins of the first side in each metric: see `wins`.

    The larger PSNR and SSIM win, and the smaller perceptual distance.
    """
    return [wins(first[m], second[m], m in LOWER_IS_BETTER) for m in METRICS]


def middle(values: Iterable[float], digits: int = 1) -> str:
    """Return a median as text."""
    return f"{statistics.median(values):.{digits}f}"


def trio(values: Scores) -> str:
    """Return the medians of PSNR, SSIM and perceptual distance as one text."""
    return " / ".join(middle(values[metric], digits) for metric, digits in METRICS.items())


def main(
    script: str,
    about: str,
    build: Callable[[bool], list[Any]],
    tables: Callable[[Results, bool], dict[str, Table]],
    function: Callable[[Any, str], dict[str, Any]] = compute,
) -> None:
    """Run a benchmark: compute its missing cells, then print and write its tables.

    Parameters
    ----------
    script : str
        Name of the benchmark and of its file of results.
    about : str
        Description of the benchmark.
    build : callable
        Function of ``quick`` that returns the cells. A quick run checks that the script works,
        on few images and steps, and writes no table.
    tables : callable
        Function of the results and ``quick`` that returns the tables by name.
    function : callable
        What computes a cell; see `run`.
    """
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="check that the script works, on few images and steps"
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--device", default="cpu", help="where to compute, such as cuda")
    parser.add_argument("--results", type=Path, help="file of results; remove it to start again")
    args = parser.parse_args()
    path = args.results or RESULTS / f"{script}{'-quick' * args.quick}.json"
    results = run(build(args.quick), path, args.jobs, args.device, function)
    for name, rows in tables(results, args.quick).items():
        print(f"\n{name}\n{report.Table(name, rows[0], rows[1:]).text()}")
        if not args.quick:
            TABLES.mkdir(exist_ok=True)
            with atomic_write(TABLES / f"{name}.csv") as place, place.open("w", newline="") as f:
                csv.writer(f, lineterminator="\n").writerows(rows)
