"""``gprior train-encoder``: train a network that predicts the latents of a prior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import join
from typing import Any

import torch
from torch import Tensor

from gprior.checkpoints import load_prior
from gprior.checks import InputError, integer, number
from gprior.commands.devices import pick_device
from gprior.commands.train import follow
from gprior.files import write_json
from gprior.operators import from_spec, without_path
from gprior.priors import Prior
from gprior.problem import Forward
from gprior.randomness import generator
from gprior.training import EncoderSettings, EncoderTrainer

__all__ = ["USUAL", "EncoderSettings", "Rough", "run"]

# What an encoder is trained for unless operators are named. A box without numbers is drawn.
USUAL = (
    "denoise", "half-mask", "mask:box", "mask:random=0.2", "downsample:4", "downsample:8",
    "circulant:0.1", "circulant:0.3",
)  # fmt: skip
HELD_OUT = 0.05  # share of the entries that some measurements lose, as by ``stop="holdout"``


@dataclass(frozen=True)
class Rough:
    """Measures images and returns their pseudo-inverse, as the ``init`` of `gprior.solve` sees it.

    Attributes
    ----------
    text : str
        The operator, see `gprior.operators.from_spec`.
    prior : Prior
        Has the shape of the images.
    noise : float
        S ≥ 0. The noise of each image has a standard deviation of S u², with u uniform in [0, 1].
    """

    text: str
    prior: Prior
    noise: float

    def __call__(self, x: Tensor, seed: int) -> Tensor:
        """Return A^+ (A x + noise); every second time, 5 % of the measurements are lost.

        Parameters
        ----------
        x : Tensor
            Images (B, C, H, W).
        seed : int
            Seed of the operator and of all draws.
        """
        rng = generator(seed, "rough", self.text)
        A = from_spec(self._text(rng), self.prior.image_shape, seed=seed)
        forward = Forward(A, self.prior.image_shape, x, len(x))
        leaves = forward(x, torch.arange(len(x), device=x.device))
        if len(leaves) != 1:
            raise InputError(
                f"operator {self.text!r} has several tensors, and an encoder takes one"
            )
        (y,) = leaves
        plain: dict[str, Any] = {"generator": rng, "device": "cpu"}
        level = self.noise * torch.rand(len(x), dtype=torch.float32, **plain).square()
        noise = torch.randn(y.shape, dtype=torch.promote_types(y.dtype, torch.float32), **plain)
        y = y + level.view(-1, *[1] * (y.ndim - 1)).to(x) * noise.to(y)
        if seed % 2:
            kept = torch.rand(y.shape, dtype=torch.float32, **plain) >= HELD_OUT
            y = y * kept.to(y)
        rough = forward.pseudo_inverse(y)
        if rough is None:
            raise InputError(f"operator {self.text!r} has no pseudo-inverse")
        return rough.to(x)

    def _text(self, rng: torch.Generator) -> str:
        """Return the operator; ``"mask:box"`` is a box of a random size and place."""
        if self.text != "mask:box":
            return self.text
        _, H, W = self.prior.image_shape
        u = torch.rand(4, generator=rng, dtype=torch.float32, device="cpu").tolist()
        h, w = (max(round(n * (0.25 + 0.25 * v)), 1) for n, v in zip((H, W), u[:2], strict=True))
        top, left = (round(v * (n - m)) for v, n, m in zip(u[2:], (H, W), (h, w), strict=True))
        return f"mask:box={top},{left},{h},{w}"


def run(
    name: str,
    out: Path,
    settings: EncoderSettings,
    operators: Sequence[str] = (),
    noise: float = 0.1,
    *,
    every: int = 500,
    resume: bool = False,
    device: str = "auto",
) -> str:
    """Train an encoder and write it to a file.

    Every `every` steps, it writes a checkpoint and the curve beside the file, with the same name
    and the endings ``.checkpoint.pt`` and ``.curve.json``.

    Parameters
    ----------
    name : str
        The prior, as `gprior.load_prior` takes it.
    out : Path
        The file, ending in ``.safetensors``.
    settings : EncoderSettings
        Constants of the run.
    operators : sequence of str
        The operators, see `gprior.operators.from_spec`. None at all means the usual ones.
    noise : float
        The largest standard deviation of the noise of measurements.
    every : int
        Number of steps between checkpoints.
    resume : bool
        Whether to continue from the checkpoint beside the file.
    device : str
        ``"auto"``, ``"cpu"`` or ``"cuda"``.

    Returns
    -------
    str
        A summary for the terminal.

    Raises
    ------
    InputError
        If an option is out of range, the prior lacks the space, an operator has no pseudo-inverse,
        there is another run beside the file, or there is nothing to resume.
    OSError
        If the files cannot be written.
    KeyboardInterrupt
        On Ctrl-C, after a checkpoint is saved. The message has the command that resumes.
    """
    integer("every", every, least=1), number("noise", noise, least=0)
    if out.suffix != ".safetensors":
        raise InputError(f"out must end in .safetensors, got {out.name!r}")
    checkpoint, curve = out.with_suffix(".checkpoint.pt"), out.with_suffix(".curve.json")
    if checkpoint.exists() != resume:
        raise InputError(
            f"there is no {checkpoint} to resume from; leave --resume out"
            if resume
            else f"{checkpoint} is there already; add --resume, or choose another --out"
        )
    texts = list(operators) or list(USUAL)
    prior = load_prior(name, str(pick_device(device)))
    rough = [Rough(text, prior, noise) for text in texts]
    record = {"operators": [without_path(text) for text in texts], "noise": noise}
    trainer = EncoderTrainer(prior, rough, settings, record)
    for function in rough:  # an operator that does not fit is refused before the first step
        function(trainer.network.first[None], 0)
    if resume:
        trainer.restore(checkpoint)

    def report(trainer: EncoderTrainer) -> None:
        trainer.save(checkpoint)
        write_json(curve, trainer.curve, "the curve")

    follow(trainer, checkpoint, _command(name, out, settings, operators, noise), every, report)
    encoder = trainer.finish()
    encoder.save(out)
    errors = ", ".join(f"{value:.4f}" for value in encoder.record["error"])
    return (
        f"trained {trainer.step} steps in {trainer.seconds:.0f} s; error of the image after each "
        f"round: {errors}\nwritten to {out}"
    )


def _command(
    name: str, out: Path, settings: EncoderSettings, operators: Sequence[str], noise: float
) -> str:
    """Return the command that resumes."""
    words = ["gprior", "train-encoder", name, "-o", str(out)]
    for text in operators:
        words += ["-A", text]
    if noise != 0.1:
        words += ["--noise", str(noise)]
    defaults = EncoderSettings()
    for option in ("space", "steps", "batch", "lr", "seed"):
        value = getattr(settings, option)
        if value != getattr(defaults, option):
            words += [f"--{option}", str(value)]
    return join([*words, "--resume"])
