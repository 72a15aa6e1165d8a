"""What the parts of BasinCMA are worth: ``python benchmarks/population_choices.py``.

The problem is that of ``population.py``: the embedded prior, A = 1, a known class and the mean
square alone. There are 3 samples of the prior and 3 phantoms on which it was not trained.
``--quick`` takes two minutes. The samplers of nevergrad need the extra ``nevergrad``.

- samplers: the outer samplers, alone (``cma``, 25 generations of 18 members) and with gradient
  steps (``basincma``, 6 x 6 + 21 steps of 6 members);
- splits: the same number of evaluations as 1 x 37 to 28 x 1 generations x steps in each;
- classes: ``adam`` with the true class, with the class of the best of 99 latents on y, and with a
  wrong class that stays or is searched;
- lbfgs: ``adam`` and L-BFGS from 18 latents, the best of them and their average;
- color: ``basincma`` with and without the search of the brightness, on samples that were darkened
  and on phantoms as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from cells import (
    IMAGES,
    METRICS,
    Cell,
    Results,
    Scores,
    Table,
    main,
    metric_wins,
    middle,
    trio,
    wins,
)  # fmt: skip
from population import DOMAINS, TITLES, classes, column, decibels
from torch import Tensor

from gprior.priors import Prior

N = 3  # images of each kind, one of each class
PACKAGED = ("cma", "cma:diagonal", "cma:positive")
NEVERGRAD = tuple(f"nevergrad:{name}" for name in ("CMA", "OnePlusOne", "DE", "PSO", "TBPSA"))
ALONE = ("random", "csa", "diagonal", *PACKAGED, *NEVERGRAD)
HYBRID = ("random", "csa", *PACKAGED)
SPLITS = ((1, 37, 21), (2, 18, 22), (6, 6, 21), (11, 3, 22), (28, 1, 21))  # 59 a member
EQUAL = SPLITS[2]
WRONG = [(label + 1) % 3 for label in classes(0, N)]
CLASSES: dict[str, dict[str, Any]] = {
    "true": {},
    "predicted": {"label": None},
    "wrong": {"label": WRONG},
    "wrong, searched": {"label": WRONG, "search_class": True},
}
BOUNDED, UNBOUNDED, LBFGS = "adam", "adam, no bound", "L-BFGS, no bound"
DARKER = (-0.3, -0.2, -0.1)  # log γ
COLORS = {"without": False, "with": "color"}


def darkened(prior: Prior, n: int) -> Tensor:
    """Return samples of the prior, whose classes take turns, at a lower brightness."""
    x = IMAGES["in range"](prior, n)
    return x * torch.tensor(DARKER[:n]).exp()[:, None, None, None]


IMAGES["darkened"] = darkened


def cells_of(quick: bool) -> dict[str, dict[Any, list[Cell]]]:
    """Return the cells of each table, by the name of their column."""
    few = {"population": 3} if quick else {}

    def cell(images: str, name: str, **options: Any) -> list[Cell]:
        return column(images, (name, {**options, **few}), N, N)

    def hybrid(images: str, outer: str, steps: tuple[int, ...]) -> list[Cell]:
        steps = (2, 2, 2) if quick else steps
        return cell(images, "basincma", outer=outer, steps=list(steps), population=6)

    def seeds(images: str, title: str) -> list[Cell]:
        steps = 2 if quick else 25
        if title != LBFGS:
            bound = {"bound": 1e6} if title == UNBOUNDED else {}
            return cell(images, "adam", steps=steps, **bound)
        options = {"spaces": "z", "optimizer": "lbfgs", "restarts": 18, "keep": "all"}
        options |= {"steps": steps, "perceptual": False, "label": classes(0, N)}
        return [Cell(images, (0, N), "all", "latent", options)]

    generations, descent, total = (2, 2, 60) if quick else (25, 40, 500)
    guess = {"init": "best-of:99", "steps": descent, "population": 4}
    return {
        "alone": {
            (outer, images): cell(images, "cma", outer=outer, steps=generations)
            for images in DOMAINS
            for outer in ALONE[: -len(NEVERGRAD) if quick else None]
        },
        "hybrid": {
            (outer, images): hybrid(images, outer, EQUAL) for images in DOMAINS for outer in HYBRID
        },
        "splits": {
            (split, images): hybrid(images, "csa", split) for images in DOMAINS for split in SPLITS
        },
        "classes": {
            (title, images): cell(images, "adam", **{**guess, **options})
            for images in DOMAINS
            for title, options in CLASSES.items()
        },
        "seeds": {
            (title, images): seeds(images, title)
            for images in DOMAINS
            for title in (BOUNDED, UNBOUNDED, LBFGS)
        },
        "color": {
            (title, images): cell(
                images, "basincma", transform=kind, lr=0.2, budget=total, population=6
            )
            for images in ("darkened", "held out")
            for title, kind in COLORS.items()
        },
    }


def cells(quick: bool) -> list[Cell]:
    """Return the cells of all tables."""
    return [c for part in cells_of(quick).values() for column in part.values() for c in column]


def tables(results: Results, quick: bool) -> dict[str, Table]:
    """Return the table of each part."""
    parts = {
        name: {
            key: {
                metric: [value for c in column for value in results[c.key].get(metric, [])]
                for metric in (*METRICS, "loss", "average_loss", "transform", "label")
            }
            for key, column in part.items()
        }
        for name, part in cells_of(quick).items()
    }
    return {
        "population_samplers": samplers(parts["alone"], parts["hybrid"]),
        "population_splits": splits(parts["splits"]),
        "population_classes": class_table(parts["classes"]),
        "population_lbfgs": best_and_average(parts["seeds"]),
        "population_color": color(parts["color"]),
    }


Column = Mapping[str, Any]  # metric -> one value per image
Part = Mapping[Any, Column]  # (name of a row, images) -> its values


def both(part: Part, title: Any) -> dict[str, list[Any]]:
    """Return the values of all images of a row."""
    return {
        m: [v for images in DOMAINS for v in part[title, images][m]]
        for m in part[title, DOMAINS[0]]
    }


def average(values: Column) -> str:
    """Return the median of the PSNR of the average member."""
    return middle(map(decibels, values["average_loss"]))


def samplers(alone: Part, hybrid: Part) -> Table:
    """Return medians of each sampler without and with gradient steps, and losses below csa's."""
    head = ["Sampler"]
    for kind in ("alone", "with gradients"):
        head += [f"{kind}, {images}" for images in DOMAINS]
        head.append(f"{kind}: lower loss than csa")
    rows = [head]
    for outer in dict.fromkeys(outer for outer, _ in alone):
        row = [outer]
        for part in (alone, hybrid):
            if (outer, DOMAINS[0]) not in part:
                row += [""] * 3
                continue
            row += [trio(part[outer, images]) for images in DOMAINS]
            losses = (both(part, title)["loss"] for title in (outer, "csa"))
            row.append("" if outer == "csa" else wins(*losses, lower=True))
        rows.append(row)
    return rows


def splits(part: Part) -> Table:
    """Return medians of each split, best and average, and wins of the equal split against it."""
    head = ["Generations x steps + final"]
    for images in DOMAINS:
        head += [images, f"{images}, average"]
    rows = [[*head, "6 x 6 has the lower loss"]]
    for split in SPLITS:
        row = ["{} x {} + {}".format(*split)]
        for images in DOMAINS:
            row += [trio(part[split, images]), average(part[split, images])]
        losses = (both(part, s)["loss"] for s in (EQUAL, split))
        rows.append([*row, "" if split == EQUAL else wins(*losses, lower=True)])
    return rows


def class_table(part: Part) -> Table:
    """Return medians for each way to choose the class, and how often it ends at the true one."""
    rows = [["Class", *DOMAINS, "True class at the end", *wins_of("true")]]
    for title in CLASSES:
        values = both(part, title)
        right = sum(a == b for a, b in zip(values["label"], 2 * classes(0, N), strict=True))
        row = [title, *(trio(part[title, images]) for images in DOMAINS), f"{right} of {2 * N}"]
        rows.append([*row, *against(part, "true", title)])
    return rows


def best_and_average(part: Part) -> Table:
    """Return medians of the best of 18 and of their average, and wins of bounded Adam."""
    head = ["Method"]
    for images in DOMAINS:
        head += [images, f"{images}, average"]
    rows = [[*head, *wins_of(UNBOUNDED)]]
    for title in (BOUNDED, UNBOUNDED, LBFGS):
        row = [title]
        for images in DOMAINS:
            row += [trio(part[title, images]), average(part[title, images])]
        rows.append([*row, *against(part, UNBOUNDED, title)])
    return rows


def color(part: Part) -> Table:
    """Return medians with and without the search of the brightness, and the error of log γ."""
    rows = [["Images", *COLORS, "Error of log γ"]]
    for images, truth in (("darkened", DARKER), ("held out", (0.0,) * N)):
        found = [phi[4] for phi in part["with", images]["transform"]]
        error = middle((abs(a - b) for a, b in zip(found, truth, strict=True)), 2)
        rows.append([images, *(trio(part[title, images]) for title in COLORS), error])
    return rows


def wins_of(title: str) -> list[str]:
    """Return the heads of the columns of `against`."""
    return [f"{title} wins in {metric}" for metric in TITLES.values()]


def against(part: Part, winner: str, title: str) -> list[str]:
    """Return the wins of one row against another in each metric."""
    if title == winner:
        return [""] * len(METRICS)
    sides: list[Scores] = [both(part, winner), both(part, title)]
    return metric_wins(*sides)


if __name__ == "__main__":
    main("population_choices", __doc__, cells, tables)
