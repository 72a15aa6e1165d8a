"""What augmentation is worth with few training images: ``python benchmarks/augmentation.py``.

Trains priors of 32 pixels on 500, 2,000 and 10,000 phantoms, without augmentation and with the
adaptive one. The Fréchet distance to 2,048 held-out phantoms is measured every 250 steps. A run
that is stopped continues from its checkpoint.
"""

from __future__ import annotations

import argparse
import csv
import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from cells import RESULTS, TABLES

from gprior.commands.report import Table
from gprior.files import atomic_write, write_json
from gprior.training import Settings, Trainer, phantom_set

COUNTS = (500, 2000, 10000)
WAYS: tuple[float | str, ...] = (0.0, "adaptive")
CONFIG = {
    "img_resolution": 32,
    "img_channels": 1,
    "c_dim": 3,
    "z_dim": 32,
    "w_dim": 64,
    "channel_base": 1024,
    "channel_max": 64,
    "num_mapping_layers": 2,
}


def train(count: int, way: float | str, steps: int, held_out: int, folder: Path) -> dict[str, Any]:
    """Train a prior, and return its curve and the distance of real images."""
    torch.set_num_threads(1)
    data = phantom_set(CONFIG["img_resolution"], count, held_out)
    trainer = Trainer(data, CONFIG, Settings(steps=steps, augment=way), torch.device("cpu"))
    checkpoint = folder / f"augmentation-{count}-{way}.pt"
    if checkpoint.exists():
        trainer.restore(checkpoint)
    trainer.train(every=min(250, steps), report=lambda t: t.save(checkpoint))
    checkpoint.unlink()
    return {"curve": trainer.curve, "frechet_real": trainer.frechet_real()}


def rows(stored: dict[str, Any], counts: tuple[int, ...]) -> list[list[str]]:
    """Return the table: the last and the smallest distance by number of images."""
    names = {0.0: "none", "adaptive": "adaptive"}
    head = ["Augmentation", *(f"{count:,} phantoms" for count in counts), "p at the end"]
    table = [head]
    for way in WAYS:
        found = [stored.get(f"{count} | {way}") for count in counts]
        if all(found):
            cells = [
                f"{one['curve'][-1]['frechet']:.1f} ({min(c['frechet'] for c in one['curve']):.1f})"
                for one in found
                if one
            ]
            ends = [one["curve"][-1].get("augment", way) for one in found if one]
            table.append([names[way], *cells, " / ".join(f"{p:.2f}" for p in ends)])
    return table


def main() -> None:
    """Compute what is missing, and print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="check that the script works")
    parser.add_argument("--jobs", type=int, default=2, help="processes, of one thread each")
    args = parser.parse_args()
    counts = (60,) if args.quick else COUNTS
    steps, held_out = (4, 32) if args.quick else (2500, 2048)
    path = RESULTS / f"augmentation{'-quick' * args.quick}.json"
    stored = json.loads(path.read_text()) if path.is_file() else {}
    missing = [(n, way) for way in WAYS for n in counts if f"{n} | {way}" not in stored]
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        running = {
            f"{n} | {way}": pool.submit(train, n, way, steps, held_out, RESULTS)
            for n, way in missing
        }
        for key, future in running.items():
            stored[key] = future.result()
            write_json(path, stored, "the results")
    table = rows(stored, counts)
    print(Table("augmentation", table[0], table[1:]).text())
    if not args.quick:
        with atomic_write(TABLES / "augmentation.csv") as place, place.open("w", newline="") as f:
            csv.writer(f, lineterminator="\n").writerows(table)


if __name__ == "__main__":
    main()
