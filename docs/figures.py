"""Draw the pictures of the documentation from the embedded prior: ``python docs/figures.py``.

The script writes ``_static/first.png`` (the example of the first page) and
``_static/transforms.png`` (objects at another position or size; ten minutes). For the model card it
writes ``model_card/samples.png`` and ``model_card/curve.png``; the curve comes from
``model_card/phantom-64.json``.
"""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import gprior
from gprior.distances import scores
from gprior.solvers.placement import transform
from gprior.training import draw_curve

HERE = Path(__file__).parent
SIZE = 1.5  # inches per image


def panel(rows: list[Tensor], titles: list[str]) -> Any:
    """Return a figure with one image per cell; ``rows[i]`` is (n, 1, H, W) in [0, 1]."""
    import matplotlib.pyplot as plt

    n = len(rows[0])
    size = (SIZE * n + 1.3, SIZE * len(rows))
    figure, axes = plt.subplots(len(rows), n, figsize=size, squeeze=False)
    for line, images, title in zip(axes, rows, titles, strict=True):
        for axis, image in zip(line, images, strict=True):
            axis.imshow(image[0].clamp(0, 1), cmap="gray", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        line[0].set_ylabel(title, rotation=0, ha="right", va="center")
    figure.subplots_adjust(1.25 / size[0], 0.0, 1.0, 1.0, 0.03, 0.03)
    return figure


def first(prior: gprior.priors.Prior) -> Any:
    """Run the example of the first page on five images."""
    truth = prior.sample(5, seed=1).clamp(0, 1)
    A = gprior.operators.PartialCirculant(prior.image_shape, m=400, seed=0)
    y = A(truth)
    result = gprior.solve(y, A, prior)
    for name, x in (("A^T y", A.A_dagger(y)), ("gprior", result.x)):
        print(f"median PSNR: {name} {statistics.median(scores(x, truth)[0]):.1f}")
    return panel([truth, A.A_dagger(y), result.x], ["truth", "pseudo-inverse", "gprior.solve"])


def transforms(prior: gprior.priors.Prior) -> Any:
    """Reconstruct moved and scaled samples, without and with the search of a transform."""
    rows = [(1, 0.3, 0.0), (1, -0.2, 0.25), (0.7, 0.0, 0.0), (1.35, 0.0, 0.0), (0.8, 0.15, -0.2)]
    phi = torch.tensor([[math.log(s), math.log(s), t_x, t_y, 0.0] for s, t_x, t_y in rows])
    label = [i % prior.c_dim for i in range(len(rows))]
    truth = transform(prior.sample(len(rows), seed=5, label=label), phi).clamp(0, 1)
    A = gprior.operators.Masking(prior.image_shape, torch.ones(prior.image_shape[1:]))
    y, images = A(truth), []
    for options in ({}, {"transform": True, "lr": 0.2}):
        constants = {"budget": 4000, "perceptual": False, "label": label, **options}
        images.append(gprior.solve(y, A, prior, "basincma", **constants).x)
        print(f"{options}: PSNR {[round(v, 1) for v in scores(images[-1], truth)[0]]}")
    return panel([truth, *images], ["measured", "without", "transform=True"])


def samples(prior: gprior.priors.Prior) -> Any:
    """Show eight samples of each class."""
    names = prior.record["classes"]
    rows = [prior.sample(8, seed=k, label=k) for k in range(len(names))]
    return panel(rows, names)


def main() -> None:
    """Draw every picture."""
    import matplotlib

    matplotlib.use("Agg")
    torch.set_num_threads(1)
    prior = gprior.load_prior("phantom-64")
    card = HERE / "model_card"
    facts = json.loads((card / "phantom-64.json").read_text())
    points = [point for point in facts["curve"] if "frechet" in point]
    draw_curve(card / "curve.png", points, facts["frechet_real"])
    samples(prior).savefig(card / "samples.png", dpi=80)
    first(prior).savefig(HERE / "_static" / "first.png", dpi=100)
    transforms(prior).savefig(HERE / "_static" / "transforms.png", dpi=100)


if __name__ == "__main__":
    main()
