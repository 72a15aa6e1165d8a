"""The one bookkeeping of a search: best candidate, history, reason and cost of every row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gprior.search.rows import copy, put, take

__all__ = ["NON_FINITE", "Record"]

NON_FINITE = "non-finite"  # the reason of a row whose loss or gradient is not a number


class Record:
    """What a search keeps of each row, whoever searches: a gradient loop or a population.

    Parameters
    ----------
    rows : int
        R.
    columns : int
        Steps of the search: the length of the history.
    like : Tensor
        dtype and device of losses.

    Attributes
    ----------
    running : Tensor
        Numbers of the rows that have not stopped, in increasing order.
    best : object
        The best candidate of each row: a dictionary of tensors (R, ...) and lists.
    criterion : Tensor
        Its criterion (R,); infinite before the first.
    history : Tensor
        Losses (R, columns), on the CPU; NaN where no step was taken.
    reason : list of str
        Why each row stopped; ``"steps"`` until something else stops it.
    evaluations : Tensor
        Forward and backward passes of each row (R,), on the CPU; a forward alone counts 1/3.
    """

    def __init__(self, rows: int, columns: int, like: Tensor) -> None:
        self.running = torch.arange(rows, device=like.device)
        self.best: Any = None
        self.criterion = torch.full((rows,), torch.inf, dtype=like.dtype, device=like.device)
        self.history = torch.full((rows, columns), torch.nan, dtype=like.dtype, device="cpu")
        self.reason = ["steps"] * rows
        self.evaluations = torch.zeros(rows, dtype=torch.float64, device="cpu")

    def keep(self, candidate: Any, criterion: Tensor, loss: Tensor) -> None:
        """Keep the candidates (r, ...) of the running rows that are better than the best so far.

        A candidate whose loss is not finite is never better. The first candidates are kept as
        they are, so that there is always one.
        """
        better = (criterion < self.criterion[self.running]) & loss.isfinite()
        if self.best is None:
            self.best = copy(candidate)
        else:
            places = better.nonzero()[:, 0]
            put(self.best, self.running[places], take(candidate, places))
        self.criterion[self.running[better]] = criterion[better]

    def spend(self, evaluations: float | Tensor) -> None:
        """Add evaluations to the running rows."""
        self.evaluations[self.running.cpu()] += evaluations

    def write(self, column: int, losses: Tensor) -> None:
        """Write losses (r,) or (r, n) of the running rows into the history."""
        losses = losses.cpu() if losses.ndim == 2 else losses.cpu()[:, None]
        self.history[self.running.cpu(), column : column + losses.shape[1]] = losses

    def stop(self, reasons: Sequence[str | None]) -> Tensor:
        """Stop the running rows that have a reason.

        Parameters
        ----------
        reasons : sequence of str or None
            One per running row; None goes on.

        Returns
        -------
        Tensor
            Which of them go on: their places among the rows that were running.
        """
        staying = [k for k, reason in enumerate(reasons) if reason is None]
        for row, reason in zip(self.running.tolist(), reasons, strict=True):
            if reason is not None:
                self.reason[row] = reason
        places = torch.tensor(staying, dtype=torch.long, device=self.running.device)
        self.running = self.running[places]
        return places
