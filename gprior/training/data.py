"""Training images, from a folder or from the built-in head phantoms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from gprior.images import fit, open_slices, to_unit
from gprior.training.folder import Survey, survey_folder
from gprior.training.head_phantoms import CONTRASTS, phantoms
from gprior.training.slices import Choice

__all__ = ["ImageSet", "folder_set", "phantom_set", "read_survey"]


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
    facts : dict
        Counts, formats, ranges and split, for the model card; no names of files or patients.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    held_out: Tensor
    description: str
    facts: dict[str, Any] = field(default_factory=dict)

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
    facts = {"training_images": count, "held_out_images": held_out, "split_by": "seed"}
    return ImageSet(torch.cat(parts), torch.cat(labels), CONTRASTS, others, text, facts)


def folder_set(
    folder: Path,
    resolution: int,
    channels: int,
    tick: Callable[[int], object] = lambda n: None,
    *,
    intensity: tuple[float, float] | Literal["percentile"] | None = None,
    slices: str = "middle",
    axis: int | None = None,
    folders: str = "classes",
) -> ImageSet:
    """Read all images in a folder and its subfolders.

    Files are recognised by their content, whatever their names; hidden ones are passed over, and
    so are constant images. Images are cropped to a square of square pixels, resized with their
    proportions kept, and mapped to [0, 1]. About a tenth of the images is held out, and no patient
    is on both sides. The patient is the PatientID of a DICOM file, or else the folder below the
    class; a file that is directly in the class folder is a patient of its own.

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
    intensity : (float, float), "percentile" or None
        Pixel values, in physical units, that become 0 and 1: the same two for every image, or the
        0.2 and 99.8 percentiles of each image. By default each image is mapped as
        `gprior.images.to_unit` does by default.
    slices : str
        ``"middle"``: the middle slice of each file, and every file of a DICOM series. ``"all"``:
        the middle 80 % of each volume. ``"LO-HI"``: these slices of each volume, counted from 0.
        A volume is a file with several slices, or the files of a DICOM series.
    axis : int, optional
        The voxel axis of NIfTI volumes along which slices count; see `gprior.images.read_image`.
    folders : str
        Whether the first level of subfolders is ``"classes"`` or ``"patients"``.

    Raises
    ------
    InputError
        If the folder does not exist, has fewer than 20 images, or has images beside class folders;
        or if an option is none of the above.

    Warns
    -----
    UserWarning
        Before anything is converted: if files cannot be read, if no patient can be held out, or
        if images of integers use a small part of their range.
    """
    choice = Choice(slices=slices, axis=axis, intensity=intensity, folders=folders)
    survey = survey_folder(folder, choice)
    survey.warn()
    return read_survey(survey, resolution, channels, tick)


def read_survey(
    survey: Survey, resolution: int, channels: int, tick: Callable[[int], object]
) -> ImageSet:
    """Read the images of a folder as `folder_set` does, after `survey_folder` has chosen them."""
    images, labels = [], []
    classes = survey.classes
    for path, group in groupby(survey.slices, lambda one: one.path):
        with open_slices(path, survey.choice.axis) as read:
            for one in group:
                image = read(one.index)
                unit, _ = to_unit(image, survey.choice.intensity)
                array = fit(unit, (resolution, resolution), "crop", image.spacing)[0]
                x = torch.as_tensor(array, dtype=torch.float32, device="cpu")
                x = x.mean(0, keepdim=True) if channels == 1 else x.expand(3, -1, -1)
                images.append(to_bytes(x))
                labels.append(classes.index(one.label) if classes else 0)
                tick(1)
    stack, label = torch.stack(images), torch.tensor(labels, device="cpu")
    out = torch.zeros(len(stack), dtype=torch.bool, device="cpu")
    out[sorted(survey.held_out)] = True
    text = f"{len(stack)} images of a user's folder"
    return ImageSet(stack[~out], label[~out], classes, stack[out], text, survey.facts())
