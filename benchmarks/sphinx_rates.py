"""Learning rates for ``sphinx_domains.py``: ``python benchmarks/sphinx_rates.py``.

The best of a grid of rates for each method, on 3 phantoms rotated by 20 degrees that are in no
other table: measured completely, and by 2 % of a circulant. 500 evaluations of each image, by the
mean square alone.
"""

from __future__ import annotations

import statistics
from itertools import product
from typing import Any

from cells import Cell, Results, Table, main
from sphinx_domains import PRODUCTS, solver

STYLES = {
    "SPHInX": (1e-3, 3e-3, 1e-2, 3e-2, 0.1),
    "SPHInX, full": (0.01, 0.03, 0.1),
    "W+": (0.03, 0.1, 0.3, 1.0),
    "(W+, S, B)": (0.03, 0.1, 0.3),
    "(Z+, S, B)": (0.03, 0.1, 0.3),
}
CONTENT = (0.03, 0.1)
NOISE = {"all": (0.3, 1.0, 3.0), "circulant 0.02": (0.01, 0.1, 1.0)}  # operator -> rates


def rates(method: str, problem: str) -> list[dict[str, float]]:
    """Return the grid of rates of a method."""
    axes: dict[str, Any] = {"lr": STYLES[method]}
    if method not in ("SPHInX", "W+"):
        axes |= {"lr_content": CONTENT, "lr_noise": NOISE[problem]}
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]


def cell(problem: str, method: str, rate: dict[str, float], quick: bool) -> Cell:
    """Return one cell."""
    shared = {"budget": 20 if quick else 500, "init": "mean", "perceptual": False}
    rows = (60, 61 if quick else 63)
    constants = {**shared, **PRODUCTS[method], **rate}
    return Cell("held out, angle 20", rows, problem, solver(method), constants)


def cells(quick: bool) -> list[Cell]:
    """Return the cells of the table."""
    return [cell(p, m, rate, quick) for p in NOISE for m in PRODUCTS for rate in rates(m, p)]


def tables(results: Results, quick: bool) -> dict[str, Table]:
    """Return, for each method, the rates with the largest median PSNR."""
    rows = [["Measured", "Method", "lr", "lr_content", "lr_noise", "PSNR"]]
    for problem in NOISE:
        for method in PRODUCTS:
            grid = rates(method, problem)
            psnr = [
                statistics.median(results[cell(problem, method, rate, quick).key]["psnr"])
                for rate in grid
            ]
            best = grid[psnr.index(max(psnr))]
            values = [str(best.get(name, "")) for name in rows[0][2:5]]
            rows.append([problem, method, *values, f"{max(psnr):.1f}"])
    return {"sphinx_rates": rows}


if __name__ == "__main__":
    main("sphinx_rates", __doc__, cells, tables)
