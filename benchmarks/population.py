"""What a population buys: ``python benchmarks/population.py``, with ``--quick`` in a minute.

On the embedded prior, images that are measured completely (A = 1), by the mean square alone:

- methods: 8 samples of the prior and 8 phantoms that it never saw, at an equal number of
  evaluations. Median PSNR in dB of the best member and of the average loss of the last population;
  ``random`` is restarts and polish without any evolution;
- full: the paper's budget (30 x 30 + 300 steps of each member) on two images;
- transforms: samples that were shifted by at least 8 pixels or scaled by at most 0.75 or at least
  1.3, with and without the search of a transform: median PSNR, how many gain 5 dB, median errors;
- cma: how often its loss is above that of as many random draws;
- sampler: share of a run at 512 dimensions and 22 members that is spent in ask and tell.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
import warnings
from typing import Any

import torch
from torch import Tensor

import gprior
from gprior import samplers
from gprior.operators import Masking, Operator
from gprior.phantoms import phantoms
from gprior.priors import Prior, StyleGAN2
from gprior.scores import scores
from gprior.transforms import transform

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "adam": ("adam", {}),
    "random + polish": ("basincma", {"outer": "random"}),
    "cma": ("cma", {}),
    "cma+adam": ("cma+adam", {}),
    "basincma": ("basincma", {}),
    "basincma, sampled": ("basincma", {"told": "sampled"}),
    "basincma, redrawn": ("basincma", {"elites": False}),
    "basincma, sampled, redrawn": ("basincma", {"told": "sampled", "elites": False}),
    "basincma, diagonal": ("basincma", {"outer": "diagonal"}),
}
ROOT_SQUARES = 255**2 / 2  # the loss of a mean square of 1


def whole(prior: Prior) -> Operator:
    """Return A = 1."""
    return Masking(prior.image_shape, torch.ones(prior.image_shape[1:]))


def solve(truth: Tensor, prior: Prior, name: str, **options: Any) -> gprior.Result:
    """Embed images by the mean square alone."""
    fixed = {"perceptual": False, "stop": "fixed", **options}
    return gprior.solve(whole(prior)(truth), whole(prior), prior, name, **fixed)


def row(title: str, *values: float) -> None:
    """Print one line of a table."""
    print(f"  {title:<28}" + "".join(f"{value:>10.2f}" for value in values), flush=True)


def compare(prior: Prior, n: int, amount: dict[str, Any], variants: list[str]) -> None:
    """Print the table of methods."""
    inside = [i % prior.c_dim for i in range(n)]
    unseen, labels = phantoms(range(900_000, 900_000 + n), prior.image_shape[1], seed=7)
    truth = torch.cat([prior.sample(n, seed=11, label=inside).clamp(0, 1), unseen])
    label = inside + labels.tolist()
    print(f"{n} samples, {n} unseen phantoms: best, average (dB of each); seconds per image")
    for title in variants:
        name, options = VARIANTS[title]
        result = solve(truth, prior, name, label=label, **options, **amount)
        psnr = scores(result.x, truth)[0]
        average = -10 * (result.diagnostics["average_loss"] / ROOT_SQUARES).log10()
        parts = [
            statistics.median(values)
            for half in (slice(0, n), slice(n, 2 * n))
            for values in (psnr[half], average[half].tolist())
        ]
        row(title, *parts, result.seconds / len(truth))


def moved(prior: Prior, n: int) -> tuple[Tensor, Tensor, list[int]]:
    """Return samples that were shifted or scaled by keyed amounts, and how."""
    label = [i % prior.c_dim for i in range(n)]
    phi = torch.zeros(n, 5)
    for i in range(n):
        side, angle = prior.image_shape[1], 2 * math.pi * i / n
        if i % 2:
            phi[i, :2] = math.log((0.7, 0.75, 1.3, 1.35)[i // 2 % 4])
        else:
            reach = 2 * (8 + i % 3) / side
            phi[i, 2], phi[i, 3] = reach * math.cos(angle), reach * math.sin(angle)
    return transform(prior.sample(n, seed=21, label=label).clamp(0, 1), phi), phi, label


def transforms(prior: Prior, n: int, steps: tuple[int, int, int]) -> None:
    """Print what the search of a transform buys."""
    truth, phi, label = moved(prior, n)
    found = [
        solve(truth, prior, "basincma", label=label, steps=steps, transform=wanted)
        for wanted in (False, True)
    ]
    without, with_it = (scores(result.x, truth)[0] for result in found)
    gains = sum(b - a >= 5 for a, b in zip(without, with_it, strict=True))
    error = (found[1].latents["transform"] - phi).abs().median(0).values
    print(f"{n} moved samples: PSNR without, with; share of at least 5 dB more")
    row("transform", statistics.median(without), statistics.median(with_it), gains / n)
    print("  median error of log s_x, log s_y, t_x, t_y (half-widths), log γ")
    row("", *error.tolist())


def never_worse(prior: Prior, n: int, generations: int) -> None:
    """Print how often CMA-ES ends above as many random draws."""
    label = [i % prior.c_dim for i in range(n)]
    truth = prior.sample(n, seed=31, label=label)
    options = {"label": label, "steps": generations}
    losses = [solve(truth, prior, "cma", outer=o, **options).loss for o in ("csa", "random")]
    worse = int((losses[0] > losses[1]).sum())
    print(f"cma against as many random draws: worse in {worse} of {n}")


def overhead(prior: Prior, images: int, steps: int) -> None:
    """Print the sampler's share of a run at d = 512 and 22 members."""
    wide = StyleGAN2(**{**prior.config, "z_dim": 512}).freeze()  # random weights, as costly
    taken = 0.0

    class Timed(samplers.CSA):
        def ask(self, normal: Tensor) -> Tensor:
            nonlocal taken
            start = time.perf_counter()
            found = super().ask(normal)
            taken += time.perf_counter() - start
            return found

        def tell(self, points: Tensor, values: Tensor, injected: bool = False) -> None:
            nonlocal taken
            start = time.perf_counter()
            super().tell(points, values, injected)
            taken += time.perf_counter() - start

    from gprior.solvers import populations

    truth = wide.sample(images, label=0)
    populations.CSA = Timed  # type: ignore[misc]
    try:
        for name, amount in (("cma", (steps,)), ("basincma", (steps, steps, 0))):
            taken = 0.0
            size = amount if name == "basincma" else amount[0]
            result = solve(truth, wide, name, label=0, steps=size, population=22)
            row(f"{name}: sampler, % of run", 100 * taken / result.seconds, result.seconds)
    finally:
        populations.CSA = samplers.CSA  # type: ignore[misc]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a check, not a measurement")
    parser.add_argument("--evaluations", type=int, default=4000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", choices=["methods", "full", "transforms", "cma", "sampler"])
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_default_device(args.device)
    prior = gprior.load_prior("phantom-64").to(args.device)
    quick, wanted = args.quick, lambda part: args.only in (None, part)
    if wanted("methods"):
        budget = 60 if quick else args.evaluations
        print(f"At {budget} evaluations per image:")
        compare(prior, 1 if quick else 8, {"budget": budget}, list(VARIANTS))
    if wanted("full") and not quick:
        print("At the paper's steps:")
        compare(prior, 1, {"steps": 1200}, ["random + polish", "basincma", "basincma, redrawn"])
    if wanted("transforms"):
        transforms(prior, *((2, (2, 2, 2)) if quick else (20, (30, 30, 100))))
    if wanted("cma"):
        never_worse(prior, *((2, 3) if quick else (8, 60)))
    if wanted("sampler"):
        print("Sampler at d = 512, 22 members: %, seconds of the run")
        overhead(prior, *((1, 2) if quick else (4, 10)))


if __name__ == "__main__":
    main()
