"""L-BRGM against BRGM, with start and prior apart: ``python benchmarks/lbrgm_brgm.py``.

60 phantoms on which the prior was not trained; half mask, eye patch, x8 and x4 super-resolution;
200 evaluations of each image. The paper compares L-BRGM from the best of 100 latents with BRGM
from the mean style, which changes two things at once. Here both methods start from both, with the
perceptual terms of their papers. All 60 phantoms have gprior's weight of the pixels. The first 20
also have the weight of each method's authors (13 for L-BRGM, 65 for BRGM), and 13 for both.
"""

from __future__ import annotations

from typing import Any

from cells import TITLES, Cell, Results, Table, joined, main, metric_wins, trio

OPERATORS = ("half", "eye-patch", "x8", "x4")
METHODS, STARTS = ("lbrgm", "brgm"), ("best-of:100", "mean")
# Weight of the pixels -> constants of each method.
WEIGHTS: dict[str, dict[str, dict[str, Any]]] = {
    "gprior's": {"lbrgm": {}, "brgm": {}},
    "each authors'": {"lbrgm": {"pixel": 13.0}, "brgm": {"pixel": 65.0}},
    "13": {"lbrgm": {"pixel": 13.0}, "brgm": {"pixel": 13.0}},
}
COUNT = {"gprior's": 60, "each authors'": 20, "13": 20}  # images
CHUNK = 20  # images in a cell
# Name of a comparison -> (method, start) of its two sides.
PAIRS = {
    "as published": (("lbrgm", "best-of:100"), ("brgm", "mean")),
    "method, best of 100": (("lbrgm", "best-of:100"), ("brgm", "best-of:100")),
    "method, mean": (("lbrgm", "mean"), ("brgm", "mean")),
    "start, L-BRGM": (("lbrgm", "best-of:100"), ("lbrgm", "mean")),
    "start, BRGM": (("brgm", "best-of:100"), ("brgm", "mean")),
}


def parts(weight: str, A: str, method: str, start: str, quick: bool) -> list[Cell]:
    """Return the cells of one column."""
    shared = {"budget": 60 if quick else 200, "init": start, "perceptual": None}
    constants = {**shared, **WEIGHTS[weight][method]}
    rows = [(0, 2)] if quick else [(k, k + CHUNK) for k in range(0, COUNT[weight], CHUNK)]
    return [Cell("held out", r, A, method, constants) for r in rows]


def cells(quick: bool) -> list[Cell]:
    """Return the cells of the tables."""
    return [
        cell
        for weight in WEIGHTS
        for A in OPERATORS
        for method in METHODS
        for start in STARTS
        for cell in parts(weight, A, method, start, quick)
    ]


def tables(results: Results, quick: bool) -> dict[str, Table]:
    """Return the medians of the three metrics, and the wins in each of them.

    They have the weights and operators that are measured completely.
    """
    sides = [(method, start) for method in METHODS for start in STARTS]
    medians = [["Pixel weight", "Operator", *map(", ".join, sides)]]
    won = [["Pixel weight", "Operator", "Metric", *PAIRS]]
    for weight in WEIGHTS:
        for A in OPERATORS:
            keys = {side: [c.key for c in parts(weight, A, *side, quick)] for side in sides}
            if not results.keys() >= {key for row in keys.values() for key in row}:
                continue
            scores = {side: joined(results[key] for key in row) for side, row in keys.items()}
            medians.append([weight, A, *(trio(scores[side]) for side in sides)])
            columns = [metric_wins(scores[a], scores[b]) for a, b in PAIRS.values()]
            for title, row in zip(TITLES.values(), zip(*columns, strict=True), strict=True):
                won.append([weight, A, title, *row])
    return {"lbrgm_brgm": medians, "lbrgm_brgm_wins": won}


if __name__ == "__main__":
    main("lbrgm_brgm", __doc__, cells, tables)
