"""Runs that follow one another on the functional engine: the same as one run from the beginning."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from compiler.frontend.shapes import outline
from compiler.pipeline import compile_checkpoint
from sim.functional.engine import Functional, Instance
from sim.functional.options import Options
from sim.session import Session
from skipopu.errors import MachineHalt, ProgramError
from skipopu.machine.config import Machine
from skipopu.program.program import Program
from skipopu.program.run import Run
from tests.support import random_checkpoint, small_config

CONTEXT = 40


def program_of(ports: int, tokens: int, kv: str, routers: bool = True, layers: int = 3) -> Program:
    machine = dataclasses.replace(Machine.load("tiny"), ports=ports, tokens=tokens)
    return compile_checkpoint(random_checkpoint(small_config(num_layers=layers), 1, routers), machine, kv, context=CONTEXT)


def same_memory(session: Session, fresh: Functional) -> None:
    """Whether both hold the same of every token that is kept, and have no place besides."""
    assert isinstance(session.machine, Instance)
    assert session.machine.state is not None
    (own, other), kept = (session.machine.state.pool, fresh.state.pool), len(session.ids)
    assert own.entries == other.entries
    assert (own.places == other.places).all(), "no place is lost"
    numbers = own.map[:, :kept], other.map[:, :kept]
    for name in ("keys", "values", "fields"):
        here, there = (getattr(pool, name)[number] for pool, number in zip((own, other), numbers, strict=True))
        assert (here == there).all(), name
    machine = session.program.machine
    if machine.tokens <= machine.ports:
        here, there = (pool.port_place[number] for pool, number in zip((own, other), numbers, strict=True))
        assert (here == there).all()


@pytest.mark.slow
@pytest.mark.parametrize("kv", ["reuse", "dense"])
@pytest.mark.parametrize(("ports", "tokens"), [(2, 4), (4, 4), (3, 5), (1, 4), (5, 2)])
def test_random_schedules(ports: int, tokens: int, kv: str) -> None:
    """Prompts of any length behind any token that is kept, generated tokens behind them: a hundred runs of each kind."""
    program, rng = program_of(ports, tokens, kv), np.random.default_rng(ports)
    session, vocabulary = Session(program), program.model.vocab_size
    for _ in range(100):
        keep = int(rng.integers(0, len(session.ids) + 1))
        said = tuple(map(int, rng.integers(0, vocabulary, int(rng.integers(1, 9)))))
        known = (*session.ids[: min(keep, CONTEXT - 16)], *said)
        cut = int(rng.integers(1, len(known) + 1))
        run = session.follow(Run(known[:cut], int(rng.integers(0, 6)), after=known[cut:]))
        if ports >= tokens:
            assert run.first == min(session.common(run), len(known) - 1)
        if rng.random() < 0.5:
            run = dataclasses.replace(run, predict_from=int(rng.integers(run.first, len(known))))
        result = session.run(run)
        fresh = Functional(program, dataclasses.replace(run, first=0), Options())
        whole = fresh.execute()
        assert whole.tokens == result.tokens
        assert whole.predicted == result.predicted
        assert (whole.routing == result.routing).all()
        assert whole.kv_entries == result.kv_entries
        same_memory(session, fresh)


def test_tokens_that_are_known_behind_the_prompt() -> None:
    """Generated one by one, or looked at several at once: the same tokens."""
    program = program_of(4, 4, "reuse")
    prompt = tuple(range(1, 7))
    whole = Functional(program, Run(prompt, 8), Options()).execute()
    session, after = Session(program), ()
    while len(after) < 8:
        after += tuple(session.run(session.follow(Run(prompt, 1, after=after))).tokens)
    assert list(after) == whole.tokens
    again = Session(program)
    again.run(Run(prompt, 1))
    verified = again.run(again.follow(Run(prompt, 1, after=after[:-1])))
    assert verified.tokens == [after[-1]]
    assert (verified.routing == whole.routing).all()
    assert again.begins == [0, 4, 6, 10]


def test_where_a_run_can_begin() -> None:
    session = Session(program_of(2, 4, "reuse"))
    session.run(Run(tuple(range(1, 12)), 3))
    assert session.begins == [0, 4, 8, 11, 12]
    assert len(session.ids) == 13
    asked = Run((*session.ids[:6], 1), 0, first=6)
    assert session.follow(asked).first == 4
    with pytest.raises(ProgramError, match="the first position is 6, where no run can begin; accepted: 4"):
        session.run(asked)
    with pytest.raises(ProgramError, match="the first position is 3; accepted: 0 to 2, behind its tokens that are kept"):
        session.run(Run((1, 2, 4, 5), 0, first=3))
    with pytest.raises(ProgramError, match="the first position is 2; accepted: 0 to 1, of tokens that are known"):
        session.run(Run((1, 2), 0, first=2))
    assert session.run(session.follow(Run(session.ids, 1))).tokens, "what was refused changed nothing"


def test_windows_of_a_policy_are_not_cut() -> None:
    session = Session(program_of(8, 8, "reuse"))
    session.run(Run(tuple(range(1, 12)), 0, routing="top2"))
    again = Run((*session.ids, 5), 0, routing="top2")
    assert session.follow(again).first == 8
    session.run(session.follow(again))
    assert session.follow(Run((*session.ids, 5), 0, routing="top2")).first == 12
    assert session.follow(Run(session.ids, 1, routing="top2", after=(5,))).first == 12, "generated tokens are not compared"
    shorter = Run(session.ids[:10], 1, routing="top2", after=session.ids[10:])
    assert session.follow(shorter).first == 8, "of that window there were four"


def test_windows_and_shared_ports() -> None:
    """A beginning is a whole window's and a chunk's at once."""
    session = Session(program_of(2, 4, "reuse"))
    session.run(Run(tuple(range(1, 12)), 1, routing="top2"))
    session.run(session.follow(Run(tuple(range(1, 12)), 1, routing="top2", after=(3, 4, 5, 6, 7))))
    for length in range(1, 17):
        session.run(session.follow(Run((*session.ids[:length], 1, 2), 1, routing="top2")))


@pytest.mark.parametrize(("policy", "dial"), [("top2", 0.0), ({"decode": {"ffn": "never"}}, 0.0), (None, 0.4)])
def test_what_would_be_computed_otherwise_is_not_kept(policy: str | dict | None, dial: float) -> None:
    """An answer's tokens in the next prompt where phases differ, and all tokens under another dial."""
    machine = dataclasses.replace(Machine.load("tiny"), ports=4)
    policies, routing = (policy, "program") if isinstance(policy, dict) else (None, policy or "program")
    checkpoint = random_checkpoint(small_config(num_layers=3), 1)
    program = compile_checkpoint(checkpoint, machine, "reuse", context=CONTEXT, policies=policies)
    session = Session(program)
    first = session.run(Run(tuple(range(1, 8)), 6, routing=routing))
    seen, memory = first.routing.copy(), session.ids
    run = Run((*memory, 9, 4), 6, dial, routing=routing)
    second = session.run(session.follow(run))
    whole = Functional(program, run, Options()).execute()
    assert second.tokens == whole.tokens
    assert (second.routing == whole.routing).all()
    assert (first.routing == seen).all(), "an earlier result stays"


def test_what_follows_on_a_fresh_machine() -> None:
    program = program_of(4, 4, "reuse")
    tokens = Functional(program, Run((1, 2, 3), 3), Options()).execute().tokens
    assert Session(program).run(Run((1, 2, 3), 1, after=tuple(tokens[:2]))).tokens == tokens[2:]
    with pytest.raises(ProgramError, match="the program of shape llama-2-7b has no weights"):
        Session(compile_checkpoint(outline("llama-2-7b"), Machine.load("u280"), context=32))


def test_a_halt_forgets() -> None:
    program = program_of(4, 4, "reuse")
    small = dataclasses.replace(program, memory=[port.copy() for port in program.memory])
    session = Session(small)
    session.run(Run((1, 2, 3), 0))
    small.instructions[-1] = 0x3F
    with pytest.raises(MachineHalt):
        session.run(session.follow(Run((1, 2, 3, 4), 0)))
    assert session.ids == ()


def test_without_a_session_a_run_begins_at_zero() -> None:
    from sim.functional import engine as functional
    from sim.reference import engine as reference
    from sim.rtl import engine as rtl

    program = program_of(4, 4, "reuse", routers=False)
    run = Run((1, 2, 3), 2, after=(4,), first=2)
    for refusing in (functional, rtl):
        with pytest.raises(ProgramError, match=r"the run begins at position 2; accepted by the .* engine without a session: 0"):
            refusing.run(program, run)
    session = Session(program)
    session.run(Run((1, 2, 3), 0))
    expected = session.run(session.follow(run))
    computed = reference.run(program, dataclasses.replace(run, predict_from=2))
    assert computed.tokens == expected.tokens, "it computes everything anyway"
    assert computed.predicted[-1] == expected.tokens[0]
    assert len(computed.predicted) == 2


def test_going_back_inside_a_chunk_that_no_port_shares() -> None:
    """Chunks of as many tokens as there are ports, on a machine that takes more."""
    session = Session(program_of(2, 4, "reuse"))
    session.run(Run((1, 2, 3, 4), 0))
    session.run(session.follow(Run((1, 2, 3, 4), 0, after=(5, 6))))
    assert session.begins == [0, 4]
    assert session.follow(Run((1, 2, 3, 4), 0, after=(5, 7))).first == 5
    assert session.follow(Run((1, 2, 9), 0)).first == 0


def test_every_prediction() -> None:
    """From any position on, those that decoding would choose; where nothing is asked for, none."""
    program = program_of(4, 4, "reuse")
    prompt = tuple(range(1, 7))
    tokens = Functional(program, Run(prompt, 5), Options()).execute().tokens
    session = Session(program)
    for start in (9, 6, 5):
        result = session.run(session.follow(Run(prompt, 1, after=tuple(tokens[:4]), predict_from=start)))
        assert result.predicted[max(0, 5 - start) :] == tokens[max(0, start - 5) :]
        assert result.tokens == tokens[4:]
    assert session.run(session.follow(Run(prompt, 1))).predicted == []
    for wrong in (2, 10):
        with pytest.raises(ProgramError, match=f"predictions begin at position {wrong}; accepted: 3 to 9, of known tokens"):
            session.run(Run(prompt, 0, after=tuple(tokens[:4]), first=3, predict_from=wrong))


def test_a_machine_knows_how_far_it_is() -> None:
    """Who runs it without a session is told."""
    machine = Instance(program_of(4, 4, "reuse"))
    for kept in (0, 3):
        accepted = f"0 to {kept}" if kept else "0, where nothing is kept"
        with pytest.raises(
            ProgramError, match=rf"the run begins at position 4; accepted by the functional engine's machine: {accepted}"
        ):
            machine.run(Run((1, 2, 3, 4, 5), 0, first=4))
        machine.run(Run((1, 2, 3), 1))
