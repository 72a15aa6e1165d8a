"""Whether path-length regularization makes inversion easier: ``python benchmarks/path_length.py``.

L-BRGM (Conmy et al. 2021, section 2) uses StyleGAN2 because its path-length regularizer makes the
generator easier to invert. Here two priors were trained by commands that differ in this regularizer
alone; the commands are in ``twins.py``. Held-out phantoms are inverted in w and in w+, by the same
search as in ``overparameterized.py``.
"""

from __future__ import annotations

import statistics

from cells import Results, Table, main, middle, wins
from overparameterized import steps_to
from twins import BASELINE, UNREGULARIZED, Measurement, measured

SPACES = ("w", "w+")
# Name in the tables -> name of the twin.
TWINS = {"with": BASELINE, "without": UNREGULARIZED}


def cells(quick: bool) -> list[Measurement]:
    """Return the measurements."""
    few = {"images": 3, "steps": 12, "quick": True} if quick else {}
    small, many = few or {"images": 20}, few or {"images": 1000}
    return [
        *(Measurement("generation", name, **many) for name in TWINS.values()),
        *(
            Measurement("inversion", name, space, **small)
            for space in SPACES
            for name in TWINS.values()
        ),
    ]


def tables(results: Results, quick: bool) -> dict[str, Table]:
    """Return what the regularizer changes in the priors, and in their inversion.

    What has no result yet has no row.
    """
    done = {(c.kind, c.twin, c.space): results.get(c.key) for c in cells(quick)}
    priors = [["Path-length regularization", "Fréchet distance", "Path length"]]
    for title, twin in TWINS.items():
        cell = done["generation", twin, ""]
        if cell is not None:
            priors.append([title, f"{cell['frechet']:.2f}", f"{cell['path length']:.2f}"])
    head = ["Space", "Path-length regularization", "Distance", "PSNR", "Closer than without"]
    rows = [[*head, "Better PSNR than without", "Steps to the distance of without"]]
    for space in SPACES:
        other = done["inversion", UNREGULARIZED, space]
        for title, twin in TWINS.items():
            cell = done["inversion", twin, space]
            if cell is None:
                continue
            row = [space, title, middle(cell["perceptual"], 4), middle(cell["psnr"], 2), "", "", ""]
            if other is not None:
                last = other["curve"][max(other["curve"], key=int)]
                row[6] = steps_to(cell["curve"], statistics.median(last))
                if twin != UNREGULARIZED:
                    row[4] = wins(cell["perceptual"], other["perceptual"], lower=True)
                    row[5] = wins(cell["psnr"], other["psnr"])
            rows.append(row)
    return {"path_length_priors": priors, "path_length_inversion": rows}


if __name__ == "__main__":
    main("path_length", __doc__, cells, tables, measured)
