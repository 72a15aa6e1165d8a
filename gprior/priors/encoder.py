"""An encoder: a network that maps a rough image to the latents of a prior.

Learning-based inversion has a network E that predicts latents in one pass (Zhu et al. 2016,
arXiv:1609.03552; Richardson et al. 2021, arXiv:2008.00951). ReStyle (Alaluf, Patashnik and
Cohen-Or 2021, arXiv:2104.02699) shows the network the image that it got so far, and adds what it
answers to the latents ::

    y_0 = G(mean w),   u_{t+1} = u_t + E(x, y_t, u_t),   y_{t+1} = G(u_{t+1})

Here x is A^+ y, the pseudo-inverse image of measurements. The first round needs no generated image
but the constant y_0, so it is a single-pass encoder.

Differs from the authors' code
------------------------------
- One network is trained for several operators A, with noise. The authors' encoders see whole
  images, and each degradation needs a training of its own.
- The network also sees the latents u_t so far. The authors' network infers them from y_t.
- It is small (0.6 million parameters) and is trained from scratch. The authors' is a ResNet-50 that
  was pretrained on faces.
- z, w and the class are predicted at the same time, so that methods in z and in w can start. Space
  ``w+`` adds one difference per layer, as e4e does (Tov et al. 2021, arXiv:2102.02766).
- The adversarial and identity losses of e4e and pSp are left out.
"""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from gprior.checks import InputError, integer
from gprior.files import open_tensors, write_tensors
from gprior.priors.encoder_network import EncoderNetwork, generator_inputs, latent_sizes
from gprior.priors.prior import Prior
from gprior.priors.statistics import sha256_of
from gprior.randomness import in_plain_mode

__all__ = ["Encoder"]

FORMAT = "gprior-encoder-1"
AT_ONCE = 32  # images that go through the generator at the same time


class Encoder:
    """A network with the prior whose latents it predicts: images -> latents to start from.

    It can be the ``init`` of `gprior.solve`.

    Parameters
    ----------
    network : EncoderNetwork
        The network. The encoder has a copy in the dtype and on the device of the prior.
    prior : Prior
        The prior, or one that wraps it.
    rounds : int
        Number of rounds, at least 1. Each but the first generates an image.
    record : dict, optional
        How the network was trained, as JSON values.

    Raises
    ------
    InputError
        If the latents of the prior have other sizes.
    """

    def __init__(
        self,
        network: EncoderNetwork,
        prior: Prior,
        rounds: int = 1,
        record: dict[str, Any] | None = None,
    ) -> None:
        self.rounds = integer("rounds", rounds, least=1)
        sizes = latent_sizes(prior, network.config["space"])
        for name, size in sizes.items():
            if network.config[name] != size:
                raise InputError(
                    f"the encoder is for a prior with {name} {network.config[name]}, and this "
                    f"prior has {size}; train one with `gprior train-encoder`"
                )
        self.prior, self.record = prior, record or {}
        self.network = copy.deepcopy(network).to(prior.like).eval().requires_grad_(False)

    def __repr__(self) -> str:
        return f"Encoder(space={self.network.config['space']!r}, rounds={self.rounds})"

    @property
    def evaluations(self) -> float:
        """What a call costs for each image: a third for each image that is generated."""
        return (self.rounds - 1) / 3

    @in_plain_mode
    @torch.no_grad()
    def __call__(self, x: Tensor, c: Tensor | None = None) -> dict[str, Tensor]:
        """Return latents of images. Each image is treated for itself.

        Parameters
        ----------
        x : Tensor
            Images (B, C, H, W) of the prior, such as those of a pseudo-inverse.
        c : Tensor, optional
            Class vectors (B, c_dim), where they are known.

        Returns
        -------
        dict
            ``z`` (B, z_dim), ``c`` (B, c_dim) if the prior has classes, and ``w``
            (B, num_ws, w_dim) if the space is not z.
        """
        core, net = self.prior.core, self.network
        x = self.prior.restore(x.to(core.like))
        parts = []
        for i in range(0, len(x), AT_ONCE):
            known = None if c is None else c[i : i + AT_ONCE].to(core.like)
            part = x[i : i + AT_ONCE]
            u = part.new_zeros(len(part), net.size)
            seen = net.first.expand_as(part)
            for t in range(self.rounds):
                if t:
                    seen = core(**generator_inputs(self._latents(u, known)))
                u = net(part, seen, u)
            parts.append(self._latents(u, known))
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _latents(self, u: Tensor, c: Tensor | None) -> dict[str, Tensor]:
        z, logits, w = self.network.split(u)
        latents = {"z": z}
        if logits.shape[1]:
            likely = F.one_hot(logits.argmax(1), logits.shape[1]).to(z)
            latents["c"] = likely if c is None else c
        return latents if w is None else {**latents, "w": w}

    def save(self, path: str | Path) -> None:
        """Write the network and its record to a safetensors file, which names the prior.

        Raises
        ------
        InputError
            If the path does not end in ``.safetensors``.
        OSError
            If it cannot be written; nothing is left behind.
        """
        meta = {
            "prior": {"name": self.prior.core.name, "sha256": identity(self.prior)},
            "network": self.network.config,
            "rounds": self.rounds,
            "record": self.record,
        }
        tensors = {name: value.float() for name, value in self.network.state_dict().items()}
        write_tensors(path, tensors, {"format": FORMAT, "gprior": json.dumps(meta)}, "the encoder")

    @classmethod
    def load(cls, path: str | os.PathLike[str], prior: Prior, rounds: int | None = None) -> Encoder:
        """Read an encoder that `save` wrote.

        Parameters
        ----------
        path : str or Path
            The file.
        prior : Prior
            The prior that it was trained for, in any dtype.
        rounds : int, optional
            Number of rounds; None takes that of the file.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        InputError
            If the file is truncated, has no encoder, or has that of another prior.
        """
        with open_tensors(Path(path), FORMAT, "has no whole encoder") as (metadata, tensors):
            meta = json.loads(metadata["gprior"])
            own, record, saved = meta["prior"], dict(meta["record"]), meta["rounds"]
            name, sha256 = str(own["name"]), str(own["sha256"])
            kinds = {value.dtype for value in tensors.values()}
            try:
                network = EncoderNetwork(**meta["network"])
                network.load_state_dict(tensors, assign=True)
            except RuntimeError as error:
                raise InputError(f"its tensors do not fit its network: {error}") from error
            if kinds != {torch.float32}:
                raise InputError(f"its tensors must be of float32, got {kinds}")
        if sha256 != identity(prior):
            raise InputError(
                f"{path} is the encoder of another prior: of {name}, whose weights have the "
                f"SHA-256 {sha256[:16]}, and those of this prior have {identity(prior)[:16]}; "
                "train one with `gprior train-encoder`"
            )
        return cls(network, prior, saved if rounds is None else rounds, record)


def identity(prior: Prior) -> str:
    """Return the SHA-256 of a prior's weights in float32: equal for every dtype above it."""

    def compute() -> str:
        return sha256_of({k: v.float() for k, v in prior.core.state_dict().items()})

    return prior.core.statistic("sha256 in float32", compute)
