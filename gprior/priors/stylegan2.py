"""The StyleGAN2 generator, written from the equations of the papers.

Karras et al. 2020, "Analyzing and improving the image quality of StyleGAN"
(arXiv:1912.04958), with the class conditioning of Karras et al. 2020,
"Training generative adversarial networks with limited data" (arXiv:2006.06676), and as an option
with the latents of Poirier-Ginter et al. 2022, "Overparameterization improves StyleGAN inversion".
"""

from __future__ import annotations

from collections.abc import Mapping as AnyMapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gprior.checks import InputError, number
from gprior.priors.checks import State, check_entry, check_shape, check_sizes
from gprior.priors.initial import random_weights
from gprior.priors.prior import Prior
from gprior.priors.stylegan2_blocks import Block, Mapping, StyledConv, correlated
from gprior.priors.stylegan2_layers import ModulatedConv, channels
from gprior.randomness import normal

Noise = str | Sequence[Tensor] | AnyMapping[int, Tensor]
NOISE_MODES = ("const", "zero", "random")


class StyleGAN2(Prior):
    """The StyleGAN2 generator with skip connections.

    Parameters
    ----------
    img_resolution : int
        Height and width in pixels, a power of two from 16 to 1024.
    img_channels : int
        Number of channels, 1 or 3.
    z_dim, w_dim : int
        Sizes of the latent z and of the style w.
    c_dim : int
        Number of classes, 0 for an unconditional prior.
    channel_base, channel_max : int
        A block at resolution r has min(channel_base / r, channel_max) feature maps.
    num_mapping_layers : int
        Number of layers of the mapping network.
    conv_clamp : float, optional
        Bound on activations, for checkpoints that were trained with one.
    use_noise : bool
        False for checkpoints that were trained without noise inputs.
    widths : sequence of int, optional
        Number of feature maps of each block, from 4x4 up. It replaces channel_base and
        channel_max for checkpoints that do not follow their rule.
    overparameterized : bool
        True for one latent and one style per output filter, see `correlated`. The input z is then
        all latents as one vector.

    Attributes
    ----------
    rows : int
        Number of styles per layer that the mapping network makes: `num_filters` if the prior is
        overparameterized, and otherwise 0 for a single style.
    z_dim : int
        Size of the input z. If the prior is overparameterized, it is (rows + 1) times the argument.
    num_ws : int
        Number of styles per image, 2 log2(img_resolution) - 2.
    w_avg : Tensor
        Mean of w, (w_dim,), or (c_dim, w_dim) if there are classes.

    Raises
    ------
    ValueError
        If a size is out of range.

    References
    ----------
    Karras et al. 2020, "Analyzing and improving the image quality of StyleGAN",
    arXiv:1912.04958. Poirier-Ginter et al. 2022, "Overparameterization improves StyleGAN
    inversion", section 3.1.
    """

    def __init__(
        self,
        img_resolution: int,
        img_channels: int,
        z_dim: int = 512,
        w_dim: int = 512,
        c_dim: int = 0,
        channel_base: int = 32768,
        channel_max: int = 512,
        num_mapping_layers: int = 8,
        conv_clamp: float | None = None,
        use_noise: bool = True,
        widths: Sequence[int] | None = None,
        overparameterized: bool = False,
    ) -> None:
        super().__init__()
        self.config = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        log2 = check_sizes(self.config)
        self.image_shape = (img_channels, img_resolution, img_resolution)
        self.w_dim, self.c_dim = w_dim, c_dim
        self.conv_clamp = conv_clamp
        self.num_ws = 2 * log2 - 2
        names = {"z", "filters"} | (set() if overparameterized else {"w", "content", "state"})
        optional = {"noise": use_noise, "label": bool(c_dim)}
        self.inputs = frozenset(names | {name for name, has in optional.items() if has})
        self.mapping_network = Mapping(z_dim, w_dim, c_dim, num_mapping_layers)
        rule = (channels(2**k, channel_base, channel_max) for k in range(2, log2 + 1))
        self.widths = widths = list(rule if widths is None else widths)
        self.const = nn.Parameter(random_weights(1, widths[0], 4, 4))
        self.blocks = nn.ModuleList(
            Block(n_in, n_out, w_dim, 4 * 2**k, img_channels, use_noise)
            for k, (n_in, n_out) in enumerate(zip([0, *widths], widths, strict=False))
        )
        self.max_filters = max(widths)
        self.rows = self.num_filters if overparameterized else 0
        self.z_dim = z_dim * (self.rows + 1)

    @property
    def w_avg(self) -> Tensor:
        """Mean of w: (w_dim,), or (c_dim, w_dim) if there are classes."""
        return self.mapping_network.w_avg

    @property
    def noise_shapes(self) -> list[tuple[int, int, int]]:
        """Shapes (1, r, r) of the noise maps: 4x4, 8x8 first, 8x8 second, 16x16 first, ..."""
        log2 = self.num_ws // 2 + 1
        return [(1, 2**k, 2**k) for k in range(2, log2 + 1) for _ in range(1 if k == 2 else 2)]

    @property
    def num_blocks(self) -> int:
        """Number of blocks, one per resolution from 4x4 on; `synthesis` can start from each."""
        return len(self.blocks)

    @property
    def num_filters(self) -> int:
        """The largest number of output filters of a layer, for one style per output filter."""
        return max(m.weight.shape[0] for m in self.modules() if isinstance(m, ModulatedConv))

    @property
    def content_shape(self) -> tuple[int, int, int]:
        """Shape (channels, 4, 4) of the constant input."""
        return self.const.shape[1], 4, 4

    def noise_maps(self) -> list[Tensor]:
        """Return the constant noise maps, each (1, 1, r, r), in the order of `noise_shapes`."""
        return [m.noise_const for m in self.modules() if isinstance(m, StyledConv)]  # type: ignore[misc]

    def describe(self) -> str:
        """Return the architecture and the sizes of z and w."""
        kind, rows = ("overparameterized ", f"{self.rows} x ") if self.rows else ("", "")
        return f"{kind}StyleGAN2, z {self.z_dim}, w {self.num_ws} x {rows}{self.w_dim}"

    def _draw_inputs(
        self, keys: Sequence[Sequence[int | str]], truncation: float | None
    ) -> dict[str, Any]:
        psi = 1.0 if truncation is None else number("truncation", truncation)
        return {"z": self.draw(keys), "truncation_psi": psi}

    def draw(self, keys: Sequence[Sequence[int | str]]) -> Tensor:
        """Return latents z (len(keys), z_dim) from N(0, I), one per key."""
        return normal(keys, (self.z_dim,), self.like)

    def mapping(
        self,
        z: Tensor,
        c: Tensor | None = None,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Tensor:
        """Map latents to one style per layer.

        Parameters
        ----------
        z : Tensor
            Latents (B, z_dim).
        c : Tensor, optional
            Class vectors (B, c_dim), one-hot or soft; required if the prior has classes.
        truncation_psi : float
            w becomes w_avg + psi (w - w_avg), where w_avg is the mean of the class.
        truncation_cutoff : int, optional
            Number of layers, counted from the first, that are truncated; None for all.

        Returns
        -------
        Tensor
            ws (B, num_ws, w_dim), or (B, num_ws, rows, w_dim) if the prior is overparameterized.
        """
        check_shape("z", z, (self.z_dim,))
        if self.c_dim and c is None:
            raise InputError(f"this prior has classes: pass c of shape (B, {self.c_dim})")
        if c is not None:
            if not self.c_dim:
                raise InputError("c was given, but this prior has no classes; leave c=None")
            check_shape("c", c, (self.c_dim,), (len(z),))
        w: Tensor = self.mapping_network(correlated(z, self.rows) if self.rows else z, c)
        ws = w[:, None].expand(-1, self.num_ws, *w.shape[1:])
        if truncation_psi == 1:
            return ws
        mean = self.mean_style(c).reshape(-1, *[1] * (ws.ndim - 2), self.w_dim)
        cut = self.num_ws if truncation_cutoff is None else truncation_cutoff
        return torch.cat([mean + truncation_psi * (ws[:, :cut] - mean), ws[:, cut:]], 1)

    def synthesis(
        self,
        ws: Tensor,
        noise: Noise = "const",
        content: Tensor | None = None,
        from_block: int = 0,
        state: State | None = None,
    ) -> Tensor:
        """Generate raw images from styles.

        Parameters
        ----------
        ws : Tensor
            Styles (B, num_ws, w_dim), or (B, num_ws, rows, w_dim) with one style per output
            filter.
        noise : {"const", "zero", "random"}, sequence or mapping of Tensor
            A sequence gives all noise maps (B or 1, 1, r, r), in the order 4x4, 8x8 first, 8x8
            second, and so on. A mapping gives some of them by their number in this order; the
            others are the constant ones.
        content : Tensor, optional
            (B or 1, channels, 4, 4), used instead of the learned constant.
        from_block : int
            The block to start from (0 is 4x4). Above 0, it needs a ``state``.
        state : tuple of Tensor, optional
            The (features, rgb) that the block before ``from_block`` returned.

        Returns
        -------
        Tensor
            Raw images (B, C, H, W), nominally in [-1, 1].
        """
        return self.run_blocks(ws, noise, content, from_block, len(self.blocks), state)[1]

    def run_blocks(
        self,
        ws: Tensor,
        noise: Noise = "const",
        content: Tensor | None = None,
        from_block: int = 0,
        to_block: int | None = None,
        state: State | None = None,
    ) -> State:
        """Run blocks ``from_block`` to ``to_block`` (exclusive), and return (features, rgb).

        The other arguments are those of `synthesis`.
        """
        noises = self._check(ws, noise, content, from_block, state)
        if state is None:
            x = self.const if content is None else content
            x, rgb = x.expand(ws.shape[0], *self.content_shape), None
            if x.dtype == torch.float32:  # faster there, slower in float64
                x = x.contiguous(memory_format=torch.channels_last)
        else:
            x, rgb = state  # also in its memory order, so that the image is exactly the same
        for k in range(from_block, len(self.blocks) if to_block is None else to_block):
            first = max(2 * k - 1, 0)
            x, rgb = self.blocks[k](
                x, rgb, ws[:, first : 2 * k + 2], noises[first : 2 * k + 1], self.conv_clamp
            )
        return x, rgb  # type: ignore[return-value]

    def _check(
        self,
        ws: Tensor,
        noise: Noise,
        content: Tensor | None,
        from_block: int,
        state: State | None,
    ) -> Sequence[str | Tensor]:
        if ws.ndim not in (3, 4) or ws.shape[1] != self.num_ws or ws.shape[-1] != self.w_dim:
            raise InputError(
                f"ws must have shape (B, {self.num_ws}, {self.w_dim}) or "
                f"(B, {self.num_ws}, rows, {self.w_dim}), got {tuple(ws.shape)}"
            )
        check_entry(from_block, state, len(self.blocks))
        batch = (1, len(ws))
        if content is not None:
            check_shape("content", content, self.content_shape, batch)
        if state is not None:
            side = 2 * 2**from_block
            for i, n in enumerate((self.widths[from_block - 1], self.image_shape[0])):
                check_shape(f"state[{i}]", state[i], (n, side, side), batch[1:])
        if isinstance(noise, str):
            if noise not in NOISE_MODES:
                raise InputError(f"noise must be one of {NOISE_MODES} or a list, got {noise!r}")
            return [noise] * (self.num_ws - 1)
        shapes = self.noise_shapes
        if isinstance(noise, AnyMapping):
            if unknown := sorted(set(noise) - set(range(len(shapes)))):
                raise InputError(f"noise has maps {unknown}; there are 0 to {len(shapes) - 1}")
            maps: list[str | Tensor] = [noise.get(i, "const") for i in range(len(shapes))]
        else:
            maps = list(noise)
        if len(maps) != self.num_ws - 1:
            raise InputError(f"noise must have {self.num_ws - 1} maps, got {len(maps)}")
        for i, given in enumerate(maps):
            if isinstance(given, Tensor):
                check_shape(f"noise[{i}]", given, shapes[i], batch)
        return maps

    def forward(
        self,
        z: Tensor | None = None,
        c: Tensor | None = None,
        *,
        ws: Tensor | None = None,
        truncation_psi: float = 1.0,
        **synthesis: Any,
    ) -> Tensor:
        """Return images (B, C, H, W), nominally in [0, 1], from z (and c) or from ws."""
        if (z is None) == (ws is None):
            raise InputError("give either z or ws")
        if ws is None:
            ws = self.mapping(z, c, truncation_psi)  # type: ignore[arg-type]
        return (self.synthesis(ws, **synthesis) + 1) / 2
