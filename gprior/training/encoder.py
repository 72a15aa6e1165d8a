"""The training of an encoder: it regresses the latents of a prior's own samples.

The loss of a round is, for a sample x = G(w), w = f(z), and its rough image A^+ y ::

    |z - z'|^2 / dim z + e(w' - w) + e(f(z') - w) + cross entropy of the class
    e(d) = |d|^2 / dim w + λ d^T M d / trace M,  M = E J^T J,  J = dG / dw

where w is in units of its spread. M turns e into the square error of the image to first order, on
average over the samples of the prior. It is computed once, and spares most steps a pass through G:
only further rounds generate the images that they see. ReStyle's rounds follow each other without
gradients between them. Three quarters of the steps have one round, that of the single-pass encoder.
A prior without styles, or space ``z``, has z in the place of w.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from gprior.checks import InputError, integer, number
from gprior.priors import Encoder, EncoderNetwork, Prior, generator_inputs, latent_sizes
from gprior.randomness import generator, in_plain_mode, normal
from gprior.training.run import Run, fast_precision

__all__ = ["EncoderSettings", "EncoderTrainer"]

VALIDATION = 8  # samples on which the progress is measured
POOL, POOL_STEPS = 2048, 256  # samples that are drawn at a time, and the steps that use them
SLOPES = 512  # samples over which M is averaged
Rough = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class EncoderSettings:
    """Constants of the training of an encoder.

    Attributes
    ----------
    steps, batch : int
        Number of optimizer steps, and of samples per step.
    lr : float
        Learning rate of Adam, which falls to zero with a half cosine.
    pixel : float
        Weight λ ≥ 0 of the image's error.
    rounds : int
        The most rounds of a step.
    space : {"z", "w", "w+"}
        What is predicted, see `EncoderNetwork`.
    width, hidden : int
        Sizes of the network, see `EncoderNetwork`.
    seed : int
        Seed of the initial weights and of every draw.
    """

    steps: int = 12000
    batch: int = 32
    lr: float = 0.001
    pixel: float = 5.0
    rounds: int = 3
    space: str = "w"
    width: int = 24
    hidden: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "rounds", "width", "hidden"):
            integer(name, getattr(self, name), least=1)
        number("lr", self.lr, above=0)
        number("pixel", self.pixel, least=0)

    def rate(self, step: int) -> float:
        """Return the learning rate at a step."""
        return self.lr * (1 + math.cos(math.pi * step / self.steps)) / 2


class EncoderTrainer(Run):
    """The training of an encoder for a prior.

    Parameters
    ----------
    prior : Prior
        The frozen generator, in float32. On a CPU with AVX-512 it runs in bfloat16 autocast.
    rough : sequence of callable
        Each is a function of images (B, C, H, W) and a seed that returns the pseudo-inverse images
        of measurements. A step uses one of them, with a seed of its own.
    settings : EncoderSettings
        Constants of the run.
    record : dict, optional
        What the file says of the training in addition to the settings.
    """

    SHOWN = ("error",)
    PARTS = ("network", "optimizer")
    settings: EncoderSettings

    @in_plain_mode
    def __init__(
        self,
        prior: Prior,
        rough: Sequence[Rough],
        settings: EncoderSettings,
        record: dict[str, Any] | None = None,
    ) -> None:
        if not rough:
            raise InputError("rough must have at least one function of images, got none")
        self.prior, self.rough, self.record = prior.core, list(rough), record or {}
        s = settings
        sizes = latent_sizes(prior, s.space)
        network = EncoderNetwork(**sizes, space=s.space, width=s.width, hidden=s.hidden)
        self.network = network.draw(s.seed).to(prior.like)
        self.optimizer = torch.optim.Adam(self.network.parameters(), s.lr, (0.9, 0.99))
        super().__init__(settings, self.network.config)
        self._pool: tuple[int, Tensor, dict[str, Tensor]] = (-1, self.network.first, {})
        self._start()

    @torch.no_grad()
    def _start(self) -> None:
        """Set y_0 and the units of latents, from samples."""
        net = self.network
        z, _, latents = self._samples("units", 1024)
        if "w" in latents:
            w = latents["w"][:, 0]
            net.mean.copy_(w.mean(0))
            net.spread.copy_(w.std(0).clamp_min(1e-6))
            net.first.copy_(self.prior(ws=net.split(z.new_zeros(1, net.size))[2])[0])
        else:
            images = [self.prior(**inputs) for inputs in self._batches(latents, 256)]
            net.first.copy_(torch.cat(images).mean(0))
        self.metric = self._metric(latents)

    def _metric(self, latents: dict[str, Tensor]) -> Tensor:
        """Return M / trace M (d, d), of latents in units of their spread.

        J^T v of a random image v has the second moment J^T J.
        """
        name = "w" if "w" in latents else "z"
        slopes = []
        for i, inputs in enumerate(self._batches(latents, SLOPES)):
            with torch.enable_grad():
                code = inputs["ws" if name == "w" else "z"].requires_grad_()
                images = self.prior(**{**inputs, "ws" if name == "w" else "z": code})
                keys = [(self.settings.seed, "encoder slope", i, row) for row in range(len(code))]
                v = normal(keys, images.shape[1:], images)
                (slope,) = torch.autograd.grad((images * v).sum(), code)
            slopes.append(self._unit(slope, by_slope=True).flatten(1))
        J = torch.cat(slopes)
        M = J.T @ J
        return M / M.trace()

    def _unit(self, d: Tensor, by_slope: bool = False) -> Tensor:
        """Return a difference of latents, or a slope, in units of the spread of w.

        Where all layers have one style, it is that of one layer.
        """
        if d.ndim < 3:
            return d
        d = d * self.network.spread if by_slope else d / self.network.spread
        if self.network.config["space"] == "w+":
            return d
        return d.sum(1) if by_slope else d[:, 0]

    def _batches(self, latents: dict[str, Tensor], n: int) -> Iterator[dict[str, Tensor]]:
        """Yield the inputs of the prior for the first n latents, 32 at a time."""
        for i in range(0, n, 32):
            rows = {name: value[i : min(i + 32, n)].clone() for name, value in latents.items()}
            yield generator_inputs(rows)

    @in_plain_mode
    @torch.enable_grad()
    def _step(self) -> dict[str, float]:
        s, net = self.settings, self.network
        self.optimizer.param_groups[0]["lr"] = s.rate(self.step)
        rng = generator(s.seed, "encoder step", self.step)
        kind, seed = (
            int(torch.randint(most, (), generator=rng, device="cpu"))
            for most in (len(self.rough), 2**31)
        )
        share = float(torch.rand((), generator=rng, dtype=torch.float32, device="cpu")) ** 4
        rounds = 1 + int(s.rounds * share)
        x, latents = self._drawn(torch.randint(POOL, (s.batch,), generator=rng, device="cpu"))
        rough = self.rough[kind](x, seed).detach()
        u, seen = x.new_zeros(len(x), net.size), net.first.expand_as(x)
        losses: dict[str, Tensor] = {}
        for t in range(rounds):
            with fast_precision(self.prior.like):
                if t:
                    seen = self._image(u.detach(), latents)
                u = net(rough, seen, u.detach())
                terms = self._terms(u.to(x), latents)
            losses = {name: losses.get(name, 0) + term for name, term in terms.items()}
        loss = torch.stack(list(losses.values())).sum() / rounds
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        self.optimizer.step()
        return {name: float(term.detach()) / rounds for name, term in losses.items()}

    def _terms(self, u: Tensor, latents: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the terms of the loss of latents u."""
        z, logits, w = self.network.split(u)
        c = latents.get("c")
        terms = {"z": F.mse_loss(z, latents["z"])}
        if w is None:
            terms["z"] = self._error(z - latents["z"])
        else:
            terms["w"] = self._error(w - latents["w"])
            terms["mapped"] = self._error(self.prior.mapping(z, c).to(z) - latents["w"])
        if c is not None:
            terms["class"] = F.cross_entropy(logits, c)
        return terms

    def _error(self, d: Tensor) -> Tensor:
        """Return e(d), the mean over the batch."""
        d = self._unit(d).flatten(1)
        return d.square().mean() + self.settings.pixel * ((d @ self.metric) * d).sum(1).mean()

    @torch.no_grad()
    def _image(self, u: Tensor, latents: dict[str, Tensor]) -> Tensor:
        """Return the images of latents u, with the true classes."""
        z, _, w = self.network.split(u)
        found = {**latents, "z": z} if w is None else {"w": w}
        image: Tensor = self.prior(**generator_inputs(found))
        return image.to(u)

    @torch.no_grad()
    def _drawn(self, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return samples from the pool of the present step, and their latents."""
        key = self.step // POOL_STEPS
        if self._pool[0] != key:
            _, _, latents = self._samples(key, POOL)
            with fast_precision(self.prior.like):
                parts = [self.prior(**inputs) for inputs in self._batches(latents, POOL)]
            self._pool = key, torch.cat(parts).to(self.prior.like), latents
        _, images, latents = self._pool
        rows = rows.to(images.device)
        return images[rows], {name: value[rows] for name, value in latents.items()}

    def _samples(self, key: int | str, n: int) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        """Return z (n, z_dim), the classes (n, c_dim), and the latents that determine n samples."""
        prior, seed = self.prior, self.settings.seed
        z = prior.draw([(seed, "encoder sample", key, i) for i in range(n)]).flatten(1)
        if not prior.c_dim:
            c = None
        else:
            rng = generator(seed, "encoder class", key)
            label = torch.randint(prior.c_dim, (n,), generator=rng, device="cpu")
            c = prior.classes(label, n)
        latents = {"z": z} if c is None else {"z": z, "c": c}
        if self.network.config["space"] != "z":
            latents["w"] = prior.mapping(z, c).to(z)
        return z, c, latents

    @in_plain_mode
    @torch.no_grad()
    def measure(self) -> dict[str, list[float]]:
        """Return the root mean square error of images after each round, over all operators."""
        _, _, latents = self._samples("validation", VALIDATION)
        x = self.prior(**generator_inputs(latents))
        rough = torch.cat([function(x, i) for i, function in enumerate(self.rough)])
        x = x.repeat(len(self.rough), 1, 1, 1)
        return {"error": [self._distance(rough, x, t + 1) for t in range(self.settings.rounds)]}

    def _distance(self, rough: Tensor, x: Tensor, rounds: int) -> float:
        latents = Encoder(self.network, self.prior, rounds)(rough)
        images = [self.prior(**inputs) for inputs in self._batches(latents, len(x))]
        return round(float((torch.cat(images) - x).square().mean().sqrt()), 5)

    @in_plain_mode
    def finish(self) -> Encoder:
        """Return the encoder, with the number of rounds of least error, ready to be saved."""
        error = self.measure()["error"]
        record = {
            **self.record,
            "settings": asdict(self.settings),
            "seconds": round(self.seconds),
            "error": error,
        }
        return Encoder(self.network, self.prior, 1 + error.index(min(error)), record)
