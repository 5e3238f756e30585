"""Every hardware test draws the same random numbers, whichever others run."""

from __future__ import annotations

import pytest

from tests.hw.arithmetic.operands import RNG

START = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    RNG.bit_generator.state = START
