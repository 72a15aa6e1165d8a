"""What a population is worth: ``python benchmarks/population.py``.

With the embedded prior, on images that are measured completely (A = 1) and whose class is known.
The methods minimise the mean square alone, with 18 members. ``--quick`` takes two minutes.

- methods: 8 samples of the prior and 8 phantoms on which it was not trained, 4000 evaluations of
  each image. The table has the medians of the best member and of the average of the last
  population. *Random + polish* has the restarts and the final steps of the same method but no
  evolution; the others have their wins against it. *4 polished* spends the final steps on the four
  best members instead of all;
- full: the paper's budget, 30 x 30 + 300 steps of each member, on only the first two images of
  each kind;
- transforms: 20 samples that were shifted by 8 to 10 pixels, or scaled by at most 0.75 or at least
  1.3, with and without the search of a transform. That search is paid from the same 4000
  evaluations. Without it there are two runs at two step sizes of z, and each image counts with the
  better of the two;
- cma: how often CMA-ES ends at a lower loss than as many random draws.

The time that CMA-ES itself takes is measured by ``sampler.py``.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any

import torch
from cells import (
    IMAGES,
    METRICS,
    TITLES,
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
from torch import Tensor

from gprior.priors import Prior
from gprior.search import GRAY_LEVEL
from gprior.solvers.placement import transform
from gprior.training import CONTRASTS

Variant = tuple[str, dict[str, Any]]  # solver and constants
BASELINE = "random + polish"
VARIANTS: dict[str, Variant] = {
    "adam": ("adam", {}),
    "cma": ("cma", {}),
    "cma+adam": ("cma+adam", {}),
    BASELINE: ("basincma", {"outer": "random"}),
    "basincma": ("basincma", {}),
    "basincma, sampled": ("basincma", {"learn_from": "sampled"}),
    "basincma, redrawn": ("basincma", {"elites": False}),
    "basincma, sampled, redrawn": ("basincma", {"learn_from": "sampled", "elites": False}),
    "cma+adam, 4 polished": ("cma+adam", {"polish": 4}),
    "basincma, 4 polished": ("basincma", {"polish": 4}),
}
DRAWS: Variant = ("cma", {"outer": "random"})
FULL = ("adam", "cma+adam", BASELINE, "basincma", "basincma, redrawn", "cma+adam, 4 polished")
DOMAINS = ("in range", "held out")
MOVED = 20  # images that were shifted or scaled
HALF = 32  # pixels of half a width, the unit of shifts
# Title -> step of z (the paper's 0.05, or one that suits few generations), and whether a transform
# is searched.
SEARCHES = {"with": (0.2, True), "without, 0.05": (0.05, False), "without, 0.2": (0.2, False)}
PARAMETERS = {"log s_x": 1, "log s_y": 1, "t_x, pixels": HALF, "t_y, pixels": HALF, "log γ": 1}


def placements(n: int) -> Tensor:
    """Return the transforms φ (n, 5) of images that are shifted and scaled alternately."""
    phi = torch.zeros(n, 5)
    for i in range(n):
        if i % 2:
            phi[i, :2] = math.log((0.7, 0.75, 1.3, 1.35)[i // 2 % 4])
        else:
            reach, angle = (8 + i % 3) / HALF, 2 * math.pi * i / MOVED
            phi[i, 2], phi[i, 3] = reach * math.cos(angle), reach * math.sin(angle)
    return phi


def displaced(prior: Prior, n: int) -> Tensor:
    """Return samples of the prior, whose classes take turns, shifted or scaled."""
    x = prior.sample(n, seed=21, label=[i % prior.c_dim for i in range(n)]).clamp(0, 1)
    return transform(x, placements(n))


IMAGES["displaced"] = displaced

Columns = dict[str, dict[tuple[Any, ...], list[Cell]]]


def column(images: str, variant: Variant, n: int, each: int, **amount: Any) -> list[Cell]:
    """Return the cells of one method on n images, with ``each`` images in a cell."""
    name, options = variant
    constants = {"perceptual": False, "population": 18, **amount, **options}
    return [
        Cell(images, (k, k + each), "all", name, {"label": classes(k, k + each), **constants})
        for k in range(0, n, each)
    ]


def classes(start: int, end: int) -> list[int]:
    """Return the classes of the images from start to end; in every domain they take turns."""
    return [i % len(CONTRASTS) for i in range(start, end)]


def columns(quick: bool) -> Columns:
    """Return the cells of each table, by the name of their column."""
    n, each, few, many = (1, 1, 60, 90) if quick else (8, 4, 400, 4000)
    moved = {"n": 2, "each": 2} if quick else {"n": MOVED, "each": 5}
    paper = many if quick else 21786  # 30 x 30 + 300 steps of 18 members, as in the paper
    return {
        "transforms": {
            (title,): column(
                "displaced", ("basincma", {"lr": rate, "transform": wanted}), **moved, budget=many
            )
            for title, (rate, wanted) in SEARCHES.items()
        },
        "methods": {
            (title, images): column(images, VARIANTS[title], n, each, budget=many)
            for images in DOMAINS
            for title in VARIANTS
        },
        "cma": {
            (budget, images, title): column(images, variant, n, each, budget=budget)
            for budget in (few, many)
            for images in DOMAINS
            for title, variant in (("cma", VARIANTS["cma"]), ("draws", DRAWS))
        },
        "full": {
            (title, images): column(images, VARIANTS[title], min(n, 2), 1, budget=paper)
            for images in DOMAINS
            for title in FULL
        },
    }


def cells(quick: bool) -> list[Cell]:
    """Return the cells of all tables."""
    return [c for table in columns(quick).values() for column in table.values() for c in column]


def tables(results: Results, quick: bool) -> dict[str, Table]:
    """Return the table of each part."""
    cells_of = columns(quick)

    def values(table: str) -> Values:
        def of(metric: str, *column: Any) -> list[Any]:
            keys = [cell.key for cell in cells_of[table][column]]
            return [value for key in keys for value in results[key][metric]]

        return of

    return {
        "population": compared(values("methods"), tuple(VARIANTS)),
        "population_full": compared(values("full"), FULL),
        "population_transforms": moved(values("transforms")),
        "population_cma": drawn(values("cma"), [column[0] for column in cells_of["cma"]]),
    }


Values = Callable[..., list[Any]]  # metric, name of a column -> one value per image


def compared(of: Values, titles: tuple[str, ...]) -> Table:
    """Return medians of the three metrics, and wins against random restarts in each of them."""
    head = ["Method"]
    for images in DOMAINS:
        head += [images, f"{images}, average"]
    rows = [head + [f"Wins in {title}" for title in TITLES.values()]]

    def scores(title: str, *domains: str) -> Scores:
        return {m: [v for images in domains for v in of(m, title, images)] for m in METRICS}

    for title in titles:
        row = [title]
        for images in DOMAINS:
            row.append(trio(scores(title, images)))
            row.append(middle(map(decibels, of("average_loss", title, images))))
        if title == BASELINE:
            rows.append(row + [""] * len(METRICS))
        else:
            rows.append(row + metric_wins(scores(title, *DOMAINS), scores(BASELINE, *DOMAINS)))
    return rows


def decibels(loss: float) -> float:
    """Return the PSNR of a mean square that is multiplied by its weight in the loss."""
    return -10 * math.log10(loss / GRAY_LEVEL)


def moved(of: Values) -> Table:
    """Return the PSNR with and without the search of a transform, and the errors of its result."""
    rows = [["Images", *SEARCHES, "5 dB more", *PARAMETERS]]
    psnr = [of("psnr", title) for title in SEARCHES]
    gained = [searched - max(others) >= 5 for searched, *others in zip(*psnr, strict=True)]
    truth = placements(len(gained)).tolist()
    errors = [
        [abs(a - b) for a, b in zip(*pair, strict=True)]
        for pair in zip(of("transform", "with"), truth, strict=True)
    ]
    for kind, images in (
        ("shifted", slice(0, None, 2)),
        ("scaled", slice(1, None, 2)),
        ("all", slice(None)),
    ):
        row = [kind, *(middle(values[images]) for values in psnr)]
        row.append(f"{sum(gained[images])} of {len(gained[images])}")
        for k, unit in enumerate(PARAMETERS.values()):
            row.append(f"{unit * statistics.median(e[k] for e in errors[images]):.2f}")
        rows.append(row)
    return rows


def drawn(of: Values, budgets: list[int]) -> Table:
    """Return medians of CMA-ES and of random draws, and how often CMA-ES is better."""
    head = ["Evaluations", "Images", "cma", "draws", "Lower loss of cma"]
    rows = [head + [f"cma wins in {title}" for title in TITLES.values()]]
    for budget in dict.fromkeys(budgets):
        for images in DOMAINS:
            sides = [(budget, images, title) for title in ("cma", "draws")]
            scores = [{metric: of(metric, *side) for metric in METRICS} for side in sides]
            lower = wins(*(of("loss", *side) for side in sides), lower=True)
            rows.append([str(budget), images, *map(trio, scores), lower, *metric_wins(*scores)])
    return rows


if __name__ == "__main__":
    main("population", __doc__, cells, tables)
