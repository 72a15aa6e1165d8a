"""Numbers of the table of methods in the documentation: ``python benchmarks/method_table.py``.

For each method with its default constants, with the embedded prior and one thread:

- the evaluations that the default constants take for a known label;
- processor seconds per evaluation of a batch of 8 images, relative to those of L-BRGM, without and
  with the perceptual term (medians over rounds in which the methods take turns);
- reach: how well the method reproduces an image that is measured completely and without noise
  (A = 1), with 300 evaluations, from the best of 100 latents, by the mean square alone. It is the
  median PSNR in dB of 3 samples of the prior, and of the 3 real slices of ``gprior demo``, which
  are outside its domain.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings

import torch

import gprior
from gprior.commands.demo import real_images
from gprior.distances import scores
from gprior.operators import Masking, Operator, PartialCirculant
from gprior.priors import Prior
from gprior.solvers import SOLVERS, find_solver

ROUNDS, IMAGES, INIT = 3, 8, "best-of:100"
SHORT, LONG, BUDGET = 24, 48, 300  # evaluations


def seconds_per_evaluation(prior: Prior, A: Operator, name: str, images: int) -> float:
    """Return processor seconds of one evaluation of a batch: the difference of two runs."""
    y = A(prior.sample(images, seed=1, label=0))
    taken, spent = [], []
    for budget in (SHORT, LONG):
        before = time.process_time()
        result = gprior.solve(
            y, A, prior, name, budget=budget, init="random", label=0, stop="fixed"
        )
        taken.append(time.process_time() - before)
        spent.append(float(result.evaluations[0]))
    return (taken[1] - taken[0]) / (spent[1] - spent[0])


def reach(prior: Prior, name: str, budget: int) -> tuple[float, float]:
    """Return the median PSNR of reproduced samples and of reproduced real slices."""
    A = Masking(prior.image_shape, torch.ones(prior.image_shape[1:]))
    real = real_images(prior.image_shape[1:])[1]
    truth = torch.cat([prior.sample(len(real), seed=1).clamp(0, 1), real])
    result = gprior.solve(A(truth), A, prior, name, budget=budget, init=INIT, perceptual=False)
    psnr = scores(result.generated, truth)[0]
    return statistics.median(psnr[: len(real)]), statistics.median(psnr[len(real) :])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="check that the script works")
    quick = parser.parse_args().quick
    turns, images, budget = (1, 1, 40) if quick else (ROUNDS, IMAGES, BUDGET)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    prior = gprior.load_prior("phantom-64")
    for name, kind in SOLVERS.items():
        print(f"{name:<12}{find_solver(kind(), prior, {}).cost(1):>10.1f}")
    operators = {
        "data terms": PartialCirculant(prior.image_shape, 0.1),
        "with perceptual": Masking(prior.image_shape, "half"),
    }
    names = [name for name, kind in SOLVERS.items() if kind.needs <= prior.inputs]
    names = names[:3] if quick else names
    for title, A in operators.items():
        rounds = [
            {name: seconds_per_evaluation(prior, A, name, images) for name in names}
            for _ in range(turns)
        ]
        middle = {name: statistics.median(r[name] for r in rounds) for name in names}
        print(f"evaluation, {title}: lbrgm {middle['lbrgm']:.3f} s for {images} images")
        for name in names:
            print(f"  {name:<12}{middle[name] / middle['lbrgm']:>6.2f}", flush=True)
    print("reach: samples, real slices (dB)")
    for name in names:
        inside, real = reach(prior, name, budget)
        print(f"  {name:<12}{inside:>6.1f}{real:>7.1f}", flush=True)


if __name__ == "__main__":
    main()
