"""The heads of SPHInX, and more opponents: ``python benchmarks/sphinx_heads.py``.

What ``sphinx_domains.py`` leaves open, with the same rules: the images are measured completely, all
methods start from the mean style, minimise the mean square alone and have equal evaluations, 500
of each image where nothing else is said.

- opponents: P-norm+, the StyleGAN2 projector and I2S++ beside the methods of ``sphinx_domains.py``
  on 4 phantoms that were rotated by 30 degrees, the same scaled by 3/4, and real slices (4 MR,
  1 CT). Their learning rates are the best of a grid on 3 other phantoms, as in
  ``sphinx_rates.py``;
- heads: P_s is the paper's network, or the mapping network of the prior, from its own weights or
  from random ones (figure 2 of the paper), each at four learning rates;
- widths: the bottleneck of P_s from 16 to 128 (appendix D);
- robustness: the long runs of ``sphinx_domains.py`` again, with the perceptual distance after noise
  on the styles (figure 1).
"""

from __future__ import annotations

import statistics
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
from sphinx_domains import BEST, PRODUCTS, SNR, SPREAD, solver

SHARED = {"init": "mean", "perceptual": False}
PROBLEMS = {  # images -> how many
    "held out, angle 30": 4, "held out, scale 0.75": 4, "real": 5,
}  # fmt: skip
# Method -> its registered name, and the grid of rates.
OPPONENTS: dict[str, tuple[str, list[dict[str, float]]]] = {
    "P-norm+": ("pnorm", [{"lr": lr} for lr in (0.03, 0.1, 0.3, 1.0)]),
    "projector": ("projector", [{"lr": lr} for lr in (0.22, 0.66, 2.0)]),
    "I2S++": ("i2s++", [{"lr": 0.3, "lr_noise": lr} for lr in (0.1, 1.0, 3.0)]),
}
BEST_OPPONENT: dict[str, dict[str, float]] = {
    "P-norm+": {"lr": 0.3},
    "projector": {"lr": 0.66},
    "I2S++": {"lr": 0.3, "lr_noise": 3.0},
}
METHODS = (*PRODUCTS, *OPPONENTS)
HEADS = ("decoders", "pretrained", "untrained")
HEAD_RATES = (0.001, 0.003, 0.01, 0.03)
WIDTHS = (16, 32, 64, 128)
WIDENED = (  # where the widths are compared
    ("held out, angle 30", "SPHInX"), ("held out, angle 30", "SPHInX, full"),
    ("real", "SPHInX, full"),
)  # fmt: skip


def sized(images: str, n: int, name: str, budget: int, constants: dict[str, Any]) -> Cell:
    """Return a cell of n images that are measured completely."""
    constants = {**SHARED, "budget": budget, **constants}
    return Cell(images, (0, n), "all", name, constants, SNR)


def opponent(images: str, method: str, quick: bool) -> Cell:
    """Return a method at its best rates."""
    n, budget = (1, 12) if quick else (PROBLEMS[images], 500)
    if method in OPPONENTS:
        return sized(images, n, OPPONENTS[method][0], budget, BEST_OPPONENT[method])
    return sized(images, n, solver(method), budget, {**PRODUCTS[method], **BEST[method][0]})


def rate(method: str, rates: dict[str, float], quick: bool) -> Cell:
    """Return an opponent at one of the rates of its grid."""
    n, budget = (1, 12) if quick else (3, 500)
    constants = {**SHARED, "budget": budget, **rates}
    return Cell("held out, angle 20", (60, 60 + n), "all", OPPONENTS[method][0], constants)


def head(kind: str, lr: float, quick: bool) -> Cell:
    """Return the style head alone with one of the networks."""
    n, budget = (1, 12) if quick else (4, 500)
    constants = {"lr": lr} if kind == "decoders" else {"lr": lr, "head": kind}
    return sized("held out, angle 30", n, "sphinx", budget, constants)


def width(images: str, method: str, d: int, quick: bool) -> Cell:
    """Return SPHInX with a width, at the rates at which its head does not collapse."""
    n, budget = (1, 12) if quick else (PROBLEMS[images], 500)
    constants = {**PRODUCTS[method], **SPREAD[method]}
    if d != 16:
        constants["bottleneck"] = d
    return sized(images, n, "sphinx", budget, constants)


def long(method: str, quick: bool) -> Cell:
    """Return a long run, with SPHInX at the rates at which its head does not collapse."""
    n, budget = (1, 20) if quick else (4, 3000)
    rates = SPREAD.get(method, BEST[method][0])
    return sized("held out, angle 30", n, solver(method), budget, {**PRODUCTS[method], **rates})


def cells(quick: bool) -> list[Cell]:
    """Return the cells of the tables."""
    return [
        *(rate(m, rates, quick) for m, (_, grid) in OPPONENTS.items() for rates in grid),
        *(opponent(images, method, quick) for images in PROBLEMS for method in METHODS),
        *(head(kind, lr, quick) for kind in HEADS for lr in HEAD_RATES),
        *(width(*problem, d, quick) for problem in WIDENED for d in WIDTHS),
        *(long(method, quick) for method in PRODUCTS),
    ]


def tables(results: Results, quick: bool) -> dict[str, Table]:
    """Return medians by method, wins, and the scores after noise on the styles."""

    def precise(cell: Cell) -> str:
        values = results[cell.key]
        return " / ".join(middle(values[m], digits) for m, digits in PRECISE.items())

    rates = [["Method", "lr", "lr_noise", "PSNR"]]
    for method, (_, grid) in OPPONENTS.items():
        psnr = [statistics.median(results[rate(method, r, quick).key]["psnr"]) for r in grid]
        best = grid[psnr.index(max(psnr))]
        rates.append([method, str(best["lr"]), str(best.get("lr_noise", "")), f"{max(psnr):.1f}"])
    opponents = [["Method", *(images.removeprefix("held out, ") for images in PROBLEMS)]]
    for method in METHODS:
        row = (trio(results[opponent(images, method, quick).key]) for images in PROBLEMS)
        opponents.append([method, *row])
    heads = [["P_s", "lr", "PSNR / SSIM / perceptual distance", "Spread"]]
    for kind in HEADS:
        for lr in HEAD_RATES:
            values = results[head(kind, lr, quick).key]
            heads.append([kind, str(lr), trio(values), middle(values["spread"], 3)])
    widths = [["d", *(f"{m}: {images.removeprefix('held out, ')}" for images, m in WIDENED)]]
    widths += [[str(d), *(precise(width(*p, d, quick)) for p in WIDENED)] for d in WIDTHS]
    noise = [["Method", "none", *(f"{snr} dB" for snr in SNR)]]
    for method in PRODUCTS:
        noise.append([method, *noisy(results[long(method, quick).key])])
    early = [noise[0]]
    for method in METHODS:
        early.append([method, *noisy(results[opponent("held out, angle 30", method, quick).key])])
    return {
        "sphinx_opponent_rates": rates,
        "sphinx_opponents": opponents,
        "sphinx_opponent_wins": won(results, quick),
        "sphinx_heads": heads,
        "sphinx_widths": widths,
        "sphinx_noise_perceptual": noise,
        "sphinx_noise_opponents": early,
    }


PRECISE = {"psnr": 2, "perceptual": 4}  # metric -> digits after the point


def noisy(values: Any) -> list[str]:
    """Return PSNR / perceptual distance without noise on the styles, and at each level of it."""
    levels = ["", *(f" at {snr} dB" for snr in SNR)]
    return [
        f"{middle(values[f'psnr{level}'])} / {middle(values[f'perceptual{level}'], 3)}"
        for level in levels
    ]


def won(results: Results, quick: bool) -> Table:
    """Return in how many images SPHInX is better than an opponent, without a test.

    Two problems have the same phantoms, so that a sign test over all pairs would count them as
    independent when they are not.
    """
    rows = [["Method", "Against", *TITLES.values()]]
    for first in ("SPHInX", "SPHInX, full"):
        for second in OPPONENTS:
            one, two = (
                joined(results[opponent(images, m, quick).key] for images in PROBLEMS)
                for m in (first, second)
            )
            counts = [better(one[m], two[m], m in LOWER_IS_BETTER) for m in METRICS]
            rows.append([first, second, *(f"{n} of {of}" for n, of in counts)])
    return rows


if __name__ == "__main__":
    main("sphinx_heads", __doc__, cells, tables)
