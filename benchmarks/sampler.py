"""The share of a run that CMA-ES itself takes: ``python benchmarks/sampler.py``.

512 dimensions and 22 members, with a generator as large as the embedded one. The share is the time
in the calls "ask" and "tell" over the time of the run: without gradients (cma), and with 10 steps
of each member in each of 10 generations (basincma). There is one image, so that no other shares
the cost of a call.
"""

from __future__ import annotations

import argparse
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch

import gprior
from gprior.operators import Masking
from gprior.priors import StyleGAN2
from gprior.search import CSA

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RUNS: dict[str, dict[str, Any]] = {
    "cma": {"solver": "cma", "steps": 30},
    "cma, diagonal": {"solver": "cma", "steps": 30, "outer": "diagonal"},
    "basincma": {"solver": "basincma", "steps": (10, 10, 0)},
}
QUICK: dict[str, Any] = {"cma": 2, "basincma": (2, 2, 0)}


@contextmanager
def timed() -> Iterator[list[float]]:
    """Collect the seconds of every call of ask and tell."""
    seconds: list[float] = []

    def watched(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            start = time.perf_counter()
            result = method(*args, **options)
            seconds.append(time.perf_counter() - start)
            return result

        return call

    with patch.object(CSA, "ask", watched(CSA.ask)), patch.object(CSA, "tell", watched(CSA.tell)):
        yield seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="check that the script works")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    small = gprior.load_prior("phantom-64")
    prior = StyleGAN2(**{**small.config, "z_dim": 512}).freeze()  # random weights, as costly
    A = Masking(prior.image_shape, torch.ones(prior.image_shape[1:]))
    y = A(prior.sample(1, label=0))
    shared = {"label": 0, "population": 22, "perceptual": False, "stop": "fixed"}
    for name, options in RUNS.items():
        amount = {"steps": QUICK[options["solver"]]} if args.quick else {}
        with timed() as spent:
            run = gprior.solve(y, A, prior, **{**shared, **options, **amount})
        share = 100 * sum(spent) / run.seconds
        print(f"{name:<16}{share:6.2f} % of {run.seconds:.1f} s in {len(spent) // 2} generations")


if __name__ == "__main__":
    main()
