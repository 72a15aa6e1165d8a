"""ILO against CSGM by the number of measurements: ``python benchmarks/ilo_csgm.py``.

1 to 40 % of a partial circulant, 10 samples of the prior and 10 phantoms on which it was not
trained. Both methods start from the best of 100 latents and have 300 evaluations of each image.
"""

from __future__ import annotations

from cells import METRICS, TITLES, Cell, Results, Table, main, metric_wins, middle

SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
IMAGES, METHODS = ("in range", "held out"), ("ilo", "csgm")


def cell(images: str, share: float, name: str, quick: bool) -> Cell:
    """Return one cell."""
    constants = {"budget": 60 if quick else 300, "init": "best-of:100"}
    return Cell(images, (0, 2 if quick else 10), f"circulant {share}", name, constants)


def cells(quick: bool) -> list[Cell]:
    """Return the cells of the table."""
    return [cell(i, m, name, quick) for m in SHARES for i in IMAGES for name in METHODS]


def tables(results: Results, quick: bool) -> dict[str, Table]:
    """Return medians of ILO / CSGM, and the wins of ILO in each metric."""
    head = ["PSNR, dB", "SSIM", "Perceptual distance"]
    head += [f"ILO wins in {title}" for title in TITLES.values()]
    rows = [["Images", "Measurements", *head]]
    for images in IMAGES:
        for share in SHARES:
            ilo, csgm = (results[cell(images, share, name, quick).key] for name in METHODS)
            medians = [
                " / ".join(middle(side[metric], digits) for side in (ilo, csgm))
                for metric, digits in METRICS.items()
            ]
            rows.append([images, f"{100 * share:g} %", *medians, *metric_wins(ilo, csgm)])
    return {"ilo_csgm": rows}


if __name__ == "__main__":
    main("ilo_csgm", __doc__, cells, tables)
