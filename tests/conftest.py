"""Hypothesis profiles and fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("dev", max_examples=60, deadline=None, derandomize=True)
settings.register_profile("nightly", max_examples=2000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

SHIPPED = Path(__file__).parents[1] / "models" / "pybyte-1m"


@pytest.fixture(scope="session")
def shipped() -> Path:
    return SHIPPED
