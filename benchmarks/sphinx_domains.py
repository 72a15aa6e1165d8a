"""SPHInX against latent searches, in and out of domain: ``python benchmarks/sphinx_domains.py``.

The style head alone and with content head and noise maps (full), against searches of W+,
(W+, S, B) and (Z+, S, B), which are the paper's names for styles, content and noise maps. 500
evaluations of each image from the mean style, by the mean square alone; each method at the rates
that served it best on other images (``sphinx_rates.py``) and at the paper's 0.001 for all.

- out of domain: 8 phantoms that the prior never saw, rotated, scaled and shifted, measured
  completely; and the loss of PSNR if noise is added to the styles that were found (figure 1);
- denoising at σ from 0.2 to 1, and 1 to 5 % of a circulant: MR and CT slices, moved phantoms;
- long: the same methods at 3000 evaluations on 4 phantoms rotated by 30 degrees.
"""

from __future__ import annotations

from typing import Any

from cells import METRICS, Cell, Results, Table, main, middle

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
# Found by sphinx_rates.py on other images.
BEST: dict[str, dict[str, Any]] = {
    "SPHInX": {},
    "SPHInX, full": {},
    "W+": {},
    "(W+, S, B)": {},
    "(Z+, S, B)": {},
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
RATES = {"own": BEST, "0.001": COMMON}


def solver(method: str) -> str:
    """Return the registered name of a method."""
    return "sphinx" if method.startswith("SPHInX") else "latent"


def cell(problem: str, method: str, rate: str, budget: int, n: int) -> Cell:
    """Return one cell."""
    fixed = {"budget": budget, "init": "mean", "perceptual": False}
    constants = {**fixed, **PRODUCTS[method], **RATES[rate][method]}
    if problem in MEASURED:
        return Cell("outside", (0, n), problem, solver(method), constants)
    return Cell(f"held out, {problem}", (0, n), "all", solver(method), constants, SNR)


def size(quick: bool) -> tuple[int, int]:
    """Return evaluations and images."""
    return (20, 2) if quick else (500, 8)


LONG = (3000, 4)


def cells(quick: bool) -> list[Cell]:
    """Return the cells of the tables."""
    found = [
        cell(problem, method, rate, *size(quick))
        for problem in (*MEASURED, *MOVED[::-1])
        for rate in RATES
        for method in PRODUCTS
    ]
    return found + [cell("angle 30", m, "own", *(size(quick) if quick else LONG)) for m in PRODUCTS]


def tables(results: Results, quick: bool) -> dict[str, Table]:
    """Return medians by problem, and what noise on the styles costs."""

    def of(metric: str, *which: Any) -> str:
        return middle(results[cell(*which, *size(quick)).key][metric], METRICS.get(metric, 1))

    found = {}
    for title, problems in (("moved", MOVED), ("measured", MEASURED)):
        rows = [["Rate", "Method", "Metric", *problems]]
        rows += [
            [rate, method, metric, *(of(metric, p, method, rate) for p in problems)]
            for rate in RATES
            for method in PRODUCTS
            for metric in METRICS
        ]
        found[f"sphinx_{title}"] = rows
    rows = [["Rate", "Method", "clean", *(f"{snr} dB" for snr in SNR)]]
    noisy = ("psnr", *(f"psnr at {snr} dB" for snr in SNR))
    for rate in RATES:
        rows += [[rate, m, *(of(name, "angle 30", m, rate) for name in noisy)] for m in PRODUCTS]
    found["sphinx_noise"] = rows
    long = size(quick) if quick else LONG
    rows = [["Method", "PSNR", "SSIM", "perceptual", *(f"{snr} dB" for snr in SNR)]]
    for m in PRODUCTS:
        values = results[cell("angle 30", m, "own", *long).key]
        names = (*METRICS, *noisy[1:])
        rows.append([m, *(middle(values[k], METRICS.get(k, 1)) for k in names)])
    found["sphinx_long"] = rows
    return found


if __name__ == "__main__":
    main("sphinx_domains", __doc__, cells, tables)
