"""What each piece of the default method is worth: ``python benchmarks/auto_pieces.py``.

``auto`` with 300 evaluations, as it is and without one piece after the other, on four of the
problems of ``benchmarks/default.py`` and their 30 images.
"""

from __future__ import annotations

import statistics
from typing import Any

from cells import Cell, Results, Table, main, wins
from default import DOMAINS, part

OPERATORS = ("half", "x4", "circulant 0.1", "noise 0.1")
# The constants that differ from those of `auto`, by what they take away.
WITHOUT: dict[str, dict[str, Any]] = {
    "auto": {},
    "without the search in range": {"in_range": False},
    "without the trust in the second stage": {"most": 2.0},
    "without a second stage": {"steps": [300, 0]},
    "without a first stage": {"steps": [0, 300]},
    "without deviations of the layers": {"release": 1e4},
    "without the prior of the deviations": {"release": 0.0},
    "from the best of 64, not the mean": {"init": "best-of:64"},
}
NO_CORRECTION = "without the correction"


def cell(A: str, name: str, quick: bool) -> Cell:
    """Return the cell of a variant, with the images of all domains."""
    constants = {"correction": "auto", "max_batch": 30, **WITHOUT[name]}
    if "steps" not in constants:
        constants["budget"] = 60 if quick else 300
    elif quick:
        constants["steps"] = [n // 5 for n in constants["steps"]]
    return Cell("all", (0, 6 if quick else 30), A, "auto", constants, stop="auto")


def cells(quick: bool) -> list[Cell]:
    """Return the cells of all variants."""
    operators = OPERATORS[1:2] if quick else OPERATORS
    return [cell(A, name, quick) for name in WITHOUT for A in operators]


def tables(results: Results, quick: bool) -> dict[str, Table]:
    """Return the mean PSNR of every variant, and in how many cases it is better than `auto`."""
    operators = OPERATORS[1:2] if quick else OPERATORS
    found = {A: {n: results[cell(A, n, quick).key]["psnr"] for n in WITHOUT} for A in operators}
    for A in operators:
        found[A][NO_CORRECTION] = results[cell(A, "auto", quick).key]["generated psnr"]
    rows = [["Variant", *operators, *(f"better than auto, {domain}" for domain in DOMAINS)]]
    for name in (*WITHOUT, NO_CORRECTION):
        means = [
            " / ".join(f"{statistics.fmean(part(found[A][name], d)):.1f}" for d in range(3))
            for A in operators
        ]
        won = []
        for d in range(3):
            sides = [[v for A in operators for v in part(found[A][n], d)] for n in (name, "auto")]
            won.append("" if name == "auto" else wins(sides[0], sides[1]))
        rows.append([name, *means, *won])
    return {"auto_pieces": rows}


if __name__ == "__main__":
    main("auto_pieces", __doc__, cells, tables)
