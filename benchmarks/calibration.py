"""Do the posterior's intervals hold: ``python benchmarks/calibration.py``.

Five problems, each of 50 samples of the prior, 50 phantoms on which it was not trained and 20
images outside its domain. The class is known for the first two. Noise of standard deviation 0.02 is
added where the problem does not have its own. Everything is scored against the true image: the
ranks of random functionals, the coverage of intervals of pixels and functionals, the continuous
ranked probability score (CRPS, fair form), and the error of the mean against the spread of the
samples.
"""

from __future__ import annotations

import math
import statistics
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from cells import IMAGES, PRIOR, Results, Table, main, operator
from scipy.stats import chisquare, t
from torch import Tensor

import gprior
from gprior.distances import scores
from gprior.priors import Prior
from gprior.randomness import normal
from gprior.sampling import factor_for
from gprior.training import phantoms

PROBLEMS = ("half", "x4", "circulant 0.05", "circulant 0.1", "noise 0.1")
SIGMA = 0.02
DOMAINS = {"in range": 50, "held out": 50, "outside": 10}
LEVELS = (0.5, 0.9)
FUNCTIONALS = 20
CHUNK = 10  # images of a cell
# What is compared: name -> the method of `gprior.posterior` and its options.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "rto, 16": ("rto", {"samples": 16}),
    "rto, 16, corrected": ("rto", {"samples": 16, "correction": "auto"}),
    "hmc, 16": ("hmc", {"samples": 16}),
    "rto, 32": ("rto", {"samples": 32}),
    "rto in w+, 16": ("rto", {"samples": 16, "space": "w+"}),
    "auto": ("auto", {}),
    "restarts of auto, 16": ("restarts", {"samples": 16}),
}
QUANTILES = [i / 40 for i in range(41)]  # of the scores of an image that are kept


@dataclass(frozen=True)
class Cell:
    """The samples of some images by one method."""

    method: str
    problem: str
    images: str
    rows: tuple[int, int]
    constants: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The name in the file of results."""
        rest = "" if not self.constants else f" | {dict(self.constants)}"
        return f"{self.method} | {self.problem} | {self.images} | {self.rows}{rest}"


def truth(cell: Cell, prior: Prior) -> tuple[Tensor, list[int] | None]:
    """Return the true images and their classes, where these are known."""
    first, end = cell.rows
    if cell.images == "in range":
        label = [i % prior.c_dim for i in range(end)]
        return prior.sample(end, seed=41, label=label)[first:], label[first:]
    if cell.images == "held out":
        x, label = phantoms(range(first, end), prior.image_shape[1], seed=7)
        return x.to(prior.like), label.tolist()
    return IMAGES[cell.images](prior, end)[first:].to(prior.like), None


def compute(cell: Cell, device: str = "cpu") -> dict[str, Any]:
    """Draw the samples of a cell and return their scores, one per image."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    prior = gprior.load_prior(PRIOR)
    x, label = truth(cell, prior)
    A = operator(cell.problem, prior)
    clean = A.A(x)
    sigma = 0.1 if cell.problem == "noise 0.1" else SIGMA
    keys = [(cell.rows[0] + i, cell.images, "calibration noise") for i in range(len(x))]
    y = clean + sigma * normal(keys, clean.shape[1:], clean)
    prior, A, x, y = prior.to(device), A.to(device), x.to(device), y.to(device)
    method, options = METHODS[cell.method]
    options = {**options, **cell.constants}
    common = {"noise_std": sigma, "label": label, "seed": list(range(*cell.rows))}
    started = time.process_time()
    values: dict[str, Any] = {}
    if method in ("auto", "restarts"):
        K = options.pop("samples", 1)
        options.setdefault("budget", 1200 if K == 1 else 75 * K)
        found = gprior.solve(
            y, A, prior, restarts=K, keep="all" if K > 1 else "best", **common, **options
        )
        drawn = found.x if K > 1 else found.x[:, None]
        values["evaluations"] = found.evaluations.reshape(len(x), -1).sum(1).tolist()
    else:
        posterior = gprior.posterior(y, A, prior, method=method, check=False, **common, **options)
        drawn = posterior.samples
        values["evaluations"] = posterior.evaluations.tolist()
        values["converged"] = posterior.converged.double().mean(1).tolist()
        values["redone"] = posterior.redone.double().mean(1).tolist()
        if posterior.r_hat is not None:
            values["r_hat"] = posterior.r_hat.tolist()
    values["seconds"] = round(time.process_time() - started, 1)
    mean = drawn.mean(1)
    values["psnr"] = scores(mean, x)[0]
    values["mae"] = (mean - x).abs().flatten(1).mean(1).tolist()
    if drawn.shape[1] > 1:
        values |= calibration(drawn, x)
        if cell.problem == "half":
            gap = (A.A(torch.ones_like(x[:1])) == 0).to(x)
            std = drawn.std(1)
            values["spread missing"] = masked(std, gap)
            values["spread seen"] = masked(std, 1 - gap)
    return {k: rounded(v) for k, v in values.items()}


def masked(image: Tensor, mask: Tensor) -> list[float]:
    """Return the mean of each image inside a mask."""
    return ((image * mask).flatten(1).sum(1) / mask.sum()).tolist()


def rounded(value: Any) -> Any:
    """Return numbers with five digits after the point."""
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return round(value, 5) if isinstance(value, float) else value


def calibration(drawn: Tensor, x: Tensor) -> dict[str, Any]:
    """Return the scores of samples (B, K, C, H, W) against the true images."""
    K = drawn.shape[1]
    mean, std = drawn.mean(1), drawn.std(1)
    keys = [(i, "functional") for i in range(FUNCTIONALS)]
    weights = normal(keys, x.shape[1:], x).flatten(1) / math.sqrt(x[0].numel())
    true = x.flatten(1) @ weights.T  # (B, functionals)
    values = drawn.flatten(2) @ weights.T  # (B, K, functionals)
    centre, width = values.mean(1), values.std(1)
    result: dict[str, Any] = {
        "rank": (values < true[:, None]).sum(1).tolist(),
        "error": (mean - x).square().flatten(1).mean(1).sqrt().tolist(),
        "spread": std.square().flatten(1).mean(1).sqrt().tolist(),
        "functional error": (centre - true).square().mean(1).sqrt().tolist(),
        "functional spread": width.square().mean(1).sqrt().tolist(),
        "functional crps": crps(values, true).mean(1).tolist(),
        "crps": crps(drawn.flatten(2), x.flatten(1)).mean(1).tolist(),
    }
    for level in LEVELS:
        reach = float(t.ppf(0.5 + level / 2, K - 1)) * math.sqrt(1 + 1 / K)
        inside = ((true - centre).abs() <= reach * width).double().mean(1)
        pixels = ((x - mean).abs() <= reach * std).double().flatten(1).mean(1)
        result[f"functionals in {level}"] = inside.tolist()
        result[f"pixels in {level}"] = pixels.tolist()
    ratio = ((x - mean).abs() / (std + 1 / 255)).flatten(1)
    at = torch.tensor(QUANTILES, dtype=ratio.dtype, device=ratio.device)
    kept = torch.quantile(ratio, at, dim=1).T.tolist()
    result["ratios"] = [[round(v, 3) for v in row] for row in kept]
    return result


def crps(values: Tensor, true: Tensor) -> Tensor:
    """Return the fair CRPS (B, n) of samples (B, K, n) of n numbers."""
    K = values.shape[1]
    ordered = values.sort(dim=1).values
    rank = torch.arange(1, K + 1, device=values.device).to(values)[:, None]
    pairs = ((2 * rank - K - 1) * ordered).sum(1) * 2 / (K * (K - 1))  # mean |X - X'|
    return (values - true[:, None]).abs().mean(1) - pairs / 2


def cells(quick: bool) -> list[Cell]:
    """Return the cells, ordered so that every problem has some images early."""
    if quick:
        steps = {"steps": 3, "rounds": 1, "candidates": 4}
        return [
            Cell("rto, 16", problem, images, (0, 2), {**steps, "samples": 4})
            for problem in PROBLEMS[:2]
            for images in ("in range", "held out")
        ]
    found = []
    for method in METHODS:
        for first in range(0, max(DOMAINS.values()), CHUNK):
            for images, n in DOMAINS.items():
                if first < n:
                    rows = (first, first + CHUNK)
                    found += [Cell(method, problem, images, rows) for problem in PROBLEMS]
    return found


def gathered(results: Results, quick: bool) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Return the scores by method, problem and domain, over all images that are measured."""
    groups: dict[tuple[str, str, str], dict[str, Any]] = {}
    for cell in cells(quick):
        if cell.key not in results:
            continue
        group = groups.setdefault((cell.method, cell.problem, cell.images), {})
        for name, value in results[cell.key].items():
            if isinstance(value, list):
                group.setdefault(name, []).extend(value)
            else:
                group[name] = group.get(name, 0) + value
    return groups


def ratio(group: Mapping[str, Any], kind: str) -> float:
    """Return the root mean square error of the mean over the root mean square spread.

    The mean of K samples has the error of the posterior and 1/K of it more.
    """
    error, spread = (
        math.sqrt(statistics.fmean(v * v for v in group[f"{kind}{name}"]))
        for name in ("error", "spread")
    )
    return error / spread if spread else math.inf


def uniform_p(ranks: Sequence[Sequence[int]], K: int) -> float:
    """Return the p-value of a chi-square test that one functional per image has uniform ranks."""
    first = [row[i % len(row)] for i, row in enumerate(ranks)]
    bins = [0] * 5
    for rank in first:
        bins[min(4, rank * 5 // (K + 1))] += 1
    width = [sum(r * 5 // (K + 1) == b for r in range(K + 1)) for b in range(5)]
    expected = [len(first) * w / (K + 1) for w in width]
    return float(chisquare(bins, expected).pvalue)


def conformal(group: Mapping[str, Any], calibrated_on: Mapping[str, Any], same: bool) -> str:
    """Return the share of pixels in calibrated 90 % intervals: two halves in turn if ``same``."""
    test, other = torch.tensor(group["ratios"]), torch.tensor(calibrated_on["ratios"])
    if not same:
        pairs = [(other, test)]
    else:
        half = len(test) // 2
        pairs = [(test[:half], test[half:]), (test[half:], test[:half])]
    if min(len(a) for a, _ in pairs) < 9:
        return ""
    share = [float((b <= factor_for(a, 0.9)).double().mean()) for a, b in pairs]
    return f"{statistics.fmean(share):.2f}"


def tables(results: Results, quick: bool) -> dict[str, Table]:
    """Return the calibration of every method, problem and domain that is measured."""
    groups = gathered(results, quick)
    head = ["Method", "Problem", "Images", "Number", "Functionals in 50 % / 90 %"]
    head += ["Pixels in 50 % / 90 %", "Error : spread", "Uniform ranks, p", "CRPS, pixels"]
    head += ["PSNR of the mean", "Converged", "Evaluations", "Seconds per image"]
    rows = [head]
    for (method, problem, images), group in groups.items():
        n = len(group["psnr"])
        values = [""] * 5
        if "rank" in group:
            K = METHODS[method][1]["samples"]
            both = [
                " / ".join(f"{statistics.fmean(group[f'{kind} in {at}']):.2f}" for at in LEVELS)
                for kind in ("functionals", "pixels")
            ]
            p = f"{uniform_p(group['rank'], K):.2f}"
            crps_ = f"{1000 * statistics.fmean(group['crps']):.2f}"
            values = [*both, f"{ratio(group, 'functional '):.2f}", p, crps_]
        else:  # the CRPS of one image is its absolute error
            values[4] = f"{1000 * statistics.fmean(group['mae']):.2f}"
        converged = group.get("converged")
        values += [
            f"{statistics.fmean(group['psnr']):.1f}",
            "" if converged is None else f"{statistics.fmean(converged):.3f}",
            f"{statistics.fmean(group['evaluations']):.0f}",
            f"{group['seconds'] / n:.1f}",
        ]
        rows.append([method, problem, images, str(n), *values])
    return {"calibration": rows, "calibration_conformal": conformal_table(groups)}


def conformal_table(groups: Mapping[tuple[str, str, str], Mapping[str, Any]]) -> Table:
    """Return the coverage of 90 % intervals before and after calibration on held-out images."""
    rows = [["Method", "Problem", "Images", "Pixels in 90 %", "After calibration"]]
    for (method, problem, images), group in groups.items():
        held = groups.get((method, problem, "held out"))
        if "ratios" not in group or held is None:
            continue
        after = conformal(group, held, images == "held out")
        before = f"{statistics.fmean(group['pixels in 0.9']):.2f}"
        rows.append([method, problem, images, before, after])
    return rows


if __name__ == "__main__":
    main("calibration", __doc__, cells, tables, compute)
