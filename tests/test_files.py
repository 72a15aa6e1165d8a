"""`atomic_write` leaves the old file or the whole new one, whatever happens."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gprior.files import atomic_write, write_bytes, write_json, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_success_replaces_the_old_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "x.tar.gz"
    target.write_text("old")
    with atomic_write(target) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".")
        assert temporary.name.endswith(".tar.gz")
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert names(tmp_path) == ["x.tar.gz"]


def test_new_file_has_the_permissions_of_an_ordinary_one(tmp_path: Path) -> None:
    (tmp_path / "ordinary").touch()
    write_text(tmp_path / "x", "new")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ordinary", "x")}
    assert len(modes) == 1


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt, SystemExit, MemoryError])
def test_failure_inside_keeps_the_old_file(tmp_path: Path, kind: type[BaseException]) -> None:
    target = tmp_path / "x.txt"
    target.write_text("old")
    with pytest.raises(kind, match="mine"), atomic_write(target) as temporary:
        temporary.write_text("half")
        raise kind("mine")
    assert target.read_text() == "old"
    assert names(tmp_path) == ["x.txt"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_failing_system_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    def fail(*args: object) -> None:
        raise OSError(number, os.strerror(number))

    target = tmp_path / "x.txt"
    target.write_text("old")
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="cannot write the figure to") as caught:
        write_text(target, "new", "the figure")
    message = str(caught.value)
    assert str(target) in message and os.strerror(number) in message
    assert message.endswith("choose another place")
    assert caught.value.errno == number
    assert isinstance(caught.value.__cause__, OSError)
    assert target.read_text() == "old"
    assert names(tmp_path) == ["x.txt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_for_real(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match=r"No space left.*free disk space") as caught,
        atomic_write(tmp_path / "x.npy") as temporary,
    ):
        temporary.unlink()
        temporary.symlink_to("/dev/full")
        temporary.write_bytes(b"0" * 100_000)
    assert caught.value.errno == errno.ENOSPC
    assert names(tmp_path) == []


def test_library_error_without_a_number_is_explained_too(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match="1000 requested and 5 written; free disk space"),
        atomic_write(tmp_path / "x.npy"),
    ):
        raise OSError("1000 requested and 5 written")
    assert names(tmp_path) == []


LIMITED = """
import resource, sys
import numpy as np
from gprior.files import atomic_write
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    with atomic_write(sys.argv[1], "the array") as temporary:
        np.save(temporary, np.zeros(100_000))
except OSError as error:
    print(error)
"""

KILLED = """
import sys, time
from gprior.files import atomic_write
with atomic_write(sys.argv[1]) as temporary:
    temporary.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(os.name != "posix", reason="POSIX resource limits")
def test_quota_for_real(tmp_path: Path) -> None:
    target = tmp_path / "x.npy"
    np.save(target, np.arange(3))
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(target)], capture_output=True, text=True, check=True
    )
    assert f"cannot write the array to {target}" in done.stdout
    assert np.load(target).tolist() == [0, 1, 2]
    assert names(tmp_path) == ["x.npy"]


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_killed_while_writing(tmp_path: Path, number: signal.Signals) -> None:
    target = tmp_path / "x.txt"
    target.write_text("old")
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(target)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        started = time.monotonic()
        process.send_signal(number)
        assert process.wait(20) != 0
        assert time.monotonic() - started < 20
    assert target.read_text() == "old"
    if number == signal.SIGINT:
        assert names(tmp_path) == ["x.txt"]


def test_missing_folder_and_wrong_kinds_of_target(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="cannot write the result to"):
        write_text(tmp_path / "missing" / "x.txt", "new", "the result")
    (tmp_path / "folder").mkdir()
    for target in (tmp_path / "folder", Path(os.devnull)):
        with pytest.raises(OSError, match="not a regular file"):
            write_text(target, "new")
    assert names(tmp_path) == ["folder"]


def test_symbolic_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link.txt").symlink_to(tmp_path / "real" / "x.txt")
    write_text(tmp_path / "link.txt", "new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real" / "x.txt").read_text() == "new"


def test_helpers_round_trip(tmp_path: Path) -> None:
    write_bytes(tmp_path / "b", b"\x00\r\n")
    assert (tmp_path / "b").read_bytes() == b"\x00\r\n"
    write_text(tmp_path / "t", "grün\n")
    assert (tmp_path / "t").read_bytes() == "grün\n".encode()
    value = {"psnr": 31.5, "case": "größe", "list": [1, None, True]}
    write_json(tmp_path / "j", value)
    assert json.loads((tmp_path / "j").read_text(encoding="utf-8")) == value


@pytest.mark.parametrize(
    ("value", "kind"), [({"x": float("nan")}, ValueError), ({"x": np.zeros(2)}, TypeError)]
)
def test_json_that_cannot_be_written_changes_nothing(
    tmp_path: Path, value: object, kind: type[Exception]
) -> None:
    target = tmp_path / "x.json"
    target.write_text("old")
    with pytest.raises(kind, match="cannot write the metrics to"):
        write_json(target, value, "the metrics")
    assert target.read_text() == "old"
