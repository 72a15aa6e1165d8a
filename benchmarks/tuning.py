"""Fine-tuning against the correction, and what it does to edits: ``python benchmarks/tuning.py``.

Five problems, each of 2 samples of the prior, 2 phantoms on which it was not trained and 2 images
outside its domain. Every image is solved by ``auto``, and the generator is then tuned to it, by 100
steps of both variants. The final images are scored with and without the correction.

The second part tunes to the phantoms themselves (A = 1), from a good and from a poor solution, with
penalties of growing weight: figure 18 of Huh et al. 2020. An edit then changes the class, which is
the contrast of the phantom. The same head can be drawn in this contrast, so there is a true image
to compare the edit with.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from cells import IMAGES, PRIOR, UNSEEN, Results, Table, main, operator
from torch import Tensor

import gprior
from gprior.distances import scores
from gprior.priors import Prior
from gprior.solvers import TUNINGS
from gprior.training import phantoms

OPERATORS = ("all", "half", "x4", "circulant 0.1", "circulant 0.3")
COUNT = 2  # images of each domain
STEPS = 100  # of tuning
STARTS: dict[str, dict[str, Any]] = {  # of the search before
    "good": {"steps": 400, "init": "best-of:100"},
    "poor": {"steps": 10, "init": "random"},
}
PENALTIES = (0.0, 1e3, 1e5, 1e7, 1e9)
HARM = 0.3  # dB that count as worse


@dataclass(frozen=True)
class Cell:
    """A problem, or a start of the search whose result is edited, and its number of steps."""

    part: str
    name: str
    count: int
    steps: int

    @property
    def key(self) -> str:
        """The name in the file of results."""
        return f"{self.part} | {self.name} | {self.count} images | {self.steps} steps"


def cells(quick: bool) -> list[Cell]:
    """Return the problems, then the edits."""
    count, steps = (1, 2) if quick else (COUNT, STEPS)
    problems = [Cell("problem", A, count, steps) for A in (OPERATORS[2:4] if quick else OPERATORS)]
    return problems + [Cell("edit", start, count, steps) for start in STARTS]


def compute(cell: Cell, device: str = "cpu") -> dict[str, Any]:
    """Return the scores of a cell, one per image."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    prior = gprior.load_prior(PRIOR, device=device)
    return tuned(cell, prior) if cell.part == "problem" else edited(cell, prior)


def tuned(cell: Cell, prior: Prior) -> dict[str, Any]:
    """Solve and tune, with and without the correction."""
    x = IMAGES["all"](prior, 3 * cell.count).to(prior.like)
    A = operator(cell.name, prior).to(prior.like.device)
    y = A(x)
    found = gprior.solve(y, A, prior)
    values: dict[str, Any] = {"generated": psnr(found.generated, x), "corrected": psnr(found.x, x)}
    for method in TUNINGS:
        started = time.process_time()
        result = gprior.tune(found, y, A, prior, method, steps=cell.steps)
        values[f"{method} seconds"] = round(time.process_time() - started, 2)
        values[f"{method} generated"] = psnr(result.generated, x)
        values[f"{method} corrected"] = psnr(result.x, x)
        values[f"{method} change"] = rounded(result.diagnostics["weight change"].tolist(), 8)
    return values


def edited(cell: Cell, prior: Prior) -> dict[str, Any]:
    """Tune to phantoms with penalties of growing weight, and change their class."""
    A = operator("all", prior).to(prior.like.device)
    x, label = phantoms(range(cell.count), prior.image_shape[1], seed=UNSEEN)
    x = x.to(prior.like)
    options = {**STARTS[cell.name], "label": label, "stop": "fixed"}
    found = gprior.solve(x, A, prior, "csgm", **options)
    values: dict[str, Any] = {"fit": psnr(found.x, x), "edit": edits(found, [prior] * len(x))}
    for penalty in PENALTIES:
        result = gprior.tune(found, x, A, prior, stop="fixed", steps=cell.steps, penalty=penalty)
        assert result.weights is not None
        own = [result.weights.generator(prior, i) for i in range(len(x))]
        values[f"fit at {penalty:g}"] = psnr(result.x, x)
        values[f"edit at {penalty:g}"] = edits(result, own)
        values[f"change at {penalty:g}"] = rounded(result.diagnostics["weight change"].tolist(), 8)
    return values


@torch.no_grad()
def edits(result: gprior.Result, generators: Sequence[Prior]) -> list[float]:
    """Return the mean PSNR of the two other contrasts of each head."""
    values = []
    for i, G in enumerate(generators):
        z = result.latents["z"][i : i + 1]
        classes = [k for k in range(G.c_dim) if k != i % G.c_dim]
        pairs = [
            psnr(G(z=z, c=G.classes(k, 1)), phantoms([i], G.image_shape[1], UNSEEN, k)[0].to(z))
            for k in classes
        ]
        values.append(statistics.fmean(value[0] for value in pairs))
    return rounded(values)


def psnr(image: Tensor, x: Tensor) -> list[float]:
    """Return the PSNR of each image."""
    return rounded(scores(image, x)[0])


def rounded(values: Sequence[float], digits: int = 4) -> list[float]:
    """Return numbers for the file of results."""
    return [round(float(value), digits) for value in values]


def domains(values: Sequence[float], signs: bool = False) -> str:
    """Return the means of the three domains as text."""
    n = len(values) // 3
    means = [statistics.fmean(values[d * n : (d + 1) * n]) for d in range(3)]
    return " / ".join(f"{mean:{'+' if signs else ''}.1f}" for mean in means)


def tables(results: Results, quick: bool) -> dict[str, Table]:
    """Return the PSNR of each problem, what tuning gains and loses, and the edits."""
    columns = ["generated", "corrected"]
    columns += [f"{method} {kind}" for method in TUNINGS for kind in columns[:2]]
    absolute = [["Problem", *columns]]
    gains = [["Problem", "Variant", "generated", "corrected", "tuned against corrected", "worse"]]
    for cell in cells(quick):
        if cell.part == "edit":
            continue
        row = results[cell.key]
        absolute.append([cell.name, *(domains(row[column]) for column in columns)])
        for method in TUNINGS:
            pairs = {
                kind: [b - a for a, b in zip(row[kind], row[f"{method} {kind}"], strict=True)]
                for kind in ("generated", "corrected")
            }
            against = [
                b - a for a, b in zip(row["corrected"], row[f"{method} generated"], strict=True)
            ]
            worse = sum(gain < -HARM for gain in pairs["corrected"])
            gains.append(
                [
                    cell.name,
                    method,
                    *(domains(pairs[kind], True) for kind in pairs),
                    domains(against, True),
                    f"{worse} of {len(against)}",
                ]
            )
    edit = [["Start", "Penalty", "fit", "edit", "change of weights"]]
    for cell in cells(quick):
        if cell.part != "edit":
            continue
        row = results[cell.key]
        mean = {name: statistics.fmean(values) for name, values in row.items()}
        edit.append([cell.name, "not tuned", f"{mean['fit']:.1f}", f"{mean['edit']:.1f}", "0"])
        for penalty in PENALTIES:
            fit, edited, change = (mean[f"{k} at {penalty:g}"] for k in ("fit", "edit", "change"))
            edit.append([cell.name, f"{penalty:g}", f"{fit:.1f}", f"{edited:.1f}", f"{change:.1e}"])
    return {"tuning_psnr": absolute, "tuning_gain": gains, "tuning_edits": edit}


if __name__ == "__main__":
    main("tuning", __doc__, cells, tables, compute)
