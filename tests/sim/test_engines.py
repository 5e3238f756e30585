"""The four engines are one kind of thing: the same call, complete tables, results that hold what they are said to hold."""

from __future__ import annotations

import inspect
from dataclasses import fields

import pytest

from compiler.pipeline import compile_checkpoint
from sim.engine import Options, Watch
from sim.engines import ENGINES, engine, knows, options
from sim.functional import engine as functional
from sim.result import Computed, Result, Routed
from sim.timing import engine as timing
from sim.walk import CONTROL
from skipopu.errors import ProgramError
from skipopu.isa.spec import HALT, INSTRUCTIONS
from skipopu.machine.config import Machine
from skipopu.program.program import Program
from skipopu.program.run import Run
from tests.support import Followed, random_checkpoint, small_config

PROMPT, NEW = tuple(range(1, 8)), 3


@pytest.fixture(scope="module")
def program() -> Program:
    return compile_checkpoint(random_checkpoint(small_config(), 0, True), Machine.load("tiny"), context=16)


@pytest.mark.parametrize("handlers", [functional.HANDLERS, timing.HANDLERS], ids=["functional", "timing"])
def test_every_instruction_has_one_handler(handlers: dict[object, object]) -> None:
    """HALT, which ends a walk, has none."""
    assert {*handlers, *CONTROL} >= set(INSTRUCTIONS) - {HALT}
    assert not handlers.keys() & {*CONTROL, HALT}
    assert all(instruction.unit != "control" for instruction in handlers)


@pytest.mark.parametrize("name", ENGINES)
def test_engines_are_called_alike(name: str) -> None:
    assert engine(name).name == name
    assert engine(name).Options is options(name)
    assert issubclass(options(name), Options)
    assert options(name)() == options(name)(), "all options have defaults"
    assert list(inspect.signature(engine(name).run).parameters) == ["program", "run", "options", "watch"]


@pytest.mark.parametrize("name", ["reference", "functional", "timing"])
def test_results_hold_what_the_engine_knows(name: str, program: Program) -> None:
    followed = Followed()
    result = engine(name).run(program, Run(PROMPT, NEW), None, followed)
    for what in ("routing", "memory", "counters"):
        assert (getattr(result, what) is not None) == knows(name, what), what
    assert followed.tokens == (result.tokens if knows(name, "text") else [])
    assert followed.done == sorted(followed.done)
    assert followed.done[-1] == len(PROMPT) + NEW - 1


def test_the_timing_engine_asks_for_its_own_routing(program: Program) -> None:
    run, followed = Run(PROMPT, NEW), Followed()
    expected = functional.run(program, run)
    alone = timing.run(program, run, watch=followed)
    assert alone.counters == timing.run(program, run, timing.Options(expected)).counters
    assert alone.tokens == expected.tokens
    assert (alone.routing == expected.routing).all()
    assert followed.said == ["functional engine", "timing engine"]


def test_a_result_is_never_without_what_its_kind_promises() -> None:
    with pytest.raises(TypeError, match="routing"):
        Routed(tokens=[])  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="memory"):
        Computed(tokens=[], routing=None, kv_entries=0)  # type: ignore[call-arg, arg-type]
    assert {f.name for f in fields(Computed)} == {f.name for f in fields(Result)}
    unknown = Result(tokens=[1])
    assert (unknown.routing, unknown.memory, unknown.counters, unknown.kv_entries, unknown.seconds) == (None,) * 5


def test_an_engine_that_is_not_there() -> None:
    with pytest.raises(ProgramError, match=r"engine 'tming' is not known; .*did you mean 'timing'\?"):
        engine("tming")


def test_a_watch_looks_away(program: Program) -> None:
    assert engine("functional").run(program, Run(PROMPT, 1), None, Watch()).tokens
