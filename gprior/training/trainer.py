"""The training loop of a StyleGAN2 prior.

The parts are the non-saturating logistic loss (Goodfellow et al. 2014), lazy R1 regularisation
and style mixing (Karras et al. 2020, arXiv:1912.04958, section 3.1), an exponential moving
average of the generator's weights, and one term against mode collapse, `lacking_spread`. A small
discriminator needs the last one: it does not notice that the cortex of all samples has the same
folds. Options are the augmentations of ``augment`` and the regularization of ``path_length``. Every
draw is keyed by the step, so a resumed run continues as if it had never stopped.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from gprior.checks import number
from gprior.distances import discriminator_unit
from gprior.priors import Discriminator, StyleGAN2, fold_
from gprior.randomness import generator, in_plain_mode, normal
from gprior.training.augment import USUAL, Probability, check_names, draw_changes
from gprior.training.data import ImageSet
from gprior.training.frechet import frechet_distance, random_features
from gprior.training.path_length import PathLength
from gprior.training.run import Run, fast_precision

__all__ = ["Settings", "Trainer", "lacking_spread"]


@dataclass(frozen=True)
class Settings:
    """Constants of a training run.

    Attributes
    ----------
    steps, batch : int
        Number of optimizer steps, and of images per step.
    lr : float
        Learning rate of Adam for both networks, with betas (0, 0.99). It falls linearly to
        zero over the last fifth of the run.
    r1_gamma, r1_every : float, int
        Weight of the gradient penalty, and its interval in steps.
    diversity : float
        Weight of `lacking_spread`.
    mixing : float
        Probability that the styles of an image come from two latents.
    ema_images : float
        Half-life of the average of the weights, in images.
    seed : int
        Seed of the initial weights and of every draw.
    augment : float or "adaptive"
        Probability of each augmentation of the images that the discriminator sees: a number in
        [0, 1], or one that starts at 0 and adapts to the training (see `Probability`).
    augment_images : float
        Number of training images in which the adaptive probability can rise from 0 to 1.
    augmentations : tuple of str
        Names of the augmentations: flip, turn, shift, scale, rotate, stretch, move, brightness
        and contrast. By default all but the first two.
    path_length : float
        Weight of the path-length regularization; 0 switches it off.
    """

    steps: int = 12500
    batch: int = 16
    lr: float = 0.002
    r1_gamma: float = 0.5
    r1_every: int = 16
    diversity: float = 3.0
    mixing: float = 0.9
    ema_images: float = 5000.0
    seed: int = 0
    augment: float | str = 0.0
    augment_images: float = 50_000.0
    augmentations: tuple[str, ...] = USUAL
    path_length: float = 0.0

    def __post_init__(self) -> None:
        Probability.of(self.augment, self.augment_images)
        number("path_length", self.path_length, least=0)
        check_names(self.augmentations)

    def rate(self, step: int) -> float:
        """Return the learning rate at a step."""
        return self.lr * min(1.0, 5 * (1 - step / self.steps))


class Trainer(Run):
    """The training of a generator and its discriminator on an image set.

    Parameters
    ----------
    data : ImageSet
        The images.
    config : dict
        Arguments of `StyleGAN2`.
    settings : Settings
        Constants of the run.
    device : torch.device
        Where to train. On a CPU with AVX-512 the networks run in bfloat16 autocast, elsewhere in
        float32.
    """

    LATER = ("probability", "path_length")
    SHOWN = ("frechet",)
    PARTS = ("G", "D", "ema", "opt_g", "opt_d", *LATER)
    settings: Settings

    def __init__(
        self, data: ImageSet, config: dict[str, Any], settings: Settings, device: torch.device
    ) -> None:
        self.data, self.device = data, device
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed)
            self.G = StyleGAN2(**config)
            names = ("img_resolution", "img_channels", "c_dim", "channel_base", "channel_max")
            self.D = Discriminator(**{k: self.G.config[k] for k in names})
        for net in (self.G, self.D):
            net.float().to(memory_format=torch.channels_last).to(device)
        self.ema = copy.deepcopy(self.G).freeze()
        # Checkpoints of older versions lack arguments that StyleGAN2 has gained since then.
        arguments = {k: p.default for k, p in signature(StyleGAN2).parameters.items()}
        super().__init__(settings, self.G.config, **arguments)
        self.probability = Probability.of(settings.augment, settings.augment_images)
        self.path_length = PathLength(settings.path_length)
        # Learning rates make up for the additional steps of the lazy regularisations.
        self.ratios = self.path_length.ratio, settings.r1_every / (settings.r1_every + 1)
        self.opt_g, self.opt_d = (
            torch.optim.Adam(net.parameters(), settings.lr * ratio, (0.0, 0.99**ratio), 1e-8)
            for net, ratio in zip((self.G, self.D), self.ratios, strict=True)
        )

    def measure(self) -> dict[str, float]:
        """Return the Fréchet distance."""
        return {"frechet": self.frechet()}

    @in_plain_mode
    @torch.enable_grad()
    def _step(self) -> dict[str, float]:
        s, rng = self.settings, generator(self.settings.seed, "train", self.step)
        for opt, ratio in zip((self.opt_g, self.opt_d), self.ratios, strict=True):
            opt.param_groups[0]["lr"] = s.rate(self.step) * ratio
        rows = torch.randint(len(self.data.images), (s.batch,), generator=rng, device="cpu")
        real, label = self.data.batch(rows)
        real = real.to(self.device).contiguous(memory_format=torch.channels_last)
        c = self._one_hot(label)
        with torch.no_grad():
            fake = self._generate(c, rng)
            real, fake = self._changes("real")(real), self._changes("fake")(fake)
        with fast_precision(self.G.like):
            of_real = self.D(real, c)
            loss_d = F.softplus(self.D(fake, c)).mean() + F.softplus(-of_real).mean()
        self._descend(self.opt_d, loss_d)
        values = {"loss_d": float(loss_d.detach())}
        if self.step % s.r1_every == 0:
            values["r1"] = self._r1(real, c)
        values |= self._step_generator(rng)
        if self.path_length.due(self.step):
            values["path_length"] = self._regularize_paths()
        self.probability.see(of_real)
        values |= {"r_t": self.probability.r, "p": self.probability.p}
        self._average()
        return values

    def _step_generator(self, rng: torch.Generator) -> dict[str, float]:
        """Update G on samples of one class; each step takes the next class."""
        s, label = self.settings, self.step % max(self.G.c_dim, 1)
        rows = self._rows[label]
        rows = rows[torch.randint(len(rows), (s.batch,), generator=rng, device="cpu")]
        real, labels = self.data.batch(rows)
        c = self._one_hot(labels)
        self.D.requires_grad_(False)
        change = self._changes("generator")  # one for both, so that their spreads are comparable
        fake, real = change(self._generate(c, rng)), change(real.to(self.device))
        with fast_precision(self.G.like):
            features = self.D.features(fake)
            loss = F.softplus(-self.D.judge(features[-1], c)).mean()
            with torch.no_grad():
                real_features = self.D.features(real)
        lacking = lacking_spread(features, real_features)
        self._descend(self.opt_g, loss + s.diversity * lacking)
        self.D.requires_grad_(True)
        return {"loss_g": float(loss.detach()), "lacking": float(lacking.detach())}

    def _changes(self, images: str) -> Callable[[Tensor], Tensor]:
        """Draw what happens to a batch of images before the discriminator sees them."""
        s, rng = self.settings, generator(self.settings.seed, "augment", images, self.step)
        return draw_changes(s.augmentations, self.probability.p, s.batch, rng)

    def _regularize_paths(self) -> float:
        """Take a step of G on the path-length penalty, at half a batch; return the mean length."""
        s, rng = self.settings, generator(self.settings.seed, "path length", self.step)
        n = max(s.batch // 2, 1)
        rows = torch.randint(len(self.data.labels), (n,), generator=rng, device="cpu")
        ws, noise = self._styles(self._one_hot(self.data.labels[rows]), rng, n)
        images = self.G.synthesis(ws, noise=noise)
        y = torch.randn(images.shape, generator=rng, dtype=torch.float32, device="cpu")
        self._descend(self.opt_g, self.path_length.penalty(images, ws, y.to(self.device)))
        return self.path_length.mean

    @cached_property
    def _rows(self) -> list[Tensor]:
        """Indices of the images of each class."""
        classes = range(max(self.G.c_dim, 1))
        return [(self.data.labels == k).nonzero()[:, 0] for k in classes]

    def _one_hot(self, label: Tensor) -> Tensor | None:
        if not self.G.c_dim:
            return None
        return F.one_hot(label, self.G.c_dim).float().to(self.device)

    def _generate(self, c: Tensor | None, rng: torch.Generator) -> Tensor:
        """Generate a batch of raw images with style mixing and fresh noise maps."""
        with fast_precision(self.G.like):
            ws, noise = self._styles(c, rng, self.settings.batch)
            return self.G.synthesis(ws, noise=noise).float()

    def _styles(
        self, c: Tensor | None, rng: torch.Generator, n: int
    ) -> tuple[Tensor, list[Tensor]]:
        """Return mixed styles (n, layers, w_dim) and noise maps for n images.

        The styles are (n, layers, rows, w_dim) if the generator is overparameterized.
        """
        G = self.G
        plain: dict[str, Any] = {"generator": rng, "dtype": torch.float32, "device": "cpu"}
        z = torch.randn(2, n, G.z_dim, **plain).to(self.device)
        mixed = torch.rand(n, **plain) < self.settings.mixing
        cut = torch.randint(1, G.num_ws, (n,), generator=rng, device="cpu")
        cut = torch.where(mixed, cut, G.num_ws)[:, None].to(self.device)
        noise = [torch.randn(n, *shape, **plain).to(self.device) for shape in G.noise_shapes]
        first, second = (G.mapping(latents, c) for latents in z)
        before = torch.arange(G.num_ws, device=self.device) < cut
        return torch.where(before.view(n, -1, *[1] * (first.ndim - 2)), first, second), noise

    def _descend(self, opt: torch.optim.Adam, loss: Tensor) -> None:
        opt.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        opt.step()

    def _r1(self, real: Tensor, c: Tensor | None) -> float:
        """Take a step on ||grad D||^2 at real images, with a weight for the skipped steps."""
        real = real.detach().requires_grad_()
        (grad,) = torch.autograd.grad(self.D(real, c).sum(), real, create_graph=True)
        penalty = grad.square().sum((1, 2, 3)).mean()
        self._descend(self.opt_d, penalty * (self.settings.r1_gamma / 2 * self.settings.r1_every))
        return float(penalty.detach())

    @torch.no_grad()
    def _average(self) -> None:
        seen = (self.step + 1) * self.settings.batch
        beta = 0.5 ** (self.settings.batch / min(self.settings.ema_images, 0.05 * seen))
        for slow, fast in zip(self.ema.parameters(), self.G.parameters(), strict=True):
            slow.lerp_(fast, 1 - beta)

    def frechet(self) -> float:
        """Return the Fréchet distance of the averaged generator's samples to held-out images."""
        samples = self.ema.sample(len(self.data.held_out)).clamp(0, 1)
        return frechet_distance(random_features(samples), self._held_out_features)

    def frechet_real(self) -> float:
        """Return the same distance for as many training images, as a value to compare with."""
        images = self.data.images[: len(self.data.held_out)]
        return frechet_distance(random_features(images / 255), self._held_out_features)

    @cached_property
    def _held_out_features(self) -> Tensor:
        return random_features(self.data.held_out / 255)

    @torch.no_grad()
    def finish(self) -> StyleGAN2:
        """Return the averaged generator, ready to be saved.

        It has ``w_avg`` (per class), folded gains and the discriminator. The unit of its
        perceptual distance, the median over 200 pairs of samples, is measured here, so that
        the file stores it.
        """
        G = copy.deepcopy(self.ema).cpu()
        key = (self.settings.seed, "w-avg")
        # Not `mapping`, so that an overparameterized generator maps one latent per draw as well.
        z = normal([key], (20000, G.config["z_dim"]), G.like)[0]
        if G.c_dim:
            rows = [G.mapping_network(z, G.classes(k, len(z))).mean(0) for k in range(G.c_dim)]
            G.w_avg.copy_(torch.stack(rows))
        else:
            G.w_avg.copy_(G.mapping_network(z).mean(0))
        fold_(G)
        critic = copy.deepcopy(self.D).cpu().eval().requires_grad_(False)
        fold_(critic)
        G.discriminator = critic
        G.record = {
            "data": self.data.description,
            "classes": list(self.data.classes),
            "settings": asdict(self.settings),
            "seconds": round(self.seconds),
            "frechet": round(self.frechet(), 2),
            "frechet_real": round(self.frechet_real(), 2),
        }
        discriminator_unit(G)
        return G


def lacking_spread(fake: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Return how much less samples vary than images of the same class, in [0, 1].

    With s the standard deviation over a batch, at each position of each feature map, this is
    the mean of E relu(s_real - s_fake) / E s_real over the levels. It is 0 if samples vary
    everywhere at least as much as images, and 1 if they are all alike. More variation in one
    place does not compensate for less in another.

    Parameters
    ----------
    fake, real : sequence of Tensor
        Feature maps (B, C, H, W) of samples and of images, finest first.
    """
    levels = []
    for f, r in zip(fake, real, strict=True):
        s_fake, s_real = ((x.float().var(0) + 1e-6).sqrt() for x in (f, r))
        levels.append(F.relu(s_real - s_fake).mean() / s_real.mean())
    return torch.stack(levels).mean()
