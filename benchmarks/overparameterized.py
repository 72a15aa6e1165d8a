"""What overparameterization does to a StyleGAN2: ``python benchmarks/overparameterized.py``.

It repeats tables 1 to 4 and figures 6, 8 and 11 of Poirier-Ginter et al. 2022,
"Overparameterization improves StyleGAN inversion", in relative form, on a pair of twins: two
priors that were trained on the same phantoms by commands that differ in one word. The commands
are in ``twins.py``.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cells import Results, Table, main, middle, wins
from twins import BASELINE, MARKS, OVER, Measurement, measured

FACTORS = (4, 8)  # of nearest-neighbour downsampling; the paper has 16 at 256 pixels
# W of the baseline is not in the paper: it shows what the search gains from more numbers alone,
# without the training.
ROWS = ((BASELINE, "w"), (BASELINE, "w+"), (BASELINE, "W"), (OVER, "W"), (OVER, "W+"))
PAPER = ((BASELINE, "w+"), (OVER, "W"), (OVER, "W+"))  # the rows of its tables 2 and 3


def cells(quick: bool) -> list[Measurement]:
    """Return the measurements."""
    few = {"images": 3, "steps": 12, "quick": True} if quick else {}
    small = few or {"images": 8}
    batch = {**few, "steps": 3} if quick else {"images": 16, "steps": 17}
    return [
        *(Measurement("cost", name, **batch) for name in (BASELINE, OVER)),
        *(
            Measurement("generation", name, **(few or {"images": 2000}))
            for name in (BASELINE, OVER)
        ),
        *(Measurement("inversion", *row, **few) for row in ROWS),
        *(Measurement("starts", *row, **small) for row in ((BASELINE, "w+"), (OVER, "W"))),
        *(
            Measurement("upsampling", *row, factor=factor, **(few or {"images": 20}))
            for factor in FACTORS
            for row in PAPER
        ),
    ]


def name_of(cell: Measurement) -> str:
    """Return the twin and the space as text, as the paper names them."""
    return " ".join(part for part in (cell.twin, cell.space) if part)


def median(cell: Mapping[str, Any], name: str, digits: int) -> str:
    """Return the median over images of a value as text."""
    return middle(cell[name], digits)


def quartiles(values: Sequence[float]) -> str:
    """Return the median and the quartiles of distances as text."""
    low, mid, high = statistics.quantiles(values, n=4)
    return f"{mid:.4f} ({low:.4f}, {high:.4f})"


def steps_to(curve: Mapping[str, Sequence[float]], error: float) -> str:
    """Return the first measured step at which the median distance is at most an error."""
    reached = [int(step) for step in curve if statistics.median(curve[step]) <= error]
    return str(min(reached)) if reached else "not reached"


def inversions(done: Mapping[Measurement, Mapping[str, Any]]) -> Table:
    """Return tables 2 and 3, with what the baseline w+ reaches as the unit of the steps."""
    own = {(c.twin, c.space): v for c, v in done.items() if c.kind == "inversion"}
    head = ["Search", "Distance", "PSNR", "Fréchet distance", "Closer than baseline w+"]
    rows = [[*head, "Steps to its distance", "Midpoints, Fréchet distance", "Path", "s / step"]]
    first = own.get((BASELINE, "w+"))
    for (name, space), cell in own.items():
        own_row = [f"{name} {space}", median(cell, "perceptual", 4), median(cell, "psnr", 1)]
        versus = steps = ""
        if first is not None:
            last = first["curve"][max(first["curve"], key=int)]
            steps = steps_to(cell["curve"], statistics.median(last))
            if cell is not first:
                versus = wins(cell["perceptual"], first["perceptual"], lower=True)
        own_row += [f"{cell['frechet']:.2f}", versus, steps, f"{cell['midpoints']:.2f}"]
        rows.append([*own_row, f"{cell['path']:.4f}", f"{cell['seconds per step']:.3f}"])
    return rows


def tables(results: Results, quick: bool) -> dict[str, Table]:
    """Return the tables. What has no result yet has no row."""
    done = {cell: results[cell.key] for cell in cells(quick) if cell.key in results}

    def of(kind: str, head: list[str], row: Callable[[Measurement, Any], list[str]]) -> Table:
        return [head, *(row(cell, v) for cell, v in done.items() if cell.kind == kind)]

    marks = [str(step) for step in MARKS if not quick or step <= 12]
    return {
        "overparameterized_generation": of(
            "generation",
            ["Twin", "Fréchet distance", "Path length"],
            lambda c, v: [c.twin, f"{v['frechet']:.2f}", f"{v['path length']:.2f}"],
        ),
        "overparameterized_inversion": inversions(done),
        "overparameterized_curve": of(
            "inversion",
            ["Search", *marks],
            lambda c, v: [name_of(c), *(quartiles(v["curve"][step]) for step in marks)],
        ),
        "overparameterized_starts": of(
            "starts",
            ["Search", "Distance to the image", "Between latents", "Between images", "Midpoints"],
            lambda c, v: [
                name_of(c),
                median(v, "distance", 4),
                median(v, "latents", 2),
                median(v, "images", 4),
                median(v, "midpoints", 4),
            ],
        ),
        "overparameterized_upsampling": of(
            "upsampling",
            ["Search", "Factor", "Misfit", "Distance", "PSNR", "Fréchet distance"],
            lambda c, v: [
                name_of(c),
                str(c.factor),
                median(v, "misfit", 4),
                median(v, "perceptual", 4),
                median(v, "psnr", 1),
                f"{v['frechet']:.2f}",
            ],
        ),
        "overparameterized_cost": of(
            "cost",
            ["Twin", "Seconds per training step", "MB kept by a pass of 16 images"],
            lambda c, v: [c.twin, f"{v['seconds per step']:.3f}", f"{v['megabytes']:.1f}"],
        ),
    }


if __name__ == "__main__":
    main("overparameterized", __doc__, cells, tables, measured)
