"""Windows without RTL: whose entries count, what a run leaves of the records, what machines refuse."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from compiler.pipeline import compile_checkpoint
from sim.functional import engine as functional
from sim.functional.attention import attend
from sim.reference import engine as reference
from sim.timing import engine as timing
from skipopu.errors import ProgramError
from skipopu.machine.config import Machine
from skipopu.program.program import Program
from skipopu.program.run import Run
from skipopu.records import router_windows
from tests.support import random_checkpoint, small_config

WINDOWS, CONTEXT, TINY = (5, 0, 12, 99), 40, Machine.load("tiny")


def compiled(windows: tuple[int, ...] = WINDOWS, machine: Machine = TINY, kv: str = "reuse", routers: bool = True) -> Program:
    config = small_config(num_layers=4, windows=windows)
    return compile_checkpoint(random_checkpoint(config, 1, routers), machine, kv, context=CONTEXT)


@pytest.mark.parametrize("kv", ["reuse", "dense"])
def test_tokens_are_the_references(kv: str) -> None:
    program, run = compiled(kv=kv), Run(tuple(range(1, 25)), 10, routing="always")
    tokens = functional.run(program, run).tokens
    assert tokens == reference.run(program, run).tokens
    assert tokens != functional.run(compiled((), kv=kv), run).tokens


def test_entries_outside_do_not_count() -> None:
    rng = np.random.default_rng(0)
    heads, dim, tokens, window = 2, 8, 20, 6
    query, key, value = (
        rng.integers(-(1 << 12), 1 << 12, (n, heads, *more, dim)).astype(float)
        for n, more in ((3, (2,)), (tokens, ()), (tokens, ()))
    )
    exponents = rng.integers(10, 18, (2, tokens, heads))
    visible = np.array([tokens - 2, tokens - 1, tokens])
    own = np.full((3, heads, 2), 120)
    seen = attend(query, own, key, exponents[0], value, exponents[1], visible, visible - window)
    for slot, last in enumerate(visible):
        part = slice(last - window, last)
        alone = attend(
            query[slot : slot + 1], own[:1], key[part], exponents[0, part], value[part], exponents[1, part], np.array([window])
        )
        assert (seen[slot] == alone[0]).all()


def test_no_result_depends_on_chunk_or_ports() -> None:
    run = Run(tuple(range(1, 25)), 6)
    expected = functional.run(compiled(), run)
    for changes in ({"tokens": 1}, {"tokens": 7}, {"ports": 5}):
        seen = functional.run(compiled(machine=dataclasses.replace(TINY, **changes)), run)
        assert seen.tokens == expected.tokens
        assert (seen.routing == expected.routing).all()


def test_records_name_their_window_and_the_next(tmp_path: Path) -> None:
    program = Program.load(compiled().save(tmp_path))
    assert program.model.windows == WINDOWS
    first, stride = program.router_record
    memory = Run((1, 2), 1, routing="always").prepare(program)[0]  # which writes the records anew
    windows = [router_windows(memory, first + layer * stride) for layer in range(4)]
    assert windows == [(5, 0), (0, 12), (12, 0), (0, 5)], "a window of the whole context is none"


def test_windows_save_cycles_and_reads() -> None:
    run = Run(tuple(range(1, 30)), 8, routing="always")
    counted = [timing.run(compiled(w, routers=False, kv="dense"), run).counters for w in ((), (30,) * 4, (4,) * 4)]
    for name in ("CYCLES", "READ_BEATS", "ATTENTION_BUSY"):
        assert counted[0][name] > counted[1][name] > counted[2][name]


def test_what_a_machine_without_windows_refuses() -> None:
    for name in ("mono", "trio", "ulx3s"):
        assert not Machine.load(name).window
    lacking = dataclasses.replace(TINY, window=False)
    assert "window" not in lacking.hardware_parameters
    with pytest.raises(ProgramError, match="machine tiny: window is False, a layer's is 5 tokens and the context 40; accepted"):
        compiled(machine=lacking)
    compiled((40, 99, 0, 41), machine=lacking)
