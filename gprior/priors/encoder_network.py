"""The network of an encoder, and the sizes of the latents that it predicts."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from gprior.checks import InputError
from gprior.priors.prior import Prior
from gprior.randomness import normal

__all__ = ["SPACES", "EncoderNetwork", "generator_inputs", "latent_sizes"]

SPACES = ("z", "w", "w+")


class EncoderNetwork(nn.Module):
    """The network E of an encoder, without weights: `draw` or `load_state_dict` gives it some.

    Parameters
    ----------
    image_shape : tuple of int
        Shape (C, H, W) of the images.
    space : {"z", "w", "w+"}
        What is predicted: z alone, also one w for all layers, or also a difference for each layer.
    z_dim, c_dim : int
        Entries of z, and number of classes.
    num_ws, w_dim : int
        Number of layers and entries of w. Space ``"z"`` ignores them.
    width, most, hidden : int
        Feature maps of the first level, the most of any level, and entries of the hidden layer.

    Attributes
    ----------
    first : Tensor
        y_0 (C, H, W), which the first round sees.
    mean, spread : Tensor
        Mean and standard deviation of each entry of w (w_dim,): the unit of its predictions.
    """

    first: Tensor
    mean: Tensor
    spread: Tensor

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        space: str,
        z_dim: int,
        c_dim: int = 0,
        num_ws: int = 0,
        w_dim: int = 0,
        width: int = 24,
        most: int = 128,
        hidden: int = 128,
    ) -> None:
        super().__init__()
        if space not in SPACES:
            raise InputError(f"space must be one of {SPACES}, got {space!r}")
        if space == "z":
            num_ws = w_dim = 0
        C, H, W = image_shape
        self.config: dict[str, Any] = {
            "image_shape": (C, H, W), "space": space, "z_dim": z_dim, "c_dim": c_dim,
            "num_ws": num_ws, "w_dim": w_dim, "width": width, "most": most, "hidden": hidden,
        }  # fmt: skip
        self.sizes = [z_dim, c_dim, w_dim, num_ws * w_dim if space == "w+" else 0]
        meta: dict[str, Any] = {"dtype": torch.float32, "device": "meta"}
        levels = max(math.ceil(math.log2(max(H, W) / 4)), 0)
        widths = [min(width * 2**k, most) for k in range(levels + 1)]
        convs = [nn.Conv2d(2 * C, width, 3, padding=1, **meta)]
        for a, b in pairwise(widths):
            convs.append(nn.Conv2d(a, b, 3, stride=2, padding=1, **meta))
            H, W = -(-H // 2), -(-W // 2)
        self.convs = nn.ModuleList(convs)
        self.hidden = nn.Linear(widths[-1] * H * W + sum(self.sizes), hidden, **meta)
        self.last = nn.Linear(hidden, sum(self.sizes), **meta)
        self.register_buffer("first", torch.empty(image_shape, **meta))
        self.register_buffer("mean", torch.empty(w_dim, **meta))
        self.register_buffer("spread", torch.empty(w_dim, **meta))

    @torch.no_grad()
    def draw(self, seed: int) -> EncoderNetwork:
        """Give the network random weights on the CPU; return it.

        They are those of He et al. 2015. The last layer starts near 0, as its answers do.
        """
        self.to_empty(device="cpu")
        for buffer, value in ((self.first, 0), (self.mean, 0), (self.spread, 1)):
            buffer.fill_(value)
        for name, weight in self.named_parameters():
            if weight.ndim == 1:
                weight.zero_()
                continue
            gain = 0.1 if name.startswith("last") else math.sqrt(2)
            std = gain / math.sqrt(weight[0].numel())
            weight.copy_(normal([(seed, "encoder", name)], weight.shape, weight)[0] * std)
        return self

    @property
    def size(self) -> int:
        """Number of entries of u."""
        return sum(self.sizes)

    def forward(self, x: Tensor, seen: Tensor, u: Tensor) -> Tensor:
        """Return the latents u (B, size) after a round.

        Parameters
        ----------
        x, seen : Tensor
            The rough images and those generated so far, (B, C, H, W) in [0, 1].
        u : Tensor
            The latents so far, (B, size).
        """
        h = 2 * torch.cat([x, seen], 1) - 1
        for conv in self.convs:
            h = F.leaky_relu(conv(h), 0.2)
        h = F.leaky_relu(self.hidden(torch.cat([h.flatten(1), u.to(h)], 1)), 0.2)
        answer: Tensor = self.last(h)
        return u + answer.to(u)

    def split(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return z (B, z_dim), the logits (B, c_dim) of the classes, and w (B, num_ws, w_dim)."""
        z, logits, w, each = torch.split(u, self.sizes, 1)
        if not w.shape[1]:
            return z, logits, None
        layers = w[:, None].expand(-1, self.config["num_ws"], -1)
        if each.shape[1]:
            layers = layers + each.view_as(layers)
        return z, logits, self.mean + self.spread * layers


def latent_sizes(prior: Prior, space: str) -> dict[str, Any]:
    """Return the sizes of a prior that a network for a space has as its arguments.

    Raises
    ------
    InputError
        If the prior has no such space.
    """
    core = prior.core
    key = [(0, "encoder", "sizes")]
    z = core.draw(key)
    sizes = {"image_shape": core.image_shape, "z_dim": z[0].numel(), "c_dim": core.c_dim}
    if space == "z":
        return sizes
    if "w" not in core.inputs:
        raise InputError(f"space={space!r} needs a prior with styles ('w'); use space='z'")
    with torch.no_grad():
        w = core.mapping(z, core.classes(0, 1) if core.c_dim else None)
    return {**sizes, "num_ws": w.shape[1], "w_dim": w.shape[2]}


def generator_inputs(latents: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the inputs of a prior for latents: the styles if there are some, else z and c."""
    return {"ws": latents["w"]} if "w" in latents else latents
