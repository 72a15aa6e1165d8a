"""The twins of ``overparameterized.py`` and ``path_length.py``, and what is measured of them.

Every distance between images is on the features of a fixed random network, which no method
optimises. All searches optimise the same features, those of the baseline's discriminator.

These commands train the twins, each in one to two hours of one core. The last one is for
``path_length.py`` alone. The file ``phantom-32.safetensors`` of each run belongs in the folder
``weights`` beside this script, under the name of the run. That of the baseline is there already::

    twin="--resolution 32 --channel-max 64 --w-dim 64 --mapping-layers 2 --no-noise"
    twin="$twin --steps 3000 --device cpu"
    gprior train --out runs/baseline $twin --path-length 2
    gprior train --out runs/overparameterized $twin --path-length 2 --overparameterized
    gprior train --out runs/unregularized $twin
    cp runs/unregularized/phantom-32.safetensors benchmarks/weights/unregularized.safetensors
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import torch
from cells import UNSEEN, scored
from torch import Tensor

import gprior
from gprior.distances import FeatureDistance, random_distance
from gprior.operators import Downsampling, Masking, Operator
from gprior.priors import spread
from gprior.randomness import generator
from gprior.training import (
    Settings,
    Trainer,
    frechet_distance,
    phantom_set,
    phantoms,
    random_features,
)

WEIGHTS = Path(__file__).parent / "weights"
BASELINE, OVER, UNREGULARIZED = "baseline", "overparameterized", "unregularized"
TINY = {"img_resolution": 16, "img_channels": 1, "c_dim": 3, "z_dim": 8, "w_dim": 8}
TINY |= {"channel_base": 128, "channel_max": 8, "num_mapping_layers": 2, "use_noise": False}
# Name of a space -> constants of the solver.
SPACES: dict[str, dict[str, bool]] = {
    "w": {"by_filter": False, "by_layer": False},
    "w+": {"by_filter": False, "by_layer": True},
    "W": {"by_filter": True, "by_layer": False},
    "W+": {"by_filter": True, "by_layer": True},
}
MARKS = (10, 20, 50, 100, 200, 300, 500, 600, 800, 1000)  # steps at which figure 6 is measured
STARTS = 4  # random starts of each image
SEGMENTS = 5  # of an interpolation


@dataclass(frozen=True)
class Measurement:
    """One measurement of one twin."""

    kind: str  # a name in `KINDS`
    twin: str
    space: str = ""
    images: int = 40
    steps: int = 1000
    factor: int = 0
    quick: bool = False  # on a tiny twin that was hardly trained

    @property
    def key(self) -> str:
        """The name in the file of results."""
        parts = [self.kind, self.twin, self.space, f"{self.images} images", f"{self.steps} steps"]
        parts += [f"x{self.factor}"] * (self.factor > 0)
        return " | ".join(part for part in parts if part)

    @property
    def held_out(self) -> int:
        """Number of images that a Fréchet distance compares with."""
        return 40 if self.quick else 2048


@cache
def twin(name: str, quick: bool) -> Any:
    """Return a twin."""
    if quick:
        config = {**TINY, "overparameterized": name == OVER}
        data = phantom_set(16, 24, 12)
        trainer = Trainer(data, config, Settings(steps=1, batch=4), torch.device("cpu"))
        trainer.train()
        return trainer.finish().freeze()
    path = WEIGHTS / f"{name}.safetensors"
    if not path.is_file():
        raise SystemExit(f"{path} is missing; train the twins first:\n{__doc__}")
    return gprior.load_prior(path)


@cache
def optimised(quick: bool) -> FeatureDistance:
    """Return the distance that all searches optimise: the features of the baseline's critic."""
    critic, side = twin(BASELINE, quick).discriminator, twin(BASELINE, quick).image_shape[1]

    def features(x: Tensor) -> list[Tensor]:
        if x.shape[-1] != side:  # a measurement that was downsampled
            x = torch.nn.functional.interpolate(x, size=(side, side), mode="area")
        maps: list[Tensor] = critic.features(2 * x - 1)
        return maps

    return FeatureDistance(features, name="the baseline's discriminator")


def far(a: Tensor, b: Tensor) -> Tensor:
    """Return the distance between images on fixed random features, (B,)."""
    return random_distance()(a.clamp(0, 1), b.clamp(0, 1))


@torch.no_grad()
def to_phantoms(images: Tensor, cell: Measurement) -> float:
    """Return the Fréchet distance of images to held-out phantoms."""
    others = phantoms(range(cell.held_out), images.shape[-1], seed=1)[0]
    features = (random_features(x.clamp(0, 1)) for x in (images, others))
    return round(frechet_distance(*features), 3)


def parts(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Return rows of tensors, 64 at a time."""
    return zip(*(x.split(64) for x in tensors), strict=True)  # type: ignore[no-untyped-call]


# --- What is measured


@torch.no_grad()
def generation(cell: Measurement) -> dict[str, Any]:
    """Table 1: Fréchet distance of samples, and the path length of Karras et al. 2020 in w."""
    prior, eps, lengths = copy.deepcopy(twin(cell.twin, cell.quick)).double(), 1e-4, []
    c = prior.classes([i % prior.c_dim for i in range(cell.images)], cell.images)
    ends = (prior.draw([(k, "ends", i) for i in range(cell.images)]) for k in (0, 1))
    places = torch.rand(cell.images, generator=generator(0, "places")).double()
    for z0, z1, vectors, t in parts(*ends, c, places):
        w0, w1 = prior.mapping(z0, vectors), prior.mapping(z1, vectors)
        t = t.view(-1, *[1] * (w0.ndim - 1))
        pair = (prior(ws=torch.lerp(w0, w1, t + step)) for step in (0, eps))
        lengths.append(random_distance()(*pair) / eps**2)
    values = torch.cat(lengths).sort().values
    cut = len(values) // 100  # Karras et al. leave out the extreme hundredths
    length = float(values[cut : len(values) - cut].mean())
    samples = twin(cell.twin, cell.quick).sample(cell.held_out)
    return {"frechet": to_phantoms(samples, cell), "path length": round(length, 4)}


def solved(
    cell: Measurement, x: Tensor, label: list[int], A: Operator, seed: Any = 0, **constants: Any
) -> tuple[gprior.Result, dict[str, list[float]]]:
    """Return the result of a search, and the distances to x at the steps of `MARKS`."""
    curve: dict[int, Tensor] = {}

    def watch(step: int, rows: Tensor, loss: Tensor, image: Tensor) -> None:
        if step + 1 in MARKS:
            there = curve.setdefault(step + 1, torch.full((len(x),), torch.nan))
            there[rows] = far(image, x[rows]).float()

    solver = gprior.solvers.Overparameterized(
        steps=cell.steps,
        perceptual=optimised(cell.quick),
        **{**SPACES[cell.space], **constants},
    )
    prior, options = twin(cell.twin, cell.quick), {"label": label, "seed": seed, "stop": "fixed"}
    result = gprior.solve(A(x), A, prior, solver, callback=watch, **options)
    return result, {str(k): [round(float(v), 5) for v in row] for k, row in curve.items()}


def complete(x: Tensor) -> Operator:
    """Return the operator that measures all pixels."""
    return Masking(x.shape[1:], torch.ones(x.shape[2:]))


def unseen(cell: Measurement) -> tuple[Tensor, list[int]]:
    """Return phantoms on which no twin was trained, and their classes."""
    side = twin(cell.twin, cell.quick).image_shape[1]
    x, label = phantoms(range(cell.images), side, seed=UNSEEN)
    return x, label.tolist()


@torch.no_grad()
def inversion(cell: Measurement) -> dict[str, Any]:
    """Tables 2 and 3, figure 6: errors along the way, and interpolations between all pairs."""
    x, label = unseen(cell)
    result, curve = solved(cell, x, label, complete(x))
    prior, w = twin(cell.twin, cell.quick), result.latents["w"]
    pairs = torch.tensor(list(combinations(range(len(w)), 2)))
    middles, lengths = [], []
    for (part,) in parts(pairs):
        a, b = w[part[:, 0]], w[part[:, 1]]
        path = [prior(ws=torch.lerp(a, b, k / SEGMENTS)) for k in range(SEGMENTS + 1)]
        lengths.append(torch.stack([far(*ends) for ends in pairwise(path)]).sum(0))
        middles.append(prior(ws=torch.lerp(a, b, 0.5)))
    return {
        **scored(result.x, x),
        "curve": curve,
        "frechet": to_phantoms(result.x, cell),
        "midpoints": to_phantoms(torch.cat(middles), cell),
        "path": round(float(torch.cat(lengths).mean()), 5),
        "seconds per step": round(result.seconds / cell.steps, 5),
    }


def upsampling(cell: Measurement) -> dict[str, Any]:
    """Section 5.1: nearest-neighbour downsampling, truncated throughout."""
    x, label = unseen(cell)
    A = Downsampling(x.shape[1:], cell.factor, filter="nearest")
    result, _ = solved(cell, x, label, A, until=1.0)
    misfit = (A(result.x) - A(x)).square().mean((1, 2, 3)).sqrt()
    fit = [round(v, 5) for v in misfit.tolist()]
    return {**scored(result.x, x), "misfit": fit, "frechet": to_phantoms(result.x, cell)}


@torch.no_grad()
def starts(cell: Measurement) -> dict[str, Any]:
    """Figure 11: one image from several random starts, without truncation."""
    x, label = unseen(cell)
    again = [i for i in range(len(x)) for _ in range(STARTS)]
    seeds = [100 * i + k for i in range(len(x)) for k in range(STARTS)]
    many, labels = x[again], [label[i] for i in again]
    result, _ = solved(cell, many, labels, complete(x), seeds, init="random", truncation=1.0)
    prior, w = twin(cell.twin, cell.quick), result.latents["w"]
    groups = [range(i, i + STARTS) for i in range(0, len(many), STARTS)]
    pairs = torch.tensor([pair for group in groups for pair in combinations(group, 2)])
    a, b = pairs.T
    between = (w[a] - w[b]).flatten(1).square().mean(1).sqrt() / spread(prior)
    values = {
        "distance": far(result.x, many),
        "latents": between,
        "images": far(result.x[a], result.x[b]),
        "midpoints": far(prior(ws=(w[a] + w[b]) / 2), many[a]),
    }
    return {name: [round(v, 5) for v in row.tolist()] for name, row in values.items()}


def cost(cell: Measurement) -> dict[str, Any]:
    """Table 4: processor seconds of a training step, and what a pass keeps for its gradient."""
    config = dict(twin(cell.twin, cell.quick).config)
    data = phantom_set(config["img_resolution"], 64, 16)
    settings = Settings(steps=cell.steps, batch=cell.images, path_length=2.0)
    trainer, times = Trainer(data, config, settings, torch.device("cpu")), [time.process_time()]
    trainer.train(lambda values: times.append(time.process_time()), every=cell.steps + 1)
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    G = trainer.G
    z = G.draw([(0, "cost", i) for i in range(cell.images)])
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        image = G(z, G.classes([0] * cell.images, cell.images))
        megabytes = sum(kept.values()) / 1e6
    del image
    seconds = (times[-1] - times[1]) / (len(times) - 2)  # without the first step, which warms up
    return {"seconds per step": round(seconds, 4), "megabytes": round(megabytes, 2)}


KINDS: dict[str, Callable[[Measurement], dict[str, Any]]] = {
    f.__name__: f for f in (generation, inversion, upsampling, starts, cost)
}


def measured(cell: Measurement, device: str) -> dict[str, Any]:
    """Return the measurement of a cell. It is made on the CPU."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    return KINDS[cell.kind](cell)
