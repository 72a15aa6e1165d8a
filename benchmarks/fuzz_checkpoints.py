"""Damage checkpoints and load them: ``python benchmarks/fuzz_checkpoints.py``.

Every input must either load or end in one ValueError, soon. It is loaded in a child process that is
stopped after ten seconds, and whose memory is limited to a constant and four times the size of the
input. Python's audit hooks report what a load must never do: start a process, compile or run code,
import a module, unpickle, open a file to write, or use the network.
"""

from __future__ import annotations

import argparse
import collections
import importlib.util
import lzma
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
DATA = ROOT / "tests" / "data"
SECONDS = 10
SLACK = 256 << 20
NEVER = ("subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.", "pickle.")
CHUNK = 250  # inputs per child process


def sources() -> dict[str, bytes]:
    """Return the files that will be damaged: every fixture, a native one, and hostile ones."""
    files = {}
    for path in sorted(DATA.rglob("*")):
        if path.suffix in (".pkl", ".pt", ".pth", ".xz"):
            data = path.read_bytes()
            files[str(path.relative_to(DATA))] = (
                lzma.decompress(data) if path.suffix == ".xz" else data
            )
    from gprior.checkpoints import load_prior, save_prior

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "native.safetensors"
        save_prior(load_prior(DATA / "rosinality" / "size32_converted" / "checkpoint.pt"), out)
        files["native.safetensors"] = out.read_bytes()
    hostile = module(ROOT / "tests" / "test_hostile_checkpoints.py")
    small = {f"hostile: {k}": v for k, v in hostile.CASES.items() if 0 < len(v) < 100_000}
    return files | small


def module(path: Path) -> Any:
    """Import a module of the tests."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(path)
    result = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(result)
    return result


def work(jobs: list[tuple[str, bytes]], folder: str, queue: Any) -> None:
    """Load a chunk of inputs and report on each."""
    import torch

    from gprior.checkpoints import load_prior

    torch.set_num_threads(1)
    events: list[str] = []
    armed = False

    def watch(event: str, args: tuple[Any, ...]) -> None:
        if not armed:
            return
        writes = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")
        if writes or event in ("compile", "exec", "import") or event.startswith(NEVER):
            events.append(f"{event} {str(args[:1])[:80]}")

    sys.addaudithook(watch)
    path = Path(folder) / "input"
    config = (DATA / "biggan_hf" / "deep32" / "config.json").read_bytes()
    (Path(folder) / "config.json").write_bytes(config)
    for base in ("rosinality/size32_converted/checkpoint.pt", "biggan_ajbrock/res64/G_ema.pth"):
        load_prior(DATA / base)  # so that lazy imports are done before the watch
    for name, data in jobs:
        path.write_bytes(data)
        events.clear()
        with open("/proc/self/statm") as file:  # noqa: PTH123
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(
            resource.RLIMIT_AS, (used + SLACK + 4 * len(data), resource.RLIM_INFINITY)
        )
        signal.alarm(SECONDS)
        started = time.perf_counter()
        armed = True
        try:
            load_prior(path)
            outcome = "loaded"
        except ValueError as error:
            outcome = "refused" if str(path) in str(error) else f"unnamed: {error}"
        except BaseException as error:
            outcome = f"{type(error).__name__}: {error}"[:300]
        armed = False
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
        seconds = time.perf_counter() - started
        left = sorted(os.listdir(folder))  # noqa: PTH208
        effect = "; ".join(events) or ("" if left == ["config.json", "input"] else f"files {left}")
        queue.put((name, outcome, seconds, effect))


def main() -> int:
    """Print how many inputs were refused or loaded; return 1 if anything else happened."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="check that the script works")
    parser.add_argument("--count", type=int, default=10_000, help="inputs (default 10000)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default 0)")
    options = parser.parse_args()
    count = CHUNK if options.quick else options.count
    mutant = module(ROOT / "tests" / "mutants.py").mutant
    files, rng = sources(), random.Random(options.seed)
    whole = [name for name in files if not name.startswith("hostile")]
    small = [name for name in files if name.startswith("hostile")]
    counts: collections.Counter[str] = collections.Counter()
    bad: list[str] = []
    longest, started = (0.0, ""), time.perf_counter()
    done = 0
    context = multiprocessing.get_context("spawn")
    while done < count:
        jobs = []
        for _ in range(min(CHUNK, count - done)):
            name = rng.choice(whole if rng.random() < 0.8 else small)
            jobs.append((name, mutant(files[name], rng)))
        with tempfile.TemporaryDirectory() as folder:
            queue: Any = context.SimpleQueue()
            child = context.Process(target=work, args=(jobs, folder, queue))
            child.start()
            reported = []
            while len(reported) < len(jobs) and (child.is_alive() or not queue.empty()):
                if queue.empty():
                    time.sleep(0.01)
                    continue
                reported.append(queue.get())
            child.join()
        for name, outcome, seconds, effect in reported:
            kind = name if name in whole else "hostile"
            counts[f"{outcome if outcome in ('loaded', 'refused') else 'OTHER'} {kind}"] += 1
            longest = max(longest, (seconds, name))
            if outcome not in ("loaded", "refused") or effect:
                bad.append(f"{name}: {outcome} {effect}")
        if len(reported) < len(jobs):
            bad.append(f"{jobs[len(reported)][0]}: the child died with {child.exitcode}")
        done += len(jobs)
        print(f"{done:,} inputs, {time.perf_counter() - started:.0f} s", file=sys.stderr)
    for line in (*sorted(f"{n:7,} {kind}" for kind, n in counts.items()), *bad):
        print(line)
    totals = {
        w: sum(n for k, n in counts.items() if k.startswith(w)) for w in ("refused", "loaded")
    }
    print(
        f"{done:,} inputs: {totals['refused']:,} refused, {totals['loaded']:,} loaded, "
        f"{len(bad)} anything else; {time.perf_counter() - started:.0f} s, the longest "
        f"{longest[0]:.2f} s ({longest[1]})"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
