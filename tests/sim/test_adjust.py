"""ADJUST in the functional engine against the formula, number by number."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from compiler.pipeline import compile_checkpoint
from sim.functional.adjust import adjust
from sim.functional.options import Options
from sim.functional.state import State
from sim.walk import Walk
from skipopu.adjust_record import pack_adjust_record
from skipopu.errors import MachineHalt
from skipopu.isa.registers import Config
from skipopu.isa.spec import ADJUST, Finish, Reduce
from skipopu.machine.config import Machine
from skipopu.numerics import fp32
from skipopu.numerics.adjust import inverse_rms, relu, rotate, sum_of_squares
from skipopu.program.run import Run
from tests.support import random_checkpoint, small_config

DIM, ELEMENTS, RECORD, TABLE = 16, 48, 64 * 40, 64 * 10
FIELDS = {"list": 1, "address": 40, "src": 2, "stride": 8, "dst": 100, "dst_stride": 12, "elements": ELEMENTS}


def state(rng: np.random.Generator, slots: list[int], machine: str = "tiny") -> State:
    program = compile_checkpoint(random_checkpoint(small_config()), Machine.load(machine), context=16)
    walk = Walk(program, Run((0,) * 4, 0), lambda: 0)
    walk.lists[1], walk.position = np.array(slots, np.int64), 2
    walk.config[Config.HEAD_DIM], walk.config[Config.ROPE_ROW], walk.config[Config.ACTIVATION] = DIM, 2, 2
    s = State(program, Run((1,), 0), Options(), walk)
    s.buffer[:] = rng.standard_normal(len(s.buffer))
    return s


@pytest.mark.parametrize("relu", [0, 1])
@pytest.mark.parametrize("finish", Finish)
@pytest.mark.parametrize("reduce", Reduce)
def test_it_is_the_formula(reduce: Reduce, finish: Finish, relu: int) -> None:
    rng = np.random.default_rng(finish)
    s = state(rng, [0, 3])
    gain, bias = rng.standard_normal((2, ELEMENTS)).astype(np.float32)
    size = DIM if reduce is Reduce.HEADS else ELEMENTS
    record = pack_adjust_record(gain, bias, 1 / size, 0.25, TABLE)
    s.memory[0][RECORD : RECORD + len(record)] = record
    turns = rng.standard_normal((8, 128 // 8, 2)).astype(np.float32)
    s.memory[0][TABLE : TABLE + turns.nbytes] = turns.reshape(-1).view(np.uint8)
    before = s.buffer.copy()
    adjust(s, ADJUST.decode(ADJUST.encode(FIELDS | {"reduce": reduce, "finish": finish, "relu": relu})))
    changed = np.zeros(len(before), bool)
    for slot in (0, 3):
        x = before[16 + 64 * slot :][:ELEMENTS].astype(np.float64)
        parts = x.reshape(-1, size)
        scale = 1 if reduce is Reduce.NONE else 1 / np.sqrt(np.square(parts).mean(-1, keepdims=True) + 0.25)
        y = (parts * scale).reshape(-1) * gain + bias
        y = np.maximum(y, 0) if relu else y
        first = 800 + 96 * slot
        if finish is Finish.ROTATE:
            z = (y[0::2] + 1j * y[1::2]) * np.tile(turns[2 + slot, : DIM // 2] @ [1, 1j], ELEMENTS // DIM)
            y = np.stack([z.real, z.imag], 1).reshape(-1)
        elif finish is Finish.ACTIVATE:
            y = np.maximum(y, 0)
        elif finish is Finish.RESIDUAL:
            y = before[first:][:ELEMENTS] + y
        changed[first : first + ELEMENTS] = True
        assert np.allclose(s.buffer[first:][:ELEMENTS], y, rtol=1e-5, atol=2e-6)
    assert (s.buffer[~changed] == before[~changed]).all()


def test_no_zero_is_negative_behind_relu() -> None:
    """Aligned or not, what follows sees one zero."""
    x = np.array([-0.0, 0.0, -1.0, 2.0, -1e-38, np.finfo(np.float32).max], np.float32)
    assert fp32.bits(relu(x)).tolist() == fp32.bits(np.array([0, 0, 0, 2, 0, x[-1]], np.float32)).tolist()


def test_subnormal_numbers_are_zeros() -> None:
    tiny, one = np.full(8, 1e-40, np.float32), np.ones(8, np.float32)
    s = state(np.random.default_rng(0), [0])
    record = pack_adjust_record(one, tiny, 1, 1, 0)
    s.memory[0][RECORD : RECORD + len(record)] = record
    s.buffer[:] = 1e-40
    adjust(s, ADJUST.decode(ADJUST.encode(FIELDS | {"elements": 8})))
    assert not s.buffer[800:808].any()


def test_sums_go_round_sixty_four_partial_ones() -> None:
    """The order is the hardware's: large and small numbers in different partial sums do not meet before these are added."""
    x = np.zeros(128, np.float32)
    x[0], x[1], x[64], x[65] = 4096, 0.5, 0.5, 0.5
    assert float(sum_of_squares(x)) == 4096**2
    x[64] = 0
    assert float(sum_of_squares(x)) == 4096**2
    x[65] = 1.5
    assert float(sum_of_squares(x)) == 4096**2 + 2
    assert np.allclose(inverse_rms(np.full((2, 48), 3, np.float32), np.float32(1 / 48), np.float32(0)), 1 / 3, rtol=1e-6)


def test_a_still_row_changes_nothing() -> None:
    x = np.random.default_rng(1).standard_normal((3, 8)).astype(np.float32)
    still = np.tile(np.array([1, 0], np.float32), (4, 1))
    assert (fp32.bits(rotate(x, still)) == fp32.bits(x)).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"elements": 20}, "ADJUST of 20 elements"),
        ({"elements": 24, "reduce": 2}, "ADJUST of 24 elements, reduce 2"),
        ({"elements": 24, "finish": 1}, "ADJUST of 24 elements"),
        ({"reduce": 3}, "reduce 3"),
        ({"src": 60000}, "buffer has"),
        ({"dst": 60000}, "buffer has"),
    ],
)
def test_what_the_unit_refuses(fields: dict[str, int], message: str) -> None:
    s = state(np.random.default_rng(0), [0])
    with pytest.raises(MachineHalt, match=message):
        adjust(s, ADJUST.decode(ADJUST.encode(FIELDS | fields)))


def test_a_machine_without_the_unit_stops() -> None:
    s = state(np.random.default_rng(0), [0])
    s.machine = dataclasses.replace(s.machine, adjust=False)
    with pytest.raises(MachineHalt, match="machine tiny has no unit for ADJUST"):
        adjust(s, FIELDS)
