"""What a population buys: ``python benchmarks/population.py``, with ``--quick`` in two minutes.

On the embedded prior, images that are measured completely (A = 1) and whose class is known, by the
mean square alone, with 18 members:

- methods: 8 samples of the prior and 8 phantoms that it never saw, at 4000 evaluations of each
  image: medians of the best member, and of the average of the last population. *Random + polish*
  is restarts and polish without any evolution; the others have their wins in PSNR against it.
  *4 polished* spends the last steps on the four best members instead of all;
- full: the paper's budget, 30 x 30 + 300 steps of each member, on the first two images of each
  kind;
- transforms: 20 samples that were shifted by 8 to 10 pixels, or scaled by 0.75 or less or 1.3 or
  more, without and with the search of a transform, which is paid from the same 4000 evaluations.
  Without it at two steps of z, of which the better one counts for each image;
- cma: how often its loss is below that of as many random draws.

What the sampler itself takes is in ``sampler.py``.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any

import torch
from cells import IMAGES, METRICS, Cell, Results, Table, main, middle, trio, wins
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
    "basincma, sampled": ("basincma", {"told": "sampled"}),
    "basincma, redrawn": ("basincma", {"elites": False}),
    "basincma, sampled, redrawn": ("basincma", {"told": "sampled", "elites": False}),
    "cma+adam, 4 polished": ("cma+adam", {"polish": 4}),
    "basincma, 4 polished": ("basincma", {"polish": 4}),
}
DRAWS: Variant = ("cma", {"outer": "random"})
FULL = ("adam", "cma+adam", BASELINE, "basincma", "basincma, redrawn", "cma+adam, 4 polished")
DOMAINS = ("in range", "held out")
MOVED = 20  # images that were shifted or scaled
HALF = 32  # pixels of half a width, the unit of shifts
# Step of z, the paper's or one for few generations, and whether a transform is searched.
SEARCHES = {"with": (0.2, True), "without, 0.05": (0.05, False), "without, 0.2": (0.2, False)}
PARAMETERS = {"log s_x": 1, "log s_y": 1, "t_x, pixels": HALF, "t_y, pixels": HALF, "log γ": 1}


def placements(n: int) -> Tensor:
    """Return φ (n, 5) of images that were shifted and scaled in turn."""
    phi = torch.zeros(n, 5)
    for i in range(n):
        if i % 2:
            phi[i, :2] = math.log((0.7, 0.75, 1.3, 1.35)[i // 2 % 4])
        else:
            reach, angle = (8 + i % 3) / HALF, 2 * math.pi * i / MOVED
            phi[i, 2], phi[i, 3] = reach * math.cos(angle), reach * math.sin(angle)
    return phi


def displaced(prior: Prior, n: int) -> Tensor:
    """Return samples of the prior, of all classes in turn, that were shifted or scaled."""
    x = prior.sample(n, seed=21, label=[i % prior.c_dim for i in range(n)]).clamp(0, 1)
    return transform(x, placements(n))


IMAGES["displaced"] = displaced

Columns = dict[str, dict[tuple[Any, ...], list[Cell]]]


def column(images: str, variant: Variant, n: int, each: int, **amount: Any) -> list[Cell]:
    """Return the cells of one method on n images, ``each`` of them in a cell."""
    name, options = variant
    shared = {"perceptual": False, "population": 18, **amount, **options}
    return [
        Cell(images, (k, k + each), "all", name, {**shared, "label": classes(k, k + each)})
        for k in range(0, n, each)
    ]


def classes(start: int, end: int) -> list[int]:
    """Return the classes of images, which take turns in all domains."""
    return [i % len(CONTRASTS) for i in range(start, end)]


def columns(quick: bool) -> Columns:
    """Return the cells of each table by what their column is."""
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
    found = columns(quick)

    def values(table: str) -> Values:
        def of(metric: str, *which: Any) -> list[Any]:
            own = found[table][which]
            return [value for cell in own for value in results[cell.key][metric]]

        return of

    return {
        "population": compared(values("methods"), tuple(VARIANTS)),
        "population_full": compared(values("full"), FULL),
        "population_transforms": moved(values("transforms")),
        "population_cma": drawn(values("cma"), [which[0] for which in found["cma"]]),
    }


Values = Callable[..., list[Any]]  # metric, and which column -> one value for each image


def compared(of: Values, titles: tuple[str, ...]) -> Table:
    """Return medians of PSNR, SSIM and perceptual distance, and wins against restarts."""
    head = ["Method"]
    for images in DOMAINS:
        head += [images, f"{images}, average"]
    rows = [[*head, f"wins against {BASELINE}"]]
    for title in titles:
        row = [title]
        for images in DOMAINS:
            row.append(trio({metric: of(metric, title, images) for metric in METRICS}))
            row.append(middle(map(decibels, of("average_loss", title, images))))
        pairs = [[v for i in DOMAINS for v in of("psnr", t, i)] for t in (title, BASELINE)]
        rows.append([*row, "" if title == BASELINE else wins(*pairs)])
    return rows


def decibels(loss: float) -> float:
    """Return the PSNR of a mean square that has its weight in the loss."""
    return -10 * math.log10(loss / GRAY_LEVEL)


def moved(of: Values) -> Table:
    """Return what the search of a transform gains, and how far it is from the truth."""
    rows = [["Images", *SEARCHES, "5 dB more", *PARAMETERS]]
    psnr = [of("psnr", title) for title in SEARCHES]
    gained = [found - max(others) >= 5 for found, *others in zip(*psnr, strict=True)]
    truth = placements(len(gained)).tolist()
    errors = [
        [abs(a - b) for a, b in zip(*pair, strict=True)]
        for pair in zip(of("transform", "with"), truth, strict=True)
    ]
    for kind, own in (
        ("shifted", slice(0, None, 2)),
        ("scaled", slice(1, None, 2)),
        ("all", slice(None)),
    ):
        row = [kind, *(middle(values[own]) for values in psnr)]
        row.append(f"{sum(gained[own])} of {len(gained[own])}")
        for k, unit in enumerate(PARAMETERS.values()):
            row.append(f"{unit * statistics.median(e[k] for e in errors[own]):.2f}")
        rows.append(row)
    return rows


def drawn(of: Values, budgets: list[int]) -> Table:
    """Return how often CMA-ES ends below as many random draws."""
    rows = [["Evaluations", "Images", "PSNR of cma", "PSNR of draws", "cma below"]]
    for budget in dict.fromkeys(budgets):
        for images in DOMAINS:
            sides = [(budget, images, title) for title in ("cma", "draws")]
            psnr = [middle(of("psnr", *side)) for side in sides]
            won = wins(*([-v for v in of("loss", *side)] for side in sides))
            rows.append([str(budget), images, *psnr, won])
    return rows


if __name__ == "__main__":
    main("population", __doc__, cells, tables)
