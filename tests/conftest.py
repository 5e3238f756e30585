"""Hypothesis profiles and fixtures shared by all tests."""

from __future__ import annotations

import gc
import json
import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings
from safetensors.numpy import save_file

from tests.support import random_checkpoint, small_config

settings.register_profile("dev", max_examples=40, deadline=None, derandomize=True)
settings.register_profile("nightly", max_examples=2000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

LONG = 600  # seconds, the limit of a test that has none of its own
SHIPPED = Path(__file__).parents[1] / "models" / "pybyte-1m"


PARTS = (
    "units",
    "agreement",
    "rtl",
    "synth",
    "studies",
    "slow",
    "formal",
    "bitstream",
)  # each test belongs to one at most, so that none runs twice


def pytest_collection_finish() -> None:
    """What importing left stays: collecting garbage need not look at it again, a twentieth of the fast tests' time."""
    gc.collect()
    gc.freeze()


def pytest_configure() -> None:
    """Interrupts are what they are in a terminal, also where a shell started the tests in its background, which ignores them."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


# Before pytest deselects by marks: the rule holds for every test.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What may take longest comes first: the other processes do the rest beside it."""
    for item in items:
        parts = {mark.name for mark in item.iter_markers()} & set(PARTS)
        if len(parts) > 1:
            raise pytest.UsageError(f"{item.nodeid} is marked {', '.join(sorted(parts))}; accepted: one part")

    def limit(item: pytest.Item) -> float:
        mark = item.get_closest_marker("timeout")
        return mark.args[0] if mark else 0

    # After it the tests that build simulations: what is short evens the rest out.
    items.sort(key=lambda item: (limit(item) > LONG, bool(item.get_closest_marker("agreement"))), reverse=True)


@pytest.fixture(scope="session")
def shipped() -> Path:
    return SHIPPED


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Directory of a byte-level checkpoint of random weights that every target runs."""
    config = small_config(head_dim=16, vocab_size=256, byte_level=True)
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config.to_hf()))
    save_file(random_checkpoint(config).tensors, directory / "model.safetensors")
    return directory
