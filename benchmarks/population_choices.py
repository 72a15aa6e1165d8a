"""What the parts of BasinCMA are worth: ``python benchmarks/population_choices.py``.

The problem is that of ``population.py``: the embedded prior, A = 1, a known class and the mean
square alone. There are 3 samples of the prior; on other images, all of these methods end where the
range of z ends. ``--quick`` takes a minute. The samplers of nevergrad need the extra ``nevergrad``.

- samplers: the outer samplers, alone (``cma``, 25 generations of 18 members) and with gradient
  steps (``basincma``, 6 x 6 + 21 steps of 6 members);
- splits: the same number of evaluations as 1 x 37 to 28 x 1 generations x steps in each;
- classes: ``adam`` with the true class, with the class of the best of 99 latents on y, and with a
  wrong class that stays or is searched;
- lbfgs: ``adam`` and L-BFGS from 18 latents, 25 evaluations of each: the best and the average;
- color: ``basincma`` with and without the search of the brightness, on samples that were darkened.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from cells import IMAGES, METRICS, Cell, Results, Table, main, middle, trio, wins
from population import classes, column, decibels
from torch import Tensor

from gprior.priors import Prior

N = 3  # images, one of each class
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
ADAM, UNBOUNDED, LBFGS = SEEDS = ("adam", "adam, no bound", "L-BFGS, no bound")
DARKER = (-0.3, -0.2, -0.1)  # log γ
COLORS = {"without": False, "with": "color"}


def darkened(prior: Prior, n: int) -> Tensor:
    """Return samples of the prior, whose classes take turns, at a lower brightness."""
    return IMAGES["in range"](prior, n) * torch.tensor(DARKER[:n]).exp()[:, None, None, None]


IMAGES["darkened"] = darkened


def cells_of(quick: bool) -> dict[str, dict[Any, Cell]]:
    """Return the cells of each table, by the name of their row."""
    few = {"population": 3} if quick else {}
    generations, descent, total, each = (2, 2, 60, 2) if quick else (25, 40, 500, 25)

    def cell(name: str, images: str = "in range", **options: Any) -> Cell:
        return column(images, (name, {**options, **few}), N, N)[0]

    def hybrid(outer: str, steps: tuple[int, ...]) -> Cell:
        steps = (2, 2, 2) if quick else steps
        return cell("basincma", outer=outer, steps=list(steps), population=6)

    def color(kind: str | bool) -> Cell:
        constants = {"lr": 0.2, "budget": total, "population": 6}
        return cell("basincma", "darkened", transform=kind, **constants)

    guess = {"init": "best-of:99", "steps": descent, "population": 4}
    lbfgs = {"spaces": "z", "optimizer": "lbfgs", "restarts": 18, "keep": "all", "steps": each}
    lbfgs |= {"perceptual": False, "label": classes(0, N)}
    tried = ALONE[: -len(NEVERGRAD)] if quick else ALONE
    return {
        "alone": {outer: cell("cma", outer=outer, steps=generations) for outer in tried},
        "hybrid": {outer: hybrid(outer, EQUAL) for outer in HYBRID},
        "splits": {split: hybrid("csa", split) for split in SPLITS},
        "classes": {k: cell("adam", **{**guess, **options}) for k, options in CLASSES.items()},
        "seeds": {
            ADAM: cell("adam", steps=each),
            UNBOUNDED: cell("adam", steps=each, bound=1e6),
            LBFGS: Cell("in range", (0, N), "all", "latent", lbfgs),
        },
        "color": {title: color(kind) for title, kind in COLORS.items()},
    }


def cells(quick: bool) -> list[Cell]:
    """Return the cells of all tables."""
    return [cell for part in cells_of(quick).values() for cell in part.values()]


def tables(results: Results, quick: bool) -> dict[str, Table]:
    """Return the table of each part."""
    parts = {
        name: {title: results[cell.key] for title, cell in part.items()}
        for name, part in cells_of(quick).items()
    }
    return {
        "population_samplers": samplers(parts["alone"], parts["hybrid"]),
        "population_splits": splits(parts["splits"]),
        "population_classes": class_table(parts["classes"]),
        "population_lbfgs": best_and_average(parts["seeds"]),
        "population_color": color_table(parts["color"]),
    }


Part = Mapping[Any, Mapping[str, Any]]  # name of a row -> metric -> one value per image


def lower(part: Part, title: Any, reference: Any) -> str:
    """Return in how many images a row has a lower loss than another row."""
    if title == reference:
        return ""
    return wins(part[title]["loss"], part[reference]["loss"], lower=True)


def average(part: Part, title: Any) -> str:
    """Return the median PSNR of the average member."""
    return middle(map(decibels, part[title]["average_loss"]))


def samplers(alone: Part, hybrid: Part) -> Table:
    """Return medians of each sampler without and with gradient steps, and losses below csa's."""
    head = ["Sampler"]
    for kind in ("alone", "with gradients"):
        head += [kind, f"{kind}, average", f"{kind}, lower loss than csa"]
    rows = [head]
    for outer in alone:
        row = [outer]
        for part in (alone, hybrid):
            if outer in part:
                row += [trio(part[outer]), average(part, outer), lower(part, outer, "csa")]
            else:
                row += [""] * 3
        rows.append(row)
    return rows


def splits(part: Part) -> Table:
    """Return medians of each split, best and average, and losses below those of the equal split."""
    rows = [["Generations x steps + final", "Best", "Average", "Lower loss than 6 x 6"]]
    for split in SPLITS:
        name = "{} x {} + {}".format(*split)
        rows.append([name, trio(part[split]), average(part, split), lower(part, split, EQUAL)])
    return rows


def class_table(part: Part) -> Table:
    """Return medians for each way to choose the class, and how often it ends at the true one."""
    rows = [["Class", *METRICS, "True class at the end", "Lower loss than the true class"]]
    for title in CLASSES:
        pairs = zip(part[title]["label"], classes(0, N), strict=True)
        right = f"{sum(found == true for found, true in pairs)} of {N}"
        medians = [middle(part[title][metric], digits) for metric, digits in METRICS.items()]
        rows.append([title, *medians, right, lower(part, title, "true")])
    return rows


def best_and_average(part: Part) -> Table:
    """Return medians of the best of 18 and of their average, and losses below those of Adam."""
    rows = [["Method", "Best of 18", "Average of 18", "Lower loss than adam, no bound"]]
    for title in SEEDS:
        rows.append([title, trio(part[title]), average(part, title), lower(part, title, UNBOUNDED)])
    return rows


def color_table(part: Part) -> Table:
    """Return the PSNR of each image with and without the search of γ, and what was found."""
    rows = [["log γ", *(f"{title} search" for title in COLORS), "found log γ"]]
    for k, truth in enumerate(DARKER):
        psnr = [f"{part[title]['psnr'][k]:.1f}" for title in COLORS]
        rows.append([str(truth), *psnr, f"{part['with']['transform'][k][4]:.2f}"])
    return rows


if __name__ == "__main__":
    main("population_choices", __doc__, cells, tables)
