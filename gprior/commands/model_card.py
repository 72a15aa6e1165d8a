"""The model card that ``gprior train`` writes beside the weights, as JSON and as a page."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gprior import __version__
from gprior.commands.train_options import Options
from gprior.files import write_json, write_text
from gprior.training import Trainer

__all__ = ["write_card"]

LICENCE = "FILL IN: the licence of the weights, as the licence of the training images allows"
INTENSITY = {
    None: "the range of the stored type for images of unsigned integers, (0, 1) for floats within "
    "[0, 1], and otherwise the 0.2 and 99.8 percentiles of each image",
    "percentile": "the 0.2 and 99.8 percentiles of each image",
}


def write_card(out: Path, options: Options, trainer: Trainer, record: dict[str, Any]) -> None:
    """Write ``model_card.json`` and ``model_card.md``.

    Neither has the name of a training file or folder, which could be that of a patient.

    Parameters
    ----------
    out : Path
        The folder of the run, which has ``curve.png`` and ``samples.png``.
    options : Options
        The options of the run.
    trainer : Trainer
        The trainer after its last step.
    record : dict
        The record of the prior.
    """
    phantoms = options.data == "phantoms"
    shown = options if phantoms else replace(options, data="FOLDER")
    card = {
        "name": options.name,
        "use": "The images that the prior generates are synthetic and not for diagnosis.",
        "architecture": trainer.G.config,
        "data": {"description": record["data"], "classes": record["classes"], **trainer.data.facts},
        "intensity": "procedural, in [0, 1]" if phantoms else _intensity(options.intensity),
        "training": {
            "command": shown.command(Path("DIR")),
            "settings": record["settings"],
            "steps": trainer.step,
            "seconds": round(trainer.seconds),
            "curve": trainer.curve,
            "frechet": record["frechet"],
            "frechet_real": record["frechet_real"],
        },
        "pictures": {"samples": "samples.png", "curve": "curve.png"},
        "licence": "BSD-3-Clause; the data are procedural" if phantoms else LICENCE,
        "versions": {
            "gprior": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
    }
    write_json(out / "model_card.json", card, "the model card")
    write_text(out / "model_card.md", _page(card), "the model card")


def _intensity(text: str | None) -> str:
    """Return which pixel values became 0 and 1, in words."""
    return INTENSITY.get(text) or f"{text}, in physical units, for every image"


def _page(card: dict[str, Any]) -> str:
    """Return the card as Markdown."""
    data, training = card["data"], card["training"]
    classes = ", ".join(data["classes"])
    size, channels = card["architecture"]["img_resolution"], card["architecture"]["img_channels"]
    counts = {
        name.replace("_", " ").capitalize(): _words(value)
        for name, value in data.items()
        if name not in ("description", "classes", "intensity")
    }
    rows = {
        "Data": data["description"],
        "Classes": classes or "none",
        **counts,
        "Values that became 0 and 1": card["intensity"],
        "Command": f"`{training['command']}`",
        "Training": f"{training['steps']} steps of {training['settings']['batch']} images, "
        f"{training['seconds']} s",
        "Fréchet distance, samples to held-out images": training["frechet"],
        "Fréchet distance, real to held-out images": training["frechet_real"],
        "Licence": card["licence"],
        "Versions": _words(card["versions"]),
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"""# {card["name"]}

A {"class-conditional " if classes else ""}StyleGAN2 generator of {size}x{size} images, {channels}
channel(s), with its discriminator. {card["use"]}

| | |
|---|---|
{table}

The Fréchet distance is computed on random features, which are independent of the discriminator.
Compare it with the value of real images.

![Distance at each checkpoint](curve.png)

![Samples, and real images below](samples.png)
"""


def _words(value: Any) -> str:
    """Return a JSON value as text for a cell of the table."""
    if isinstance(value, dict):
        return "; ".join(f"{name}: {_words(item)}" for name, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        return " to ".join(map(str, value))
    return str(value)
