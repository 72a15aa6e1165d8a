"""The command line: help, its speed, and the report of a mistake of the user."""

import ast
import os
import re
import shlex
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse
from typer.testing import CliRunner

from gprior import __version__
from gprior.checkpoints import save_prior
from gprior.checks import InputError
from gprior.cli import main

COMMANDS = ("demo", "reconstruct", "operators", "info", "convert", "sample", "train")


def call(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def prior_file(tiny_prior, tmp_path_factory):
    path = tmp_path_factory.mktemp("prior") / "tiny.safetensors"
    save_prior(tiny_prior(16, 1, 3, torch.float32), path)
    return path


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "y.npy", rng.random((1, 1, 16, 16), dtype=np.float32))
    np.save(tmp_path / "image.npy", rng.random((20, 16)))
    np.save(tmp_path / "eye.npy", np.eye(256, dtype=np.float32))
    return tmp_path


# --- Help ------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_a_screen_and_has_an_example(command):
    result = call(command, "--help")
    lines = result.output.splitlines()
    assert result.exit_code == 0
    assert len(lines) <= 40 and max(map(len, lines)) <= 80
    entries = lines[lines.index("Options:") + 1 :]
    assert all(line.startswith("  -") for line in entries), "an option takes more than a line"
    assert "Example:" in result.output and re.search(rf"gprior {command}\b", result.output)


def test_main_help_lists_the_commands():
    result = call("--help")
    assert result.exit_code == 0
    assert all(f"  {command} " in result.output for command in COMMANDS)
    assert len(result.output.splitlines()) <= 24


def test_version():
    assert call("--version").output.strip() == f"gprior {__version__}"
    words = [sys.executable, "-m", "gprior", "--version"]
    assert subprocess.check_output(words, text=True).strip() == f"gprior {__version__}"


@pytest.mark.parametrize("words", [[], *([command] for command in COMMANDS)])
def test_help_imports_nothing_heavy_and_answers_in_half_a_second(words):
    code = (
        "import sys\nfrom gprior.cli import main\n"
        f"sys.argv[1:] = {[*words, '--help']!r}\n"
        "try:\n    main()\nfinally:\n"
        "    heavy = {'torch', 'deepinv', 'numpy', 'matplotlib', 'PIL'} & set(sys.modules)\n"
        "    assert not heavy, heavy\n"
    )
    before = os.times()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    after = os.times()
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout
    # Processor time, because the machine may be busy; Windows does not report it.
    assert after.children_user - before.children_user < 0.5


# What a command must not import: it takes seconds, and these commands need none of it.
SLOW_IMPORTS = (
    "torch._dynamo",
    "sympy",
    "deepinv",
    "torchvision",
    "matplotlib",
    "scipy",
    "pydicom",
)


def test_operators_are_listed_with_one_line_each():
    from gprior.operators import OPERATORS, from_spec

    result = call("operators")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines == [line for form, text in OPERATORS.items() for line in (form, f"    {text}")]
    assert {form.partition(":")[0].partition("[")[0] for form in OPERATORS} == {
        "denoise", "mask", "downsample", "blur", "circulant", "mri", "ct", "matrix",
    }  # fmt: skip
    assert from_spec("denoise", (1, 4, 4)).A(torch.ones(1, 1, 4, 4)).sum() == 16


@pytest.mark.parametrize("words", [["info", "phantom-64"], ["sample", "phantom-64", "-n", "1"]])
def test_info_and_sample_import_little_more_than_torch(words, tmp_path):
    words = words if words[0] == "info" else [*words, "-o", str(tmp_path / "grid.png")]
    code = (
        "import sys\nfrom gprior.cli import main\n"
        f"sys.argv[1:] = {words!r}\n"
        "try:\n    main()\nfinally:\n"
        f"    print([name for name in {SLOW_IMPORTS} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


# --- Errors ----------------------------------------------------------------------------------


def refused(result, *words):
    """Assert that a call ended with one message and exit code 2."""
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert "gprior: " in result.output
    for word in words:
        assert word in result.output, result.output


def damaged(folder, name, text):
    (folder / name).write_bytes(text)
    return folder / name


CASES = {
    "shape of y": (["wrong.npy"], ["(B, 1, 16, 16)", "(1, 1, 8, 8)"]),
    "NaN in y": (["nan.npy"], ["finite", "1 of 256"]),
    "infinity in y": (["inf.npy"], ["finite"]),
    "missing input": (["none.npy"], ["No such file"]),
    "unknown kind": (["y.mat"], [".npy", "--simulate"]),
    "pickle in npy": (["pickle.npy"], ["not a whole .npy"]),
    "pickle in pt": (["code.pt"], ["not a whole .pt"]),
    "empty npy": (["empty.npy"], ["not a whole .npy"]),
    "truncated npz": (["cut.npz"], ["not a whole .npz"]),
    "truncated safetensors": (["cut.safetensors"], ["not a whole .safetensors"]),
    "two arrays": (["two.npz"], ["one array", "['a', 'b']"]),
    "complex y": (["complex.npy"], ["complex"]),
    "mask of another size": (["y.npy", "-A", "mask:{}/mask.png"], ["(16, 16)", "(8, 8)"]),
    "no mask file": (["y.npy", "-A", "mask:none.png"], ["none.png"]),
    "matrix of another size": (["y.npy", "-A", "matrix:{}/image.npy"], ["(m, 256)", "(20, 16)"]),
    "damaged sparse matrix": (["y.npy", "-A", "matrix:{}/two.npz"], ["save_npz"]),
    "unknown operator": (["y.npy", "-A", "blurring:3"], ["half-mask", "mask:half", "'blurring:3'"]),
    "operator without a number": (["y.npy", "-A", "circulant:x"], ["number"]),
    "half a factor": (["y.npy", "-A", "downsample:2.5"], ["whole number"]),
    "share above one": (["y.npy", "-A", "circulant:1.5"], ["(0, 1]"]),
    "unknown solver": (["y.npy", "--solver", "magic"], ["'lbrgm'", "'csgm'"]),
    "unknown constant": (["y.npy", "--set", "learning=1"], ["'learning'", "'lr'", "'steps'"]),
    "no value": (["y.npy", "--set", "lr"], ["NAME=VALUE"]),
    "value of another type": (["y.npy", "--set", "steps=many"], ["steps", "int", "'many'"]),
    "unknown init": (["y.npy", "--set", "init=best"], ["best-of:N"]),
    "no steps": (["y.npy", "--set", "steps=0"], ["steps"]),
    "small budget": (["y.npy", "--budget", "1"], ["budget must be at least"]),
    "no restarts": (["y.npy", "--restarts", "0"], ["restarts"]),
    "unknown class": (["y.npy", "--label", "7"], ["between 0 and 2"]),
    "negative noise": (["y.npy", "--noise", "-1"], ["noise"]),
    "missing prior": (["y.npy", "--prior", "none"], ["'none'", "phantom-64"]),
    "truncated prior": (["y.npy", "--prior", "{}/cut.safetensors"], ["whole safetensors"]),
    "foreign prior": (["y.npy", "--prior", "{}/y.npy"], ["it is a NumPy array"]),
    "fit of measurements": (["y.npy", "--fit", "crop"], ["--simulate"]),
    "intensity of measurements": (["y.npy", "--intensity", "0,1"], ["--simulate"]),
    "unreadable image": (["bad.png", "--simulate"], ["damaged"]),
    "no image": (["cut.npz", "--simulate"], ["not an image"]),
    "constant image": (["constant.npy", "--simulate"], ["--intensity LO,HI"]),
    "no such slice": (["image.npy", "--simulate", "--slice", "9"], ["slice 9"]),
    "odd intensity": (["image.npy", "--simulate", "--intensity", "1"], ["LO,HI"]),
    "empty intensity": (["image.npy", "--simulate", "--intensity", "1,1"], ["different"]),
}


@pytest.fixture(scope="module")
def bad_files(prior_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    y = np.random.default_rng(0).random((1, 1, 16, 16), dtype=np.float32)
    invalid = [y.copy(), y.copy()]
    invalid[0][0, 0, 3, 12], invalid[1][0, 0, 3, 12] = np.nan, np.inf
    for name, array in {
        "y": y,
        "wrong": y[..., :8, :8],
        "nan": invalid[0],
        "inf": invalid[1],
        "complex": y * 1j,
        "image": np.arange(320.0).reshape(20, 16),
        "constant": np.full((16, 16), 7.5),
    }.items():
        np.save(folder / f"{name}.npy", array)
    np.save(folder / "pickle.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    torch.save({"y": print}, folder / "code.pt")
    np.savez(folder / "two.npz", a=y, b=y)
    whole = (folder / "two.npz").read_bytes()
    for name, data in {
        "empty.npy": b"",
        "cut.npz": whole[: len(whole) // 2],
        "cut.safetensors": prior_file.read_bytes()[:5000],
        "bad.png": b"\x89PNG\r\n\x1a\n and then nothing",
        "y.mat": b"MATLAB",
    }.items():
        damaged(folder, name, data)
    from gprior.images import save_png

    save_png(folder / "mask.png", np.ones((8, 8)))
    return folder


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_message(case, bad_files, prior_file, tmp_path):
    (name, *words), expected = CASES[case]
    words = [word.format(bad_files) for word in words]
    words += [] if "-A" in words else ["-A", "half-mask"]
    words += [] if "--prior" in words else ["--prior", prior_file]
    out = tmp_path / "out"
    result = call("reconstruct", bad_files / name, "-o", out, *words)
    refused(result, *expected)
    assert not out.exists()  # no part of a result is left behind


def test_usage_errors():
    assert call("reconstruct").exit_code == 2
    assert call("paint").exit_code == 2
    assert (
        call("reconstruct", "y.npy", "-o", "out", "-A", "half-mask", "--fit", "tile").exit_code == 2
    )


def test_cuda_where_there_is_none(folder, prior_file, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    words = ["-o", folder / "out", "-A", "half-mask", "--device", "cuda", "--prior", prior_file]
    refused(call("reconstruct", folder / "y.npy", *words), "cuda", "--device cpu")
    refused(call("train", "--out", folder / "run", "--device", "cuda"), "--device cpu")


def test_a_file_where_the_folder_should_be(folder, prior_file):
    (folder / "out").write_text("mine")
    words = ["-o", folder / "out", "-A", "half-mask", "--prior", prior_file]
    refused(call("reconstruct", folder / "y.npy", *words), "--out")
    refused(call("train", "--out", folder / "out"), "--out")
    assert (folder / "out").read_text() == "mine"


# The library names an argument, and the command adds the option that gives it.
OPTIONS = {
    "steps must be": "(--set steps=VALUE)",
    "init must be": "(--set init=VALUE)",
    "budget must be": "(--budget N)",
    "label must be": "(--label N)",
    "noise_std must be": "(--noise STD)",
    "m must be": "(--operator SPEC)",
    "y must be": "(INPUT)",
    "slice 9 of": "(--slice N)",
    "cannot write the report": "(--out DIR)",
    "fit must be": "(--fit)",
}


@pytest.mark.parametrize("message", OPTIONS)
@pytest.mark.parametrize("kind", [InputError, OSError])
def test_the_command_adds_the_option(kind, message, monkeypatch):
    import gprior.commands.reconstruct as module

    def run(*given):
        raise kind(message)

    monkeypatch.setattr(module, "run", run)
    result = call("reconstruct", "y.npy", "-o", "out", "-A", "half-mask")
    assert result.exit_code == 2
    assert result.output == f"gprior: {message} {OPTIONS[message]}\n"


@pytest.mark.parametrize("message", ["the image is odd", "", "slice 9; add --slice", "§ 5"])
def test_a_message_without_an_argument_stays(message, monkeypatch):
    import gprior.commands.reconstruct as module

    def run(*given):
        raise InputError(message)

    monkeypatch.setattr(module, "run", run)
    result = call("reconstruct", "y.npy", "-o", "out", "-A", "half-mask")
    assert result.output == f"gprior: {message or 'InputError'}\n"


def test_the_library_does_not_speak_of_options():
    """A message is read in Python, too: options belong to the command line."""
    import gprior

    root = Path(gprior.__file__).parent
    for path in root.rglob("*.py"):
        if path.name == "cli.py" or path.parent.name == "commands":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not re.search(r"(?<![\w-])--[a-z]", node.value), f"{path}: {node.value}"


def test_out_of_memory_is_reported_and_a_bug_is_not_hidden(folder, monkeypatch):
    import gprior.commands.info as description

    def fail(error):
        def describe(name):
            raise error

        monkeypatch.setattr(description, "describe", describe)
        return call("info", "x")

    refused(fail(MemoryError()), "out of memory")
    refused(fail(RuntimeError("DefaultCPUAllocator: can't allocate memory")), "out of memory")
    refused(fail(KeyboardInterrupt()), "interrupted")
    for kind in (RuntimeError, ValueError, TypeError, KeyError):
        assert isinstance(fail(kind("a bug")).exception, kind)


# --- Info ------------------------------------------------------------------------------------


def test_info(prior_file):
    import hashlib

    result = call("info", prior_file)
    assert result.exit_code == 0
    facts = dict(line.split(maxsplit=1) for line in result.output.splitlines())
    assert facts["images"].startswith("1 x 16 x 16")
    assert facts["sha256"] == hashlib.sha256(prior_file.read_bytes()).hexdigest()
    assert facts["classes"] == "3 without names" or "3" in facts["classes"]


def test_info_counts_parameters(prior_file):
    from gprior.checkpoints import load_prior

    prior = load_prior(prior_file)
    prior.discriminator = None
    count = sum(p.numel() for p in prior.parameters())
    assert f"{count:,} in the generator" in call("info", prior_file).output


def test_info_of_the_embedded_prior():
    assert "T1" in call("info", "phantom-64").output


@pytest.mark.parametrize("name", ["none", "{}/cut.safetensors", "{}/y.npy"])
def test_info_refuses(name, bad_files):
    refused(call("info", name.format(bad_files)))


def test_installed_entry_point():
    code = "from gprior.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "info", "none"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("gprior: prior 'none'") and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "utf-8"])
def test_output_that_cannot_be_encoded_is_no_error(encoding, monkeypatch):
    """A redirected output on Windows is cp1252, which has no minus sign U+2212."""
    code = (
        "import sys\nimport gprior.commands.reconstruct as command\n"
        "import warnings\nfrom gprior.cli import main\n"
        "def run(*given):\n    warnings.warn('A⁺')\n    return 'Image 1  y − A x'\n"
        "command.run = run\nsys.argv[1:] = 'reconstruct y.npy -o out -A half-mask'.split()\nmain()"
    )
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    done = subprocess.run([sys.executable, "-X", "utf8", "-c", code], capture_output=True)
    assert done.returncode == 0, done.stderr
    exact = encoding == "utf-8"
    assert done.stdout.decode(encoding).strip() == f"Image 1  y {'−' if exact else '?'} A x"
    assert done.stderr.decode(encoding).strip() == f"gprior: warning: A{'⁺' if exact else '?'}"


@pytest.mark.skipif(sys.platform == "win32", reason="redirections of a shell")
@pytest.mark.parametrize(
    "redirected",
    [">&-", "2>&-", ">&- 2>&-", ">/dev/full", "2>/dev/full", "2>&1 | true"],
)
def test_output_that_goes_nowhere_is_no_error(redirected, tmp_path):
    """What was reconstructed is not lost with a reader, a full disk or a closed stream."""
    code = (
        "import sys, time, types\nfrom pathlib import Path\nfrom tqdm import tqdm\n"
        "def convert(source, out):\n"
        "    for _ in tqdm(range(3), mininterval=0): time.sleep(0.1)\n"
        "    out.mkdir()\n    return 'written'\n"
        "sys.modules['gprior.commands.convert'] = types.SimpleNamespace(convert=convert)\n"
        "from gprior.cli import main\nsys.argv[1:] = 'convert in out'.split()\nmain()"
    )
    command = f"{sys.executable} -c {shlex.quote(code)} {redirected}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out").is_dir()


def test_device_names():
    from gprior.commands.devices import pick_device

    assert pick_device("cpu") == torch.device("cpu")
    with pytest.raises(InputError, match="auto, cpu or cuda, got 'tpu'"):
        pick_device("tpu")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.npy", np.full((2, 16), np.nan), "finite"),
        ("m.npy", np.full((2, 16), 1j), "real"),
        ("m.npz", b"", "save_npz"),
        ("m.npy", b"\x93NUMPY\x01\x00\x10\x00{'descr': (\n", "not a whole .npy"),
    ],
)
def test_matrices_that_are_refused(name, content, message, tmp_path):
    from gprior.operators import from_spec

    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        np.save(tmp_path / name, content)
    with pytest.raises(InputError, match=message):
        from_spec(f"matrix:{tmp_path / name}", (1, 4, 4))
    with pytest.raises(OSError, match="No such file"):
        from_spec(f"matrix:{tmp_path / 'none'}{Path(name).suffix}", (1, 4, 4))


def test_a_mask_file_that_claims_to_be_huge_is_refused(tmp_path):
    from gprior.operators import from_spec

    size = (60000).to_bytes(4, "big")
    head = b"IHDR" + size + size + bytes([1, 0, 0, 0, 0])
    chunk = (13).to_bytes(4, "big") + head + zlib.crc32(head).to_bytes(4, "big")
    (tmp_path / "mask.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)
    with pytest.raises(InputError, match="not a readable image"):
        from_spec(f"mask:{tmp_path / 'mask.png'}", (1, 4, 4))


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ("words", "an array of numbers, got str"),
        ({"y": None}, "an array of numbers, got NoneType"),
        ({"a": 1, "b": 2}, r"it has \['a', 'b'\]"),
    ],
)
def test_torch_files_that_are_refused(y, message, tmp_path):
    from gprior.commands.arguments import read_measurements

    torch.save(y, tmp_path / "y.pt")
    with pytest.raises(InputError, match=message):
        read_measurements(tmp_path / "y.pt")


def test_sparse_is_read_without_pickle(tmp_path):
    from gprior.operators import from_spec

    np.savez(tmp_path / "evil.npz", format=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="save_npz"):
        from_spec(f"matrix:{tmp_path / 'evil.npz'}", (1, 4, 4))
    sparse.save_npz(tmp_path / "good.npz", sparse.eye(16, format="csr"))
    assert from_spec(f"matrix:{tmp_path / 'good.npz'}", (1, 4, 4)).shape == (16, 16)


def test_constants_have_their_fields_types():
    from gprior.commands.arguments import parse_constants

    words = ["steps=3", "lr=1e-2", "betas=0.9,0.99", "perceptual=false", "init=mean"]
    constants = parse_constants("lbrgm", words)
    assert constants == {
        "steps": 3,
        "lr": 0.01,
        "betas": (0.9, 0.99),
        "perceptual": False,
        "init": "mean",
    }
    assert type(constants["steps"]) is int
    assert parse_constants("lbrgm", ["perceptual=none"]) == {"perceptual": None}
    with pytest.raises(TypeError, match=r"needs.*'latent'"):
        parse_constants("lbrgm", ["needs=z"])


def test_records_as_words():
    from gprior.commands.outcome import words

    assert words({"seed": 0, "restarts": 1, "noise": None, "on": True, "b": (0.9, 1)}) == (
        "seed 0, restarts 1, noise none, on yes, b 0.9, 1"
    )


def test_every_option_arrives(monkeypatch, tmp_path):
    import gprior.commands.reconstruct as module

    seen = []
    monkeypatch.setattr(module, "run", lambda *given: seen.append(given) or "done")
    words = "reconstruct scan.dcm --out results --operator circulant:0.1 --solver brgm"
    words += " --prior p --simulate --noise 0.02 --fit stretch --intensity -160,240 --slice 3"
    words += " --set lr=0.05 --set steps=9 --budget 50 --label 1 --restarts 2 --device cpu --seed 7"
    assert call(*words.split()).output == "done\n"
    ((source, out, options),) = seen
    assert (str(source), str(out)) == ("scan.dcm", "results")
    assert options == module.Options(
        operator="circulant:0.1",
        solver="brgm",
        prior="p",
        simulate=True,
        noise=0.02,
        fit="stretch",
        intensity="-160,240",
        slice=3,
        constants=("lr=0.05", "steps=9"),
        budget=50.0,
        label=1,
        restarts=2,
        device="cpu",
        seed=7,
    )
    call("reconstruct", "y.npy", "-o", "results", "-A", "half-mask")
    assert seen[1][2] == module.Options("half-mask")


def test_demo_goes_where_it_is_sent(monkeypatch):
    import gprior.commands.demo as module

    seen = []
    monkeypatch.setattr(module, "run", lambda out: seen.append(str(out)) or "table")
    assert call("demo").output == "table\n"
    assert call("demo", "--out", "there").exit_code == 0
    assert seen == ["gprior-demo", "there"]


def test_interrupted_demo_leaves_nothing(monkeypatch, tmp_path):
    import gprior.commands.demo as module

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_solve", stop)
    refused(call("demo", "--out", tmp_path / "out"), "interrupted")
    assert not (tmp_path / "out").exists()
