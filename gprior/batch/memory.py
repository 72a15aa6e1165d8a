"""How many rows go through the generator at once: as many as the free memory is enough for."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from gprior.priors import Prior
from gprior.search import inputs_of

__all__ = ["places"]

SHARE = 0.4  # of the free memory; the rest is for gradients, workspaces and corrections
MOST = {"cpu": 32, "cuda": 256}  # more rows gain no speed


def places(prior: Prior) -> int:
    """Return how many rows the free memory is enough for, at least 1.

    It counts the bytes that one pass of one image keeps for its gradient.
    """
    kept: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    z = prior.draw([(0, 0, "places", 0)]).requires_grad_()
    code = {"z": z}
    if prior.c_dim:
        code["c"] = torch.eye(prior.c_dim).to(prior.like)[:1]
    weights = {p.untyped_storage().data_ptr() for p in prior.parameters()}
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
        prior(**inputs_of(code))
    size = sum(bytes_ for place, bytes_ in kept.items() if place not in weights)
    device = prior.like.device
    most = MOST.get(device.type, MOST["cpu"])
    return max(1, min(most, int(SHARE * free_memory(device) / max(size, 1))))


def free_memory(device: torch.device) -> int:
    """Return the bytes that are free on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as file:  # noqa: PTH123 (no file of a user)
            lines = dict(line.split(":", 1) for line in file)
        return 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):  # not Linux
        pages = "SC_AVPHYS_PAGES"
        if pages in getattr(os, "sysconf_names", {}):
            return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")
        return 2**31
