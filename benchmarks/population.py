"""What a population buys: ``python benchmarks/population.py``, with ``--quick`` in two minutes.

On the embedded prior, images that are measured completely (A = 1) and whose class is known, by the
mean square alone, with 18 members:

- methods: 8 samples of the prior and 8 phantoms that it never saw, at 4000 evaluations of each
  image. Medians of the best member, and in *average* of the mean square of the last population;
  *random + polish* is restarts and polish without any evolution, and has the wins of the others
  in PSNR beside it;
- full: the paper's budget, 30 x 30 + 300 steps of each member, on one image of each kind;
- transforms: 20 samples that were shifted by 8 to 10 pixels, or scaled by 0.75 or less or 1.3 or
  more, without and with the search of a transform, which is paid from the same 4000 evaluations;
- cma: its loss against that of as many random draws.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from cells import IMAGES, METRICS, Cell, Results, Table, main, middle, wins
from torch import Tensor

from gprior.objective import GRAY_LEVEL
from gprior.phantoms import CONTRASTS
from gprior.priors import Prior
from gprior.transforms import transform

BASELINE = "random + polish"
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "adam": ("adam", {}),
    "cma": ("cma", {}),
    "cma+adam": ("cma+adam", {}),
    BASELINE: ("basincma", {"outer": "random"}),
    "basincma": ("basincma", {}),
    "basincma, sampled": ("basincma", {"told": "sampled"}),
    "basincma, redrawn": ("basincma", {"elites": False}),
    "basincma, sampled, redrawn": ("basincma", {"told": "sampled", "elites": False}),
    "basincma, diagonal": ("basincma", {"outer": "diagonal"}),
}
DRAWS = ("cma", {"outer": "random"})
FULL = (BASELINE, "basincma", "basincma, redrawn")
DOMAINS = ("in range", "held out")
BUDGET, FEW = 4000, 400
MOVED = 20  # images that were shifted or scaled
SEARCHES: dict[str, dict[str, Any]] = {"0.05": {}, "0.2": {"lr": 0.2}}  # steps of z
KINDS: dict[str, Callable[[int], bool]] = {
    "shifted": lambda i: i % 2 == 0,
    "scaled": lambda i: i % 2 == 1,
    "all": lambda i: True,
}


# --- Images that were moved ------------------------------------------------------------------


def placements(n: int) -> Tensor:
    """Return φ (n, 5) of the moved images: shifted and scaled in turn."""
    phi = torch.zeros(n, 5)
    for i in range(n):
        if i % 2:
            phi[i, :2] = math.log((0.7, 0.75, 1.3, 1.35)[i // 2 % 4])
        else:
            reach, angle = (8 + i % 3) / HALF, 2 * math.pi * i / MOVED
            phi[i, 2], phi[i, 3] = reach * math.cos(angle), reach * math.sin(angle)
    return phi


HALF = 32  # pixels of the prior's half-width, the unit of shifts


def displaced(prior: Prior, n: int) -> Tensor:
    """Return samples of the prior, of all classes in turn, that were moved."""
    x = prior.sample(n, seed=21, label=[i % prior.c_dim for i in range(n)])
    return transform(x.clamp(0, 1), placements(n))


IMAGES["displaced"] = displaced


# --- Cells -----------------------------------------------------------------------------------


def parts(
    images: str, variant: tuple[str, dict[str, Any]], quick: bool, budget: int | None, n: int, each: int
) -> list[Cell]:
    """Return the cells of a column: n images, so many ``each``; without a budget the usual steps."""
    name, options = variant
    amount = {"budget": 60} if quick else {} if budget is None else {"budget": budget}
    n, each = (1, 1) if quick else (n, each)
    return [
        Cell(images, (k, k + each), "all", name, {
            "perceptual": False, "population": 18,
            "label": [i % len(CONTRASTS) for i in range(k, k + each)], **amount, **options,
        })
        for k in range(0, n, each)
    ]  # fmt: skip
