"""All methods on four problems and three domains: ``python benchmarks/compare_methods.py``.

Half mask, x4 super-resolution, 10 % partial circulant and denoising at 0.1, of 10 samples of the
prior, 10 phantoms on which it was not trained, and 10 images outside its domain: 4 MR slices, a CT
slice and 5 phantoms that were rotated, scaled or shifted. Every method has 300 evaluations of the
generator per image, which pay for the choice among 100 starting latents of unknown class too, and
its default constants otherwise. The pseudo-inverse and total variation are in the same tables.

Measurements without noise are fitted for all steps (``stop="fixed"``). A second set of tables has
what a user gets by default (``stop="auto"``): about 5 % of the measurements are held out, and the
iterate that predicts them best is returned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cells import METRICS, TITLES, Cell, Results, Table, joined, main, metric_wins, middle

from gprior.solvers import SOLVERS

IMAGES = ("in range", "held out", "outside")
OPERATORS = ("half", "x4", "circulant 0.1", "noise 0.1")
POPULATIONS = ("adam", "cma", "cma+adam", "basincma")  # they have a table of their own
# These have benchmarks of their own: the default method, and one for another kind of generator.
ELSEWHERE = ("auto", "overparameterized")
METHODS = ("A+", "tv", *(name for name in SOLVERS if name not in (*POPULATIONS, *ELSEWHERE)))
# What is measured with the default stopping rule as well. With noise all tables have it.
WITHOUT_NOISE = OPERATORS[:3]
BY_DEFAULT = (
    "lbrgm", "brgm", "csgm", "i2s", "pnorm", "ilo", "pulse", "projector", "latent", "robust",
    "sphinx", "i2s++",
)  # fmt: skip


def cell(images: str, A: str, name: str, quick: bool, stop: str | None = None) -> Cell:
    """Return one cell: a method with its default constants.

    Without ``stop``, methods have the perceptual term of their papers where y is an image. With it,
    they have what is their default.
    """
    constants: dict[str, Any] = {}
    if name in SOLVERS:
        constants = {"budget": 60 if quick else 300, "init": "best-of:100"}
        if stop is None:
            constants["perceptual"] = None
    return Cell(images, (0, 2 if quick else 10), A, name, constants, stop=stop)


def cells(quick: bool) -> list[Cell]:
    """Return the cells of the tables."""
    usual = [cell(i, A, name, quick) for A in OPERATORS for name in METHODS for i in IMAGES]
    return usual + [
        cell(i, A, name, quick, "auto")
        for name in BY_DEFAULT
        for A in WITHOUT_NOISE
        for i in IMAGES
    ]


def medians(domains: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the medians of each metric, those of the domains in turn."""
    return [
        " / ".join(middle(scores[metric], digits) for scores in domains)
        for metric, digits in METRICS.items()
    ]


def tables(results: Results, quick: bool) -> dict[str, Table]:
    """Return tables by operator: medians of all steps, and of the default stopping rule.

    The latter also have the wins of the default rule against all steps over all domains. They
    have the methods that are measured completely.
    """

    def keys(A: str, name: str, stop: str | None = None) -> list[str]:
        return [cell(images, A, name, quick, stop).key for images in IMAGES]

    def domains(A: str, name: str, stop: str | None = None) -> list[Mapping[str, Any]]:
        return [results[key] for key in keys(A, name, stop)]

    head = ["Method", "PSNR, dB", "SSIM", "Perceptual distance"]
    result = {}
    for A in OPERATORS:
        rows = [[name, *medians(domains(A, name))] for name in METHODS]
        result[f"methods_{A.replace(' ', '_')}"] = [head, *rows]
    for A in WITHOUT_NOISE:
        rows = [[*head, *(f"Wins in {title}" for title in TITLES.values())]]
        for name in BY_DEFAULT:
            if not results.keys() >= set(keys(A, name, "auto")):
                continue
            default, fixed = domains(A, name, "auto"), domains(A, name)
            rows.append([name, *medians(default), *metric_wins(joined(default), joined(fixed))])
        if len(rows) > 1:
            result[f"methods_{A.replace(' ', '_')}_auto"] = rows
    return result


if __name__ == "__main__":
    main("compare_methods", __doc__, cells, tables)
