"""ADJUST, functional engine against RTL against timing: every reduction with every finish, in a loop; what no machine executes."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from sim.functional import engine as functional
from sim.rtl import engine as rtl
from sim.timing import engine as timing
from skipopu.adjust_record import ADJUST_RECORD, adjust_size
from skipopu.errors import MachineHalt
from skipopu.isa import spec
from skipopu.isa.registers import NO_TOKEN, Config, Error
from skipopu.isa.spec import BUFFER_UNIT, AlignTarget, Epilogue, Finish, Reduce, TokenList, Unit
from skipopu.layout import EmbeddingRows, WeightStream, buffer_stride, round_up
from skipopu.machine.config import Machine
from skipopu.model_config import ModelConfig
from skipopu.numerics import fp32
from skipopu.numerics.activation import Activation
from skipopu.policy import KvPolicy
from skipopu.program.program import Program, place_instructions
from skipopu.program.run import Run
from tests.agreement.test_rtl import agree
from tests.support import Regions

pytestmark = pytest.mark.timeout(600)

CONTEXT, LAYERS, VOCABULARY = 24, 2, 40
PLACES = 3  # of vectors of all slots in the buffer
TINY = Machine.load("tiny")
SINGLE = dataclasses.replace(TINY, name="single beats", burst=1, memory=dataclasses.replace(TINY.memory, latency=60))
TARGETS = {Reduce.NONE: AlignTarget.NONE, Reduce.WHOLE: AlignTarget.RESIDUAL, Reduce.HEADS: AlignTarget.QUERY}
ALIGNING = 2  # the first of them whose results are aligned
EVERY = tuple(itertools.product(Reduce, Finish))


def adjust_program(
    chosen: tuple[tuple[Reduce, Finish], ...] = EVERY,
    hidden: int = 96,
    head_dim: int = 16,
    machine: Machine = TINY,
    activation: Activation = Activation.GELU_TANH,
    **changed: int,
) -> Program:
    """An ADJUST for each of ``chosen`` in a loop over layers, each with a record of its own; ``changed``: fields of the first.

    A product is aligned beside the first ones, which are not.
    """
    rng = np.random.default_rng(hidden)
    regions = Regions()
    region = regions.place
    model = ModelConfig(hidden, 1, LAYERS, 1, 1, head_dim, VOCABULARY, CONTEXT)
    group = machine.weight_lanes
    row = round_up(4 * head_dim, 64)
    region("program", 16 * machine.instructions)
    tokens, ring, rope = region("tokens", 4 * (CONTEXT + 1)), region("ring", 16 * 4096), region("rope", CONTEXT * row)
    region("predicted", 4 * CONTEXT)
    assert ring
    embedding = EmbeddingRows(hidden, VOCABULARY, machine.ports)
    embedded = region("embedding", embedding.size)
    head = WeightStream(VOCABULARY, -(-hidden // group), group, machine.ports, group)
    head_address = region("head", head.size)
    size = round_up(adjust_size(hidden), 64)
    records = region("layers", LAYERS * len(chosen) * size)
    words: list[int] = []

    def put(instruction: spec.Instruction, **fields: int) -> None:
        words.append(instruction.encode(fields))

    stride = buffer_stride(hidden)
    apart = machine.tokens * stride // BUFFER_UNIT
    whole = {"stride": stride // BUFFER_UNIT, "elements": hidden}
    for register, value in {
        Config.VOCABULARY: VOCABULARY,
        Config.CONTEXT: CONTEXT,
        Config.TOKENS: tokens // 64,
        Config.ROPE: rope // 64,
        Config.ROPE_ROW: row // 64,
        Config.HEAD_DIM: head_dim,
        Config.GROUP: group,
        Config.INVERSE_SIZE: int(fp32.bits(np.float32(1 / hidden))),
        Config.EPSILON: int(fp32.bits(np.float32(1e-5))),
        **dict.fromkeys((Config.EOS0, Config.EOS1, Config.EOS2, Config.EOS3), NO_TOKEN),
        Config.INNER: machine.activation // 2,
        Config.ACTIVATION: activation,
    }.items():
        put(spec.SET, register=register, value=value)
    start = len(words)
    put(spec.CHUNK)
    array, vector = 1 << Unit.ARRAY, 1 << Unit.VECTOR
    put(spec.EMBED, **whole, address=embedded // 64, row=embedding.row_bytes // 64, push=array)
    put(spec.LOOP, count=LAYERS, advance=len(chosen) * size // 64)
    shape = spec.matmul_shape(VOCABULARY, machine.ports)
    product = {"address": head_address // 64, **shape, "groups": head.groups}
    beside = {"dst": PLACES * apart, "stride": whole["stride"], "align": AlignTarget.INNER}
    put(spec.MATMUL, **product, **beside, pop=vector, push=vector)
    for number, (reduce, finish) in enumerate(chosen):
        target = AlignTarget.INNER if finish is Finish.ACTIVATE else TARGETS[reduce]
        fields = {
            **whole,
            "list": TokenList.ALL,
            "address": (records + number * size) // 64,
            "layered": 1,
            "src": number % PLACES * apart,
            "dst": (number + (number % 4 != 0)) % PLACES * apart,
            "dst_stride": whole["stride"],
            "reduce": reduce,
            "finish": finish,
            "align": target,
            "relu": number % 2,
            "pop": array if number == ALIGNING else 0,
            "push": array if number == len(chosen) - 1 else 0,
        }
        put(spec.ADJUST, **(fields | ({} if number else changed)))
    put(spec.END)
    put(spec.MATMUL, pop=vector)
    put(spec.ALIGN, **whole, src=0, list=TokenList.LAST, align=AlignTarget.RESIDUAL, push=array)
    put(spec.MATMUL, **product, epilogue=Epilogue.NONE, argmax=1, list=TokenList.LAST, pop=vector)
    put(spec.NEXT, target=start)
    put(spec.HALT)

    memory = [np.zeros(regions.end, np.uint8) for _ in range(machine.ports)]
    codes = rng.integers(-8, 8, (VOCABULARY, head.groups, group)).astype(np.int8)
    for port, data in enumerate(head.pack(codes, rng.random((VOCABULARY, head.groups)).astype(np.float16))):
        memory[port][head_address : head_address + len(data)] = data
    for port, part in enumerate(embedding.pack(rng.standard_normal((VOCABULARY, hidden)).astype(np.float16))):
        memory[port][embedded : embedded + len(part)] = part
    for address in (rope, embedded):
        assert address
    table = rng.uniform(-1, 1, regions["rope"].size // 4).astype(np.float32)
    memory[0][rope : rope + regions["rope"].size] = table.view(np.uint8)
    for number in range(LAYERS * len(chosen)):
        reduce = chosen[number % len(chosen)][0]
        sizes = np.array([1 / (head_dim if reduce is Reduce.HEADS else hidden), 1e-5], np.float32).view(np.uint32)
        record = ADJUST_RECORD.pack(inverse_size=int(sizes[0]), epsilon=int(sizes[1]), rope=rope // 64)
        gains = rng.standard_normal((hidden // 8, 2, 8)).astype(np.float32).reshape(-1).view(np.uint8)
        here = records + number * size
        memory[0][here : here + len(record) + len(gains)] = np.concatenate([record, gains])
    place_instructions(words, memory[0], 0)
    notes = ["adjust"] * len(words)
    return Program(
        machine, model, KvPolicy.DENSE, CONTEXT, False, words, notes, regions, {}, (records, 0), memory,
        source={"checkpoint": "adjust", "routers": False},
    )  # fmt: skip


@pytest.mark.rtl
@pytest.mark.parametrize(("stall", "activation"), [(0, Activation.GELU_TANH), (60, Activation.RELU2)])
def test_every_reduction_and_finish(stall: int, activation: Activation) -> None:
    program = adjust_program(activation=activation)
    agree(program, Run(tuple(range(1, 8)), 2, check=True), rtl.Memory(stall=stall, seed=stall))


@pytest.mark.rtl
@pytest.mark.parametrize(
    ("machine", "hidden", "head_dim"),
    [(TINY, 96, 16), (TINY, 512, 128), (TINY, 480, 96), (SINGLE, 32, 16), (Machine.load("u280-slice4"), 512, 128)],
    ids=lambda value: value.name if isinstance(value, Machine) else None,
)
def test_timing(machine: Machine, hidden: int, head_dim: int) -> None:
    program = adjust_program(hidden=hidden, head_dim=head_dim, machine=machine)
    run = Run(tuple(range(1, 8)), 3)
    expected = functional.run(program, run)
    seen, predicted = rtl.run(program, run).counters, timing.run(program, run, timing.Options(expected)).counters
    assert predicted["READ_BEATS"] == seen["READ_BEATS"]
    assert predicted["VECTOR_BUSY"] == seen["VECTOR_BUSY"]
    assert abs(predicted["CYCLES"] / seen["CYCLES"] - 1) < 0.03


FAULTS = [
    ({"elements": 0}, Error.ILLEGAL_INSTRUCTION),
    ({"elements": 12}, Error.ILLEGAL_INSTRUCTION),
    ({"reduce": 3}, Error.ILLEGAL_INSTRUCTION),
    ({"reduce": Reduce.HEADS, "elements": 40}, Error.ILLEGAL_INSTRUCTION),
    ({"finish": Finish.ROTATE, "elements": 40}, Error.ILLEGAL_INSTRUCTION),
    ({"src": TINY.buffer // BUFFER_UNIT}, Error.BUFFER_RANGE),
    ({"dst": TINY.buffer // BUFFER_UNIT - 1}, Error.BUFFER_RANGE),
    ({"src": TINY.buffer // BUFFER_UNIT - 2}, Error.BUFFER_RANGE),
    ({"address": (1 << 28) - 1}, Error.AXI_READ),
]


@pytest.mark.parametrize(("fields", "code"), FAULTS)
def test_faults(fields: dict[str, int], code: Error) -> None:
    halts(functional, fields, code)


@pytest.mark.rtl
@pytest.mark.parametrize(("fields", "code"), FAULTS)
def test_faults_of_the_hardware(fields: dict[str, int], code: Error) -> None:
    halts(rtl, fields, code)


def halts(engine, fields: dict[str, int], code: Error) -> None:
    program = adjust_program(**fields)
    with pytest.raises(MachineHalt) as caught:
        engine.run(program, Run((1, 2, 3), 1))
    first = next(pc for pc, word in enumerate(program.instructions) if spec.instruction_of(word) is spec.ADJUST)
    assert (caught.value.code, caught.value.pc) == (code, first)
