"""`solve_many`: every item once, the same answer in any batch, and no failure that loses work."""

from __future__ import annotations

import csv
import errno
import json
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
import torch

import gprior
from gprior.batch import (
    Folder,
    Settings,
    Worker,
    devices_of,
    engines,
    in_words,
    interruptible,
    places,
    status_of,
    worker,
)  # fmt: skip
from gprior.batch.folder import names
from gprior.batch.items import as_items
from gprior.batch.job import SolveJob
from gprior.batch.leases import Leases
from gprior.checks import InputError, InputTypeError
from gprior.operators import Downsampling, Masking
from gprior.priors import Generator

QUICK = {"steps": 25, "init": "random", "noise_std": 0.15, "lr": 0.3}
PATIENCE = 0.4


def matrix(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


PIXELS = matrix(0, 64, 6)


def draw_pixels(z):
    return (z @ PIXELS.t()).view(-1, 1, 8, 8).tanh()


@pytest.fixture(scope="module")
def linear():
    """A prior that costs next to nothing."""
    return Generator(draw_pixels, 6, dtype=torch.float64)


@pytest.fixture(scope="module", name="A")
def operator():
    return matrix(1, 20, 64) / 8


@pytest.fixture(scope="module")
def items(linear, A):
    y = linear.sample(12, seed=3).flatten(1) @ A.t() + 0.05 * matrix(2, 12, 20)
    return [gprior.Item(f"i{k:02}", row, seed=k) for k, row in enumerate(y)]


def answers(done):
    return {one.id: one.result.x for one in done}


def one_by_one(items, A, prior, solver, **options):
    return {
        item.id: gprior.solve(item.y[None], A, prior, solver, seed=item.seed or 0, **options).x
        for item in items
    }


def same(found, expected):
    assert sorted(found) == sorted(expected)
    return max(float((found[k] - expected[k]).abs().max()) for k in found) < 1e-6


def worker_of(job, out, **settings):
    folder = Folder(out)
    folder.begin(job.facts(), job.inputs())
    return Worker(job, folder, settings=Settings(patience=PATIENCE, **settings))


# --- Batches ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("solver", "constants"),
    [
        ("auto", {"steps": (4, 5)}),
        ("auto", {"steps": (20, 40)}),  # some images are found in range
        ("lbrgm", {"steps": 6, "lr": 0.1}),
        ("cma+adam", {"steps": 2, "population": 4}),
    ],
)
def test_a_refilled_batch_has_the_answers_of_each_image_alone(tiny_prior, solver, constants):
    prior = tiny_prior(16, 1, 0)
    A = Downsampling(prior.image_shape, 2)
    y = A(prior.sample(5, seed=3)) + 0.1 * matrix(3, 5, 1, 8, 8)
    items = [gprior.Item(f"i{k}", row, seed=k) for k, row in enumerate(y)]
    options = {"noise_std": 0.1, **constants}
    done = list(gprior.solve_many(items, A, prior, solver, max_batch=2, **options))
    assert same(answers(done), one_by_one(items, A, prior, solver, **options))


def test_places_are_refilled_while_others_run(linear, A, items, tmp_path, monkeypatch):
    rows = []
    advance = worker.advance

    def watched(cohorts):
        enough = advance(cohorts)
        rows.append([cohort.rows for cohort in cohorts if not cohort.ended])
        return enough

    monkeypatch.setattr(worker, "advance", watched)
    expected = one_by_one(items, A, linear, "csgm", **QUICK)
    passes = {}
    for refill in (True, False):
        rows.clear()
        options = {**QUICK, "max_batch": 4, "refill": refill}
        done = gprior.solve_many(items, A, linear, "csgm", out=tmp_path / str(refill), **options)
        assert same(answers(done), expected)
        assert max(map(sum, rows)) == 4
        assert any(len(cohorts) > 1 for cohorts in rows) is refill
        passes[refill] = len(rows)
    assert passes[True] < passes[False]  # a batch that is refilled needs fewer passes


def test_items_of_several_kinds(tiny_prior):
    """Of two operators, with their own labels, noise, and entries that are missing."""
    prior = tiny_prior(16, 1, 3)
    half, small = Masking(prior.image_shape, "half"), Downsampling(prior.image_shape, 2)
    x = prior.sample(4, seed=2)
    y = half(x)[0].numpy()
    hidden = np.ma.masked_array(y, np.random.default_rng(0).random(y.shape) < 0.3)
    items = [
        {"id": "masked", "y": hidden},
        {"id": "label", "y": half(x)[1], "label": 2},
        {"id": "later", "y": lambda: half(x)[2]},
        {"id": "small", "y": small(x)[3], "A": small, "noise_std": 0.1, "seed": 5},
    ]
    done = answers(gprior.solve_many(items, half, prior, "csgm", steps=4, check=False))
    alone = {
        "masked": gprior.solve(hidden[None], half, prior, "csgm", steps=4).x,
        "label": gprior.solve(half(x)[1:2], half, prior, "csgm", steps=4, label=2).x,
        "later": gprior.solve(half(x)[2:3], half, prior, "csgm", steps=4).x,
        "small": gprior.solve(small(x)[3:], small, prior, "csgm", steps=4, noise_std=0.1, seed=5).x,
    }
    assert same(done, alone)


def test_no_memory_halves_the_batch_and_loses_nothing(linear, A, items, tmp_path, monkeypatch):
    job = SolveJob(items, A, linear, "csgm", 8, QUICK)
    one = worker_of(job, tmp_path / "out")
    forward, refused = linear.forward, []

    def small(z, **others):
        if z.requires_grad and len(z) > 3:
            refused.append(len(z))
            raise torch.cuda.OutOfMemoryError("out of memory")
        return forward(z, **others)

    monkeypatch.setattr(one.work.prior, "forward", small)
    finished = list(one.run())
    monkeypatch.undo()
    assert sorted(finished) == job.items and refused[0] == 8
    found = {
        item: gprior.Result.load(one.folder.items / item / "result.safetensors").x
        for item in finished
    }
    assert same(found, one_by_one(items, A, linear, "csgm", **QUICK))
    assert one._places <= 3


def test_the_number_of_places_follows_from_the_free_memory(linear, tiny_prior, monkeypatch):
    from gprior.batch import memory

    assert places(linear) == 32
    monkeypatch.setattr(memory, "free_memory", lambda device: 0)
    assert places(linear) == 1
    monkeypatch.setattr(memory, "free_memory", lambda device: 10**7)
    assert 1 < places(tiny_prior(16, 1, 3)) < 32


# --- Runs that end early ---------------------------------------------------------------------


def test_a_run_continues_where_it_was(linear, A, items, tmp_path, monkeypatch):
    out = tmp_path / "out"
    run = gprior.solve_many(items, A, linear, "csgm", out=out, max_batch=2, **QUICK)
    first = [next(run).id for _ in range(3)]
    run.close()
    assert not list((out / "state" / "claimed").iterdir())
    (out / "items" / first[0] / "result.safetensors").write_bytes(b"a part")  # computed again
    data = out / "items" / first[1] / "result.safetensors"
    data.write_bytes(data.read_bytes()[:-1] + b"!")  # a byte that the disk lost
    kept = (out / "items" / first[2] / "item.json").stat().st_mtime_ns
    done = list(gprior.solve_many(items, A, linear, "csgm", out=out, **QUICK))
    assert same(answers(done), one_by_one(items, A, linear, "csgm", **QUICK))
    assert (out / "items" / first[2] / "item.json").stat().st_mtime_ns == kept
    with (out / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [item.id for item in items]
    assert [int(row["seed"]) for row in rows] == list(range(12))
    assert all(float(row["misfit"]) > 0 for row in rows)
    status = json.loads((out / "status.json").read_text())
    assert status["done"] == status["total"] == 12 and status["left"] == 0


def test_results_that_were_deleted_are_computed_again(linear, A, items, tmp_path):
    list(gprior.solve_many(items[:3], A, linear, "csgm", out=tmp_path / "o", **QUICK))
    for path in (tmp_path / "o" / "items" / "i01").iterdir():
        path.unlink()
    (tmp_path / "o" / "items" / "i01").rmdir()
    again = answers(gprior.solve_many(items[:3], A, linear, "csgm", out=tmp_path / "o", **QUICK))
    assert same(again, one_by_one(items[:3], A, linear, "csgm", **QUICK))


def test_a_bad_item_does_not_end_the_run(linear, A, items, tmp_path):
    def gone():
        raise FileNotFoundError(2, "No such file", "scan.npy")

    bad = torch.full((20,), torch.nan, dtype=torch.float64)
    given = [*items[:3], ("bad", bad), ("gone", gone), ("short", bad[:7]), *items[3:6]]
    call = {"out": tmp_path / "o", **QUICK}
    done = {one.id: one for one in gprior.solve_many(given, A, linear, "csgm", **call)}
    assert sorted(k for k, one in done.items() if one.error) == ["bad", "gone", "short"]
    assert "must be finite" in done["bad"].error and "scan.npy" in done["gone"].error
    good = {k: one.result.x for k, one in done.items() if not one.error}
    assert same(good, one_by_one(items[:6], A, linear, "csgm", **QUICK))
    failures = json.loads((tmp_path / "o" / "failed.json").read_text())
    assert failures == {k: one.error for k, one in done.items() if one.error}
    # The next run leaves them alone, unless it is asked to try again.
    tried = []
    given[4] = ("gone", lambda: tried.append(1) or items[7].y)
    again = {one.id: one for one in gprior.solve_many(given, A, linear, "csgm", **call)}
    assert again["gone"].error and not tried
    again = gprior.solve_many(given, A, linear, "csgm", **call, retry_failed=True)
    assert sorted(one.id for one in again if one.error) == ["bad", "short"] and tried
    assert list(json.loads((tmp_path / "o" / "failed.json").read_text())) == ["bad", "short"]


def test_the_neighbours_of_a_bad_item_stay_together(linear, A, items, tmp_path):
    bad = torch.full((20,), torch.nan, dtype=torch.float64)
    given = [*items[:5], gprior.Item("i04-bad", bad, seed=1), *items[5:11]]
    one = worker_of(SolveJob(given, A, linear, "csgm", 12, QUICK), tmp_path)
    solve, sizes = one.work.solve, []
    one.work.solve = lambda loaded, places: sizes.append(len(loaded)) or solve(loaded, places)
    assert len(list(one.run())) == 12
    assert sizes[:3] == [12, 6, 6] and sum(sizes[3:]) == 6 + 3 + 2 and len(sizes) < 10
    assert list(one.folder.failures()) == ["i04-bad"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed was None and is 1"),
        ({"steps": 9, "noise_std": 0.1}, "noise_std was 0.15 and is 0.1; steps was 25 and is 9"),
    ],
)
def test_other_options_do_not_mix_with_earlier_results(linear, A, items, tmp_path, change, message):
    list(gprior.solve_many(items[:2], A, linear, "csgm", out=tmp_path, **QUICK))
    with pytest.raises(InputError, match=message):
        gprior.solve_many(items, A, linear, "csgm", out=tmp_path, **{**QUICK, **change})
    with pytest.raises(InputError, match="operator was"):
        gprior.solve_many(items, 2 * A, linear, "csgm", out=tmp_path, **QUICK)
    other = [("i00", items[3].y)]
    with pytest.raises(InputError, match="i00 changed since the first run"):
        gprior.solve_many(other, A, linear, "csgm", out=tmp_path, **QUICK)
    (tmp_path / "state" / "run.json").write_text("{")
    with pytest.raises(InputError, match="missing or damaged"):
        gprior.solve_many(items, A, linear, "csgm", out=tmp_path, **QUICK)


def test_new_items_are_added_to_a_run(linear, A, items, tmp_path):
    list(gprior.solve_many(items[:2], A, linear, "csgm", out=tmp_path, **QUICK))
    done = answers(gprior.solve_many(items[:4], A, linear, "csgm", out=tmp_path, **QUICK))
    assert sorted(done) == ["i00", "i01", "i02", "i03"]


def test_a_full_disk_ends_the_run_and_says_so(linear, A, items, tmp_path, monkeypatch):
    finish, written = Folder.finish, []

    def full(self, item, *others):
        if len(written) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(item)
        return finish(self, item, *others)

    monkeypatch.setattr(Folder, "finish", full)
    call = {"out": tmp_path, "max_batch": 2, **QUICK}
    with pytest.raises(RuntimeError, match=r"7 items are left.*No space left on device"):
        list(gprior.solve_many(items, A, linear, "csgm", **call))
    assert not list((tmp_path / "state" / "parts").iterdir())
    assert len(list((tmp_path / "state" / "todo").iterdir())) == 7
    monkeypatch.undo()
    done = answers(gprior.solve_many(items, A, linear, "csgm", **call))
    assert same(done, one_by_one(items, A, linear, "csgm", **QUICK))


@pytest.mark.parametrize("place", ["claimed", "workers"])
def test_a_folder_without_rights(linear, A, items, tmp_path, place):
    list(gprior.solve_many(items[:1], A, linear, "csgm", out=tmp_path, **QUICK))
    (tmp_path / "state" / place).rmdir()
    (tmp_path / "state" / place).write_text("in the place of the folder")
    with pytest.raises(OSError, match=r"cannot write to .*; free disk space, make the folder"):
        list(gprior.solve_many(items, A, linear, "csgm", out=tmp_path, **QUICK))


def searching():
    """Return the threads of searches."""
    return [thread for thread in threading.enumerate() if thread.name == "gprior search"]


def test_an_interrupt_gives_the_items_back(linear, A, items, tmp_path, monkeypatch):
    calls, advance = [], worker.advance

    def interrupted(cohorts):
        calls.append(1)
        if len(calls) == 12:
            raise KeyboardInterrupt
        return advance(cohorts)

    monkeypatch.setattr(worker, "advance", interrupted)
    call = {"out": tmp_path, "max_batch": 4, **QUICK}
    with pytest.raises(KeyboardInterrupt):
        list(gprior.solve_many(items, A, linear, "csgm", **call))
    started = time.monotonic()
    while searching() and time.monotonic() < started + 10:
        time.sleep(0.01)
    assert not searching()  # no thread waits for ever
    done = len(list((tmp_path / "items").iterdir()))
    assert len(list((tmp_path / "state" / "todo").iterdir())) == 12 - done > 0
    assert not list((tmp_path / "state" / "workers").iterdir())
    assert len(list(gprior.solve_many(items, A, linear, "csgm", **call))) == 12


def test_the_first_interrupt_ends_the_step_and_the_second_the_process():
    said = []
    with interruptible(lambda: said.append("stop")):
        signal.raise_signal(signal.SIGINT)
        assert said == ["stop"]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


# --- Several workers -------------------------------------------------------------------------


def test_the_items_of_a_dead_worker_are_taken_over(linear, A, items, tmp_path, monkeypatch):
    """Also where the clock is wrong: no clock is compared with another."""
    job = SolveJob(items, A, linear, "csgm", 4, QUICK)
    one = worker_of(job, tmp_path)
    dead = one.folder.claimed / "another-node"
    dead.mkdir()
    for name in ("i03", "i07"):
        (one.folder.todo / name).rename(dead / name)
    pulse = one.folder.workers / "another-node"
    pulse.write_text('{"beat": 7}')
    os.utime(pulse, (time.time() + 3600,) * 2)
    wrong = iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: 3600.0 * next(wrong))
    assert sorted(one.run()) == job.items
    assert not list(one.folder.claimed.iterdir()) and not list(one.folder.workers.iterdir())


def test_the_items_of_a_living_worker_are_left_to_it(linear, A, items, tmp_path):
    job = SolveJob(items, A, linear, "csgm", 4, QUICK)
    one = worker_of(job, tmp_path)
    living = Leases(one.folder, job.items, PATIENCE)
    mine = living.take()
    done, started = [], time.monotonic()
    for item in one.run():
        done.append(item)
        if len(done) == len(job.items) - 1:
            break
    assert mine not in done
    while time.monotonic() < started + 2 * PATIENCE:
        assert one.leases.others_at_work()
        time.sleep(0.05)
    living.close()  # gives the item back
    assert next(one.folder.todo.iterdir()).name == mine
    assert sorted([*done, *one.run()]) == job.items


def test_a_worker_that_was_taken_for_dead_goes_on(linear, A, items, tmp_path):
    job = SolveJob(items, A, linear, "csgm", 4, QUICK)
    one, other = worker_of(job, tmp_path), worker_of(job, tmp_path)
    run = one.run()
    first = next(run)
    watcher = Leases(one.folder, job.items, PATIENCE)
    watcher._bury(one.leases.name)  # as after a long pause of the whole machine
    watcher.close()
    assert sorted([first, *run]) == job.items
    assert not one.folder.tokens() and list(other.run()) == []


def test_progress_in_words():
    status = {"total": 9, "done": 4, "running": 2, "failed": 1, "left": 2, "workers": 1}
    words = "4 of 9 done, 2 running on 1 workers, 1 failed, 2 left"
    assert in_words({**status, "rate": None, "seconds_left": None}) == words
    assert (
        in_words({**status, "rate": 0.5, "seconds_left": 8}) == f"{words}\n2 s/item, 0:00:08 left"
    )
    fast = in_words({**status, "rate": 4, "seconds_left": 3661})
    assert fast == f"{words}\n4 items/s, 1:01:01 left"


def test_the_rate_is_that_of_the_workers_that_hold_items(linear, A, items, tmp_path):
    one = worker_of(SolveJob(items, A, linear, "csgm", 4, QUICK), tmp_path)
    for name, pulse in {
        "a": {"finished": 6, "seconds": 3},
        "b": {"finished": 9, "seconds": 1},
    }.items():
        (one.folder.workers / name).write_text(json.dumps(pulse))
        (one.folder.claimed / name).mkdir()
    for item in ("i00", "i01"):
        (one.folder.todo / item).rename(one.folder.claimed / "a" / item)
    assert status_of(one.folder) == {
        "total": 12, "done": 0, "running": 2, "failed": 0, "left": 10, "workers": 1, "rate": 2.0,
        "seconds_left": 6.0,
    }  # fmt: skip


def test_a_result_that_two_workers_have_is_written_once(linear, A, items, tmp_path):
    job = SolveJob(items[:1], A, linear, "csgm", 4, QUICK)
    one, other = worker_of(job, tmp_path), worker_of(job, tmp_path)
    assert list(one.run()) == ["i00"]
    kept = (tmp_path / "items" / "i00" / "item.json").stat().st_mtime_ns
    one.folder.add(["i00"])  # as if the worker had died before it dropped its token
    assert list(other.run()) == ["i00"]
    place = one.folder.parts / "slow"
    place.mkdir()
    one.folder.finish("i00", place, {})  # by a worker that was taken for dead
    assert (tmp_path / "items" / "i00" / "item.json").stat().st_mtime_ns == kept
    assert not one.folder.tokens() and not list(one.folder.parts.iterdir())


@pytest.mark.parametrize("engine", ["processes", "threads", "pool"])
def test_two_workers_share_the_items(tiny_prior, tmp_path, engine):
    prior = tiny_prior(16, 1, 0)
    known, shared = prior.statistics, [p.is_shared() for p in prior.parameters()]
    A = Downsampling(prior.image_shape, 2)
    items = [gprior.Item(f"i{k}", y, seed=k) for k, y in enumerate(A(prior.sample(6, seed=2)))]
    call = {"out": tmp_path / "out", "max_batch": 2, "steps": 3, "workers": 2, "patience": 5}
    if engine != "processes":
        spawn = multiprocessing.get_context("spawn")
        kinds = {"threads": ThreadPoolExecutor(2), "pool": ProcessPoolExecutor(2, spawn)}
        with kinds[engine] as pool:
            done = answers(gprior.solve_many(items, A, prior, "csgm", engine=pool, **call))
    else:
        done = answers(gprior.solve_many(items, A, prior, "csgm", **call))
    assert same(done, one_by_one(items, A, prior, "csgm", steps=3))
    assert not Folder(tmp_path / "out").tokens()
    # The prior is as it was: other processes got a copy of its weights.
    assert prior.statistics == known != {}
    assert [p.is_shared() for p in prior.parameters()] == shared


def test_items_that_are_done_while_workers_start_are_yielded(linear, A, items, monkeypatch):
    def at_once(engine, job, folder, *rest):
        list(Worker(job, folder).run())
        return engines.Submitted(ThreadPoolExecutor(1), job, folder, [], Settings())

    monkeypatch.setattr(engines, "start", at_once)
    done = gprior.solve_many(items, A, linear, "csgm", workers=2, **QUICK)
    assert [one.id for one in done] == [item.id for item in items]


@pytest.mark.parametrize("pool", [False, True])
def test_what_does_not_pickle_is_refused(linear, items, pool):
    with ProcessPoolExecutor(1) as executor, pytest.raises(InputError, match="that pickle"):
        engine = executor if pool else "local"
        list(
            gprior.solve_many(
                items, lambda x: x.flatten(1)[:, :20], linear, "csgm", workers=2, engine=engine
            )
        )


def solve_slowly(items, A, prior, out, wait):
    """Solve, with a pause in each step, so that a kill meets every state."""
    advance = worker.advance

    def slow(cohorts):
        time.sleep(wait)
        return advance(cohorts)

    worker.advance = slow
    list(gprior.solve_many(items, A, prior, "csgm", out=out, max_batch=3, patience=0.2, **QUICK))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_nothing_is_lost_and_nothing_done_twice_when_killed(linear, A, items, tmp_path, kills):
    """Two workers at a time are killed at random moments."""
    out, rng, fork = tmp_path / "out", random.Random(0), multiprocessing.get_context("fork")
    sets = 1 + kills // 5
    items = [gprior.Item(f"{k}-{item.id}", item.y, seed=k) for k in range(sets) for item in items]
    written: dict[str, int] = {}
    for _ in range(kills // 2):
        pair = [
            fork.Process(target=solve_slowly, args=(items, A, linear, out, wait))
            for wait in (0.01, 0.02)
        ]
        for process in pair:
            process.start()
        before, started = len(written), time.monotonic()
        while len(names(out / "items")) == before and time.monotonic() < started + 5:
            time.sleep(0.01)
        for process in pair:
            time.sleep(rng.uniform(0, 0.1))
            process.kill()
            process.join()
        for place in (out / "items").glob("*/item.json"):
            time_ = place.stat().st_mtime_ns
            assert written.setdefault(place.parent.name, time_) == time_  # nobody wrote it again
    done = answers(gprior.solve_many(items, A, linear, "csgm", out=out, patience=0.2, **QUICK))
    assert written
    assert all(
        (out / "items" / k / "item.json").stat().st_mtime_ns == at for k, at in written.items()
    )
    some = [item for item in items if item.id.startswith("0-")]
    expected = one_by_one(some, A, linear, "csgm", **QUICK)
    assert len(done) == len(items) and same({k: done[k] for k in expected}, expected)
    status = status_of(Folder(out))
    assert (status["done"], status["running"], status["left"]) == (len(items), 0, 0)


# --- Bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ([], InputError, "at least one"),
        ([("a", 1), ("b", 2), ("a", 3)], InputError, "a is there more than once"),
        ([("a/b", 1)], InputError, "must be of letters"),
        ([(".a", 1)], InputError, "not begin with a dot"),
        ([("a" * 300, 1)], InputError, "at most 200 bytes"),
        ([{"id": "a"}], InputTypeError, "must have id and y"),
        ([{"id": "a", "y": 1, "noise": 2}], InputTypeError, "must have id and y"),
        (["a"], InputTypeError, "gprior.Item, mappings or pairs"),
        ("a", InputTypeError, "must be a sequence"),
    ],
)
def test_bad_items(given, error, message):
    with pytest.raises(error, match=message):
        as_items(given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"callback": print}, "callback is not an option of solve_many"),
        ({"stepps": 3}, "has no constant|stepps"),
        ({"max_batch": 0}, "max_batch must be"),
        ({"patience": 0}, "patience must be"),
        ({"devices": "gpu"}, "devices must be all, cpu"),
        ({"devices": "cuda:99"}, "devices cuda:99 needs GPUs"),
    ],
)
def test_bad_options(linear, A, items, options, message):
    with pytest.raises(ValueError, match=message):
        gprior.solve_many(items, A, linear, "csgm", **options)


def test_bad_engines(linear, A, items, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"needs the package ray: pip install \"gprior\[ray\]\""):
        list(gprior.solve_many(items, A, linear, "csgm", engine="ray"))
    with pytest.raises(InputTypeError, match="engine must be"):
        gprior.solve_many(items, A, linear, "csgm", engine="dask")
    with pytest.raises(InputError, match="workers must be"):
        gprior.solve_many(items, A, linear, "csgm", workers=0)
    assert devices_of("all")
