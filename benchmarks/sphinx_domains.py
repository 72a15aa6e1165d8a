"""SPHInX against latent searches, in and out of domain: ``python benchmarks/sphinx_domains.py``.

The style head alone, and with content head and noise maps (full), against searches of W+,
(W+, S, B) and (Z+, S, B), the paper's names for styles, content and noise maps. All methods start
from the mean style, minimise the mean square alone and have 500 evaluations of each image. Each
method has the learning rates that were best on other images (``sphinx_rates.py``, separately for
complete measurements and for noisy or few ones), and in a second set of tables the paper's 0.001.

- out of domain: 8 phantoms on which the prior was not trained, rotated, scaled and shifted,
  measured completely; and the PSNR after noise on the styles of the result;
- denoising at σ from 0.2 to 1, and 1 to 5 % of a circulant: MR and CT slices, moved phantoms;
- long: the same methods at 3000 evaluations on 4 phantoms rotated by 30 degrees, with SPHInX at
  rates at which its style head does not collapse to a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cells import (
    LOWER_IS_BETTER,
    METRICS,
    TITLES,
    Cell,
    Results,
    Table,
    better,
    joined,
    main,
    middle,
    trio,
)  # fmt: skip

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
# The best rates of sphinx_rates.py, for complete measurements and for noisy or few ones.
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
# The paper's 0.001 acts on w with a spread of 0.45; gprior's rate is in units of that spread.
STYLE = 1e-3 / 0.45
COMMON: dict[str, dict[str, Any]] = {
    "SPHInX": {"lr": 1e-3},
    "SPHInX, full": {"lr": 1e-3, "lr_content": 1e-3, "lr_noise": 1e-3},
    "W+": {"lr": STYLE},
    "(W+, S, B)": {"lr": STYLE, "lr_content": 1e-3, "lr_noise": 1e-3},
    "(Z+, S, B)": {"lr": 1e-3, "lr_content": 1e-3, "lr_noise": 1e-3},
}
# The best rates at which the style head remains a function of z. From 0.01 on it collapses to a
# constant.
SPREAD: dict[str, dict[str, Any]] = {
    "SPHInX": {"lr": 0.003},
    "SPHInX, full": {"lr": 0.001, "lr_content": 0.03, "lr_noise": 1.0},
}
RATES = ("own", "0.001")  # "own": the method's best rates
# Sides that are compared image by image, and the problems over which their wins are counted.
PAIRS = (
    ("SPHInX", "W+"), ("SPHInX, full", "(W+, S, B)"), ("SPHInX, full", "(Z+, S, B)")
)  # fmt: skip
GROUPS = {
    "moved": MOVED,
    "denoising": tuple(name for name in MEASURED if name.startswith("noise")),
    "circulant": tuple(name for name in MEASURED if name.startswith("circulant")),
}


def solver(method: str) -> str:
    """Return the registered name of a method."""
    return "sphinx" if method.startswith("SPHInX") else "latent"


def cell(problem: str, method: str, rate: str, budget: int, n: int) -> Cell:
    """Return one cell."""
    shared = {"budget": budget, "init": "mean", "perceptual": False}
    best = BEST[method][problem in MEASURED]
    rates = {"own": best, "spread": SPREAD.get(method, best), "0.001": COMMON[method]}[rate]
    constants = {**shared, **PRODUCTS[method], **rates}
    if problem in MEASURED:
        return Cell("outside", (0, n), problem, solver(method), constants)
    return Cell(f"held out, {problem}", (0, n), "all", solver(method), constants, SNR)


def size(quick: bool) -> tuple[int, int]:
    """Return the number of evaluations and of images."""
    return (20, 2) if quick else (500, 8)


def long(quick: bool) -> tuple[int, int]:
    """Return the number of evaluations and of images of the long runs."""
    return size(quick) if quick else (3000, 4)


def cells(quick: bool) -> list[Cell]:
    """Return the cells of the tables."""
    usual = [
        cell(problem, method, rate, *size(quick))
        for problem in (*MEASURED, *MOVED[::-1])
        for rate in RATES
        for method in PRODUCTS
    ]
    spread = [cell("angle 30", method, "spread", *size(quick)) for method in SPREAD]
    return usual + spread + [cell("angle 30", m, "spread", *long(quick)) for m in PRODUCTS]


def tables(results: Results, quick: bool) -> dict[str, Table]:
    """Return medians by problem, wins, and PSNR after noise on the styles."""

    def scores(problem: str, method: str, rate: str) -> Mapping[str, Any]:
        return results[cell(problem, method, rate, *size(quick)).key]

    result = {}
    for title, problems in (("moved", MOVED), ("measured", MEASURED)):
        for name, rate in zip(("own", "common"), RATES, strict=True):
            rows = [["Images" if title == "moved" else "Problem", *PRODUCTS]]
            rows += [[p, *(trio(scores(p, m, rate)) for m in PRODUCTS)] for p in problems]
            result[f"sphinx_{title}_{name}"] = rows
    result["sphinx_wins"] = won(scores)
    noisy = [f"psnr at {snr} dB" for snr in SNR]
    head = ["Method", "PSNR / SSIM / perceptual distance", *(f"{k} dB" for k in SNR), "Spread"]

    def robust(method: str, values: Mapping[str, Any]) -> list[str]:
        spread = middle(values["spread"], 3) if "spread" in values else ""
        return [method, trio(values), *(middle(values[k]) for k in noisy), spread]

    rows = [["Rate", *head]]
    for rate in (*RATES, "spread"):
        methods = SPREAD if rate == "spread" else PRODUCTS
        rows += [[rate, *robust(m, scores("angle 30", m, rate))] for m in methods]
    result["sphinx_noise"] = rows
    last = [results[cell("angle 30", m, "spread", *long(quick)).key] for m in PRODUCTS]
    result["sphinx_long"] = [head, *map(robust, PRODUCTS, last)]
    return result


def won(scores: Callable[[str, str, str], Mapping[str, Any]]) -> Table:
    """Return in how many images a method is better than another, without a test.

    The same images are in several problems of a group, so that a sign test over all pairs would
    count them as independent when they are not.
    """
    rows = [["Rate", "Problems", "Method", "Against", *TITLES.values()]]
    for rate in RATES:
        for group, problems in GROUPS.items():
            for pair in PAIRS:
                first, second = (joined(scores(p, m, rate) for p in problems) for m in pair)
                counts = [better(first[m], second[m], m in LOWER_IS_BETTER) for m in METRICS]
                rows.append([rate, group, *pair, *(f"{n} of {of}" for n, of in counts)])
    return rows


if __name__ == "__main__":
    main("sphinx_domains", __doc__, cells, tables)
