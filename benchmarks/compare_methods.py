"""All methods on four problems and three domains: ``python benchmarks/compare_methods.py``.

Half mask, x4 super-resolution, 10 % partial circulant and denoising at 0.1, of 10 samples of the
prior, 10 phantoms that it never saw, and 10 images outside its domain: 4 MR slices, a CT slice
and 5 phantoms that were rotated, scaled or shifted. Every method has 300 evaluations of the
generator per image, an unknown class and the best of 100 latents to start from included, and its
own constants otherwise. Beside them the pseudo-inverse and total variation.
"""

from __future__ import annotations

from cells import METRICS, Cell, Results, Table, main, middle

from gprior.solvers import SOLVERS

IMAGES = ("in range", "held out", "outside")
OPERATORS = ("half", "x4", "circulant 0.1", "noise 0.1")
POPULATIONS = ("adam", "cma", "cma+adam", "basincma")  # they have a table of their own
METHODS = ("A+", "tv", *(name for name in SOLVERS if name not in POPULATIONS))


def cell(images: str, A: str, name: str, quick: bool) -> Cell:
    """Return one cell."""
    shared = {"budget": 60 if quick else 300, "init": "best-of:100"}
    return Cell(images, (0, 2 if quick else 10), A, name, {} if name in METHODS[:2] else shared)


def cells(quick: bool) -> list[Cell]:
    """Return the cells of the tables."""
    return [cell(i, A, name, quick) for A in OPERATORS for name in METHODS for i in IMAGES]


def tables(results: Results, quick: bool) -> dict[str, Table]:
    """Return a table per operator: medians by method and metric, of the domains in turn."""
    found = {}
    for A in OPERATORS:
        rows = [["Method", "PSNR, dB", "SSIM", "Perceptual distance"]]
        for name in METHODS:
            cells = [results[cell(images, A, name, quick).key] for images in IMAGES]
            medians = [
                [middle(c[metric], digits) for c in cells] for metric, digits in METRICS.items()
            ]
            rows.append([name, *map(" / ".join, medians)])
        found[f"methods_{A.replace(' ', '_')}"] = rows
    return found


if __name__ == "__main__":
    main("compare_methods", __doc__, cells, tables)
