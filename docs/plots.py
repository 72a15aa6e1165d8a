"""Pictures of the documented tables, drawn from ``benchmarks/results`` when the docs are built."""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path("../benchmarks/results")  # the plot directive runs this file in its folder
TABLES = Path("tables")
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


def dot(axis: Any, values: Sequence[float], place: float, colour: str) -> None:
    """Draw a median as a dot, on a line from the lower to the upper quartile."""
    low, mid, high = quartiles(values)
    axis.plot([low, high], [place, place], color=colour, lw=1.5, alpha=0.5)
    axis.plot(mid, place, "o", color=colour, ms=4)


def methods() -> None:
    """Draw PSNR by method, operator and domain."""
    import matplotlib.pyplot as plt

    # A sixth part of the key names a stopping rule; those cells have tables of their own.
    cells = [cell for cell in read("compare_methods") if len(cell[0]) == 5]
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
                place = names.index(key[3]) + 0.22 * (1 - list(DOMAINS).index(key[0]))
                dot(axis, value["psnr"], place, DOMAINS[key[0]])
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


def table(name: str) -> tuple[list[str], list[list[str]]]:
    """Return the head and the rows of a table."""
    with (TABLES / f"{name}.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    return head, rows


def first(cell: str) -> float:
    """Return the first number of a cell, its PSNR."""
    return float(cell.split(" / ")[0])


def confound() -> None:
    """Draw PSNR of L-BRGM and BRGM by operator, initialization and weight of the pixels."""
    import matplotlib.pyplot as plt

    found: dict[tuple[Any, ...], list[float]] = {}
    for (_, _, operator, prior, text), value in read("lbrgm_brgm"):
        constants = json.loads(text)
        column = (operator, constants.get("pixel"), prior, constants["init"])
        found.setdefault(column, []).extend(value["psnr"])
    figure, axes = plt.subplots(1, 4, figsize=(8.5, 2.7), sharey=True)
    sides = [(p, s) for p in ("lbrgm", "brgm") for s in ("best-of:100", "mean")]
    # Weight of the pixels: gprior's (None), and that of the authors of each method.
    authors = {"lbrgm": 13.0, "brgm": 65.0}
    colours = {"gprior's": "tab:blue", "each authors'": "tab:red"}
    for axis, operator in zip(axes, ("half", "eye-patch", "x8", "x4"), strict=True):
        for k, (name, colour) in enumerate(colours.items()):
            for j, side in enumerate(sides):
                pixel = None if name == "gprior's" else authors[side[0]]
                values = found.get((operator, pixel, *side))
                if values is not None:  # not every weight is measured for every method
                    dot(axis, values, j + 0.24 * (k - 0.5), colour)
        axis.set(title=operator.replace("half", "half mask"), xlabel="PSNR (dB)")
        axis.grid(axis="x", alpha=0.3)
    names = {"lbrgm": "L-BRGM", "brgm": "BRGM", "best-of:100": "best of 100", "mean": "mean"}
    axes[0].set_yticks(range(4), [f"{names[p]}, {names[s]}" for p, s in sides])
    axes[0].invert_yaxis()
    marks = [plt.Line2D([], [], color=c, marker="o", ms=4) for c in colours.values()]
    labels = [f"{name} weight of the pixels" for name in colours]
    figure.legend(marks, labels, loc="lower center", ncols=2, frameon=False)
    figure.tight_layout(rect=(0, 0.08, 1, 1))


def inversion() -> None:
    """Draw PSNR of SPHInX and latent searches by problem, and by noise on their styles."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(10, 3.8), width_ratios=(8, 6, 4))
    for axis, title in zip(axes[:2], ("moved", "measured"), strict=True):
        for name, style in (("own", "o-"), ("common", "o:")):
            look = {"ms": 3, "alpha": 1 if name == "own" else 0.6}
            head, rows = table(f"sphinx_{title}_{name}")
            for k, _ in enumerate(head[1:]):
                for kind in dict.fromkeys(row[0].split(" ")[0] for row in rows):
                    own = [(i, first(row[1 + k])) for i, row in enumerate(rows) if kind in row[0]]
                    axis.plot(*zip(*own, strict=True), style, **look, color=f"C{k}")
        axis.set_xticks(range(len(rows)), [row[0] for row in rows], rotation=60, ha="right")
    head, rows = table("sphinx_long")
    for k, row in enumerate(rows):
        axes[2].plot([first(cell) for cell in row[1:5]], "o-", color=f"C{k}", ms=3, label=row[0])
    axes[2].set_xticks(range(4), ["none", *head[2:5]])
    axes[2].set_xlabel("noise on the styles (SNR)")
    titles = ("moved, measured completely", "outside, corrupted", "angle 30, 3000 steps")
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("PSNR (dB)")
    figure.legend(loc="lower center", ncols=5, frameon=False)
    figure.tight_layout(rect=(0, 0.07, 1, 1))


def population() -> None:
    """Draw PSNR of the population methods: the answer, and the average of the last population."""
    import matplotlib.pyplot as plt

    _, rows = table("population")
    places = range(len(rows))
    figure, axes = plt.subplots(1, 2, figsize=(8, 0.32 * len(rows) + 1.2), sharey=True)
    for axis, title, k in zip(axes, ("in range", "held out"), (1, 3), strict=True):
        best, average = [first(row[k]) for row in rows], [first(row[k + 1]) for row in rows]
        axis.hlines(places, average, best, color="0.8", lw=1.5)
        look = {"ls": "", "marker": "o", "mec": "tab:blue", "ms": 5}
        axis.plot(average, places, color="white", label="average of the last population", **look)
        axis.plot(best, places, color="tab:blue", label="best", **look)
        axis.set(title=title, xlabel="PSNR (dB)")
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(places, [row[0] for row in rows])
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncols=2, frameon=False)
    figure.tight_layout(rect=(0, 0.08, 1, 1))


def ranks() -> None:
    """Draw the ranks of the true functionals among the samples, for images in range."""
    import matplotlib.pyplot as plt

    K = 16
    groups = calibration_groups("in range")
    figure, axes = plt.subplots(1, len(groups), figsize=(8.5, 2.1), sharey=True)
    for axis, (problem, parts) in zip(axes, groups.items(), strict=True):
        found = [r for part in parts for row in part["rank"] for r in row]
        axis.bar(range(K + 1), [found.count(r) / len(found) for r in range(K + 1)], width=0.9)
        axis.axhline(1 / (K + 1), color="black", lw=1, ls="--")
        axis.set(title=problem, xlabel="rank", xticks=[0, 8, 16])
    axes[0].set_ylabel("share")
    figure.tight_layout()


def coverage() -> None:
    """Draw how much of the truth the intervals of 50 and 90 % contain, by problem and domain."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8.5, 2.9), sharey=True)
    for axis, kind in zip(axes, ("functionals", "pixels"), strict=True):
        names: list[str] = []
        for domain, colour in DOMAINS.items():
            for problem, parts in calibration_groups(domain).items():
                if problem not in names:
                    names.append(problem)
                for level, mark in ((0.5, "s"), (0.9, "o")):
                    values = [v for part in parts for v in part[f"{kind} in {level}"]]
                    place = names.index(problem) + 0.2 * (list(DOMAINS).index(domain) - 1)
                    axis.plot(place, statistics.fmean(values), mark, color=colour, ms=5)
        for level in (0.5, 0.9):
            axis.axhline(level, color="black", lw=0.8, ls="--")
        wide = (-0.5, len(names) - 0.5)
        axis.set(title=f"{kind} in the intervals", ylim=(0, 1), xticks=range(len(names)), xlim=wide)
        axis.set_xticklabels(names, rotation=20)
        axis.grid(axis="y", alpha=0.3)
    marks = [plt.Line2D([], [], color=c, marker="o", ls="", ms=5) for c in DOMAINS.values()]
    marks += [plt.Line2D([], [], color="0.4", marker=m, ls="", ms=5) for m in "so"]
    names = [*DOMAINS, "50 % intervals", "90 % intervals"]
    figure.legend(marks, names, loc="lower center", ncols=5, frameon=False)
    figure.tight_layout(rect=(0, 0.08, 1, 1))


def calibration_groups(domain: str) -> dict[str, list[dict[str, Any]]]:
    """Return the scores of 16 samples in z for each problem that is measured in a domain."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for key, value in read("calibration"):
        if key[0] == "rto, 16" and key[2] == domain:
            groups.setdefault(key[1], []).append(value)
    return groups


def limits() -> None:
    """Draw the prior weight that `auto` chose against the best one of a grid, by domain."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(8.5, 3), sharey=True)
    found = [value for _, value in read("auto_limits")]
    for number, (axis, (domain, colour)) in enumerate(zip(axes, DOMAINS.items(), strict=True)):
        chosen, best = [], []
        for value in found:
            third = len(value["psnr"]) // 3
            some = slice(number * third, (number + 1) * third)
            chosen += value["prior weight"][some]
            # Several images have the same weights: each is drawn a little apart.
            best += [w + 0.03 * (k % 5 - 2) for k, w in enumerate(value["oracle weight"][some])]
        axis.plot(best, chosen, "o", color=colour, ms=4, alpha=0.5, mew=0)
        axis.plot([0, 1], [0, 1], color="black", lw=0.8, ls="--")
        axis.set(title=domain, xlabel="best a of the grid")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("a that auto chose")
    figure.tight_layout()
