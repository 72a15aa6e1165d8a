"""The default method against everyone, as a user would run it: ``python benchmarks/default.py``.

Twelve problems, each of 10 samples of the prior, 10 phantoms on which it was not trained and 10
images outside its domain. Every method has 300 evaluations of the generator per image and its
default constants otherwise, the class is unknown, and the default stopping rule decides. Each
method of a paper is scored as published, and followed by the correction of ``auto``. The weight of
total variation is chosen for each problem on other phantoms. From deepinv come its CSGM around the
same generator, and its deep image prior with 3000 steps, which needs a GPU: 360 images take hours.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from cells import RIVALS, Cell, Results, Table, main, wins

from gprior.solvers import SOLVERS

DOMAINS = ("in range", "held out", "outside")
OPERATORS = (
    "half", "box", "random 0.2", "x4", "x8", "circulant 0.05", "circulant 0.1", "circulant 0.3",
    "noise 0.05", "noise 0.1", "noise 0.3", "blur 0.02",
)  # fmt: skip
CLASSICAL = ("A+", "tv")
METHODS = tuple(SOLVERS)
METRICS = ("psnr", "ssim", "perceptual")
HARM = 0.3  # dB that count as worse


def cell(A: str, name: str, quick: bool) -> Cell:
    """Return the cell of a method, with the images of all domains."""
    count = 6 if quick else 30
    if name in CLASSICAL:
        return Cell("all", (0, count), A, name)
    if name in RIVALS:
        iterations = 3000 if name == "dip" else 300
        return Cell("all", (0, count), A, name, {"iterations": 3 if quick else iterations})
    constants: dict[str, Any] = {"budget": 60 if quick else 300, "correction": "auto"}
    constants["max_batch"] = 30
    if SOLVERS[name]().init == "random":
        constants["init"] = "best-of:100"
    return Cell("all", (0, count), A, name, constants, stop="auto")


def cells(quick: bool) -> list[Cell]:
    """Return the cells: the pseudo-inverse, total variation, the methods, and those of deepinv."""
    operators = OPERATORS[3:6:2] if quick else OPERATORS
    methods = METHODS[:2] if quick else METHODS
    return [cell(A, name, quick) for name in (*CLASSICAL, *methods, *RIVALS) for A in operators]


def part(values: Sequence[float], domain: int) -> Sequence[float]:
    """Return the values of the images of a domain."""
    third = len(values) // 3
    return values[domain * third : (domain + 1) * third]


def measured(results: Results, quick: bool) -> list[str]:
    """Return the methods, with those of deepinv, that are measured in all problems."""
    operators = OPERATORS[3:6:2] if quick else OPERATORS
    return [
        n for n in (*METHODS, *RIVALS) if all(cell(A, n, quick).key in results for A in operators)
    ]


def scores(results: Results, A: str, quick: bool) -> dict[str, Mapping[str, Any]]:
    """Return the scores of every rival: as published, and with the correction as ``+ c``."""
    rows: dict[str, Mapping[str, Any]] = {
        name: results[cell(A, name, quick).key] for name in CLASSICAL
    }
    for name in measured(results, quick):
        found = results[cell(A, name, quick).key]
        if name in RIVALS:
            rows[name] = found
            continue
        generated = {metric: found[f"generated {metric}"] for metric in METRICS}
        if name == "auto":
            rows["auto, generated"], rows["auto"] = generated, found
        else:
            rows[name], rows[f"{name} + c"] = generated, found
    return rows


def tables(results: Results, quick: bool) -> dict[str, Table]:
    """Return mean PSNR by problem, the wins of ``auto``, and what it was to reach."""
    operators = OPERATORS[3:6:2] if quick else OPERATORS
    every = {A: scores(results, A, quick) for A in operators}
    names = list(every[operators[0]])
    means = [["Method", *operators]]
    for name in names:
        row = [
            " / ".join(f"{statistics.fmean(part(every[A][name]['psnr'], d)):.1f}" for d in range(3))
            for A in operators
        ]
        means.append([name, *row])
    titles = (f"{metric}, {d}" for metric in ("PSNR", "SSIM", "perceptual") for d in DOMAINS)
    won = [["auto against", *titles]]
    for name in names:
        if name.startswith("auto"):
            continue
        row = []
        for metric in METRICS:
            for d in range(3):
                pair = [
                    [v for A in operators for v in part(every[A][side][metric], d)]
                    for side in ("auto", name)
                ]
                row.append(wins(*pair, lower=metric == "perceptual"))
        won.append([name, *row])
    return {"default_psnr": means, "default_wins": won, "default_worse": worse(every)}


def worse(every: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Table:
    """Return how many images of each domain lie more than 0.3 dB below TV or below G."""
    rows = [["Problem", "below TV", "below the generated image", "mean prior weight"]]
    for A, methods in every.items():
        x = methods["auto"]["psnr"]
        below = []
        for other in ("tv", "auto, generated"):
            pairs = list(zip(x, methods[other]["psnr"], strict=True))
            below.append(
                " / ".join(str(sum(a < b - HARM for a, b in part(pairs, d))) for d in range(3))
            )
        weights = methods["auto"]["prior weight"]
        mean = " / ".join(f"{statistics.fmean(part(weights, d)):.2f}" for d in range(3))
        rows.append([A, *below, mean])
    return rows


if __name__ == "__main__":
    main("default", __doc__, cells, tables)
