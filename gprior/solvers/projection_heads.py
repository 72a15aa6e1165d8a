"""The projection heads of SPHInX: networks that make the styles and the content of one image.

Each row of a search has heads with weights of its own, and these weights are the variables. See
`gprior.solvers.sphinx`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.func import functional_call

from gprior.priors import HasContent, Prior
from gprior.search import Space, Step, Variables

__all__ = ["ContentHead", "Head", "MappingHead", "StyleHead"]

BOTTLENECK = (512, 256)  # widths of the hidden layers of the bottleneck, which all decoders share
DECODER = (32, 64)  # widths of the hidden layers of a decoder
CONTENT = (8, 32, 128)  # channels of s, and of the layers before the last
DRAWS = 64  # fixed draws over which the returned code is a mean
PAPER_SPREAD = 0.45  # spread of the styles of the paper's generator, which fits this head
COLLAPSED = 0.01  # a head has collapsed below this fraction of the spread of the prior's styles


@dataclass(frozen=True)
class Head(Space):
    """The weights ``style.*`` of P_s, which maps z+ (R, L, z_dim) to w+ (R, L, w_dim).

    Each row has one head.

    Attributes
    ----------
    s : float
        Spread of the styles of the prior.
    """

    s: float
    needs = frozenset({"w"})

    def centre(self, start: Variables) -> Tensor:
        """Return the styles (R, L, w_dim) to which the output of the network is added."""
        raise NotImplementedError

    def offsets(self, code: Variables, z: Tensor) -> Tensor:
        """Return the output of the network (R, n, L, w_dim) for z (R, n, L, z_dim).

        A code has the weights and, where the prior has classes, the class vectors ``c``.
        """
        raise NotImplementedError

    def draws(self, t: float) -> bool:
        return True

    def draw(self, variables: Variables, start: Variables, step: Step) -> Variables:
        code = variables | classes(start)
        z = step.draw("style", (1, *sizes(start)))
        return {**code, "w": self.centre(start) + self.offsets(code, z)[:, 0]}

    def finish(self, variables: Variables, start: Variables, step: Step) -> Variables:
        code = variables | classes(start)
        z = step.fixed("style-mean", (DRAWS, *sizes(start)))
        w = self.centre(start) + self.offsets(code, z).mean(1)
        return {**code, "style.draws": z, "w": w}

    def diagnose(self, variables: Variables, code: Variables, step: Step) -> Variables:
        """Return ``spread`` and ``collapsed``, each (R,).

        ``spread`` is the deviation of the styles over the draws relative to that of the prior, and
        ``collapsed`` is 1 if it is below 0.01.
        """
        w = self.offsets(code, code["style.draws"])
        spread = (w - w.mean(1, keepdim=True)).square().mean((1, 2, 3)).sqrt() / self.s
        return {"spread": spread, "collapsed": (spread < COLLAPSED).to(spread)}


@dataclass(frozen=True)
class StyleHead(Head):
    """The paper's P_s: a bottleneck that all layers share, and a decoder for each layer.

    Attributes
    ----------
    width : int
        Width d of the bottleneck.
    """

    width: int = 16

    def initial(self, prior: Prior, start: Variables, step: Step) -> Variables:
        (layers, z_dim), w_dim = sizes(start), int(start["w"].shape[2])
        bottleneck = (z_dim, *BOTTLENECK, self.width)
        decoder = (self.width, *DECODER, w_dim)
        weights: Variables = {}
        parts: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = (
            ("bottleneck", bottleneck, ()),
            ("decoder", decoder, (layers,)),
        )
        for part, widths, copies in parts:
            for k, (n_in, n_out) in enumerate(pairwise(widths)):
                for kind, shape in (("weight", (n_in, n_out)), ("bias", (1, n_out))):
                    name = f"style.{part}.{k}.{kind}"
                    weights[name] = uniform(step.draw(name, (*copies, *shape))) / math.sqrt(n_in)
        return weights

    def centre(self, start: Variables) -> Tensor:
        return start["w"]

    def offsets(self, code: Variables, z: Tensor) -> Tensor:
        R, n, L = z.shape[:3]
        x = fully_connected(code, "style.bottleneck", z.reshape(R, n * L, -1), len(BOTTLENECK) + 1)
        x = x.view(R, n, L, -1).transpose(1, 2)  # (R, L, n, d): one product per layer
        x = fully_connected(code, "style.decoder", x, len(DECODER) + 1)
        return x.transpose(1, 2) * (self.s / PAPER_SPREAD)


@dataclass(frozen=True)
class MappingHead(Head):
    """The mapping network f of the prior as P_s: all layers share f, and each layer has a z.

    Attributes
    ----------
    network : nn.Module
        f, a module of (z, c).
    pretrained : bool
        Whether its weights are where the search starts. Otherwise random weights are.
    """

    network: nn.Module
    pretrained: bool

    def initial(self, prior: Prior, start: Variables, step: Step) -> Variables:
        weights: Variables = {}
        for name, weight in self.network.named_parameters():
            if self.pretrained:
                own = weight.detach().expand(len(start["z"]), *weight.shape)
            else:
                size = weight.detach().square().mean().sqrt() if weight.ndim > 1 else 0.0
                own = size * step.draw(f"style.{name}", weight.shape)
            weights[f"style.{name}"] = own.clone()
        return weights

    def centre(self, start: Variables) -> Tensor:
        return torch.zeros_like(start["w"])

    def offsets(self, code: Variables, z: Tensor) -> Tensor:
        R, n, L = z.shape[:3]
        names = [name for name, _ in self.network.named_parameters()]
        w = []
        for row in range(R):  # each row has weights of its own
            weights = {name: code[f"style.{name}"][row] for name in names}
            c = (code["c"][row].expand(n * L, -1),) if "c" in code else ()
            w.append(functional_call(self.network, weights, (z[row].flatten(0, 1), *c)))
        return torch.stack(w).view(R, n, L, -1)


@dataclass(frozen=True)
class ContentHead(Space):
    """The weights of P_c, which maps s (R, 8, 4, 4) to the content (R, C, 4, 4).

    Each row has one head.
    """

    needs = frozenset({"content"})

    def initial(self, prior: Prior, start: Variables, step: Step) -> Variables:
        widths = (*CONTENT, cast(HasContent, prior).content_shape[0])
        weights: Variables = {}
        for k, shape in enumerate(pairwise(widths)):
            weight = step.draw(f"content.{k}", shape)
            weights[f"content.{k}.weight"] = weight
            if k < len(CONTENT) - 1:
                weights[f"content.{k}.bias"] = torch.zeros_like(weight[:, :1])
        return weights

    def draws(self, t: float) -> bool:
        return True

    def draw(self, variables: Variables, start: Variables, step: Step) -> Variables:
        s = step.draw("content", (1, CONTENT[0], 16))
        return {**variables, "content": self.contents(variables, s)[:, 0]}

    def finish(self, variables: Variables, start: Variables, step: Step) -> Variables:
        s = step.fixed("content-mean", (DRAWS, CONTENT[0], 16))
        content = self.contents(variables, s).mean(1)
        return {**variables, "content.draws": s, "content": content}

    def contents(self, variables: Variables, s: Tensor) -> Tensor:
        """Return the contents (R, n, C, 4, 4) for s (R, n, 8, 16)."""
        R, n = s.shape[:2]
        x = s.transpose(2, 3).reshape(R, n * 16, -1)
        for k in range(len(CONTENT)):
            weight = variables[f"content.{k}.weight"]
            x = x @ weight / math.sqrt(weight.shape[1])
            if k < len(CONTENT) - 1:
                x = F.leaky_relu(x + variables[f"content.{k}.bias"], 0.2) * math.sqrt(2)
        return x.view(R, n, 16, -1).transpose(2, 3).reshape(R, n, -1, 4, 4)


def classes(start: Variables) -> Variables:
    """Return the class vectors of a starting point, if it has any, by their name."""
    return {"c": start["c"]} if "c" in start else {}


def sizes(start: Variables) -> tuple[int, int]:
    """Return the number of layers and the size of z, which are the shape of z+."""
    return int(start["w"].shape[1]), int(start["z"].shape[1])


def fully_connected(variables: Variables, name: str, x: Tensor, layers: int) -> Tensor:
    """Apply fully connected layers with a ReLU between them; each row has separate weights."""
    for k in range(layers):
        x = x @ variables[f"{name}.{k}.weight"] + variables[f"{name}.{k}.bias"]
        if k < layers - 1:
            x = x.relu()
    return x


def uniform(x: Tensor) -> Tensor:
    """Map standard normal numbers to uniform ones on [-1, 1]."""
    return torch.erf(x / math.sqrt(2))
