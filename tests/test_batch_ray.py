"""The Ray engine has the contract of the local one, also when an actor is killed.

Ray is heavy, so it is not among the packages of the tests: CONTRIBUTING.md has the command.
"""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
import torch

import gprior
from gprior.batch import Folder, status_of
from gprior.batch.folder import names
from gprior.operators import Downsampling

ray = pytest.importorskip("ray")
# Ray opens files and sockets that it closes when the process ends.
pytestmark = pytest.mark.filterwarnings("ignore")

OPTIONS = {"steps": 12, "noise_std": 0.1, "max_batch": 4}


@pytest.fixture(scope="module")
def problem(tiny_prior):
    prior = tiny_prior(16, 1, 0)
    A = Downsampling(prior.image_shape, 2)
    noise = torch.randn(60, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    y = A(prior.sample(60, seed=2)) + 0.1 * noise
    return [gprior.Item(f"i{k:02}", row, seed=k) for k, row in enumerate(y)], A, prior


def answers(done):
    found = {}
    for one in done:
        assert one.error is None and one.id not in found
        found[one.id] = one.result.x
    return found


def kill_one(folder: Folder, killed: list[int]) -> None:
    """Kill an actor when about a third of the items are done."""
    while len(folder.done()) < 20:
        time.sleep(0.01)
    worker = sorted(names(folder.workers))[0]
    killed.append(int(worker.split("-")[-2]))
    os.kill(killed[0], signal.SIGKILL)


def test_every_item_is_done_once_though_an_actor_is_killed(problem, tmp_path):
    items, A, prior = problem
    expected = answers(gprior.solve_many(items, A, prior, "csgm", **OPTIONS))
    folder, killed = Folder(tmp_path / "out"), list[int]()
    thread = threading.Thread(target=kill_one, args=(folder, killed))
    thread.start()
    done = answers(
        gprior.solve_many(
            items, A, prior, "csgm", out=folder.path, engine="ray", devices="cpu", workers=2,
            patience=2, **OPTIONS,
        )
    )  # fmt: skip
    thread.join()
    assert killed and sorted(done) == sorted(expected)
    assert max(float((done[k] - expected[k]).abs().max()) for k in expected) < 1e-6
    status = status_of(folder)
    assert (status["done"], status["running"], status["left"], status["failed"]) == (60, 0, 0, 0)
