"""Shared test settings: one thread, and the slow tests only when asked for."""

import pytest
import torch

torch.set_num_threads(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests marked ``slow`` unless ``-m`` was given."""
    if not config.option.markexpr:
        skip = pytest.mark.skip(reason="slow: run with `pytest -m slow`")
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(skip)
