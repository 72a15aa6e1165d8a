"""What it is worth to start from an encoder: ``python benchmarks/encoder.py``.

With the encoder that ships with the embedded prior, on four problems, each of 4 samples of the
prior and 4 phantoms on which neither was trained:

- first: the root mean square of A x - y and the PSNR of x before the first step. Starts are the
  mean style, one random latent, the best of 100 by their misfit, and the encoder with one, two and
  three rounds. This is the encoder alone, the learning-based method of the surveys;
- steps: gradient methods in z (``csgm``) and in w+ (``i2s``), and ``basincma``, from different
  starts with equal steps. The share of the steps that a start saves is 1 - t / T, if the search
  reaches after t steps the loss that a search of T steps from another start ends with. Huh et al.
  2020, appendix D, report 20 % for gradients and 40 % for BasinCMA, and no better final result.

The classes are known, and there is no perceptual term. ``--quick`` takes half a minute.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from cells import IMAGES, PRIOR, Results, Table, main, operator
from torch import Tensor

import gprior
from gprior.distances import scores
from gprior.priors import Encoder
from gprior.training import CONTRASTS

OPERATORS = ("half", "x4", "circulant 0.1", "noise 0.1")
DOMAINS = ("in range", "held out")
COUNT = 4
CANDIDATES = "best-of:100"
ROUNDS = {f"encoder, {n} round{'s' * (n > 1)}": n for n in (1, 2, 3)}
STARTS = ("mean", "random", CANDIDATES, *ROUNDS)
# Title -> method, constants, and starts of which the first is compared with.
SEARCHES: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "csgm": ("csgm", {"steps": 60}, ("random", "mean", CANDIDATES, "encoder")),
    "i2s": ("i2s", {"steps": 60}, ("mean", CANDIDATES, "encoder")),
    "basincma": (
        "basincma",
        {"steps": (4, 8, 0), "population": 6, "lr": 0.2},
        ("random", CANDIDATES, "encoder"),
    ),
}


@dataclass(frozen=True)
class Cell:
    """A problem whose starts are scored, or a search from one of its starts."""

    part: str  # "first", or a title of `SEARCHES`
    start: str
    operator: str
    images: str
    count: int
    quick: bool = False

    @property
    def key(self) -> str:
        """The name in the file of results."""
        parts = [self.part, self.start, self.operator, self.images, f"{self.count} images"]
        return " | ".join(parts)


def cells(quick: bool) -> list[Cell]:
    """Return the cells: the first losses, then the searches."""
    count, operators = (1, OPERATORS[1:3]) if quick else (COUNT, OPERATORS)
    pairs = [("first", start) for start in STARTS]
    pairs += [(title, start) for title, (_, _, starts) in SEARCHES.items() for start in starts]
    return [
        Cell(part, start, A, images, count, quick)
        for part, start in pairs
        for A in operators
        for images in DOMAINS
    ]


def compute(cell: Cell, device: str = "cpu") -> dict[str, Any]:
    """Return the scores of a cell, one per image."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    prior = gprior.load_prior(PRIOR)
    x = IMAGES[cell.images](prior, cell.count).to(prior.like)
    A = operator(cell.operator, prior)
    y = A(x)
    options: dict[str, Any] = {"perceptual": False, "stop": "fixed", "correction": None}
    options["label"] = [i % len(CONTRASTS) for i in range(cell.count)]
    if cell.part == "first":
        init: str | Encoder = cell.start
        if cell.start in ROUNDS:
            init = gprior.load_encoder(prior, rounds=ROUNDS[cell.start])
        values = {}
        for space, method in (("z", "csgm"), ("w", "i2s")):
            found = gprior.solve(y, A, prior, method, init=init, steps=1, lr=0.0, **options)
            values[f"misfit in {space}"] = rounded(misfit(A, found.x, y))
            values[f"psnr in {space}"] = rounded(scores(found.x, x)[0])
        return values
    name, constants, _ = SEARCHES[cell.part]
    if cell.quick:
        constants = {**constants, "steps": (1, 2, 0) if cell.part == "basincma" else 3}
    found = gprior.solve(y, A, prior, name, init=cell.start, **constants, **options)
    best = found.history.nan_to_num(torch.inf).cummin(1).values
    return {
        "best": [rounded(row) for row in best.tolist()],
        "misfit": rounded(misfit(A, found.x, y)),
        "psnr": rounded(scores(found.x, x)[0]),
        "evaluations": rounded(found.evaluations.tolist()),
    }


def misfit(A: Any, x: Tensor, y: Tensor) -> list[float]:
    """Return the root mean square of A x - y of each image."""
    found: list[float] = (A.A(x) - y).flatten(1).square().mean(1).sqrt().tolist()
    return found


def rounded(values: Sequence[float], digits: int = 5) -> list[float]:
    """Return numbers for the file of results."""
    return [round(float(value), digits) for value in values]


def saved(best: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> list[float]:
    """Return the share of the steps of the other search that each image saves, 1 - t / T.

    It is negative if the search does not reach the loss: then it is -1 by agreement.
    """
    shares = []
    for row, reference in zip(best, other, strict=True):
        steps = len(reference) - 1  # the first loss is that of the start
        t = next((k for k, loss in enumerate(row) if loss <= reference[-1]), 2 * steps)
        shares.append(1 - t / steps)
    return shares


def tables(results: Results, quick: bool) -> dict[str, Table]:
    """Return the first losses, and what the starts save."""
    operators = OPERATORS[1:3] if quick else OPERATORS
    count = 1 if quick else COUNT

    def of(part: str, start: str, A: str, images: str) -> dict[str, Any]:
        return dict(results[Cell(part, start, A, images, count).key])

    first = [["Problem", "Images", *STARTS]]
    for A in operators:
        for images in DOMAINS:
            for space in ("z", "w"):
                row = [A, f"{images}, {space}"]
                for start in STARTS:
                    values = of("first", start, A, images)
                    error, psnr = (
                        statistics.median(values[f"{k} in {space}"]) for k in ("misfit", "psnr")
                    )
                    row.append(f"{error:.3f} / {psnr:.1f}")
                first.append(row)
    steps = [["Method", "Images", "Start", "misfit", "PSNR", "evaluations", "saved", "of"]]
    for title, (_, _, starts) in SEARCHES.items():
        for images in DOMAINS:
            for start in starts:
                found = [of(title, start, A, images) for A in operators]
                row = [title, images, start]
                for metric, digits in (("misfit", 4), ("psnr", 1), ("evaluations", 0)):
                    values = [value for cell in found for value in cell[metric]]
                    row.append(f"{statistics.median(values):.{digits}f}")
                for other in (starts[0], CANDIDATES):
                    shares = []
                    for A, cell in zip(operators, found, strict=True):
                        shares += saved(cell["best"], of(title, other, A, images)["best"])
                    reached = sum(share >= 0 for share in shares)
                    same = start == other
                    text = f"{100 * statistics.median(shares):.0f} %, {reached} of {len(shares)}"
                    row.append("" if same else text)
                steps.append(row)
    steps[0][-2:] = ["saved against the first start", f"saved against {CANDIDATES}"]
    return {"encoder_first": first, "encoder_steps": steps}


if __name__ == "__main__":
    main("encoder", __doc__, cells, tables, compute)
