"""What augmentation does for a prior of few images: ``python benchmarks/augmentation.py``.

A small StyleGAN2 of 32 pixels is trained on 500, 2,000 and 10,000 phantoms, without augmentation
and with the adaptive one. The Fréchet distance of 2,048 samples to 2,048 held-out phantoms is
measured along the way. A training that was interrupted continues from its checkpoint, which is in
the folder ``runs``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from cells import Results, Table, main

from gprior.training import Settings, Trainer, phantom_set

COUNTS = (500, 2000, 10000)  # phantoms
AUGMENT = {"none": 0.0, "adaptive": "adaptive"}
CONFIG = {
    "img_resolution": 32,
    "img_channels": 1,
    "c_dim": 3,
    "z_dim": 32,
    "w_dim": 64,
    "channel_base": 512,
    "channel_max": 32,
    "num_mapping_layers": 4,
}
HELD_OUT = 2048
EVERY = 500  # steps between two measurements
CHECKPOINTS = Path(__file__).parents[1] / "runs" / "augmentation"


@dataclass(frozen=True)
class Training:
    """One training."""

    count: int
    augment: str
    steps: int = 4000
    seed: int = 0

    @property
    def key(self) -> str:
        """The name in the file of results."""
        return f"{self.count} phantoms | {self.augment} | {self.steps} steps | seed {self.seed}"


def trained(cell: Training, device: str) -> dict[str, Any]:
    """Train, and return the curve."""
    torch.set_num_threads(1)
    path = CHECKPOINTS / f"{cell.count}-{cell.augment}-{cell.steps}-{cell.seed}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = Settings(steps=cell.steps, seed=cell.seed, augment=AUGMENT[cell.augment])
    data = phantom_set(CONFIG["img_resolution"], cell.count, HELD_OUT)
    trainer = Trainer(data, CONFIG, settings, torch.device(device))
    if path.exists():
        trainer.restore(path)
    trainer.train(every=min(EVERY, cell.steps), report=lambda trainer: trainer.save(path))
    names = ("step", "frechet", "p", "r_t")
    curve = [{k: round(point[k], 4) for k in names if k in point} for point in trainer.curve]
    return {
        "curve": curve,
        "real": round(trainer.frechet_real(), 4),
        "seconds": round(trainer.seconds, 1),
    }


def cells(quick: bool) -> list[Training]:
    """Return the trainings of the table."""
    if quick:
        return [Training(count, name, 4) for count in (20, 40) for name in AUGMENT]
    return [Training(count, name) for count in COUNTS for name in AUGMENT]


def tables(results: Results, quick: bool) -> dict[str, Table]:
    """Return the distances at the end of each training, and the least ones along the way.

    A training that has no result yet has no row.
    """
    head = ["Phantoms", "Augmentation", "Steps", "Last distance", "Least distance", "At step"]
    rows = [[*head, "Last r_t", "Last p", "Real images"]]
    for cell in cells(quick):
        if cell.key not in results:
            continue
        curve = results[cell.key]["curve"]
        best, last = min(curve, key=lambda point: point["frechet"]), curve[-1]
        values = [f"{last['frechet']:.2f}", f"{best['frechet']:.2f}", str(best["step"])]
        values += [f"{last[name]:.2f}" for name in ("r_t", "p")]
        # The distance of real images needs as many as are held out.
        real = f"{results[cell.key]['real']:.2f}" if cell.count >= HELD_OUT else ""
        rows.append([str(cell.count), cell.augment, str(last["step"]), *values, real])
    return {"augmentation": rows}


if __name__ == "__main__":
    main("augmentation", __doc__, cells, tables, trained)
