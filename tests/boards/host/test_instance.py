"""Sessions on a board behind a stand-in for XRT: what the functional engine's do, without a reset in between."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from boards.host.device import Device
from boards.host.instance import Instance
from compiler.pipeline import compile_checkpoint
from sim.functional import engine as functional
from sim.generation import Generation
from sim.session import Session
from skipopu.errors import MachineHalt, ProgramError, SkipopuError
from skipopu.isa.registers import HOST, STATUS_ERROR, STATUS_RUNNING
from skipopu.lookup import Lookup
from skipopu.machine.config import Machine
from skipopu.program.program import Program
from skipopu.program.run import Run
from skipopu.sampling import Sampling
from tests.boards.behind import Behind, alveo
from tests.support import Followed, random_checkpoint, small_config

CONFIG = small_config(hidden_size=32, intermediate_size=32, num_heads=2, num_kv_heads=1, head_dim=16, vocab_size=30)


MACHINE = dataclasses.replace(Machine.load("tiny"), ports=4)  # of every token a run can begin at


def program_of(logits: bool = False) -> Program:
    return compile_checkpoint(random_checkpoint(CONFIG, 2), MACHINE, context=40, logits=logits)


class Boards:
    """A board with a program, which was loaded."""

    def __init__(self, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
        self.behind = Behind(program)
        self.device = Device(alveo(self.behind, monkeypatch))
        self.device.load(program)
        self.instance = Instance(self.device, program, 5)


def test_runs_that_follow_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    program = program_of()
    board = Boards(program, monkeypatch)
    resets = board.behind.resets
    with Session(program, board.instance) as session, Session(program) as expected:
        followed = Followed()
        first = session.run(Run((3, 1, 4), 5), followed)
        assert first.tokens == followed.tokens == expected.run(Run((3, 1, 4), 5)).tokens
        ids = session.ids
        assert (len(ids), board.behind.resets) == (7, resets + 1)
        # Behind its end, then back by one, then all that is known again.
        for known, begins in (((*ids, 9, 2), 7), ((*ids, 9, 5), 8), (ids[:6], 5)):
            run = session.follow(Run(known, 4, predict_from=len(known) - 1))
            assert run.first == begins
            result, same = session.run(run), expected.run(run)
            assert result.tokens == same.tokens
            assert result.predicted == same.predicted == result.tokens[:1]
            assert result.kv_entries == same.kv_entries
            assert board.behind.runs[-1] == run
        assert board.behind.resets == resets + 1, "what is kept is not reset away"
        session.run(Run((5, 5), 1))
        assert board.behind.resets == resets + 2
    assert session.ids == ()


def test_several_tokens_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Predictions of all of them, and what was wrong given back."""
    program = program_of()
    board = Boards(program, monkeypatch)
    whole = functional.run(program, Run((3, 1, 4), 12)).tokens
    with Session(program, board.instance) as session:
        session.run(Run((3, 1, 4), predict_from=2))
        for wrong in (2, 0, 3):
            draft = (*whole[:wrong], (whole[wrong] + 1) % 30, 7)
            run = session.follow(Run((3, 1, 4), after=draft, predict_from=2))
            assert session.run(run).predicted[: wrong + 1] == whole[: wrong + 1]
            assert len(board.behind.runs[-1].known) == 3 + len(draft)
        resets = board.behind.resets
        generation = Generation(session, lookup=Lookup(3, shortest=1))
        assert list(generation.tokens((3, 1, 4), 12)) == whole
        assert board.behind.resets == resets


def test_it_samples_from_the_logits_in_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    program, sampling = program_of(logits=True), Sampling(temperature=1.5, seed=3)
    board = Boards(program, monkeypatch)
    with Session(program, board.instance) as session, Session(program) as expected:
        drawn = list(Generation(session, sampling).tokens((3, 1, 4), 8))
        assert drawn == list(Generation(expected, sampling).tokens((3, 1, 4), 8))
        assert drawn != functional.run(program, Run((3, 1, 4), 8)).tokens
        assert np.array_equal(session.logits(9), expected.logits(9))
    without = Boards(program_of(), monkeypatch).instance
    without.run(Run((3, 1, 4)))
    with pytest.raises(ProgramError, match="stores no logits; accepted: one compiled with logits=True"):
        without.logits(2)


def test_a_policy_of_one_run_is_none_of_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    program = program_of()
    with Session(program, Boards(program, monkeypatch).instance) as session, Session(program) as expected:
        seen = set()
        for routing in ("always", "program", "always"):
            run = session.follow(Run((3, 1, 4, 1, 5), 6, routing=routing))
            assert session.run(run).tokens == expected.run(run).tokens
            result = session.run(session.follow(Run((*session.ids, 2), 3, routing=routing)))
            assert result.counters is not None
            seen.add((result.counters["EXECUTED_ATTENTION"], result.counters["EXECUTED_FFN"]))
        assert len(seen) == 2, "the routings must differ"


def test_what_it_does_not_do(monkeypatch: pytest.MonkeyPatch) -> None:
    program = program_of()
    board = Boards(program, monkeypatch)
    with pytest.raises(ProgramError, match="begins at position 1; accepted by the board without a session: 0"):
        board.device.run(program, Run((3, 1), first=1))
    with pytest.raises(ProgramError, match="exceeds the program's context of 40"):
        board.instance.run(Run((3, 1), 39))
    assert not board.behind.runs
    session = Session(program, board.instance)
    session.run(Run((3, 1, 4)))
    # Another host's run under way is not added to.
    status, resets = HOST["STATUS"].address, board.behind.resets
    board.behind.values[status] = STATUS_RUNNING
    with pytest.raises(SkipopuError, match="another host's run is under way, nothing is kept; begin at position 0"):
        session.run(session.follow(Run((3, 1, 4, 1))))
    board.behind.values[status] = 0
    # Nothing is kept then: the next one begins at 0, with a reset.
    again = session.follow(Run((3, 1, 4, 1), 2))
    assert again.first == 0
    assert session.run(again).tokens == functional.run(program, again).tokens
    assert board.behind.resets == resets + 1


def test_a_halt_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    program = program_of()
    board = Boards(program, monkeypatch)
    behind, session = board.behind, Session(program, board.instance)
    session.run(Run((3, 1, 4)))

    def halt() -> None:
        behind.values |= {HOST["STATUS"].address: STATUS_ERROR, HOST["ERROR"].address: 5, HOST["ERROR_PC"].address: 9}

    with monkeypatch.context() as patch:
        patch.setattr(behind, "execute", halt)
        with pytest.raises(MachineHalt, match="instruction 9: the machine halted with AXI_READ"):
            session.run(session.follow(Run((3, 1, 4, 1))))
    again = session.follow(Run((3, 1, 4, 1), 2))
    assert session.run(again).tokens == functional.run(program, again).tokens
