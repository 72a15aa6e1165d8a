"""L-BRGM against BRGM, initialization and prior apart: ``python benchmarks/lbrgm_brgm.py``.

60 phantoms that the prior never saw, half mask, eye patch, x8 and x4, at 200 evaluations of each
image. The papers compare L-BRGM from the best of 100 latents with BRGM from the mean style: two
changes at once. Here both priors start from both. With gprior's weight of the pixels and, on the
first 20, with L-BRGM's own 13, which leaves the data to the perceptual term.
"""

from __future__ import annotations

from typing import Any

from cells import METRICS, Cell, Results, Table, main, trio, wins

OPERATORS = ("half", "eye-patch", "x8", "x4")
PRIORS, STARTS = ("lbrgm", "brgm"), ("best-of:100", "mean")
WEIGHTS: dict[str, dict[str, Any]] = {"gprior's": {}, "13": {"pixel": 13.0}}
COUNT = {"gprior's": 60, "13": 20}  # images
CHUNK = 20  # of a cell
# Name of a comparison, and (prior, start) of its two sides.
PAIRS = {
    "as published": (("lbrgm", "best-of:100"), ("brgm", "mean")),
    "prior, best of 100": (("lbrgm", "best-of:100"), ("brgm", "best-of:100")),
    "prior, mean": (("lbrgm", "mean"), ("brgm", "mean")),
    "start, L-BRGM": (("lbrgm", "best-of:100"), ("lbrgm", "mean")),
    "start, BRGM": (("brgm", "best-of:100"), ("brgm", "mean")),
}


def parts(weight: str, A: str, prior: str, start: str, quick: bool) -> list[Cell]:
    """Return the cells of one column."""
    shared = {"budget": 60 if quick else 200, "init": start, **WEIGHTS[weight]}
    rows = [(0, 2)] if quick else [(k, k + CHUNK) for k in range(0, COUNT[weight], CHUNK)]
    return [Cell("held out", r, A, prior, shared) for r in rows]


def cells(quick: bool) -> list[Cell]:
    """Return the cells of the tables."""
    return [
        cell
        for weight in WEIGHTS
        for A in OPERATORS
        for prior in PRIORS
        for start in STARTS
        for cell in parts(weight, A, prior, start, quick)
    ]


def tables(results: Results, quick: bool) -> dict[str, Table]:
    """Return medians of PSNR, SSIM and perceptual distance, and the wins in PSNR."""

    def column(weight: str, A: str, *side: str) -> dict[str, list[float]]:
        found = [results[cell.key] for cell in parts(weight, A, *side, quick)]
        return {metric: [value for of in found for value in of[metric]] for metric in METRICS}

    sides = [(prior, start) for prior in PRIORS for start in STARTS]
    medians = [["Pixel weight", "Operator", *map(", ".join, sides)]]
    won = [["Pixel weight", "Operator", *PAIRS]]
    for weight in WEIGHTS:
        for A in OPERATORS:
            of = {side: column(weight, A, *side) for side in sides}
            medians.append([weight, A, *(trio(of[side]) for side in sides)])
            pairs = [[of[side]["psnr"] for side in pair] for pair in PAIRS.values()]
            won.append([weight, A, *(wins(*pair) for pair in pairs)])
    return {"lbrgm_brgm": medians, "lbrgm_brgm_wins": won}


if __name__ == "__main__":
    main("lbrgm_brgm", __doc__, cells, tables)
