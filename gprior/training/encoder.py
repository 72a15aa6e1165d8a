"""The training of an encoder: it regresses the latents of a prior's own samples.

The loss of a round is, for a sample x = G(w), w = f(z), and its rough image A^+ y ::

    |z - z'|^2 / dim z + |w - w'|^2 / dim w + |w - f(z')|^2 / dim w + λ |x - G(w')|^2 + cross entropy

where w is in units of its spread, and the square error of an image is divided by the variance of
the prior's pixels. ReStyle's rounds follow each other without gradients between them. A step has a
random number of rounds, and more than half of the steps have one, that of the single-pass encoder.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from gprior.checks import InputError, integer, number
from gprior.priors import Encoder, EncoderNetwork, Prior, generator_inputs, latent_sizes
from gprior.randomness import generator, in_plain_mode
from gprior.training.run import Run

__all__ = ["EncoderSettings", "EncoderTrainer"]

VALIDATION = 8  # samples on which the progress is measured
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
        Weight λ ≥ 0 of the image.
    rounds : int
        The most rounds of a step.
    space : {"z", "w", "w+"}
        What is predicted, see `EncoderNetwork`.
    width, hidden : int
        Sizes of the network, see `EncoderNetwork`.
    seed : int
        Seed of the initial weights and of every draw.
    """

    steps: int = 4000
    batch: int = 16
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
        The frozen generator, in float32. On a CPU it runs in bfloat16 autocast.
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
        self._start()

    @torch.no_grad()
    def _start(self) -> None:
        """Set y_0 and the units of w and of pixels, from samples."""
        net = self.network
        z, c, latents = self._samples("units", 1024)
        if "w" in latents:
            w = latents["w"][:, 0]
            net.mean.copy_(w.mean(0))
            net.spread.copy_(w.std(0).clamp_min(1e-6))
        images = self.prior(**generator_inputs({k: v[:256] for k, v in latents.items()}))
        self.variance = float(images.var(0).mean().clamp_min(1e-8))
        middle = net.split(z.new_zeros(1, net.size))[2]
        net.first.copy_(images.mean(0) if middle is None else self.prior(ws=middle)[0])

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
        share = float(torch.rand((), generator=rng, dtype=torch.float32, device="cpu")) ** 2
        rounds = 1 + int(s.rounds * share)
        with torch.no_grad(), self._autocast():
            z, c, latents = self._samples(self.step, s.batch)
            x = self.prior(**generator_inputs(latents)).to(self.prior.like)
        rough = self.rough[kind](x, seed).detach()
        u, seen = z.new_zeros(len(z), net.size), net.first.expand_as(x)
        losses: dict[str, Tensor] = {}
        for _ in range(rounds):
            with self._autocast():
                u = net(rough, seen, u.detach())
                image, terms = self._terms(u.to(x), x, z, c, latents)
            seen = image.detach()
            losses = {name: losses.get(name, 0) + term for name, term in terms.items()}
        loss = torch.stack(list(losses.values())).sum() / rounds
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        self.optimizer.step()
        return {name: float(term.detach()) / rounds for name, term in losses.items()}

    def _terms(
        self, u: Tensor, x: Tensor, z: Tensor, c: Tensor | None, latents: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the generated image of latents u, and the terms of the loss."""
        net = self.network
        z_found, logits, w_found = net.split(u)
        terms = {"z": F.mse_loss(z_found, z)}
        found = {"z": z_found} if c is None else {"z": z_found, "c": c}
        if "w" in latents:
            mapped = self.prior.mapping(z_found, c).to(z)
            terms["mapped"] = ((mapped - latents["w"]) / net.spread).square().mean()
        if w_found is not None:
            terms["w"] = ((w_found - latents["w"]) / net.spread).square().mean()
            found["w"] = w_found
        image = self.prior(**generator_inputs(found)).to(x)
        terms["pixel"] = self.settings.pixel * F.mse_loss(image, x) / self.variance
        if c is not None:
            terms["class"] = F.cross_entropy(logits, c)
        return image, terms

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

    def _autocast(self) -> torch.autocast:
        on = self.prior.like.device.type == "cpu" and self.prior.like.dtype == torch.float32
        return torch.autocast("cpu", torch.bfloat16, enabled=on)

    @torch.no_grad()
    def measure(self) -> dict[str, list[float]]:
        """Return the root mean square error of images after each round, over all operators."""
        _, _, latents = self._samples("validation", VALIDATION)
        x = self.prior(**generator_inputs(latents))
        rough = torch.cat([function(x, i) for i, function in enumerate(self.rough)])
        x = x.repeat(len(self.rough), 1, 1, 1)
        return {"error": [self._error(rough, x, t + 1) for t in range(self.settings.rounds)]}

    def _error(self, rough: Tensor, x: Tensor, rounds: int) -> float:
        latents = Encoder(self.network, self.prior, rounds)(rough)
        images = [
            self.prior(**generator_inputs({k: v[i : i + 32] for k, v in latents.items()}))
            for i in range(0, len(x), 32)
        ]
        return round(float((torch.cat(images) - x).square().mean().sqrt()), 5)

    def finish(self) -> Encoder:
        """Return the encoder, with the record of its training, ready to be saved."""
        record = {
            **self.record,
            "settings": asdict(self.settings),
            "seconds": round(self.seconds),
            "error": self.measure()["error"],
        }
        return Encoder(self.network, self.prior, self.settings.rounds, record)
