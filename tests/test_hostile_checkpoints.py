"""Checkpoints that are made to harm: each is refused with one clear error.

Loading them takes little time and memory and has no other effect.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import importlib.util
import io
import json
import os
import random
import resource
import struct
import tarfile
import time
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from gprior.checkpoints import load_prior, read_checkpoint
from gprior.checkpoints.containers import MAGIC
from gprior.checkpoints.pickles import MAX_INSTRUCTIONS, MAX_TEXT

DATA = Path(__file__).parent / "data"
TRAINING = DATA / "rosinality" / "size64_training" / "checkpoint.pt"
LEGACY = DATA / "rosinality" / "size32_converted" / "checkpoint.pt"
ADA = DATA / "nvlabs_ada" / "nonoise16" / "network.pkl"
TENSORFLOW = DATA / "nvlabs_tf" / "sg2_32" / "network.pkl"
SECONDS = 5
SLACK = 128 << 20  # bytes of address space that are allowed beside four times the file


# --- Parts of pickles ------------------------------------------------------------------------

P2, P4, P5 = b"\x80\x02", b"\x80\x04", b"\x80\x05"
MARK, LIST, DICT, EMPTY, NONE, STOP = b"(", b"]", b"}", b")", b"N", b"."
TOUCH = "touch ./canary"


def name(module, word):
    return b"c" + module.encode() + b"\n" + word.encode() + b"\n"


def text(word):
    return b"X" + struct.pack("<I", len(word.encode())) + word.encode()


def whole(number):
    return b"J" + struct.pack("<i", number) if abs(number) < 1 << 31 else long(number)


def long(number):
    data = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def sequence(*items):
    return MARK + b"".join(items) + b"t"


def mapping(items):
    return DICT + MARK + b"".join(text(k) + v for k, v in items.items()) + b"u"


def blob(data):
    return b"B" + struct.pack("<I", len(data)) + data


def call(module, word, *args):
    return name(module, word) + sequence(*args) + b"R"


def stream(tree, storages=(), keys=None):
    """Return a file in PyTorch's older format with the pickle ``tree``.

    Each storage is (key, declared size, bytes).
    """
    keys = [key for key, _, _ in storages] if keys is None else keys
    parts = [P2 + long(MAGIC) + STOP, P2 + whole(1001) + STOP]
    parts += [P2 + mapping({"little_endian": b"\x88"}) + STOP, P2 + tree + STOP]
    parts += [P2 + LIST + MARK + b"".join(map(text, keys)) + b"e" + STOP]
    return b"".join(parts + [struct.pack("<q", n) + data for _, n, data in storages])


def storage(key, numel, kind="FloatStorage", *view):
    return (
        sequence(text("storage"), name("torch", kind), text(key), text("cpu"), whole(numel), *view)
        + b"Q"
    )


def tensor(stored, shape=(4,), stride=(1,), offset=0):
    sizes = [sequence(*map(whole, s)) for s in (shape, stride)]
    function = ("torch._utils", "_rebuild_tensor_v2")
    return call(*function, stored, whole(offset), *sizes, b"\x89", NONE)


FOUR = ("0", 4, b"\0" * 16)


def legacy(**options):
    """Return a file with one tensor, of a storage of four numbers."""
    return stream(mapping({"w": tensor(storage("0", 4), **options)}), [FOUR])


def array(shape=(4,), dtype="f4", data=b"\0" * 16, order="<", state=NONE * 3):
    """Return a NumPy array in a pickle."""
    kind = call("numpy", "dtype", text(dtype), b"\x89", b"\x88")
    kind += sequence(whole(3), text(order), state, whole(-1), whole(-1), whole(0)) + b"b"
    new = call(
        "numpy.core.multiarray", "_reconstruct", name("numpy", "ndarray"), sequence(whole(0))
    )
    return new + sequence(whole(1), sequence(*map(whole, shape)), kind, b"\x89", blob(data)) + b"b"


def module(**state):
    """Return a persistent object as NVIDIA's files have them."""
    fields = {"_parameters": DICT, "_buffers": DICT, "_modules": DICT, **state}
    meta = {"type": text("class"), "module_src": text(""), "state": mapping(fields)}
    return call("torch_utils.persistence", "_reconstruct_persistent_obj", mapping(meta))


def laughs(leaf, wrap, levels=40):
    """Return a structure that holds one part ten times, which holds one part ten times, ...

    It is named after the "billion laughs" attack: small in the file, exponential when copied.
    """
    data = leaf + b"q\0"
    for k in range(levels):
        data += wrap(b"h" + bytes([k])) + b"q" + bytes([k + 1])
    return data


def archive(entries, change=None, compression=zipfile.ZIP_STORED):
    """Return a zip archive, to which ``change`` was applied."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as file:
        for key, data in entries:
            file.writestr(key, data)
    data = bytearray(out.getvalue())
    if change:
        change(data)
    return bytes(data)


TREE = P2 + mapping({"w": tensor(storage("0", 4))}) + STOP
ENTRIES = [("a/data.pkl", TREE), ("a/byteorder", b"little"), ("a/data/0", b"\0" * 16)]


def patch(mark, offset, form, *values):
    """Return a function that changes numbers of a zip archive at an offset from a mark."""

    def change(data):
        assert mark in data
        struct.pack_into(form, data, data.find(mark) + offset, *values)

    return change


def twice(data):
    """Give an entry the name of another one, at the entry and in the directory."""
    data[:] = data.replace(b"a/data.pkx", b"a/data.pkl")


def safetensors(header, data=b"", size=None):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header) if size is None else size) + header + data


def entry(dtype="F32", shape=(4,), offsets=(0, 16)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def tarred():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        info = tarfile.TarInfo("sys_info")
        info.size = 3
        file.addfile(info, io.BytesIO(b"abc"))
    return out.getvalue()


def aliased():
    """Return a rosinality file whose 3000 tensors all share one storage of a megabyte."""
    n = 1 << 18
    big = tensor(storage("0", n), (n,), (1,))
    keys = [text(f"style.{i}.weight") + b"h\1" for i in range(3000)]
    tree = big + b"q\1" + b"0" + DICT + text("g_ema") + DICT + MARK + b"".join(keys) + b"us"
    return stream(tree, [("0", n, b"\0" * 4 * n)])


RUN = text(TOUCH)
CASES = {
    # Calls
    "os.system": P2 + call("os", "system", RUN) + STOP,
    "posix.system by STACK_GLOBAL": P4 + b"\x8c\x05posix\x8c\x06system\x93" + RUN + b"\x85R.",
    "builtins.exec": P2 + call("builtins", "exec", RUN) + STOP,
    "builtins.eval inside a dictionary": P2
    + mapping({"g_ema": call("builtins", "eval", RUN)})
    + STOP,
    "subprocess.Popen by NEWOBJ": P2 + name("subprocess", "Popen") + sequence(RUN) + b"\x81.",
    "torch.load": P2 + call("torch", "load", RUN) + STOP,
    "torch.hub": P2 + call("torch.hub", "load", RUN) + STOP,
    "getattr": P2 + call("builtins", "getattr", name("os", "path"), text("os")) + STOP,
    "a dotted name": P4 + text("torch._utils") + text("_rebuild_tensor_v2.__globals__") + b"\x93.",
    "a name with a null": P4 + text("os\0") + text("system") + b"\x93.",
    "a name that is a list": P4 + LIST + text("system") + b"\x93.",
    "a name without an end": P2 + b"cos" + b"s" * 500,
    "INST": b"(S'" + TOUCH.encode() + b"'\nios\nsystem\n.",
    "INST after PROTO": P2 + MARK + RUN + b"ios\nsystem\n.",
    "OBJ": P2 + MARK + name("os", "system") + RUN + b"o.",
    "NEWOBJ_EX": P4 + name("argparse", "Namespace") + EMPTY + DICT + b"\x92.",
    "EXT1": P2 + b"\x82\x01.",
    "EXT4": P2 + b"\x84\x01\0\0\0.",
    "protocol 0": b"cos\nsystem\n(S'" + TOUCH.encode() + b"'\ntR.",
    "protocol 9": b"\x80\x09N.",
    "out-of-band buffer": P5 + b"\x97.",
    "read-only buffer": P5 + b"\x97\x98.",
    "bytearray": P5 + b"\x96" + struct.pack("<Q", 1 << 60) + STOP,
    "a call of data": P2 + LIST + EMPTY + b"R.",
    "a call without a tuple": P2 + name("collections", "OrderedDict") + LIST + b"R.",
    "a state for a name": P2 + name("collections", "OrderedDict") + DICT + b"b.",
    "a state for a list": P2 + LIST + DICT + b"b.",
    "items of an object": P2
    + name("argparse", "Namespace")
    + EMPTY
    + b"\x81"
    + text("a")
    + NONE
    + b"s.",
    "a reconstruction with odd arguments": P2 + call("torch._utils", "_rebuild_tensor_v2") + STOP,
    "a code in a stream": stream(call("os", "system", RUN)),
    "code in a nested stream": P2
    + call("torch.storage", "_load_from_bytes", blob(stream(call("os", "system", RUN))))
    + STOP,
    "a stream in a stream in a pickle": P2
    + call(
        "torch.storage",
        "_load_from_bytes",
        blob(stream(call("torch.storage", "_load_from_bytes", blob(stream(NONE))))),
    )
    + STOP,
    "a nested bare pickle": P2
    + call("torch.storage", "_load_from_bytes", blob(P2 + call("os", "system", RUN) + STOP))
    + STOP,
    "a nested zip": P2 + call("torch.storage", "_load_from_bytes", blob(archive(ENTRIES))) + STOP,
    "code in a module": P2
    + call(
        "torch_utils.persistence",
        "_reconstruct_persistent_obj",
        mapping({"module_src": RUN, "class_name": text("G"), "state": DICT}),
    )
    + STOP,
    "code in a zip": archive([("a/data.pkl", P2 + call("os", "system", RUN) + STOP)]),
    # Sizes, depth, repetition
    "a memo of 2^31": P2 + NONE + b"r\xff\xff\xff\x7f.",
    "a memo that is not there": P2 + b"j\xff\xff\xff\x7f.",
    "lists ten times each": P2 + laughs(LIST, lambda k: LIST + MARK + k * 10 + b"e") + STOP,
    "a key of tuples ten times each": P2
    + laughs(EMPTY, lambda k: MARK + k * 10 + b"t")
    + DICT
    + b"h\x28Ns.",
    "a type of tuples ten times each": stream(
        laughs(EMPTY, lambda k: MARK + k * 10 + b"t")
        + sequence(text("storage"), b"h\x28", text("0"), text("cpu"), whole(4))
        + b"Q"
    ),
    "modules ten times each": P2
    + laughs(module(), lambda k: module(_modules=mapping(dict.fromkeys("abcdefghij", k))), 10)
    + STOP,
    "lists in lists": P2 + LIST * 90_000 + b"a" * 89_999 + STOP,
    "tuples in tuples": P2 + EMPTY + b"\x85" * 150_000 + STOP,
    "marks in marks": P2 + MARK * 150_000 + STOP,
    "a list in itself": P2 + LIST + b"q\0h\0a.",
    "a dictionary in itself": P2 + DICT + b"q\0" + text("g_ema") + b"h\0s.",
    "too many instructions": P2 + NONE * (MAX_INSTRUCTIONS + 10) + STOP,
    "too much text": P2 + text("a" * (MAX_TEXT + 10)) + STOP,
    "keys with one hash": P2
    + DICT
    + MARK
    + b"".join(long((k + 1) * ((1 << 61) - 1)) + NONE for k in range(30_000))
    + b"u.",
    "a frame of 2^63": P4 + b"\x95" + struct.pack("<Q", 1 << 63) + NONE + STOP,
    "bytes of 2^62": P4 + b"\x8e" + struct.pack("<Q", 1 << 62) + STOP,
    "text of 2^32": P2 + b"X\xff\xff\xff\xff" + STOP,
    "text of -1": P2 + b"T\xff\xff\xff\xff" + STOP,
    "an integer of 2^31 bytes": P2 + b"\x8b\xff\xff\xff\x7f" + STOP,
    "an integer of -1 bytes": P2 + b"\x8b\xff\xff\xff\xff" + STOP,
    "an integer of 255 bytes": P2 + b"\x8a\xff" + b"\x7f" * 255 + STOP,
    "surrogates": P2 + b"X\x03\0\0\0\xed\xa0\x80.",
    "no UTF-8": P2 + b"X\x02\0\0\0\xff\xfe.",
    "UNICODE": P2 + b"Vabc\n.",
    "nothing to pop": P2 + b"0.",
    "nothing to return": P2 + STOP,
    "no mark": P2 + b"t.",
    "an odd number of items": P2 + DICT + MARK + NONE + b"u.",
    "no end": P2 + NONE,
    "two ends": P2 + NONE + STOP + STOP,
    "a persistent id in a pickle": P2 + storage("0", 4) + STOP,
    "PERSID": P2 + b"P0\n.",
    # Tensors
    "stride 0": legacy(shape=(1000, 1000), stride=(0, 0)),
    "overlapping strides": legacy(shape=(2, 2), stride=(1, 1)),
    "gaps": legacy(shape=(2,), stride=(3,)),
    "a negative stride": legacy(shape=(2,), stride=(-1,)),
    "a negative offset": legacy(offset=-1),
    "a negative size": legacy(shape=(-4,)),
    "an offset past the end": legacy(offset=1),
    "an offset of 2^62": legacy(offset=1 << 62),
    "a size of 2^62": legacy(shape=(1 << 62,)),
    "sizes whose product overflows": legacy(shape=(1 << 32, 1 << 32), stride=(1 << 32, 1)),
    "fewer strides": legacy(shape=(2, 2), stride=(1,)),
    "a hundred dimensions": legacy(shape=(1,) * 100, stride=(1,) * 100),
    "larger than its storage": legacy(shape=(5,)),
    "a size that is a float": (b"G" + struct.pack(">d", 4.0) + b"t").join(
        legacy().rsplit(whole(4) + b"t", 1)
    ),
    "a storage larger than it says": stream(storage("0", 4), [("0", 4, b"\0" * 20)]),
    "a storage smaller than it says": stream(storage("0", 4), [("0", 4, b"\0" * 12)]),
    "a storage of another size": stream(storage("0", 4), [("0", 5, b"\0" * 20)]),
    "a storage of 2^62": stream(storage("0", 1 << 62), [("0", 1 << 62, b"")]),
    "a storage of -1": stream(storage("0", -1), [("0", -1, b"")]),
    "a storage with two sizes": stream(sequence(storage("0", 4), storage("0", 3)), [FOUR]),
    "a storage that is not named": stream(NONE, [FOUR]),
    "a storage that is not there": stream(storage("0", 4), [], ["1"]),
    "a storage named twice": stream(storage("0", 4), [FOUR, FOUR]),
    "a storage of quantized numbers": stream(storage("0", 4, "QInt8Storage"), [FOUR]),
    "a storage of objects": stream(storage("0", 4, "UntypedStorage"), [FOUR]),
    "a view of a storage": stream(storage("0", 4, "FloatStorage", sequence(text("1"))), [FOUR]),
    "an id that is no storage": stream(text("storage") + b"Q"),
    "an id of another kind": stream(sequence(*[text("module")] * 5) + b"Q"),
    "keys that are no text": stream(NONE).replace(LIST + MARK + b"e", LIST + MARK + NONE + b"e"),
    "big-endian": stream(NONE).replace(b"little_endian\x88", b"little_endian\x89"),
    "another version": stream(NONE).replace(whole(1001), whole(1002)),
    "one storage for thousands of tensors": aliased(),
    "an array of objects": P2 + array(dtype="O8", data=b"\0" * 32) + STOP,
    "a structured array": P2 + array(state=NONE + sequence(text("a")) + DICT) + STOP,
    "a big-endian array": P2 + array(order=">") + STOP,
    "an array of fewer bytes": P2 + array(shape=(5,)) + STOP,
    "an array of -4": P2 + array(shape=(-4,)) + STOP,
    "an array of 2^80": P2 + array(shape=(1 << 40, 1 << 40)) + STOP,
    "an array of text": P2 + array(dtype="U4") + STOP,
    "a number of objects": P2
    + call("numpy.core.multiarray", "scalar", call("numpy", "dtype", text("O8")), RUN)
    + STOP,
    # Archives
    "a zip bomb": archive([("a/data.pkl", NONE * 50_000_000)], None, zipfile.ZIP_DEFLATED),
    "a compressed storage": archive(ENTRIES, None, zipfile.ZIP_DEFLATED),
    "a bzip2 storage": archive(ENTRIES, None, zipfile.ZIP_BZIP2),
    "a path out of the archive": archive([("../data.pkl", TREE)]),
    "a path out of the folder": archive([*ENTRIES, ("a/data/../../../etc/passwd", b"x")]),
    "an absolute path": archive([("/data.pkl", TREE)]),
    "a path with backslashes": archive([*ENTRIES, ("a\\..\\b", b"x")]),
    "a name twice": archive([*ENTRIES, ("a/data.pkx", TREE)], twice),
    "an encrypted entry": archive(ENTRIES, patch(b"PK\1\2", 8, "<H", 1)),
    "an entry larger than the file": archive(ENTRIES, patch(b"PK\1\2", 20, "<2I", *[1 << 30] * 2)),
    "an entry outside the file": archive(ENTRIES, patch(b"PK\1\2", 42, "<I", 0xFFFFFFF0)),
    "entries over one another": archive(ENTRIES, patch(b"PK\1\2", 20, "<2I", 200, 200)),
    "a name that differs": archive(ENTRIES, lambda d: d.__setitem__(slice(30, 31), b"b")),
    "a wrong checksum of the pickle": archive(ENTRIES, patch(b"PK\1\2", 16, "<I", 1)),
    "more entries than there are": archive(ENTRIES, patch(b"PK\5\6", 8, "<I", 0x7FFF7FFF)),
    "fewer entries than there are": archive(ENTRIES, patch(b"PK\5\6", 8, "<I", 0x00010001)),
    "a directory elsewhere": archive(ENTRIES, patch(b"PK\5\6", 16, "<I", 3)),
    "no directory": archive(ENTRIES)[:-22],
    "a missing storage": archive(ENTRIES[:2]),
    "a short storage": archive([*ENTRIES[:2], ("a/data/0", b"\0" * 12)]),
    "two pickles": archive([*ENTRIES, ("b/data.pkl", TREE)]),
    "no pickle": archive(ENTRIES[1:]),
    "big-endian zip": archive([ENTRIES[0], ("a/byteorder", b"big"), ENTRIES[2]]),
    "TorchScript": archive([*ENTRIES, ("a/code/__torch__.py", b"x"), ("a/constants.pkl", b"x")]),
    # Other files
    "a gzip file": gzip.compress(TREE),
    "a tar file": tarred(),
    "ONNX": b"\x08\x07\x12\x07pytorch\x1a\x051.0",
    "HDF5": b"\x89HDF\r\n\x1a\n",
    "a web page": b"<!DOCTYPE html><html>Sign in</html>",
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\n",
    "zeros": b"\0" * 4096,
    "text": b"these are no weights",
    "nothing": b"",
    # safetensors
    "a header of 2^63": safetensors({}, size=1 << 63),
    "a header longer than the file": safetensors({}, size=1 << 20),
    "a header that is no JSON": safetensors(b'{"a":'),
    "a header that is a list in lists": safetensors(b"{" + b"[" * 100_000),
    "offsets past the end": safetensors({"w": entry(offsets=(0, 1 << 40))}, b"\0" * 16),
    "offsets that overlap": safetensors({"v": entry(), "w": entry(offsets=(8, 24))}, b"\0" * 24),
    "offsets of another size": safetensors({"w": entry(shape=(5,))}, b"\0" * 16),
    "a negative size in a header": safetensors({"w": entry(shape=(-4,))}, b"\0" * 16),
    "sizes that overflow": safetensors({"w": entry(shape=(1 << 62, 1 << 62))}, b"\0" * 16),
    "another dtype": safetensors({"w": entry("F128")}, b"\0" * 16),
    "bytes that are no floats": save({"w": torch.zeros(4, dtype=torch.uint8)}),
    "bytes after the end": save({"w": torch.zeros(4)}) + b"\0",
    "a truncated tensor": save({"w": torch.zeros(4)})[:-1],
}


def used():
    """Return the address space of this process in bytes."""
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[0]) * resource.getpagesize()


@contextlib.contextmanager
def limits(size):
    """Allow memory of four times the size of a file, and a few seconds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used() + SLACK + 4 * size, hard))
    started = time.perf_counter()
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert time.perf_counter() - started < SECONDS


def refused(path):
    """Check that a file is refused with one short line that names it; return the line."""
    with limits(path.stat().st_size), pytest.raises(ValueError) as caught:
        load_prior(path)
    message = str(caught.value)
    assert str(path) in message and len(message) - len(str(path)) < 400
    assert "\n" not in message
    for advice in ("weights_only", "safe_globals", "unsafe"):
        assert advice not in message
    return message


@pytest.mark.parametrize("case", CASES)
def test_a_hostile_file_is_one_error(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_bytes(CASES[case])
    refused(tmp_path / "file")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


def test_the_hostile_files_run_code_when_unpickled(tmp_path, monkeypatch):
    """Python's own unpickler runs the code in them, so the tests above test something."""
    import pickle

    monkeypatch.chdir(tmp_path)
    for case in ("os.system", "INST", "OBJ", "protocol 0", "posix.system by STACK_GLOBAL"):
        pickle.loads(CASES[case])
        (tmp_path / "canary").unlink()


def test_the_parts_of_hostile_files_are_read_where_nothing_is_wrong(tmp_path):
    """If they were not, the hostile files would be refused for another reason than intended."""
    good = {
        "stream": (legacy(), "w"),
        "zip": (archive(ENTRIES), "w"),
        "pickle": (P2 + mapping({"w": array()}) + STOP, "w"),
        "safetensors": (safetensors({"w": entry()}, b"\0" * 16), "w"),
        "nested": (
            P2
            + mapping(
                {
                    "w": tensor(
                        call(
                            "torch.storage",
                            "_load_from_bytes",
                            blob(stream(storage("0", 4), [FOUR])),
                        )
                    )
                }
            )
            + STOP,
            "w",
        ),
    }
    for name_, (data, key) in good.items():
        path = tmp_path / name_
        path.write_bytes(data)
        assert read_checkpoint(path)[key].tensor().tolist() == [0] * 4
        path.write_bytes(data[:-3])
        refused(path)
    path.write_bytes(P2 + module() + STOP)
    assert "G_ema" in refused(path)


def test_a_wrong_checksum_of_a_tensor(tmp_path):
    data = bytearray(TRAINING.read_bytes())
    contents = bytes(read_checkpoint(TRAINING)["g_ema"]["conv1.conv.weight"].storage.data)
    assert data.count(contents) == 1
    for at in (data.find(contents), data.find(contents) + len(contents) - 1):
        changed = data.copy()
        changed[at] ^= 1
        (tmp_path / "c.pt").write_bytes(changed)
        assert "checksum" in refused(tmp_path / "c.pt")


@pytest.mark.parametrize("source", [TRAINING, LEGACY, ADA, TENSORFLOW], ids=lambda p: p.parent.name)
def test_truncated_files_are_refused(source, tmp_path):
    data, rng = source.read_bytes(), random.Random(0)
    path = tmp_path / "cut"
    for cut in [1, 2, 3, 10, 100, len(data) - 1, *(rng.randrange(len(data)) for _ in range(12))]:
        path.write_bytes(data[:cut])
        refused(path)
    path.write_bytes(data + b"\0")
    refused(path)


def test_pipes_links_and_folders_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to(tmp_path / "none")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "pipe", tmp_path / "dangling", tmp_path / "folder", "/dev/zero"):
        with limits(0), pytest.raises(FileNotFoundError):
            load_prior(path)
    with limits(0), pytest.raises(OSError):
        load_prior(tmp_path / "loop")


# --- Fuzzing: more of it in benchmarks/fuzz_checkpoints.py -----------------------------------


@functools.cache
def mutants():
    place = Path(__file__).parent / "mutants.py"
    spec = importlib.util.spec_from_file_location("mutants", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("source", [TRAINING, LEGACY, ADA, TENSORFLOW], ids=lambda p: p.parent.name)
def test_damaged_files_load_or_are_refused(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data, rng = source.read_bytes(), random.Random(3)
    path, loaded = tmp_path / "mutant", 0
    for _ in range(75):
        path.write_bytes(mutants().mutant(data, rng))
        with limits(len(data)):
            try:
                load_prior(path)  # a change inside a weight cannot be detected
                loaded += 1
            except ValueError as error:
                assert str(path) in str(error)
    assert loaded < 60
    assert [p.name for p in tmp_path.iterdir()] == ["mutant"]
