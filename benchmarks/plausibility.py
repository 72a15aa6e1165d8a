"""Does the prior contain the image? False alarms and power: ``python benchmarks/plausibility.py``.

The plausibility of `gprior.solve` (``check=True``) of 200 samples of the prior, of 40 phantoms on
which it was not trained, of 12 MR slices and a CT slice, and of 20 phantoms that were rotated,
scaled or shifted. The table counts the images that are said not to be in the prior: those with a
plausibility below 0.05.
"""

from __future__ import annotations

import argparse
import csv
import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch
from cells import PRIOR, RESULTS, TABLES, UNSEEN, moved, operator
from torch import Tensor

import gprior
from gprior.commands.demo import real_images
from gprior.commands.report import Table
from gprior.files import atomic_write, write_json
from gprior.priors import Prior
from gprior.problem import build_problem
from gprior.solvers import plausibility
from gprior.training import phantoms

OPERATORS = ("half", "x4", "circulant 0.1", "noise 0.1")
ALARM = 0.05


def images(prior: Prior, quick: bool) -> dict[str, Tensor]:
    """Return the images of every kind."""
    size = prior.image_shape[1]
    few = 10 if quick else 1
    drawn = phantoms(range(700, 720), size, seed=UNSEEN)[0][: 20 // few]
    movements = ({"angle": 20}, {"scale": 7 / 8}, {"scale": 5 / 4}, {"shift": (8, 0)})
    return {
        "in range": prior.sample(200 // few, seed=43).clamp(0, 1),
        "held out": phantoms(range(600, 640), size, seed=UNSEEN)[0][: 40 // few],
        "real slices": real_images(prior.image_shape[1:], mr=range(5, 17))[1][: 13 // few],
        "moved phantoms": torch.cat(
            [moved(x[None], **movements[i % 4]) for i, x in enumerate(drawn)]  # type: ignore[arg-type]
        ),
    }


def shares(name: str, quick: bool) -> dict[str, list[float]]:
    """Return the plausibilities of all images, measured by one operator."""
    torch.set_num_threads(1)
    prior = gprior.load_prior(PRIOR)
    A, found = operator(name, prior), {}
    for kind, x in images(prior, quick).items():
        problem = build_problem(A(x), A, prior, seed=list(range(len(x))))
        found[kind] = [round(v, 4) for v in plausibility(problem).tolist()]
    return found


def main() -> None:
    """Compute what is missing, and print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="check that the script works")
    parser.add_argument("--jobs", type=int, default=2, help="processes, of one thread each")
    args = parser.parse_args()
    path = RESULTS / f"plausibility{'-quick' * args.quick}.json"
    stored = json.loads(path.read_text()) if path.is_file() else {}
    missing = [A for A in OPERATORS[: 1 if args.quick else None] if A not in stored]
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        for A, found in zip(missing, pool.map(shares, missing, [args.quick] * 4), strict=False):
            stored[A] = found
            write_json(path, stored, "the results")
    kinds = list(next(iter(stored.values())))
    rows = [
        [A, *(f"{sum(v < ALARM for v in found[k])} of {len(found[k])}" for k in kinds)]
        for A, found in stored.items()
    ]
    head = ["Problem", *kinds]
    print(Table("plausibility", head, rows).text())
    if not args.quick:
        with atomic_write(TABLES / "plausibility.csv") as place, place.open("w", newline="") as f:
            csv.writer(f, lineterminator="\n").writerows([head, *rows])


if __name__ == "__main__":
    main()
