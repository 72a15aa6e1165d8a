"""Several searches share the generator: one pass serves all of them.

A cohort is a few items that started together. Its search is ordinary code, such as `gprior.solve`,
and runs in a thread of its own, but only one thread runs at any time: where the search asks for
images or for gradients (`gprior.search.PASSES`), it waits until every other cohort asks, too. Then
the rows of all cohorts go through the generator in one batch. So a cohort can join while others are
in the middle of their search, and fill the places of rows that are done. Every cohort keeps its own
step count, schedule and stage, so this works for each method that descends gradients.

What does not descend (starting points, populations, corrections) runs cohort by cohort.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gprior.priors import Prior
from gprior.randomness import in_plain_mode
from gprior.search import PASSES, join

__all__ = ["Cohort", "Stopped", "advance"]


NAME = "gprior search"  # of the threads


class Stopped(BaseException):
    """Ends the search of a cohort from outside. No `except Exception` may hold it up."""


class Images:
    """A cohort asks for the images of some inputs."""

    def __init__(self, prior: Prior, inputs: dict[str, Any]) -> None:
        self.prior, self.inputs = prior, inputs

    def key(self) -> Any:
        """Return what requests must have in common to go through the generator together."""
        leaves = []
        for name, value in self.inputs.items():
            parts = value.items() if isinstance(value, dict) else [("", value)]
            for part, tensor in parts:
                if not isinstance(tensor, Tensor):
                    return id(self)  # such as the state between two blocks: it goes alone
                leaves.append((name, part, tensor.shape[1:], tensor.dtype))
        return id(self.prior), tuple(leaves)


class Slopes:
    """A cohort asks for the gradients of its loss."""

    def __init__(self, loss: Tensor, variables: Sequence[Tensor]) -> None:
        self.loss, self.variables = loss, variables


class Cohort:
    """Items whose search started together.

    Parameters
    ----------
    function : callable
        The search; what it returns is `value`.

    Attributes
    ----------
    rows : int
        Rows that its search has in the generator at present; 0 before the first pass.
    ended : bool
        Whether the function has returned or failed.
    value : object
        What the function returned.
    error : BaseException or None
        Why it failed.
    seconds : float
        Time that was spent on the cohort, its share of the common passes included.
    """

    def __init__(self, function: Callable[[], Any]) -> None:
        self.rows, self.seconds, self.ended = 0, 0.0, False
        self.value: Any = None
        self.error: BaseException | None = None
        self.request: Images | Slopes | None = None
        self._function, self._answer = function, None
        self._turn, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=NAME, daemon=True)
        self._thread.start()

    # What the thread of the search calls, through `gprior.search.PASSES`.

    def images(self, prior: Prior, inputs: dict[str, Any]) -> Tensor:
        """Return the images of the inputs of the prior."""
        self.rows = len(next(iter(inputs.values())))
        images: Tensor = self._ask(Images(prior, inputs))
        return images

    def slopes(self, loss: Tensor, variables: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the gradients of a loss in the variables."""
        slopes: tuple[Tensor, ...] = self._ask(Slopes(loss, variables))
        return slopes

    # What the thread of the worker calls.

    def resume(self, answer: Any = None) -> None:
        """Let the search run until it asks again or ends. An exception is raised in it."""
        started = time.perf_counter()
        self._answer = answer
        self._turn.release()
        self._back.acquire()
        self.seconds += time.perf_counter() - started

    def stop(self) -> None:
        """End the search, at its next pass if it is running. Does not wait for it."""
        self._stopping = True
        self._turn.release()

    def _ask(self, request: Images | Slopes) -> Any:
        self.request = request
        self._back.release()
        self._wait()
        return self._answer

    def _wait(self) -> None:
        self._turn.acquire()
        if self._stopping:
            raise Stopped
        if isinstance(self._answer, BaseException):
            raise self._answer

    def _run(self) -> None:
        PASSES.set(self)
        try:
            self._wait()
            self.value = self._function()
        except BaseException as error:  # the worker says what it means
            self.error = error
        self.ended, self.request, self.rows = True, None, 0
        self._back.release()


@in_plain_mode
def advance(cohorts: Sequence[Cohort]) -> bool:
    """Take the cohorts one gradient step further, together. Cohorts that are new start.

    Returns
    -------
    bool
        Whether the memory was enough. If not, each cohort got the error: its search halves its
        batch and repeats its steps, see `gprior.solve`.
    """
    for cohort in cohorts:
        if cohort.request is None and not cohort.ended:
            cohort.resume()
    groups: dict[Any, list[Cohort]] = {}
    for cohort in cohorts:
        if isinstance(cohort.request, Images):
            groups.setdefault(cohort.request.key(), []).append(cohort)
    enough = [_answer(group, _images) for group in groups.values()]
    descending = [cohort for cohort in cohorts if isinstance(cohort.request, Slopes)]
    if descending:
        enough.append(_answer(descending, _slopes))
    return all(enough)


def _answer(group: list[Cohort], passing: Callable[[list[Any]], list[Any]]) -> bool:
    """Answer the requests of a group by one pass; return whether the memory was enough."""
    started, enough = time.perf_counter(), True
    try:
        answers = passing([cohort.request for cohort in group])
    except torch.cuda.OutOfMemoryError as error:
        # Errors of their own: this one holds the frames of the pass, and so their memory.
        answers = [torch.cuda.OutOfMemoryError(str(error)) for _ in group]
        enough = False
    except Exception as error:  # such as an input that the prior refuses
        answers = [error] * len(group)
    spent = time.perf_counter() - started
    total = sum(cohort.rows for cohort in group)
    for cohort, answer in zip(group, answers, strict=True):
        cohort.seconds += spent * cohort.rows / total
        cohort.resume(answer)
    return enough


def _images(requests: list[Images]) -> list[Tensor]:
    with torch.enable_grad():
        if len(requests) == 1:
            return [requests[0].prior(**requests[0].inputs)]
        images = requests[0].prior(**join([request.inputs for request in requests]))
        sizes = [len(next(iter(request.inputs.values()))) for request in requests]
        return list(images.split(sizes))


def _slopes(requests: list[Slopes]) -> list[tuple[Tensor, ...]]:
    variables = [v for request in requests for v in request.variables]
    slopes = torch.autograd.grad([r.loss for r in requests], variables, materialize_grads=True)
    answers, first = [], 0
    for request in requests:
        answers.append(slopes[first : first + len(request.variables)])
        first += len(request.variables)
    return answers
