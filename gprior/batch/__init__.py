"""Many items: solved in batches that are refilled, by any number of workers, and resumed.

``folder`` and ``leases`` say who does what, by renames alone; ``worker`` is the loop of one process
and ``together`` its batches; ``engines`` starts workers; ``items``, ``job`` and ``many``
are what `gprior.solve_many` adds to them.

Names are imported on first use, so that ``gprior status`` need not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {
    "Folder": "folder",
    "Item": "items",
    "Settings": "worker",
    "Solved": "many",
    "Worker": "worker",
    "check_engine": "engines",
    "checked_name": "items",
    "devices_of": "engines",
    "in_words": "summary",
    "interruptible": "processes",
    "places": "memory",
    "records": "summary",
    "run": "engines",
    "solve_many": "many",
    "status_of": "summary",
    "unique": "items",
    "write_status": "summary",
    "write_summary": "summary",
}

__all__ = ["Item", "Solved", "solve_many"]

if TYPE_CHECKING:
    from gprior.batch.engines import (
        check_engine as check_engine,
        devices_of as devices_of,
        run as run,
    )
    from gprior.batch.folder import Folder as Folder
    from gprior.batch.items import Item, checked_name as checked_name, unique as unique
    from gprior.batch.many import Solved, solve_many
    from gprior.batch.memory import places as places
    from gprior.batch.processes import interruptible as interruptible
    from gprior.batch.summary import (
        in_words as in_words,
        records as records,
        status_of as status_of,
        write_status as write_status,
        write_summary as write_summary,
    )
    from gprior.batch.worker import Settings as Settings, Worker as Worker


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"gprior.batch.{_HOME[name]}"), name)
    raise AttributeError(f"module 'gprior.batch' has no attribute {name!r}")
