"""Time the operators: downsampling against deepinv's, and partial circulant sensing.

    python benchmarks/operators.py

What is timed is what one step of a solver needs: A x and the gradient of a function of it. The two
downsamplings take turns, so that other load on the machine slows both alike.
"""

from __future__ import annotations

import argparse
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import deepinv
import torch
from torch import Tensor

from gprior.operators import Downsampling, PartialCirculant

REQUIRED = 6.0  # times faster than deepinv


def gradient(A: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return the gradient of 1/2 ||A x||^2, by automatic differentiation."""
    y = A(x)
    return torch.autograd.grad(y, x, y.detach())[0]


def medians(works: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Return the median time of each function in milliseconds; the functions take turns."""
    seconds: list[list[float]] = [[] for _ in works]
    for turn in range(repeats + 2):
        for work, times in zip(works, seconds, strict=True):
            start = time.perf_counter()
            work()
            if turn >= 2:  # the first turns warm up
                times.append(time.perf_counter() - start)
    return [1e3 * statistics.median(times) for times in seconds]


def memory() -> tuple[float, float]:
    """Return resident and peak megabytes of this process (Linux)."""
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    return resident / 1e6, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def circulant(repeats: int) -> None:
    """Print the time and memory of a partial circulant operator."""
    x = torch.rand(1, 3, 1024, 1024, requires_grad=True)
    before, _ = memory()
    start = time.perf_counter()
    A = PartialCirculant(x.shape[1:], 0.01)
    built = 1e3 * (time.perf_counter() - start)
    with torch.no_grad():
        A.A_dagger(A.A(x))
    operator = memory()[1] - before
    gradient(A.A, x)
    step = memory()[1] - before
    forward, backward = medians([lambda: A.A(x.detach()), lambda: gradient(A.A, x)], repeats)
    print("partial circulant, 3x1024x1024, m = 1 %")
    print(f"  built {built:.0f} ms, A {forward:.0f} ms, A and gradient {backward:.0f} ms")
    print(f"  memory beyond the image: {operator:.0f} MB, with a gradient {step:.0f} MB")


def downsampling(repeats: int, batch: int) -> float:
    """Print the times of both downsamplings, and return how many times faster gprior's is."""
    x = torch.rand(batch, 3, 256, 256, requires_grad=True)
    size = tuple(x.shape[1:])
    theirs = deepinv.physics.Downsampling(size, filter="bicubic", factor=4)
    ours = Downsampling(size, 4, "bicubic")
    difference = float((gradient(ours.A, x) - gradient(theirs.A, x)).abs().max())
    slow, fast = medians([partial(gradient, A.A, x) for A in (theirs, ours)], repeats)
    print(f"downsampling, {batch} x 3x256x256, bicubic, factor 4: A and gradient")
    print(f"  deepinv {slow:.2f} ms, gprior {fast:.2f} ms, difference {difference:.1e}")
    print(f"  ratio {slow / fast:.1f} (at least {REQUIRED:.0f} required)")
    return slow / fast


def main() -> int:
    """Measure and print; return 1 if the required ratio is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="check that the script works")
    parser.add_argument("--repeats", type=int, default=50, help="timed runs of each (default 50)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    args = parser.parse_args()
    repeats = 3 if args.quick else args.repeats
    torch.set_num_threads(args.threads)
    print(
        f"python {platform.python_version()}, torch {torch.__version__}, "
        f"deepinv {deepinv.__version__}, {torch.get_num_threads()} thread(s)"
    )
    circulant(max(3, repeats // 10))
    ratio = downsampling(repeats, batch=1)
    downsampling(max(3, repeats // 5), batch=8)
    return 0 if args.quick or ratio >= REQUIRED else 1


if __name__ == "__main__":
    sys.exit(main())
