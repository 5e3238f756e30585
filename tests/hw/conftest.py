"""Hardware units are a part of the suite; every test of them draws the same random numbers, whichever others run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import PARTS
from tests.hw.arithmetic.operands import RNG

HERE = Path(__file__).parent
START = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    RNG.bit_generator.state = START


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents and not any(item.get_closest_marker(part) for part in PARTS):
            item.add_marker("units")
