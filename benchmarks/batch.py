"""How fast many items are solved: one by one, in batches, refilled, and by two workers.

Samples of the prior and phantoms are measured by downsampling x4 with noise of standard deviation
0.1, so that the rows of ``auto`` stop at different times. A prior that costs nothing, a matrix,
shows what leases and files cost. Prints the tables, and writes them to ``docs/tables`` unless it is
a quick run. Figures that are in ``results/batch.json`` are not measured again.

Where one process works on the CPU, its processor time counts, which other work on the machine
hardly changes. Two workers need an idle machine.

    python benchmarks/batch.py [--quick] [--device cuda]
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from cells import RESULTS, TABLES, held_out, in_range
from torch import Tensor

import gprior
from gprior.batch import Folder, status_of
from gprior.commands.report import Table
from gprior.files import atomic_write, write_json
from gprior.operators import Downsampling
from gprior.priors import Generator, Prior
from gprior.randomness import normal

STORED = RESULTS / "batch.json"
NOISE = 0.1
PART = 64  # images that each way solves before the next way has its turn
METHOD = "auto"


def problem(count: int, device: str) -> tuple[list[gprior.Item], Downsampling, Prior]:
    """Return noisy measurements, of samples of the prior and new phantoms in turn, A and the prior.

    Rows of samples soon reach the noise level and stop; many rows of phantoms never do.
    """
    prior = gprior.load_prior("phantom-64", device)
    A = Downsampling(prior.image_shape, 4).to(device)
    half = (count + 1) // 2
    pairs = torch.stack([images(prior, half).to(prior.like) for images in (in_range, held_out)], 1)
    clean = A(pairs.flatten(0, 1)[:count])
    y = clean + NOISE * normal([(k, "benchmark") for k in range(count)], clean.shape[1:], clean)
    return [gprior.Item(f"{k:05}", row.cpu(), seed=k) for k, row in enumerate(y)], A, prior


def seconds(work: Callable[[], object]) -> float:
    """Return how long a function takes."""
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def processor() -> float:
    """Return the processor time so far, in seconds, of this process and of those it waited for."""
    return sum(os.times()[:4])


class Stored(dict[str, Any]):
    """Figures by name, written to a file, if there is one, as soon as they are measured."""

    def __init__(self, path: Path | None = None) -> None:
        super().__init__(json.loads(path.read_text()) if path and path.is_file() else {})
        self.path = path

    def __setitem__(self, name: str, figures: Any) -> None:
        super().__setitem__(name, figures)
        print(name, json.dumps(figures), flush=True)
        if self.path:
            write_json(self.path, dict(self), "the results")


class Utilisation:
    """The mean utilisation of the GPU while a block runs; nothing without a GPU."""

    def __enter__(self) -> Utilisation:
        self._values: list[float] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def _look(self) -> None:
        while torch.cuda.is_available() and not self._done.wait(0.25):
            self._values.append(float(torch.cuda.utilization()))

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def __str__(self) -> str:
        return f"{sum(self._values) / len(self._values):.0f} %" if self._values else ""


def throughput(
    count: int, steps: int | None, device: str, batch: int | None, stored: Stored
) -> Iterator[list[str]]:
    """Yield the rows of the table of throughput. Figures that are stored are not measured again.

    The images come in parts, and the ways take turns at each part, so that a machine that becomes
    slower or faster does so for all of them.
    """
    items, A, prior = problem(count, device)
    place = "cpu" if device == "cpu" else "cuda:0"
    ways = {
        "one by one": {"max_batch": 1},
        "batches": {"max_batch": batch, "refill": False},
        "batches, refilled": {"max_batch": batch},
    }
    parts = {f"from {k}": items[k : k + PART] for k in range(0, count, PART)}
    # Workers take seconds to start, so they have all images at once.
    workers = {"batches, refilled, 2 workers": {"max_batch": batch, "workers": 2}}
    runs = [(way, part) for part in parts for way in ways] + [(way, "all") for way in workers]
    options = {"noise_std": NOISE, "devices": place, **({"steps": steps} if steps else {})}
    # One item first, so that no way pays for what is loaded once.
    list(gprior.solve_many(items[:1], A, prior, METHOD, **{**options, "steps": 2}))
    found: dict[str, list[dict[str, Any]]] = {}
    for way, part in runs:
        key = f"{device}, {way}, {part}"
        if key not in stored:
            everything = {**options, **{**ways, **workers}[way]}
            stored[key] = figures(parts.get(part, items), A, prior, everything)
        found.setdefault(way, []).append(stored[key])
    alone = 0.0
    for way, measured in found.items():
        spent = total(measured, "processor" if way in ways and device == "cpu" else "seconds")
        alone = alone or spent
        used = " / ".join(f["used"] for f in measured if f["used"])
        worked = f"{total(measured, 'processor'):.0f}"
        yield [
            way, f"{spent:.0f}", worked, f"{count / spent:.3g}", f"{alone / spent:.2f}", used
        ]  # fmt: skip


def total(measured: list[dict[str, Any]], what: str) -> float:
    """Return the sum of a figure over the parts."""
    return float(sum(figures[what] for figures in measured))


def figures(
    items: list[gprior.Item], A: Downsampling, prior: Prior, options: dict[str, Any]
) -> dict[str, Any]:
    """Return what solving the items takes: seconds, processor seconds, and use of the GPU."""
    with Utilisation() as used:
        before = processor()
        spent = seconds(lambda: list(gprior.solve_many(items, A, prior, METHOD, **options)))
    return {"seconds": spent, "processor": processor() - before, "used": str(used)}


# --- Overhead --------------------------------------------------------------------------------


def matrix_prior() -> tuple[Generator, Tensor]:
    """Return a prior that costs next to nothing, and a matrix that measures its images."""
    weights = normal([(0, "matrix")], (64, 8), torch.zeros(()))[0]
    prior = Generator(lambda z: (z @ weights.t()).view(-1, 1, 8, 8).tanh(), 8)
    return prior, normal([(1, "matrix")], (20, 64), torch.zeros(()))[0]


def overhead(count: int) -> Iterator[list[str]]:
    """Yield the rows of the table of overhead: of a run of many items that cost nothing."""
    prior, A = matrix_prior()
    y = prior.sample(min(count, 1000), seed=3).flatten(1) @ A.t()
    options = {"steps": 2, "init": "random", "stop": "fixed"}
    items = [(f"{k:05}", y[k % len(y)]) for k in range(count)]
    alone = seconds(lambda: [gprior.solve(p, A, prior, "csgm", **options) for p in y.split(32)])
    memory = []
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "run"

        def work() -> None:
            for k, _ in enumerate(gprior.solve_many(items, A, prior, "csgm", out=out, **options)):
                if k in (count // 10, count - 1):
                    memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)

        spent = seconds(work)
        looked = seconds(lambda: status_of(Folder(out)))
        command = [sys.executable, "-c", "from gprior.cli import main; main()", "status", str(out)]
        whole = seconds(lambda: subprocess.run(command, check=True, capture_output=True))
    yield ["items", str(count)]
    yield ["seconds per item", f"{spent / count:.4f}"]
    yield ["of which the search", f"{alone / len(y):.4f}"]
    yield ["overhead per item, ms", f"{1000 * (spent / count - alone / len(y)):.1f}"]
    yield ["memory after a tenth, MiB", f"{memory[0]:.0f}"]
    yield ["memory at the end, MiB", f"{memory[-1]:.0f}"]
    yield ["status, seconds", f"{looked:.3f}"]
    yield ["gprior status with its start, seconds", f"{whole:.2f}"]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few items and steps; write no table")
    parser.add_argument("--device", default="cpu", help="where to compute, such as cuda")
    parser.add_argument("--count", type=int, help="number of images of the table of throughput")
    args = parser.parse_args()
    stored = Stored() if args.quick else Stored(STORED)
    torch.set_num_threads(1)
    tables = {
        "batch_throughput": (
            ["Way", "Seconds", "Processor s", "Items/s", "Times as fast", "GPU used"],
            throughput(
                args.count or (6 if args.quick else 256), 4 if args.quick else None, args.device,
                3 if args.quick else None, stored,
            ),
        ),
        "batch_overhead": (["Measured", "Value"], overhead(200 if args.quick else 10_000)),
    }  # fmt: skip
    for name, (head, produced) in tables.items():
        rows = list(produced)
        print(f"\n{name}\n{Table(name, head, rows).text()}\n", flush=True)
        if not args.quick:
            name += "" if args.device == "cpu" else "_gpu"
            with atomic_write(TABLES / f"{name}.csv") as place, place.open("w", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows([head, *rows])


if __name__ == "__main__":
    main()
