"""SPHInX against latent searches, in and out of domain: ``python benchmarks/sphinx_domains.py``.

The style head alone and with content head and noise maps (full), against searches of W+,
(W+, S, B) and (Z+, S, B), which are the paper's names for styles, content and noise maps. 500
evaluations of each image from the mean style, by the mean square alone; each method at the rates
that served it best on other images (``sphinx_rates.py``) and at the paper's 0.001 for all.
Measurements that are noisy or few have rates of their own.

- out of domain: 8 phantoms that the prior never saw, rotated, scaled and shifted, measured
  completely; and the loss of PSNR if noise is added to the styles that were found (figure 1);
- denoising at σ from 0.2 to 1, and 1 to 5 % of a circulant: MR and CT slices, moved phantoms;
- long: the same methods at 3000 evaluations on 4 phantoms rotated by 30 degrees, SPHInX at rates
  at which its style head does not collapse to a constant.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cells import Cell, Results, Table, main, middle, trio

MOVED = (
    "angle 10", "angle 20", "angle 30", "scale 0.875", "scale 1.125", "scale 1.25", "shift 4",
    "shift 8",
)  # fmt: skip
MEASURED = ("noise 0.2", "noise 0.5", "noise 1", "circulant 0.01", "circulant 0.02",
            "circulant 0.05")  # fmt: skip
SNR = (30, 20, 10)
PRODUCTS = {
    "SPHInX": {},
    "SPHInX, full": {"full": True},
    "W+": {"spaces": ["w+"]},
    "(W+, S, B)": {"spaces": ["w+", "content", "noise"]},
    "(Z+, S, B)": {"spaces": ["z+", "content", "noise"]},
}
# Found by sphinx_rates.py on other images: measured completely, and not.
BEST: dict[str, list[dict[str, Any]]] = {
    "SPHInX": [{"lr": 0.03}, {"lr": 0.03}],
    "SPHInX, full": [
        {"lr": 0.03, "lr_content": 0.1, "lr_noise": 3.0},
        {"lr": 0.03, "lr_content": 0.1, "lr_noise": 1.0},
    ],
    "W+": [{"lr": 0.3}, {"lr": 0.3}],
    "(W+, S, B)": [
        {"lr": 0.3, "lr_content": 0.03, "lr_noise": 3.0},
        {"lr": 0.1, "lr_content": 0.1, "lr_noise": 0.1},
    ],
    "(Z+, S, B)": [
        {"lr": 0.1, "lr_content": 0.1, "lr_noise": 3.0},
        {"lr": 0.3, "lr_content": 0.1, "lr_noise": 0.1},
    ],
}
# 0.001 on the w of the paper's generator, whose spread is 0.45.
STYLE = 1e-3 / 0.45
COMMON: dict[str, dict[str, Any]] = {
    "SPHInX": {"lr": 1e-3},
    "SPHInX, full": {"lr": 1e-3, "lr_content": 1e-3, "lr_noise": 1e-3},
    "W+": {"lr": STYLE},
    "(W+, S, B)": {"lr": STYLE, "lr_content": 1e-3, "lr_noise": 1e-3},
    "(Z+, S, B)": {"lr": 1e-3, "lr_content": 1e-3, "lr_noise": 1e-3},
}
# The best ones at which the style head stays a function of z: at 0.01 and more it collapses.
SPREAD: dict[str, dict[str, Any]] = {
    "SPHInX": {"lr": 0.003},
    "SPHInX, full": {"lr": 0.001, "lr_content": 0.03, "lr_noise": 1.0},
}
RATES = ("own", "0.001")


def solver(method: str) -> str:
    """Return the registered name of a method."""
    return "sphinx" if method.startswith("SPHInX") else "latent"


def cell(problem: str, method: str, rate: str, budget: int, n: int) -> Cell:
    """Return one cell."""
    fixed = {"budget": budget, "init": "mean", "perceptual": False}
    own = BEST[method][problem in MEASURED]
    rates = {"own": own, "spread": SPREAD.get(method, own), "0.001": COMMON[method]}[rate]
    constants = {**fixed, **PRODUCTS[method], **rates}
    if problem in MEASURED:
        return Cell("outside", (0, n), problem, solver(method), constants)
    return Cell(f"held out, {problem}", (0, n), "all", solver(method), constants, SNR)


def size(quick: bool) -> tuple[int, int]:
    """Return evaluations and images."""
    return (20, 2) if quick else (500, 8)


def long(quick: bool) -> tuple[int, int]:
    """Return evaluations and images of the long runs."""
    return size(quick) if quick else (3000, 4)


def cells(quick: bool) -> list[Cell]:
    """Return the cells of the tables."""
    found = [
        cell(problem, method, rate, *size(quick))
        for problem in (*MEASURED, *MOVED[::-1])
        for rate in RATES
        for method in PRODUCTS
    ]
    found += [cell("angle 30", method, "spread", *size(quick)) for method in SPREAD]
    return found + [cell("angle 30", m, "spread", *long(quick)) for m in PRODUCTS]


def tables(results: Results, quick: bool) -> dict[str, Table]:
    """Return medians of the three metrics by problem, and what noise on the styles costs."""

    def of(*which: Any) -> Mapping[str, Any]:
        return results[cell(*which, *size(quick)).key]

    found = {}
    for title, problems in (("moved", MOVED), ("measured", MEASURED)):
        for name, rate in zip(("own", "common"), RATES, strict=True):
            rows = [["Images" if title == "moved" else "Problem", *PRODUCTS]]
            rows += [[p, *(trio(of(p, m, rate)) for m in PRODUCTS)] for p in problems]
            found[f"sphinx_{title}_{name}"] = rows
    noisy = [f"psnr at {snr} dB" for snr in SNR]
    head = ["Method", "PSNR / SSIM / perceptual distance", *(f"{k} dB" for k in SNR), "Spread"]

    def robust(method: str, values: Mapping[str, Any]) -> list[str]:
        spread = middle(values["spread"], 3) if "spread" in values else ""
        return [method, trio(values), *(middle(values[k]) for k in noisy), spread]

    rows = [["Rate", *head]]
    for rate in (*RATES, "spread"):
        methods = SPREAD if rate == "spread" else PRODUCTS
        rows += [[rate, *robust(m, of("angle 30", m, rate))] for m in methods]
    found["sphinx_noise"] = rows
    last = [results[cell("angle 30", m, "spread", *long(quick)).key] for m in PRODUCTS]
    found["sphinx_long"] = [head, *map(robust, PRODUCTS, last)]
    return found


if __name__ == "__main__":
    main("sphinx_domains", __doc__, cells, tables)
