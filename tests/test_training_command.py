"""``gprior train``: a run in a folder, its interruption and its end."""

import json
import shutil
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from gprior.checkpoints import load_prior
from gprior.cli import main
from gprior.commands.train import Options, run
from gprior.images import save_png
from gprior.training import Trainer, phantoms

TINY = {"resolution": 16, "count": 24, "steps": 3, "batch": 4, "channel_max": 8, "z_dim": 8}
TINY |= {"w_dim": 8, "mapping_layers": 2}
FILES = {
    "checkpoint.pt",
    "curve.json",
    "curve.png",
    "model_card.json",
    "model_card.md",
    "options.json",
    "samples.png",
}


def call(out, *words, **options):
    options = {**TINY, **options}
    given = [w for k, v in options.items() for w in (f"--{k.replace('_', '-')}", str(v))]
    return CliRunner().invoke(main, ["train", *words, "--out", str(out), "--device", "cpu", *given])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    result = call(out, every=2)
    assert result.exit_code == 0, result.output
    return out, result.output


def test_phantoms(trained):
    out, text = trained
    assert {path.name for path in out.iterdir()} == {*FILES, "phantom-16.safetensors"}
    prior = load_prior(out / "phantom-16.safetensors")
    assert prior.image_shape == (1, 16, 16) and prior.c_dim == 3
    assert prior.record["classes"] == ["T1", "T2", "FLAIR"]
    assert prior.record["settings"]["steps"] == 3
    curve = json.loads((out / "curve.json").read_text())
    assert [point["step"] for point in curve["curve"]] == [2, 3]
    assert curve["frechet_real"] > 0
    assert "Fréchet" in text and "3 steps" in text


def test_model_card_tells_how_it_was_made(trained):
    out, _ = trained
    card = (out / "model_card.md").read_text()
    record = load_prior(out / "phantom-16.safetensors").record
    for word in (
        "gprior train --out",
        "--steps 3",
        "24 procedural head phantoms",
        str(record["frechet"]),
        str(record["frechet_real"]),
        "curve.png",
        "samples.png",
        "BSD-3",
    ):
        assert word in card
    for name in ("samples.png", "curve.png"):
        with Image.open(out / name) as picture:
            assert picture.size[0] > 500


def test_what_was_trained_can_be_used(trained, tmp_path):
    out, _ = trained
    np.save(tmp_path / "y.npy", phantoms(range(1), 16)[0].numpy())
    words = ["reconstruct", tmp_path / "y.npy", "-o", tmp_path / "out", "-A", "half-mask"]
    words += ["--prior", out / "phantom-16.safetensors", "--set", "steps=1"]
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("interrupted", [1, 2])
def test_interrupted_and_resumed_is_as_uninterrupted(interrupted, trained, tmp_path, monkeypatch):
    """Ctrl-C between two checkpoints, and at one."""
    whole, _ = trained
    out, step = tmp_path / "resumed", Trainer._step

    def interrupt(self):
        values = step(self)
        if self.step + 1 == interrupted:
            signal.raise_signal(signal.SIGINT)
        return values

    monkeypatch.setattr(Trainer, "_step", interrupt)
    result = call(out, every=2)
    monkeypatch.undo()
    assert result.exit_code == 2
    assert "checkpoint saved" in result.output and "Traceback" not in result.output
    assert f"gprior train --out {out} --resolution 16" in result.output
    assert "--resume" in result.output
    assert not (out / "phantom-16.safetensors").exists()

    result = call(out, "--resume", every=2)
    assert result.exit_code == 0, result.output
    first, second = (load_file(path / "phantom-16.safetensors") for path in (whole, out))
    assert all(torch.equal(first[key], second[key]) for key in first)
    curves = [json.loads((path / "curve.json").read_text())["curve"] for path in (whole, out)]
    values = [[(p["step"], p["frechet"], p["loss_g"]) for p in curve] for curve in curves]
    assert values[0] == values[1]


def test_the_command_to_resume_is_the_command(tmp_path):
    out = tmp_path / "my run"
    options = Options(data="my images", resolution=32, lr=0.001)
    assert options.command(out) == (
        f"gprior train 'my images' --out '{out}' --resolution 32 --lr 0.001"
    )
    assert Options().command("x") == "gprior train --out x"


def test_the_command_lines_defaults_are_the_options():
    import inspect
    from dataclasses import fields

    from gprior.cli import train

    defaults = {k: p.default for k, p in inspect.signature(train).parameters.items()}
    assert {f.name: f.default for f in fields(Options)}.items() <= defaults.items()


@pytest.mark.parametrize("classes", [(), ("a", "b")])
def test_a_folder(classes, tmp_path):
    data = tmp_path / "slices"
    for i, image in enumerate(phantoms(range(22), 20)[0]):
        folder = data / classes[i % 2] if classes else data
        folder.mkdir(parents=True, exist_ok=True)
        save_png(folder / f"{i}.png", image.numpy())
    result = call(tmp_path / "run", str(data), steps=1, channels=3)
    assert result.exit_code == 0, result.output
    prior = load_prior(tmp_path / "run" / "slices-16.safetensors")
    assert prior.image_shape == (3, 16, 16)
    assert prior.record["classes"] == list(classes)
    assert (
        "as the licence of the training images allows"
        in (tmp_path / "run" / "model_card.md").read_text()
    )


@pytest.mark.parametrize(
    ("words", "options", "expected"),
    [
        ((), {"resolution": 20}, "power of two"),
        ((), {"steps": 0}, "steps must be an integer of at least 1"),
        ((), {"batch": 0}, "batch must be an integer of at least 1"),
        ((), {"every": 0}, "every must be an integer of at least 1"),
        ((), {"lr": -1}, "lr must be a finite number above 0"),
        ((), {"augment": "often"}, "augment must be 'adaptive' or a number from 0 to 1"),
        ((), {"augment_with": "flip,hue"}, "augmentations must be some of flip, turn"),
        ((), {"path_length": -1}, "path_length must be a finite number of at least 0"),
        ((), {"channels": 3}, "phantoms have 1 channel"),
        (("none",), {}, "a folder of images"),
        (("{}",), {}, "at least 20"),
        (("--resume",), {}, "no checkpoint.pt"),
    ],
)
def test_bad_options(words, options, expected, tmp_path):
    words = [word.format(tmp_path) for word in words]
    result = call(tmp_path / "run", *words, **options)
    assert result.exit_code == 2, result.output
    assert expected in result.output and "Traceback" not in result.output


def test_augmentation_and_path_length(tmp_path):
    out = tmp_path / "run"
    options = {"augment": 0.5, "augment_with": "flip,scale", "path_length": 2}
    result = call(out, every=2, **options)
    assert result.exit_code == 0, result.output
    settings = load_prior(out / "phantom-16.safetensors").record["settings"]
    assert settings["augment"] == 0.5 and settings["augmentations"] == ["flip", "scale"]
    assert settings["path_length"] == 2
    card = (out / "model_card.md").read_text()
    assert "--augment 0.5 --augment-with flip,scale --path-length 2" in card
    assert json.loads((out / "curve.json").read_text())["curve"][-1]["p"] == 0.5
    assert Options(augment="adaptive").settings.augment == "adaptive"


def test_a_run_from_before_an_option_is_resumed(trained, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(trained[0], out)
    options = json.loads((out / "options.json").read_text())
    for name in ("augment", "augment_with", "path_length"):
        del options[name]
    (out / "options.json").write_text(json.dumps(options))
    assert call(out, "--resume", every=2).exit_code == 0
    result = call(out, "--resume", every=2, augment="adaptive")
    assert result.exit_code == 2 and "augment=none" in result.output


def test_two_runs_are_not_mixed(trained):
    out, _ = trained
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    for words, options, expected in (
        ((), {}, "--resume"),
        (("--resume",), {"batch": 2}, "batch=4"),
        (("--resume",), {"w_dim": 16}, "w_dim=8"),
    ):
        result = call(out, *words, **options)
        assert result.exit_code == 2
        assert expected in result.output
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_damaged_options(trained, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(trained[0], out)
    (out / "options.json").write_text("{")
    result = call(out, "--resume")
    assert result.exit_code == 2
    assert "options.json is damaged" in result.output


def test_a_damaged_checkpoint(trained, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(trained[0], out)
    whole = (out / "checkpoint.pt").read_bytes()
    (out / "checkpoint.pt").write_bytes(whole[: len(whole) // 2])
    result = call(out, "--resume")
    assert result.exit_code == 2
    assert "no readable training checkpoint" in result.output


def test_second_interrupt_aborts(tmp_path, monkeypatch):
    def interrupt(self):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Trainer, "_step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(Options(**TINY), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run" / "checkpoint.pt").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
