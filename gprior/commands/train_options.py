"""The options of ``gprior train`` that determine the trained weights."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from tqdm import tqdm

from gprior.checks import InputError, integer, number
from gprior.commands.arguments import parse_intensity
from gprior.training import (
    Choice,
    ImageSet,
    Settings,
    Survey,
    Trainer,
    phantom_set,
    read_survey,
    survey_folder,
)

__all__ = ["Options"]

HELD_OUT = 2048  # number of phantoms that the Fréchet distance compares with


@dataclass(frozen=True)
class Options:
    """The options that determine the trained weights. The defaults are those of ``phantom-64``.

    Attributes
    ----------
    data : str
        ``"phantoms"``, or a folder of images.
    resolution, channels : int
        Image side in pixels; number of channels, 1 or 3. Phantoms have 1.
    count : int
        Number of phantoms to draw. A folder of images ignores it.
    intensity, slices, axis, folders
        What is taken from a folder, and how it becomes [0, 1]; see `gprior.training.folder_set`.
        ``intensity`` is text: ``"LO,HI"`` or ``"percentile"``. Phantoms ignore them.
    steps, batch, lr, gamma, seed
        See `Settings`.
    z_dim, w_dim, channel_base, channel_max, mapping_layers, overparameterized
        See `StyleGAN2`.
    noise : bool
        Whether the generator has noise inputs.
    augment : str
        ``"adaptive"``, ``"none"``, or the probability of each augmentation; see `Settings`.
    augment_with : str, optional
        Names of augmentations with commas between them; the default is that of `Settings`.
    path_length : float
        See `Settings`.
    """

    data: str = "phantoms"
    resolution: int = 64
    channels: int = 1
    count: int = 30000
    intensity: str | None = None
    slices: str = "middle"
    axis: int | None = None
    folders: str = "classes"
    steps: int = 12500
    batch: int = 16
    lr: float = 0.002
    gamma: float = 0.5
    z_dim: int = 64
    w_dim: int = 128
    channel_base: int = 2048
    channel_max: int = 128
    mapping_layers: int = 4
    noise: bool = True
    overparameterized: bool = False
    augment: str = "none"
    augment_with: str | None = None
    path_length: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("count", "steps", "batch"):
            integer(name, getattr(self, name), least=1)
        number("lr", self.lr, above=0)
        number("gamma", self.gamma, least=0)
        if self.data == "phantoms" and self.channels != 1:
            raise InputError(
                f"channels must be 1, because phantoms have 1 channel, got {self.channels}"
            )
        if self.axis is not None:
            integer("axis", self.axis, 0, 2)
        self.choice, self.settings  # noqa: B018 (checks their values)

    @property
    def choice(self) -> Choice:
        """What is taken from a folder."""
        intensity = parse_intensity(self.intensity)
        return Choice(self.slices, self.axis, intensity, self.folders)

    @property
    def settings(self) -> Settings:
        """The constants of the training."""
        names = self.augment_with
        return Settings(
            steps=self.steps,
            batch=self.batch,
            lr=self.lr,
            r1_gamma=self.gamma,
            seed=self.seed,
            augment=_probability(self.augment),
            augmentations=Settings.augmentations if names is None else tuple(names.split(",")),
            path_length=self.path_length,
        )

    @property
    def name(self) -> str:
        """The name of the prior, such as phantom-64."""
        kind = "phantom" if self.data == "phantoms" else Path(self.data).resolve().name
        return f"{kind}-{self.resolution}"

    def command(self, out: Path) -> str:
        """Return the command line with these options, without those that have their default."""
        words = ["gprior", "train", *([] if self.data == "phantoms" else [self.data])]
        words += ["--out", str(out)]
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "data" or value == field.default:
                continue
            name = field.name.replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{name}" if value else f"--no-{name}")
            else:
                words += [f"--{name}", str(value)]
        return shlex.join(words)

    def survey(self) -> Survey:
        """Look at every file of the folder, with a progress bar, and warn about what is odd."""
        with tqdm(desc="files", unit="file") as bar:
            survey = survey_folder(Path(self.data), self.choice, bar.update)
        survey.warn()
        return survey

    def images(self, survey: Survey | None) -> ImageSet:
        """Draw the training images, or read those of a survey, with a progress bar."""
        total = self.count if survey is None else len(survey.slices)
        with tqdm(total=total, desc="images", unit="image") as bar:
            if survey is None:
                held_out = min(HELD_OUT, self.count)
                return phantom_set(self.resolution, self.count, held_out, bar.update)
            return read_survey(survey, self.resolution, self.channels, bar.update)

    def trainer(self, data: ImageSet, device: torch.device) -> Trainer:
        """Return a trainer for these images, before its first step."""
        config = {
            "img_resolution": self.resolution,
            "img_channels": self.channels,
            "c_dim": len(data.classes),
            "z_dim": self.z_dim,
            "w_dim": self.w_dim,
            "channel_base": self.channel_base,
            "channel_max": self.channel_max,
            "num_mapping_layers": self.mapping_layers,
            "use_noise": self.noise,
            "overparameterized": self.overparameterized,
        }
        return Trainer(data, config, self.settings, device)


def _probability(text: str) -> float | str:
    """Return the number that an option stands for; other text stays as it is."""
    try:
        return 0.0 if text == "none" else float(text)
    except ValueError:
        return text
