"""Training images, from a folder or from the built-in head phantoms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gprior.checks import InputError
from gprior.images import EXTENSIONS
from gprior.training.head_phantoms import CONTRASTS, phantoms

__all__ = ["ImageSet", "folder_set", "phantom_set"]


@dataclass(frozen=True)
class ImageSet:
    """Training images in memory, as 8-bit integers.

    Attributes
    ----------
    images : Tensor
        (N, C, H, W) uint8.
    labels : Tensor
        (N,) int64, indices into `classes`; 0 where there are no classes.
    classes : tuple of str
        Names of the classes; empty if there are none.
    held_out : Tensor
        (M, C, H, W) uint8. No step trains on these images; the Fréchet distance of samples is
        measured to them.
    description : str
        A description of the images, for the model card.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    held_out: Tensor
    description: str

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return images (B, C, H, W) in [-1, 1] and labels (B,) of the given rows."""
        return self.images[rows].float() / 127.5 - 1, self.labels[rows]


def to_bytes(images: Tensor) -> Tensor:
    """Round values in [0, 1] to 8-bit integers."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def phantom_set(
    resolution: int, count: int, held_out: int, tick: Callable[[int], object] = lambda n: None
) -> ImageSet:
    """Draw head phantoms.

    Parameters
    ----------
    resolution : int
        Side in pixels.
    count : int
        Number of phantoms for training, drawn with seed 0.
    held_out : int
        Number of held-out phantoms, drawn with seed 1.
    tick : callable
        Called with the number of phantoms after each part that was drawn.
    """
    parts, labels = [], []
    for start in range(0, count, 256):
        images, label = phantoms(range(start, min(start + 256, count)), resolution)
        parts.append(to_bytes(images))
        labels.append(label)
        tick(len(images))
    others = to_bytes(phantoms(range(held_out), resolution, seed=1)[0])
    text = f"{count} procedural head phantoms of {resolution} pixels, three contrasts"
    return ImageSet(torch.cat(parts), torch.cat(labels), CONTRASTS, others, text)


def folder_set(
    folder: Path, resolution: int, channels: int, tick: Callable[[int], object] = lambda n: None
) -> ImageSet:
    """Read all images in a folder and its subfolders. The subfolders, if any, are the classes.

    Images are the files with an extension of `gprior.images.EXTENSIONS`. They are cropped to a
    square, resized with their aspect ratio kept, and mapped to [0, 1] as `gprior.images.to_unit`
    does by default. Every tenth image is held out.

    Parameters
    ----------
    folder : Path
        The folder.
    resolution : int
        Side of the training images in pixels.
    channels : int
        1 for grayscale (colours are averaged), 3 for RGB.
    tick : callable
        Called with 1 after each image that was read.

    Raises
    ------
    InputError
        If the folder does not exist, has fewer than 20 images, or has images beside subfolders
        with images.
    ImageFileError
        If an image cannot be read.
    """
    from gprior.images import fit, read_image, to_unit

    if not folder.is_dir():
        raise InputError(f"data must be a folder of images or 'phantoms', got {folder}")
    endings = tuple(ending for endings in EXTENSIONS.values() for ending in endings)
    paths = sorted(p for p in folder.rglob("*") if p.name.lower().endswith(endings))
    if len(paths) < 20:
        raise InputError(
            f"{folder} has {len(paths)} images; training needs at least 20, with extensions "
            f"{', '.join(endings)}"
        )
    names = tuple(sorted({p.relative_to(folder).parts[0] for p in paths if p.parent != folder}))
    loose = [p for p in paths if p.parent == folder]
    if names and loose:
        raise InputError(
            f"{folder} has images beside class folders ({loose[0].name}); move each image into "
            "the folder of its class"
        )
    images, labels = [], []
    for path in paths:
        array = fit(to_unit(read_image(path))[0], (resolution, resolution), "crop")[0]
        image = torch.as_tensor(array, dtype=torch.float32, device="cpu")
        image = image.mean(0, keepdim=True) if channels == 1 else image.expand(3, -1, -1)
        images.append(to_bytes(image))
        labels.append(names.index(path.relative_to(folder).parts[0]) if names else 0)
        tick(1)
    stack, label = torch.stack(images), torch.tensor(labels, device="cpu")
    out = torch.arange(len(stack), device="cpu") % 10 == 9
    text = f"{len(paths)} images of a user's folder"
    return ImageSet(stack[~out], label[~out], names, stack[out], text)
