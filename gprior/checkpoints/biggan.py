"""The two published layouts of BigGAN as priors.

BigGAN-PyTorch, by the paper's authors, and Hugging Face's BigGAN-deep with the weights of the
paper (Brock, Donahue and Simonyan 2019, arXiv:1809.11096).
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
    """Return BigGAN-deep from the layout of pytorch-pretrained-biggan.

    Parameters
    ----------
    config : mapping
        The content of ``config.json``.
    tensors : mapping
        The content of ``pytorch_model.bin``.

    Returns
    -------
    BigGAN
        In float32, frozen, spectral norms divided out.

    Raises
    ------
    ValueError
        If the config is not of this layout, or a tensor is missing, too many, or of
        another shape than the config says.
    """
    layers, ch = _layers(config), _number(config, "channel_width")
    at = _number(config, "attention_layer_position")
    width = layers[0][1] * ch
    prior = _skeleton(
        widths=[width] + [layer[2] * ch for layer in layers],
        up=[layer[0] for layer in layers],
        z_dim=_number(config, "z_dim"),
        embed_dim=_number(config, "class_embed_dim"),
        c_dim=_number(config, "num_classes"),
        attention=[at - 1] if at < len(layers) else [],
        n_stats=_number(config, "n_stats", least=2),
        eps=config.get("eps"),
    )
    side = prior.image_shape[1]
    if _number(config, "output_dim") != side:
        raise InputError(f"config: layers make {side} pixels, output_dim is {config['output_dim']}")
    read = HuggingFace(tensors)
    embeddings = read("embeddings.weight", prior.embed_dim, prior.c_dim)
    prior.class_embedding = nn.Parameter(embeddings.t().contiguous())
    read.fill(prior.first, "generator.gen_z")
    order = torch.arange(16 * width).view(16, width).t().flatten()  # theirs has channels last
    prior.first.weight.data = prior.first.weight.data[order]
    prior.first.bias.data = prior.first.bias.data[order]
    for i, block in enumerate(_blocks(prior)):
        name = f"generator.layers.{i + (i >= at)}"  # attention counts as a layer
        for k, (norm, conv) in enumerate(zip(block.norms, block.convs, strict=True)):
            read.fill(norm, f"{name}.bn_{k}")
            read.fill(conv, f"{name}.conv_{k}")
        if block.attention is not None:
            names = [f"snconv1x1_{part}" for part in ("theta", "phi", "g", "o_conv")]
            read.attention(block.attention, f"generator.layers.{at}", names, 1)
    read.fill(prior.norm, "generator.bn")
    # As many outputs as inputs, of which three are used.
    wide = nn.Conv2d(prior.to_rgb.in_channels, prior.to_rgb.in_channels, 3, device="meta")
    read.fill(wide, "generator.conv_to_rgb")
    first = {k: v[:3].clone() for k, v in wide.state_dict().items()}
    prior.to_rgb.load_state_dict(first, assign=True)
    read.close()
    return prior.freeze()


def from_biggan_pytorch(tensors: Mapping[str, Tensor]) -> BigGAN:
    """Return BigGAN from the layout of BigGAN-PyTorch, ``G_ema.pth`` or ``G.pth``.

    The architecture is derived from the shapes.

    Parameters
    ----------
    tensors : mapping
        The content of the file, with a shared class embedding and one vector per spectral
        norm, as published.

    Returns
    -------
    BigGAN
        In float32, frozen, spectral norms divided out.

    Raises
    ------
    ValueError
        If a tensor is missing, too many, or of another shape than the others imply.
    """
    read = BigGANPyTorch(tensors)
    c_dim, embed_dim = read.shape("shared.weight", 2)
    rows, piece = read.shape("linear.weight", 2)
    widths = [rows // 16]
    while (name := f"blocks.{len(widths) - 1}.0.conv1.weight") in tensors:
        widths.append(read.shape(name, 4)[0])
    n = len(widths) - 1
    hierarchical = read.shape("blocks.0.0.bn1.gain.weight", 2)[1] != embed_dim
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
    prior.class_embedding = nn.Parameter(read("shared.weight", c_dim, embed_dim))
    read.fill(prior.first, "linear")
    for i, block in enumerate(_blocks(prior)):
        for k, (norm, conv) in enumerate(zip(block.norms, block.convs, strict=True), 1):
            read.fill(norm, f"blocks.{i}.0.bn{k}")
            read.fill(conv, f"blocks.{i}.0.conv{k}")
        if block.shortcut is not None:
            read.fill(block.shortcut, f"blocks.{i}.0.conv_sc")
        if block.attention is not None:
            read.attention(block.attention, f"blocks.{i}.1", ("theta", "phi", "g", "o"))
    read.fill(prior.norm, "output_layer.0")
    read.fill(prior.to_rgb, "output_layer.2")
    read.close()
    return prior.freeze()


def _skeleton(**sizes: Any) -> BigGAN:
    with torch.device("meta"):  # shapes without memory
        return BigGAN(**sizes)


def _blocks(prior: BigGAN) -> list[Block]:
    return list(prior.blocks)  # type: ignore[arg-type]


def _number(config: Mapping[str, Any], name: str, least: int = 1) -> int:
    return integer(f"config: {name}", config.get(name), least, 1 << 16)


def _layers(config: Mapping[str, Any]) -> list[tuple[bool, int, int]]:
    """Return the layers of a Hugging Face config: (twice the size, width in, width out)."""
    layers: Any = config.get("layers")
    try:
        found = [
            (up, integer("", a, 1, 1 << 10), integer("", b, 1, 1 << 10)) for up, a, b in layers
        ]
        chained = all(left[2] == right[1] for left, right in pairwise(found))
        if not found or not chained or found[-1][2] != 1:
            raise ValueError
    except (TypeError, ValueError) as error:
        raise InputError(
            "config: layers must be a list of [up, in, out] with in that of the layer before and "
            f"a last out of 1, got {str(layers)[:200]}"
        ) from error
    return found
