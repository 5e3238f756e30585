"""The KV history buffer changes no bit, spares exactly its hits, and is predicted; faulty, slow and reordered memories."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from compiler import emit
from compiler.pipeline import compile_checkpoint
from sim.functional import engine as functional
from sim.routing import independent
from sim.rtl import engine as rtl
from sim.timing import engine as timing
from skipopu.errors import MachineHalt
from skipopu.isa import spec
from skipopu.isa.registers import Error
from skipopu.machine.config import Machine
from skipopu.policy import ALWAYS, NEVER
from skipopu.program.program import Program
from skipopu.program.run import Run
from skipopu.records import pack_router_record
from tests.agreement.test_rtl import TARGETS, agree
from tests.support import random_checkpoint, small_config

pytestmark = [pytest.mark.rtl, pytest.mark.timeout(600)]

LAYERS, CONTEXT, SMALL = 4, 40, 8


def compiled(target: str, history: int | None = None, prefetch: bool = False) -> Program:
    """A program whose pool of entries holds rubbish: an entry read before it is written shows."""
    config = small_config(num_layers=LAYERS)
    program = compile_checkpoint(
        random_checkpoint(config, 1), Machine.load(target), context=CONTEXT, history=history, prefetch=prefetch
    )
    pool, rng = program.regions["kv"], np.random.default_rng(0)
    for port in program.memory:
        port[pool.address : pool.address + pool.size] = rng.integers(0, 256, pool.size)
    return program


RUN = Run(tuple(range(1, 16)), 10, check=True, routing=independent(LAYERS, CONTEXT, 0.3, 0.3, 0))


@pytest.mark.parametrize("target", [t for t in TARGETS if Machine.load(t).history])
def test_on_off_and_too_small(target: str) -> None:
    off = agree(compiled(target, 0), RUN, rtl.Memory()).counters
    assert off["HISTORY_BEATS"] == off["AHEAD_BEATS"] == 0
    spared = []
    for history in (0, None, SMALL):
        program = compiled(target, history)
        seen = agree(program, RUN, rtl.Memory()).counters
        predicted = timing.run(program, RUN, timing.Options(functional.run(program, RUN))).counters
        for name in ("READ_BEATS", "WRITE_BEATS", "HISTORY_BEATS"):
            assert predicted[name] == seen[name], (history, name)
        assert abs(predicted["CYCLES"] / seen["CYCLES"] - 1) < 0.03, history
        assert off["READ_BEATS"] - seen["READ_BEATS"] == seen["HISTORY_BEATS"]
        spared.append(seen["HISTORY_BEATS"])
    assert spared[1] > spared[2] > spared[0] == 0


@pytest.mark.parametrize("target", [t for t in TARGETS if Machine.load(t).history])
@pytest.mark.parametrize("stall", [0, 90])
def test_fetched_ahead(target: str, stall: int) -> None:
    off = agree(compiled(target, 0), RUN, rtl.Memory(stall=stall, seed=stall)).counters
    program = compiled(target, None, True)
    seen = agree(program, RUN, rtl.Memory(stall=stall, seed=stall, reorder=bool(stall))).counters
    assert seen["AHEAD_BEATS"] > 0
    assert off["READ_BEATS"] - seen["READ_BEATS"] == seen["HISTORY_BEATS"] - seen["AHEAD_BEATS"]
    if not stall:
        predicted = timing.run(program, RUN, timing.Options(functional.run(program, RUN))).counters
        assert off["READ_BEATS"] - predicted["READ_BEATS"] == predicted["HISTORY_BEATS"] - predicted["AHEAD_BEATS"]
        assert abs(predicted["AHEAD_BEATS"] / seen["AHEAD_BEATS"] - 1) < 0.15
        assert abs(predicted["CYCLES"] / seen["CYCLES"] - 1) < 0.03


@pytest.mark.parametrize(
    ("target", "history"), [(t, h) for t in TARGETS for h in (0, None) if h == 0 or Machine.load(t).history]
)
def test_entries_written_beside_attention(target: str, history: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emit, "late_write", lambda *shape: 1)
    program = compiled(target, history, prefetch=history is None)
    assert any(word & 31 == spec.KVWRITE.opcode and spec.KVWRITE.decode(word)["late"] for word in program.instructions)
    agree(program, RUN, rtl.Memory(stall=120, reorder=True, seed=4))
    seen = agree(program, RUN, rtl.Memory()).counters
    predicted = timing.run(program, RUN, timing.Options(functional.run(program, RUN))).counters
    assert abs(predicted["CYCLES"] / seen["CYCLES"] - 1) < 0.03


@pytest.mark.parametrize("target", TARGETS)
def test_slow_and_reordered_responses_on_every_port(target: str) -> None:
    run = dataclasses.replace(RUN, prompt=RUN.prompt[:6], max_new=2)
    for memory in (rtl.Memory(latency=150, seed=1), rtl.Memory(stall=200, reorder=True, seed=2)):
        agree(compiled(target), run, memory)


@pytest.mark.parametrize("head_dim", [32, 64, 128, 256])
@pytest.mark.parametrize("group", [1, 4])
def test_head_sizes_and_groups(head_dim: int, group: int) -> None:
    heads = 1 if head_dim > 64 else 2
    config = small_config(num_layers=2, head_dim=head_dim, num_kv_heads=heads, num_heads=heads * group)
    program = compile_checkpoint(random_checkpoint(config, head_dim), Machine.load("u280-slice4"), context=24)
    run = Run(tuple(range(1, 12)), 3, check=True, routing=independent(2, 24, 0.4, 0.4, 1))
    assert agree(program, run, rtl.Memory()).counters["HISTORY_BEATS"] > 0


def test_a_context_far_beyond_the_buffer() -> None:
    config = small_config(num_layers=2, max_positions=400)
    program = compile_checkpoint(random_checkpoint(config, 5), Machine.load("tiny"), context=400, prefetch=False)
    prompt = tuple(int(t) for t in np.random.default_rng(0).integers(0, 70, 380))
    run = Run(prompt, 4, check=True, routing=independent(2, 400, 0.3, 0.3, 2))
    seen = agree(program, run, rtl.Memory()).counters
    predicted = timing.run(program, run, timing.Options(functional.run(program, run))).counters
    assert predicted["HISTORY_BEATS"] == seen["HISTORY_BEATS"] > 0
    assert abs(predicted["CYCLES"] / seen["CYCLES"] - 1) < 0.03


# Errors are injected at some of the first bursts and at some of every phase of the run.
@pytest.mark.parametrize("port", range(3))
@pytest.mark.parametrize("kind", ["bad_read", "bad_write"])
def test_an_error_response_on_any_port_halts_with_its_code(port: int, kind: str) -> None:
    program = compiled("trio")
    run = dataclasses.replace(RUN, max_new=2)
    expected = functional.run(program, run)
    code = Error.AXI_READ if kind == "bad_read" else Error.AXI_WRITE
    halted = 0
    for burst in (1, 2, 7, 40, 150, 400):
        tokens, halt = outcome(program, run, rtl.Memory(bad_port=port, **{kind: burst}))
        assert halt in (None, code)
        assert tokens == (expected.tokens if halt is None else expected.tokens[: len(tokens)])  # None: there were fewer bursts
        halted += halt is not None
    assert halted >= 3


def outcome(program: Program, run: Run, memory: rtl.Memory) -> tuple[list[int], int | None]:
    """Tokens, and the code if the machine halted with one."""
    try:
        return rtl.run(program, run, rtl.Options(memory=memory, cycle_limit=1_000_000)).tokens, None
    except MachineHalt as halt:
        return halt.tokens, halt.code


def test_an_error_while_entries_are_fetched_ahead_halts() -> None:
    program = compiled("trio", None, True)
    with pytest.raises(MachineHalt) as caught:
        rtl.run(program, RUN, rtl.Options(memory=rtl.Memory(bad_port=1, bad_read=300), cycle_limit=1_000_000))
    assert caught.value.code == Error.AXI_READ


def test_a_token_without_an_entry_halts() -> None:
    program = compiled("trio")
    memory = [port.copy() for port in program.memory]
    record = pack_router_record((0.0, 0.0), ((NEVER, ALWAYS), (ALWAYS, ALWAYS)))
    memory[0][program.router_record[0] : program.router_record[0] + len(record)] = record
    damaged = dataclasses.replace(program, memory=memory)
    write = next(i for i, w in enumerate(program.instructions) if w & 31 == spec.KVWRITE.opcode)
    run = Run((1, 2, 3), 1)
    for engine in (functional.run, lambda p, r: rtl.run(p, r, rtl.Options(cycle_limit=400_000))):
        with pytest.raises(MachineHalt) as caught:
            engine(damaged, run)
        assert (caught.value.code, caught.value.pc) == (Error.KV_MISSING, write)
