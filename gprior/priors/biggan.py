"""The BigGAN generators, written from the equations of the paper.

Brock, Donahue and Simonyan 2019, "Large scale GAN training for high fidelity natural image
synthesis" (arXiv:1809.11096), appendix B.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from gprior.checks import InputError, integer, number
from gprior.priors.biggan_layers import Block, Norm
from gprior.priors.checks import State, check_entry, check_shape
from gprior.priors.initial import random_weights
from gprior.priors.prior import Prior
from gprior.randomness import normal

__all__ = ["BigGAN"]

BOUND = 2.0  # standard deviations at which draws are truncated, as published


class BigGAN(Prior):
    """BigGAN or BigGAN-deep, a class-conditional generator.

    `gprior.load_prior` makes one from a published checkpoint.

    Parameters
    ----------
    widths : sequence of int
        Number of feature maps before the first block, and after each block.
    up : sequence of bool
        Whether each block doubles the height and width, which start at 4x4.
    z_dim, embed_dim : int
        Sizes of the latent z and of the class embedding.
    c_dim : int
        Number of classes.
    deep : bool
        True for the blocks of BigGAN-deep, each of which receives z and the embedding; False
        for those of BigGAN.
    hierarchical : bool
        For BigGAN. If True, z is cut into equal pieces: the first one makes the 4x4 input, and
        each block receives one piece and the embedding. If False, z makes the input, and the
        blocks receive the embedding.
    attention : sequence of int
        Numbers of the blocks (from 0) that are followed by self-attention.
    n_stats : int
        Rows of stored batch statistics: 1, or one row for each of n_stats truncations.
    eps : float
        Added to the variances.

    Attributes
    ----------
    truncation : float
        In [0, 1], initially 1. It applies to draws and samples, and to calls without a
        truncation. Below 1, draws are truncated normal (at two standard deviations) times the
        truncation. A latent that is given to a call is never scaled: there, the truncation only
        selects the batch statistics, if there are several rows.
    blocks : ModuleList
        The blocks; a state may be taken between two of them.

    Raises
    ------
    ValueError
        If a size is out of range, or sizes are inconsistent.

    References
    ----------
    Brock, Donahue and Simonyan 2019, "Large scale GAN training for high fidelity natural
    image synthesis", arXiv:1809.11096.

    Examples
    --------
    >>> from gprior.priors.biggan import BigGAN
    >>> prior = BigGAN([16, 16, 8], [True, True], z_dim=4, embed_dim=4, c_dim=3).freeze()
    >>> z, c = prior.draw([(0, "z")]), prior.classes(2, 1)
    >>> prior(z=z, c=c).shape
    torch.Size([1, 3, 16, 16])
    >>> bool((prior(z=z, embedding=prior.embed(c)) == prior(z=z, c=c)).all())
    True
    """

    inputs = frozenset({"z", "label", "embedding", "state"})

    def __init__(
        self,
        widths: Sequence[int],
        up: Sequence[bool],
        z_dim: int,
        embed_dim: int,
        c_dim: int,
        deep: bool = True,
        hierarchical: bool = False,
        attention: Sequence[int] = (),
        n_stats: int = 1,
        eps: float = 1e-4,
    ) -> None:
        super().__init__()
        self.config = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        self.config |= {"widths": [*widths], "up": [*up], "attention": [*attention]}
        check_config(self.config)
        self.truncation = 1.0
        self.z_dim, self.c_dim, self.embed_dim = z_dim, c_dim, embed_dim
        self.sides = list(accumulate(up, lambda side, twice: side * (1 + twice), initial=4))
        self.image_shape = (3, self.sides[-1], self.sides[-1])
        self.deep, self.hierarchical = deep, hierarchical
        piece = z_dim // (len(up) + 1) if hierarchical else z_dim
        cond = embed_dim + (piece if deep or hierarchical else 0)
        self.class_embedding = nn.Parameter(random_weights(c_dim, embed_dim))
        self.first = nn.Linear(cond if deep else piece, 16 * widths[0])
        self.blocks = nn.ModuleList(
            Block(a, b, cond, twice, k in attention, deep, n_stats, eps)
            for k, ((a, b), twice) in enumerate(zip(pairwise(widths), up, strict=True))
        )
        self.norm = Norm(widths[-1], 0, n_stats, eps)
        self.to_rgb = nn.Conv2d(widths[-1], 3, 3, padding=1)

    @property
    def num_blocks(self) -> int:
        """Number of blocks; `synthesis` can start from each."""
        return len(self.blocks)

    def describe(self) -> str:
        """Return the architecture and the sizes of z and of the class embedding."""
        kind = "BigGAN-deep" if self.deep else "BigGAN"
        return f"{kind}, z {self.z_dim}, class embedding {self.embed_dim}"

    def _draw_inputs(
        self, keys: Sequence[Sequence[int | str]], truncation: float | None
    ) -> dict[str, Any]:
        return {"z": self.draw(keys, truncation), "truncation": truncation}

    def draw(self, keys: Sequence[Sequence[int | str]], truncation: float | None = None) -> Tensor:
        """Return latents z (len(keys), z_dim), one per key.

        They are N(0, I), or truncated normal if the truncation is below 1; None stands for the
        attribute ``truncation``.
        """
        t = self._truncation(truncation)
        if t == 1:
            return normal(keys, (self.z_dim,), self.like)
        # The normal numbers of t = 1 pass through both distribution functions, so that an image
        # stays recognisable from one truncation to another.
        double = torch.empty(0, dtype=torch.float64, device="cpu")
        z = normal(keys, (self.z_dim,), double)
        low = torch.special.ndtr(double.new_tensor(-BOUND))
        share = low + (1 - 2 * low) * torch.special.ndtr(z)
        truncated: Tensor = t * torch.special.ndtri(share)
        return truncated.to(self.like)

    def embed(self, c: Tensor) -> Tensor:
        """Return the embedding (B, embed_dim) of class vectors c (B, c_dim), one-hot or soft."""
        check_shape("c", c, (self.c_dim,))
        return c @ self.class_embedding

    def synthesis(
        self,
        z: Tensor,
        c: Tensor | None = None,
        *,
        embedding: Tensor | None = None,
        truncation: float | None = None,
        from_block: int = 0,
        state: State | None = None,
    ) -> Tensor:
        """Generate raw images (B, 3, H, W) in [-1, 1].

        Parameters
        ----------
        z : Tensor
            Latents (B, z_dim).
        c : Tensor, optional
            Class vectors (B, c_dim), one-hot or soft. Give either c or ``embedding``.
        embedding : Tensor, optional
            The class embedding (B, embed_dim).
        truncation : float, optional
            Selects the batch statistics; None stands for the attribute ``truncation``.
        from_block : int
            The block to start from. Above 0, it needs a ``state``.
        state : tuple of Tensor, optional
            The state that `run_blocks` returned before this block.
        """
        x = self.run_blocks(
            z, c, embedding=embedding, truncation=truncation, from_block=from_block, state=state
        )[0]
        return torch.tanh(self.to_rgb(self.norm(x, x, self._truncation(truncation))))

    def run_blocks(
        self,
        z: Tensor,
        c: Tensor | None = None,
        *,
        embedding: Tensor | None = None,
        truncation: float | None = None,
        from_block: int = 0,
        to_block: int | None = None,
        state: State | None = None,
    ) -> State:
        """Run blocks ``from_block`` to ``to_block`` (exclusive), and return the state there.

        The state is (features, rgb), as for `StyleGAN2`; here rgb has no channels, because
        no image is made before the last block. The arguments are those of `synthesis`.
        """
        embedding = self._embedding(z, c, embedding)
        t = self._truncation(truncation)
        first, conds = self._conditions(z, embedding)
        check_entry(from_block, state, len(self.blocks))
        if state is None:
            x = self.first(first).view(len(z), -1, 4, 4)
        else:
            x, side = state[0], self.sides[from_block]
            width = self.config["widths"][from_block]
            check_shape("state[0]", x, (width, side, side), (len(z),))
        for k in range(from_block, len(self.blocks) if to_block is None else to_block):
            x = self.blocks[k](x, conds[k], t)
        return x, x[:, :0]

    def forward(  # type: ignore[override]
        self, z: Tensor, c: Tensor | None = None, **synthesis: Any
    ) -> Tensor:
        """Return images (B, 3, H, W), (raw + 1) / 2; the arguments are those of `synthesis`."""
        return (self.synthesis(z, c, **synthesis) + 1) / 2

    def _embedding(self, z: Tensor, c: Tensor | None, embedding: Tensor | None) -> Tensor:
        check_shape("z", z, (self.z_dim,))
        if (c is None) == (embedding is None):
            raise InputError(
                f"give either c of shape (B, {self.c_dim}) or embedding of shape "
                f"(B, {self.embed_dim})"
            )
        if c is not None:
            check_shape("c", c, (self.c_dim,), (len(z),))
            return self.embed(c)
        check_shape("embedding", embedding, (self.embed_dim,), (len(z),))  # type: ignore[arg-type]
        return embedding  # type: ignore[return-value]

    def _conditions(self, z: Tensor, embedding: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """Return what the 4x4 input and what each block receives."""
        n = len(self.blocks)
        if self.deep:
            both = torch.cat([z, embedding], 1)
            return both, [both] * n
        if not self.hierarchical:
            return z, [embedding] * n
        first, *pieces = z.chunk(n + 1, 1)
        return first, [torch.cat([embedding, piece], 1) for piece in pieces]

    def _fingerprint(self) -> tuple[Hashable, ...]:
        return (self.truncation, *super()._fingerprint())

    def _truncation(self, given: float | None) -> float:
        return number("truncation", self.truncation if given is None else given, 0, 1)


def check_config(config: dict[str, Any]) -> None:
    """Refuse sizes that no BigGAN can have."""
    widths, up, attention = config["widths"], config["up"], config["attention"]
    integer("len(up)", len(up), 1, 64)
    if len(widths) != len(up) + 1 or not all(isinstance(twice, bool) for twice in up):
        raise InputError(f"up must have one bool per block, {len(widths) - 1}, got {up}")
    integer("number of blocks with up", sum(up), 1, 10)
    widths = config["widths"] = [integer("every width", n, 1, 1 << 15) for n in widths]
    for a, b in pairwise(widths):
        if config["deep"] and (a % 4 or b not in (a, a / 2)):
            raise InputError(
                "widths of BigGAN-deep must be multiples of 4, and each block keeps or halves the "
                f"width, got {widths}"
            )
    for k in attention:
        integer("every entry of attention", k, 0, len(up) - 1)
        if widths[k + 1] % 8:
            raise InputError(f"attention needs a width that is a multiple of 8, got {widths}")
    if len(set(attention)) != len(attention):
        raise InputError(f"attention must name each block once, got {attention}")
    for name in ("z_dim", "embed_dim", "c_dim", "n_stats"):
        config[name] = integer(name, config[name], 1, 1 << 16)
    for name in ("deep", "hierarchical"):
        if not isinstance(config[name], bool):
            raise InputError(f"{name} must be True or False, got {config[name]!r}")
    if config["hierarchical"] and (config["deep"] or config["z_dim"] % len(widths)):
        raise InputError(
            f"hierarchical=True needs deep=False and a z_dim that is a multiple of {len(widths)}, "
            f"got z_dim={config['z_dim']}"
        )
    eps = config["eps"]
    if number("eps", eps, above=0) >= 1:
        raise InputError(f"eps must be less than 1, got {eps!r}")
