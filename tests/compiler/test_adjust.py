"""Programs of models that are no plain Llama: what they contain, what their records hold, what no machine executes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from compiler.frontend.shapes import outline
from compiler.passes.fold import attention_scale
from compiler.pipeline import compile_checkpoint
from sim.walk import decode
from skipopu.adjust_record import ADJUST_RECORD, adjust_operands
from skipopu.errors import ProgramError
from skipopu.isa.registers import Config
from skipopu.isa.spec import ADDRESS_UNIT, ADJUST, SET, Finish, Reduce
from skipopu.machine.config import Machine
from skipopu.model_config import Rope
from skipopu.program.program import Program
from skipopu.row_order import permutation
from tests.support import random_checkpoint, small_config
from tests.variants import ADJUSTED, PLAIN

TINY = Machine.load("tiny")
LAYER = "model.layers.1."


def compiled(**changes: object) -> Program:
    return compile_checkpoint(random_checkpoint(small_config(**changes), 3), TINY, context=16)


def adjusts(program: Program) -> list[dict[str, int]]:
    return [step.fields for step in decode(program) if step.instruction is ADJUST]


@pytest.mark.parametrize("name", PLAIN)
def test_what_products_do_themselves_needs_no_adjust(name: str) -> None:
    """So that such models run on machines without the unit."""
    machine = dataclasses.replace(Machine.load("trio"), soft_cap=True)
    program = compile_checkpoint(random_checkpoint(small_config(**PLAIN[name]), 3), machine, context=16)
    assert not adjusts(program)
    assert not program.adjusts


@pytest.mark.parametrize("name", ADJUSTED)
def test_every_adjust_has_its_records(name: str) -> None:
    change, names = ADJUSTED[name]
    program = compiled(**change)
    assert [*program.adjusts] == names.split()
    assert len(adjusts(program)) == len(program.adjusts)
    for fields, described in zip(adjusts(program), program.adjusts.values(), strict=True):
        assert fields["address"] * ADDRESS_UNIT == described["address"]
        assert fields["elements"] == described["elements"]
        assert bool(fields["layered"]) == bool(described["layer_stride"])


def test_a_record_holds_gains_in_the_rows_order_with_the_scores_scale() -> None:
    config = small_config(qk_norm="head", rope=(Rope((1.0, 0.5, 0.25)),), rms_norm_eps=1e-4, attention_scale=0.3)
    checkpoint = random_checkpoint(config, 3)
    program = compile_checkpoint(checkpoint, TINY, context=16)
    described = program.adjusts["q"]
    address = described["address"] + described["layer_stride"]
    gains, biases = adjust_operands(program.memory[0], address, described["elements"])
    order = permutation("rope", config, 128)
    assert [*order[:8]] == [0, 3, 1, 4, 2, 5, 6, 7]
    assert sorted(order) == [*range(128)]
    gain = checkpoint.tensors[LAYER + "self_attn.q_norm.weight"] * np.float32(attention_scale(config))
    assert (gains == gain[order % 32]).all()
    assert not biases.any()
    record = ADJUST_RECORD.unpack(program.memory[0], address)
    constants = np.array([record["inverse_size"], record["epsilon"]], np.uint32).view(np.float32)
    assert (constants == np.array([1 / 32, 1e-4], np.float32)).all()
    (key, query) = adjusts(program)
    assert (key["reduce"], key["finish"], query["finish"]) == (Reduce.HEADS, Finish.ROTATE, Finish.ROTATE)
    assert (key["src"], key["stride"]) == (key["dst"], key["dst_stride"])


def test_biases_of_v_stand_behind_the_keys() -> None:
    key, value, _ = adjusts(compiled(biases=("q", "k", "v")))
    assert value["src"] == value["dst"] == key["src"] + 64 // 8
    assert (value["reduce"], value["finish"]) == (Reduce.NONE, Finish.STORE)


def test_each_layer_has_its_table() -> None:
    """Of cosines and sines times the factor, in 32 elements a row; what is not rotated has 1 and 0."""
    tables = (Rope((0.5, 0.25), 2.0), Rope(()))
    program = compiled(rope=tables, rope_of_layer=(1, 0))
    described, rows = program.adjusts["k"], []
    for layer in range(2):
        record = ADJUST_RECORD.unpack(program.memory[0], described["address"] + layer * described["layer_stride"])
        first = record["rope"] * ADDRESS_UNIT + 3 * 128
        rows.append(program.memory[0][first : first + 128].view(np.float32).reshape(16, 2))
    still = [1.0, 0.0]
    assert (rows[0] == still).all()
    assert np.allclose(rows[1][:2], [[2 * np.cos(1.5), 2 * np.sin(1.5)], [2 * np.cos(0.75), 2 * np.sin(0.75)]])
    assert (rows[1][2:] == still).all()


def test_the_one_table_in_use_is_the_chunks() -> None:
    program = compiled(rope=(Rope(()), Rope((0.5,))), rope_of_layer=(1, 1))
    values = {s.fields["register"]: s.fields["value"] for s in decode(program) if s.instruction is SET}
    assert values[Config.ROPE] * ADDRESS_UNIT == program.regions["rope"].address + 16 * 128


@pytest.mark.parametrize(
    ("target", "change", "message"),
    [
        ("trio", {"qk_norm": "head"}, "machine trio: adjust is False; accepted: true, for the model's qk_norm head"),
        (
            "mono",
            {"gated": False, "biases": ("o", "up")},
            "machine mono: adjust is False; accepted: true, for the model's biases o, up and gated False",
        ),
        (
            "tiny",
            {"biases": ("gate", "up")},
            r"the model's biases is gate, up; accepted: no bias of gate or up \(mlp_bias\) where a gate is",
        ),
        (
            "tiny",
            {"rope": (Rope((1.0,)), Rope((1.0, 0.5))), "rope_of_layer": (0, 1)},
            r"rotated pairs per head is \[1, 2\]; accepted: the same number",
        ),
        ("tiny", {"rope": (Rope((1.0,) * 17),)}, r"rotated pairs per head is \[17\]; accepted: up to 16"),
        ("tiny", {"hidden_size": 100, "post_norm": True}, "hidden_size is 100; accepted: a multiple of 8, for post_norm True"),
        ("trio", {"windows": (0, 8)}, "machine trio: window is False, a layer.s is 8 tokens and the context 16"),
    ],
)
def test_what_no_instruction_does_is_refused(target: str, change: dict[str, object], message: str) -> None:
    with pytest.raises(ProgramError, match=message):
        compile_checkpoint(random_checkpoint(small_config(**change)), Machine.load(target), context=16)


def test_windows_as_long_as_the_context_are_none() -> None:
    assert compiled(windows=(16, 0)).instructions == compiled().instructions


@pytest.mark.parametrize("name", ADJUSTED)
def test_a_shape_compiles_to_the_same_program(name: str) -> None:
    """Cycles are counted without weights."""
    config = small_config(**ADJUSTED[name][0])
    shape = compile_checkpoint(outline("shape", config=config), TINY, context=16)
    assert shape.instructions == compiled(**dataclasses.asdict(config) | {"rope": config.rope}).instructions
