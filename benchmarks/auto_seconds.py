"""Quality against time, of the default and of L-BRGM: ``python benchmarks/auto_seconds.py``.

Both methods with several numbers of evaluations, on four of the problems of
``benchmarks/default.py`` and their 30 images in one batch, on one thread. ``auto`` has its
correction, whose time counts; L-BRGM is as published. The time is that of the processor.
"""

from __future__ import annotations

import statistics

from auto_pieces import OPERATORS
from cells import Cell, Results, Table, main
from default import part

BUDGETS = {"auto": (20, 40, 80, 150, 300), "lbrgm": (80, 150, 300)}


def cell(A: str, name: str, budget: int, quick: bool) -> Cell:
    """Return the cell of a method, with the images of all domains."""
    constants = {"budget": budget, "correction": "auto" if name == "auto" else None}
    constants["max_batch"] = 30
    return Cell("all", (0, 6 if quick else 30), A, name, constants, stop="auto")


def cells(quick: bool) -> list[Cell]:
    """Return the cells, in which the two methods take turns."""
    operators = OPERATORS[1:2] if quick else OPERATORS
    budgets = [20, 40] if quick else BUDGETS["auto"]
    return [
        cell(A, name, budget, quick)
        for A in operators
        for budget in budgets
        for name in BUDGETS
        if quick or budget in BUDGETS[name]
    ]


def tables(results: Results, quick: bool) -> dict[str, Table]:
    """Return seconds per image and mean PSNR by problem, method and number of evaluations.

    What has no result yet has no row.
    """
    rows = [["Problem", "Method", "Evaluations", "Seconds per image", "PSNR"]]
    for one in cells(quick):
        if one.key not in results:
            continue
        found, count = results[one.key], one.rows[1]
        means = (f"{statistics.fmean(part(found['psnr'], d)):.1f}" for d in range(3))
        budget = str(one.constants["budget"])
        seconds = f"{found['processor seconds'] / count:.2f}"
        rows.append([one.operator, one.solver, budget, seconds, " / ".join(means)])
    return {"auto_seconds": rows}


if __name__ == "__main__":
    main("auto_seconds", __doc__, cells, tables)
