"""What the perceptual term of a method does: ``python benchmarks/perceptual_weight.py``.

Half mask, x4 super-resolution and denoising at 0.1, at 200 evaluations of each image and with the
user's default stopping rule. L-BRGM without the term, with the weight 1.75 and with 10, 100 and
1000 times as much, on the features of the prior's discriminator; BRGM and I2S without the term and
with their defaults. The images are 8 samples of the prior and 8 phantoms that are in no other
table, because this table serves to choose a default. 10 images outside the domain of the prior
confirm the choice.
"""

from __future__ import annotations

from typing import Any

from cells import IMAGES, METRICS, TITLES, Cell, Results, Table, main, metric_wins, middle, trio
from torch import Tensor

from gprior.priors import Prior
from gprior.training import phantoms

SEED = 11  # of images that are in no other table


def tuning_samples(prior: Prior, n: int) -> Tensor:
    """Return samples of the prior, whose classes take turns."""
    return prior.sample(n, seed=SEED, label=[i % prior.c_dim for i in range(n)]).clamp(0, 1)


def tuning_phantoms(prior: Prior, n: int) -> Tensor:
    """Return phantoms on which the prior was not trained."""
    return phantoms(range(n), prior.image_shape[1], seed=SEED)[0]


IMAGES["in range for tuning"] = tuning_samples
IMAGES["held out for tuning"] = tuning_phantoms

OPERATORS = ("half", "x4", "noise 0.1")
COUNT = {"held out for tuning": 8, "in range for tuning": 8, "outside": 10}  # images
# Weight of the perceptual term -> constants.
WEIGHTS: dict[str, dict[str, Any]] = {
    "none": {"perceptual": False},
    "1.75": {"perceptual": None, "feature": 1.75},
    "17.5": {"perceptual": None, "feature": 17.5},
    "175": {"perceptual": None, "feature": 175.0},
    "1750": {"perceptual": None, "feature": 1750.0},
}
USUAL = "1.75"
OTHERS = {"brgm": "0.87", "i2s": "1"}  # method -> its default weight


def cell(method: str, images: str, A: str, constants: dict[str, Any], quick: bool) -> Cell:
    """Return one cell."""
    shared = {"budget": 60 if quick else 200, "init": "best-of:100"}
    rows = (0, 2 if quick else COUNT[images])
    return Cell(images, rows, A, method, {**shared, **constants}, stop="auto")


def weighted(images: str, A: str, quick: bool) -> dict[str, Cell]:
    """Return the cells of L-BRGM by weight."""
    return {name: cell("lbrgm", images, A, w, quick) for name, w in WEIGHTS.items()}


def with_and_without(method: str, A: str, quick: bool) -> dict[str, Cell]:
    """Return the cells of another method, without and with its perceptual term."""
    settings = {"none": {"perceptual": False}, OTHERS[method]: {"perceptual": None}}
    images = "held out for tuning"
    return {name: cell(method, images, A, w, quick) for name, w in settings.items()}


def cells(quick: bool) -> list[Cell]:
    """Return the cells of the tables."""
    groups = [weighted("held out for tuning", A, quick) for A in OPERATORS]
    groups += [with_and_without(method, A, quick) for method in OTHERS for A in OPERATORS[:2]]
    groups += [weighted(images, A, quick) for images in list(COUNT)[1:] for A in OPERATORS]
    return [cell for group in groups for cell in group.values()]


def tables(results: Results, quick: bool) -> dict[str, Table]:
    """Return the medians by weight, the share of the term, and the wins against a default."""
    head = ["Weight", "PSNR / SSIM / perceptual distance", "Term / loss"]
    head += [f"Wins in {title}" for title in TITLES.values()]
    rows = [["Images", "Operator", *head]]
    for images in COUNT:
        for A in OPERATORS:
            rows += [[images, A, *row] for row in compared(weighted(images, A, quick), results)]
    others = [["Method", "Operator", *head]]
    for method, usual in OTHERS.items():
        for A in OPERATORS[:2]:
            group = with_and_without(method, A, quick)
            others += [[method, A, *row] for row in compared(group, results, usual)]
    named = {"perceptual_weight": rows, "perceptual_others": others}
    return {name: table for name, table in named.items() if len(table) > 1}


def compared(group: dict[str, Cell], results: Results, usual: str = USUAL) -> Table:
    """Return a row for each weight that is measured; wins are those against the usual weight."""
    rows = []
    for name, cell in group.items():
        if not results.keys() >= {cell.key, group[usual].key}:
            continue
        scores, reference = results[cell.key], results[group[usual].key]
        term = middle(scores["term perceptual"], 2) if "term perceptual" in scores else "0"
        won = [""] * len(METRICS) if name == usual else metric_wins(scores, reference)
        rows.append([name, trio(scores), f"{term} / {middle(scores['loss'])}", *won])
    return rows


if __name__ == "__main__":
    main("perceptual_weight", __doc__, cells, tables)
