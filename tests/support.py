"""Small models for tests, and what commands say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import strategies as st
from numpy.typing import NDArray

from compiler.frontend.shapes import random_checkpoint as random_checkpoint
from sim.engine import Watch
from skipopu import cli
from skipopu.layout import round_up
from skipopu.model_config import ModelConfig
from skipopu.numerics.formats import Format
from skipopu.program.program import Region

_SCALARS = st.none() | st.booleans() | st.integers() | st.integers(-4, 300) | st.floats() | st.text(max_size=8)
# What a JSON or YAML file may hold anywhere.
ANYTHING = st.recursive(
    _SCALARS | st.sampled_from([10**40, -(10**40), 2**31, 2**63, 1e308, 5e-324, "1", "true", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


class Followed(Watch):
    """What an engine told while it ran."""

    def __init__(self) -> None:
        self.tokens: list[int | None] = []
        self.done: list[int] = []
        self.said: list[str] = []

    def token(self, token: int | None) -> None:
        self.tokens.append(token)

    def positions(self, done: int) -> None:
        self.done.append(done)

    def say(self, phase: str) -> None:
        self.said.append(phase)


def small_config(**changes: object) -> ModelConfig:
    """A two-layer model that every target runs; ``changes`` replace fields."""
    fields: dict[str, object] = {
        "hidden_size": 96,
        "intermediate_size": 200,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 32,
        "vocab_size": 70,
        "max_positions": 64,
        "eos_token_ids": (),
    }
    return ModelConfig(**{**fields, **changes})  # type: ignore[arg-type]


def smallest_config() -> ModelConfig:
    """A model of 3 kB, for slow simulations."""
    return small_config(
        hidden_size=16,
        intermediate_size=16,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        vocab_size=16,
        max_positions=8,
        weight_group=16,
    )


def said(arguments: list[object], capsysbinary: pytest.CaptureFixture[bytes]) -> tuple[int, str]:
    """Exit code and what stands on standard error, of one line where it is an error."""
    capsysbinary.readouterr()
    try:
        code = cli.main([str(argument) for argument in arguments])
    except SystemExit as done:
        code = int(done.code or 0)
    error = capsysbinary.readouterr().err.decode()
    assert code != 2 or error.count("\n") == 1, error
    return code, error


def random_codes(form: Format, rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.int8]:
    """Integers (..., group) that ``form`` holds, its largest and its least among them; zero points of every kind."""
    if form.zero_points:
        return (rng.integers(0, 16, shape) - rng.integers(0, 17, shape[:-1])[..., None]).astype(np.int8)
    return rng.choice(form.values, shape).astype(np.int8)


class Regions(dict[str, Region]):
    """A memory map that grows."""

    def place(self, name: str, size: int) -> int:
        """The address of a new region behind the others."""
        first = self.end
        self[name] = Region(first, round_up(size, 64))
        return first

    @property
    def end(self) -> int:
        return max((region.address + region.size for region in self.values()), default=0)
