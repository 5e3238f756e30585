"""Programs against the memory behind a machine."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest

from compiler.frontend.shapes import outline
from compiler.pipeline import compile_checkpoint
from skipopu.errors import ConfigError, ProgramError
from skipopu.machine.config import Machine
from tests.support import random_checkpoint, small_config

U280 = Machine.load("u280")


def test_context_is_what_memory_leaves() -> None:
    """13B leaves room for fewer tokens than the KV map; one more would not fit, and is refused with both numbers."""
    checkpoint = outline("llama-2-13b")
    program = compile_checkpoint(checkpoint, U280)
    assert program.port_bytes <= U280.memory_bytes
    assert program.context < compile_checkpoint(checkpoint, dataclasses.replace(U280, memory_bytes=0)).context
    larger = program.context + U280.ports
    with pytest.raises(
        ProgramError, match=rf"image needs \d+ bytes per port at a context of {larger} tokens; machine u280 has 268435456"
    ):
        compile_checkpoint(checkpoint, U280, context=larger)


def test_what_fits_at_no_context_is_refused() -> None:
    small = dataclasses.replace(Machine.load("tiny"), memory_bytes=8192)
    with pytest.raises(ProgramError, match="machine tiny has 8192"):
        compile_checkpoint(random_checkpoint(small_config()), small)


@pytest.mark.parametrize(
    ("ports", "change", "message"),
    [
        (1, {"intermediate_size": 16400}, "product gate_up .*has 32800 rows; accepted: up to 32760 with ports 1"),
        (2, {"intermediate_size": 40000}, "product gate_up .*has 80000 rows; accepted: up to 65520 with ports 2"),
        (
            4,
            {"intermediate_size": 40000},
            "value 'gated', the model's intermediate_size, has 40000 elements a token; accepted: up to 32736",
        ),
        (2, {"vocab_size": 65536}, "value 'logits', the model's vocab_size, has 65536 elements a token; accepted: up to 32736"),
        (4, {"intermediate_size": 32736, "vocab_size": 32736}, ""),
        (2, {"intermediate_size": 32736, "vocab_size": 32736}, ""),
    ],
)
def test_what_no_instruction_counts_is_named(ports: int, change: dict[str, int], message: str) -> None:
    """By the model's field and both numbers, where no buffer is too small for it."""
    machine = dataclasses.replace(Machine.load("tiny"), ports=ports, tokens=4, buffer=1 << 19, activation=1 << 16)
    checkpoint = outline("shape", config=small_config(**change))
    with pytest.raises(ProgramError, match=f"machine tiny: {message}") if message else contextlib.nullcontext():
        compile_checkpoint(checkpoint, machine, logits=True, context=16)


def test_memory_is_no_part_of_the_processor() -> None:
    """Programs and hardware do not depend on it: the same fingerprint, the same image but for what is reserved."""
    machine = Machine.load("tiny")
    other = dataclasses.replace(machine, memory_bytes=1 << 20, trace_records=64)
    assert other.fingerprint == machine.fingerprint
    first, second = (compile_checkpoint(random_checkpoint(small_config()), m, context=16) for m in (machine, other))
    assert second.ring_records == 64
    assert first.port_bytes - second.port_bytes == 16 * (4096 - 64)


@pytest.mark.parametrize(("field", "value"), [("memory_bytes", 1000), ("memory_bytes", -4096), ("trace_records", 100)])
def test_bad_sizes(field: str, value: int) -> None:
    with pytest.raises(ConfigError, match=rf"machine tiny: {field} is {value}; accepted: a"):
        dataclasses.replace(Machine.load("tiny"), **{field: value})


def test_the_models_own_group_is_the_default() -> None:
    config = small_config(weight_group=32)
    assert compile_checkpoint(random_checkpoint(config), Machine.load("tiny")).matrices["head"]["group"] == 32
    assert compile_checkpoint(random_checkpoint(config), Machine.load("tiny"), group=64).matrices["head"]["group"] == 64
