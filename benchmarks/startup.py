"""How long the command line takes to start.

Prints the median processor time in seconds of ``import torch``, ``gprior info``, ``gprior sample``
and ``gprior reconstruct`` up to the first step of its search, each in a new process with one
thread. The runs of the rows, and of the checkouts that are compared, alternate, so that a busy
machine slows all of them alike. POSIX only.

    python benchmarks/startup.py [--runs 7] [CHECKOUT ...]
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parents[1]
COMMAND = "import sys; from gprior.cli import main; sys.argv[1:] = {words}; main()"
# Ends the process at the first step of the search, without the clean-up of Python.
FIRST_STEP = """
import os
import gprior.commands.task as command
solve = command.solve
command.solve = lambda *a, **k: solve(*a, callback=lambda *step: os._exit(0), **k)
"""


def rows(folder: Path) -> dict[str, str]:
    """Return the Python code of every row of the table."""
    np.save(folder / "y.npy", np.random.default_rng(0).random((1, 1, 64, 64), dtype=np.float32))
    words = ["reconstruct", str(folder / "y.npy"), "-o", str(folder / "out"), "-A", "half-mask"]
    words += ["--device", "cpu"]
    random_start = [*words, "--label", "0", "--set", "init=random"]
    sample = ["sample", "phantom-64", "-o", str(folder / "grid.png"), "--device", "cpu"]
    return {
        "import torch": "import torch",
        "import torch, deepinv": "import torch, deepinv, os; os._exit(0)",
        "gprior info phantom-64": COMMAND.format(words=["info", "phantom-64"]),
        "gprior sample phantom-64": COMMAND.format(words=sample),
        "gprior reconstruct, init=random": FIRST_STEP + COMMAND.format(words=random_start),
        "gprior reconstruct": FIRST_STEP + COMMAND.format(words=words),
    }


def seconds(code: str, checkout: Path) -> float:
    """Run code in a new process with the package of a checkout; return its processor time."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description="Processor time until a command has started.")
    parser.add_argument("--runs", type=int, default=7, help="Runs of every row.")
    parser.add_argument("checkouts", nargs="*", type=Path, default=[HERE], help="To compare.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        codes = rows(Path(folder))
        times: dict[tuple[str, Path], list[float]] = {}
        for run in range(given.runs + 1):
            for name, code in codes.items():
                for checkout in given.checkouts:
                    taken = seconds(code, checkout.resolve())
                    if run:  # the first run reads the files from the disk
                        times.setdefault((name, checkout), []).append(taken)
    print("Median seconds".ljust(36), *given.checkouts, sep="  ")
    for name in codes:
        medians = [statistics.median(times[name, checkout]) for checkout in given.checkouts]
        print(name.ljust(36), *(f"{value:.2f}" for value in medians), sep="  ")


if __name__ == "__main__":
    main()
