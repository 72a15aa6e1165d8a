"""Learning rates for ``sphinx_domains.py``: ``python benchmarks/sphinx_rates.py``.

3 phantoms rotated by 20 degrees that are in no other table, measured completely, 500 evaluations
of each, by the mean square alone.
"""

from __future__ import annotations

from itertools import product
from typing import Any

from cells import Cell, Results, Table, main, middle
from sphinx_domains import PRODUCTS, solver

STYLES = {
    "SPHInX": (1e-3, 3e-3, 1e-2, 3e-2),
    "SPHInX, full": (1e-3, 3e-3, 1e-2),
    "W+": (0.03, 0.1, 0.3),
    "(W+, S, B)": (0.03, 0.1, 0.3),
    "(Z+, S, B)": (0.03, 0.1, 0.3),
}
CONTENT = {
    "SPHInX, full": (0.01, 0.03, 0.1),
    "(W+, S, B)": (0.1, 0.3),
    "(Z+, S, B)": (0.1, 0.3),
}
NOISE = (0.1, 0.3)


def rates(method: str) -> list[dict[str, float]]:
    """Return the grid of a method."""
    axes: dict[str, Any] = {"lr": STYLES[method]}
    if method in CONTENT:
        axes |= {"lr_content": CONTENT[method], "lr_noise": NOISE}
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]


def cell(method: str, rate: dict[str, float], quick: bool) -> Cell:
    """Return one cell."""
    fixed = {"budget": 20 if quick else 500, "init": "mean", "perceptual": False}
    rows = (60, 61 if quick else 63)
    constants = {**fixed, **PRODUCTS[method], **rate}
    return Cell("held out, angle 20", rows, "all", solver(method), constants)


def cells(quick: bool) -> list[Cell]:
    """Return the cells of the table."""
    return [cell(method, rate, quick) for method in PRODUCTS for rate in rates(method)]


def tables(results: Results, quick: bool) -> dict[str, Table]:
    """Return the median PSNR of each rate."""
    rows = [["Method", "lr", "lr_content", "lr_noise", "PSNR"]]
    for method in PRODUCTS:
        for rate in rates(method):
            psnr = middle(results[cell(method, rate, quick).key]["psnr"], 2)
            rows.append([method, *(str(rate.get(k, "")) for k in rows[0][1:4]), psnr])
    return {"sphinx_rates": rows}


if __name__ == "__main__":
    main("sphinx_rates", __doc__, cells, tables)
