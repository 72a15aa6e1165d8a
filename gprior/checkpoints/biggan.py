"""Makes BigGAN priors from the two layouts in which BigGANs are published.

The layouts are that of BigGAN-PyTorch, by the paper's authors, and that of Hugging Face's
BigGAN-deep with the weights of the paper (Brock, Donahue and Simonyan 2019, arXiv:1809.11096).
Both functions derive the sizes, make a `BigGAN` without memory, and fill it layer by layer through
a reader of `gprior.checkpoints.biggan_readers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from gprior.checkpoints.biggan_readers import BigGANPyTorch, HuggingFace
from gprior.checks import InputError, integer
from gprior.priors import BigGAN, Block

__all__ = ["from_biggan_pytorch", "from_huggingface"]


def from_huggingface(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> BigGAN:
    """Return a BigGAN-deep from the layout of pytorch-pretrained-biggan.

    Parameters
    ----------
    config : mapping
        The content of ``config.json``.
    tensors : mapping
        The content of ``pytorch_model.bin``.

    Returns
    -------
    BigGAN
        Frozen, in float32. Every weight is divided by its spectral norm.

    Raises
    ------
    InputError
        If the config is not of this layout; if a tensor is missing or has another shape than the
        config says; or if there are tensors that this architecture does not have.
    """
    layers, ch = _layers(config), _size(config, "channel_width")
    attention_at = _size(config, "attention_layer_position")
    width = layers[0][1] * ch
    prior = _skeleton(
        widths=[width] + [layer[2] * ch for layer in layers],
        up=[layer[0] for layer in layers],
        z_dim=_size(config, "z_dim"),
        embed_dim=_size(config, "class_embed_dim"),
        c_dim=_size(config, "num_classes"),
        attention=[attention_at - 1] if attention_at < len(layers) else [],
        n_stats=_size(config, "n_stats", least=2),
        eps=config.get("eps"),
    )
    side = prior.image_shape[1]
    if _size(config, "output_dim") != side:
        raise InputError(f"config: layers make {side} pixels, output_dim is {config['output_dim']}")
    reader = HuggingFace(tensors)
    embeddings = reader.read("embeddings.weight", prior.embed_dim, prior.c_dim)
    prior.class_embedding = nn.Parameter(embeddings.t().contiguous())
    reader.fill(prior.first, "generator.gen_z")
    # The published layer orders its outputs as (row, column, channel), the prior's as
    # (channel, row, column).
    order = torch.arange(16 * width, device="cpu").view(16, width).t().flatten()
    prior.first.weight.data = prior.first.weight.data[order]
    prior.first.bias.data = prior.first.bias.data[order]
    for i, block in enumerate(_blocks(prior)):
        name = f"generator.layers.{i + (i >= attention_at)}"  # attention counts as a layer
        for k, (norm, conv) in enumerate(zip(block.norms, block.convs, strict=True)):
            reader.fill(norm, f"{name}.bn_{k}")
            reader.fill(conv, f"{name}.conv_{k}")
        if block.attention is not None:
            parts = [f"snconv1x1_{part}" for part in ("theta", "phi", "g", "o_conv")]
            reader.fill_attention(
                block.attention, f"generator.layers.{attention_at}", parts, gamma_shape=(1,)
            )
    reader.fill(prior.norm, "generator.bn")
    # The published last layer has as many outputs as inputs, of which the first three are used.
    wide = nn.Conv2d(prior.to_rgb.in_channels, prior.to_rgb.in_channels, 3, device="meta")
    reader.fill(wide, "generator.conv_to_rgb")
    used = {k: v[:3].clone() for k, v in wide.state_dict().items()}
    prior.to_rgb.load_state_dict(used, assign=True)
    reader.close()
    return prior.freeze()


def from_biggan_pytorch(tensors: Mapping[str, Tensor]) -> BigGAN:
    """Return a BigGAN from the layout of BigGAN-PyTorch, ``G_ema.pth`` or ``G.pth``.

    The architecture is derived from the shapes.

    Parameters
    ----------
    tensors : mapping
        The content of the file, with a shared class embedding and one vector per spectral
        norm, as published.

    Returns
    -------
    BigGAN
        Frozen, in float32. Every weight is divided by its spectral norm.

    Raises
    ------
    InputError
        If a tensor is missing or has another shape than the others imply, or if there are tensors
        that this architecture does not have.
    """
    reader = BigGANPyTorch(tensors)
    c_dim, embed_dim = reader.shape("shared.weight", 2)
    rows, piece = reader.shape("linear.weight", 2)
    widths = [rows // 16]
    while (name := f"blocks.{len(widths) - 1}.0.conv1.weight") in tensors:
        widths.append(reader.shape(name, 4)[0])
    n = len(widths) - 1
    hierarchical = reader.shape("blocks.0.0.bn1.gain.weight", 2)[1] != embed_dim
    prior = _skeleton(
        widths=widths,
        up=[True] * n,
        z_dim=piece * (n + 1) if hierarchical else piece,
        embed_dim=embed_dim,
        c_dim=c_dim,
        deep=False,
        hierarchical=hierarchical,
        attention=[k for k in range(n) if f"blocks.{k}.1.gamma" in tensors],
        eps=1e-5,
    )
    prior.class_embedding = nn.Parameter(reader.read("shared.weight", c_dim, embed_dim))
    reader.fill(prior.first, "linear")
    for i, block in enumerate(_blocks(prior)):
        for k, (norm, conv) in enumerate(zip(block.norms, block.convs, strict=True), 1):
            reader.fill(norm, f"blocks.{i}.0.bn{k}")
            reader.fill(conv, f"blocks.{i}.0.conv{k}")
        if block.shortcut is not None:
            reader.fill(block.shortcut, f"blocks.{i}.0.conv_sc")
        if block.attention is not None:
            reader.fill_attention(block.attention, f"blocks.{i}.1", ("theta", "phi", "g", "o"))
    reader.fill(prior.norm, "output_layer.0")
    reader.fill(prior.to_rgb, "output_layer.2")
    reader.close()
    return prior.freeze()


def _skeleton(**sizes: Any) -> BigGAN:
    """Return a BigGAN on the meta device, which has shapes and no memory."""
    with torch.device("meta"):
        return BigGAN(**sizes)


def _blocks(prior: BigGAN) -> list[Block]:
    return list(prior.blocks)  # type: ignore[arg-type]


def _size(config: Mapping[str, Any], name: str, least: int = 1) -> int:
    """Return a size that a config gives."""
    return integer(f"config: {name}", config.get(name), least, 1 << 16)


def _layers(config: Mapping[str, Any]) -> list[tuple[bool, int, int]]:
    """Return the layers of a Hugging Face config: (doubles the size, width in, width out)."""
    given = config.get("layers")
    try:
        layers = [
            (up, integer("in", n_in, 1, 1 << 10), integer("out", n_out, 1, 1 << 10))
            for up, n_in, n_out in given  # type: ignore[union-attr]
        ]
        chained = all(left[2] == right[1] for left, right in pairwise(layers))
        if not layers or not chained or layers[-1][2] != 1:
            raise ValueError
    except (TypeError, ValueError) as error:
        raise InputError(
            "config: layers must be a list of [up, in, out] with in that of the layer before and "
            f"a last out of 1, got {str(given)[:200]}"
        ) from error
    return layers
