"""Pictures of the documented tables, drawn from ``benchmarks/results`` when the docs are built."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path("../benchmarks/results")  # the plot directive runs this file in its folder
DOMAINS = {"in range": "tab:green", "held out": "tab:blue", "outside": "tab:orange"}
OPERATORS = ("half", "x4", "circulant 0.1", "noise 0.1")
TITLES = ("half mask", "x4", "10 % circulant", "noise 0.1")


def read(name: str) -> list[tuple[list[str], dict[str, Any]]]:
    """Return the parts of each key (images, rows, operator, solver, constants) and its scores."""
    found = json.loads((RESULTS / f"{name}.json").read_text())
    return [(key.split(" | "), value) for key, value in found.items()]


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper quartile."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def methods() -> None:
    """Draw PSNR by method, operator and domain."""
    import matplotlib.pyplot as plt

    cells = read("compare_methods")
    names = list(dict.fromkeys(key[3] for key, _ in cells))
    last = {"tv": -1, "A+": -2}
    middle: dict[str, list[float]] = {n: [] for n in names}
    for key, value in cells:
        middle[key[3]].append(statistics.median(value["psnr"]))
    names.sort(key=lambda n: last.get(n, statistics.mean(middle[n])))
    size = (8.5, 0.56 * len(names) + 1)
    figure, axes = plt.subplots(2, 2, figsize=size, sharey=True)
    for axis, operator, title in zip(axes.flat, OPERATORS, TITLES, strict=True):
        for key, value in cells:
            if key[2] == operator:
                low, mid, high = quartiles(value["psnr"])
                place = names.index(key[3]) + 0.22 * (1 - list(DOMAINS).index(key[0]))
                axis.plot([low, high], [place, place], color=DOMAINS[key[0]], lw=1.5, alpha=0.5)
                axis.plot(mid, place, "o", color=DOMAINS[key[0]], ms=4)
        axis.axhspan(-0.5, 1.5, color="0.93", zorder=0)
        axis.set(title=title, xlabel="PSNR (dB)", ylim=(-0.5, len(names) - 0.5))
        axis.grid(axis="x", alpha=0.3)
    axes[0, 0].set_yticks(range(len(names)), ["A⁺", "TV", *names[2:]])
    marks = [plt.Line2D([], [], color=c, marker="o", ms=4) for c in DOMAINS.values()]
    figure.legend(marks, list(DOMAINS), loc="lower center", ncols=3, frameon=False)
    figure.tight_layout(rect=(0, 0.04, 1, 1))


def measurements() -> None:
    """Draw PSNR of ILO and CSGM by the share of measurements."""
    import matplotlib.pyplot as plt

    cells = read("ilo_csgm")
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True)
    for axis, images in zip(axes, ("in range", "held out"), strict=True):
        for name, colour in (("ilo", "tab:purple"), ("csgm", "tab:red")):
            rows = sorted(
                (float(key[2].split(" ")[1]), *quartiles(value["psnr"]))
                for key, value in cells
                if key[0] == images and key[3] == name
            )
            share, low, mid, high = zip(*rows, strict=True)
            axis.fill_between(share, low, high, color=colour, alpha=0.15, lw=0)
            axis.plot(share, mid, "o-", color=colour, ms=4, label=name)
        axis.set(title=images, xlabel="measurements per pixel", xscale="log")
        axis.set_xticks(share, [f"{100 * m:g} %" for m in share])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("PSNR (dB)")
    axes[0].legend(frameon=False)
    figure.tight_layout()
