"""Runs that begin where others left off, in RTL and the functional engine: the same bits, and those of one run from the beginning."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from compiler.pipeline import compile_checkpoint
from sim.check import differing_bits, first_difference
from sim.functional import engine as functional
from sim.fuzz.choices import thresholds
from sim.generation import Generation
from sim.masks import Masks
from sim.rtl import engine as rtl
from sim.session import Session
from sim.timing import engine as timing
from sim.timing.masks import Recorded
from skipopu.errors import MachineHalt, ProgramError
from skipopu.lookup import Lookup
from skipopu.machine.config import Machine
from skipopu.program.program import Program
from skipopu.program.run import Run
from skipopu.sampling import Sampling
from tests.support import random_checkpoint, small_config

pytestmark = [pytest.mark.rtl, pytest.mark.timeout(600)]

CONTEXT, RUNS = 40, 13
SCHEDULES = [("tiny", "reuse"), ("trio", "dense"), ("mono", "reuse"), ("tiny-masks", "reuse")]


def program_of(target: str, kv: str, logits: bool = False, vocabulary: int = 70) -> Program:
    machine, config = Machine.load(target), small_config(num_layers=3, vocab_size=vocabulary)
    checkpoint = random_checkpoint(config, 1)
    if machine.masks:
        checkpoint = dataclasses.replace(checkpoint, masks=thresholds(config, seed=5, spread=200, fixed=0.1))
    return compile_checkpoint(checkpoint, machine, kv, logits=logits, context=CONTEXT)


@pytest.mark.parametrize(("target", "kv"), SCHEDULES)
def test_random_schedules(target: str, kv: str) -> None:
    """Prompts of any length behind any token that is kept, some of it known as generated, some of it predicted: 13 runs of each kind."""
    program, rng = program_of(target, kv), np.random.default_rng(SCHEDULES.index((target, kv)))
    session, predicted, seen, went_back = Session(program), 0, 0, 0
    with rtl.Instance(program, rtl.Options(optimise=0)) as hardware:
        for _ in range(RUNS):
            keep = int(rng.integers(0, len(session.ids) + 1))
            said = tuple(map(int, rng.integers(0, program.model.vocab_size, int(rng.integers(1, 9)))))
            known = (*session.ids[: min(keep, CONTEXT - 16)], *said)
            cut = int(rng.integers(1, len(known) + 1))
            run = session.follow(Run(known[:cut], int(rng.integers(0, 6)), check=True, after=known[cut:]))
            if rng.random() < 0.6:
                run = dataclasses.replace(run, predict_from=int(rng.integers(run.first, len(known))))
            went_back += 0 < run.first < len(session.ids)
            whole_run, masks = dataclasses.replace(run, first=0), Masks(program, CONTEXT)
            whole = functional.run(program, whole_run, functional.Options(masks=masks.see if program.masks else None))
            expected, result = session.run(run), hardware.run(run)
            assert result.tokens == expected.tokens == whole.tokens
            assert result.predicted == expected.predicted == whole.predicted
            assert len(result.predicted) == (0 if run.predict_from is None else len(known) - run.predict_from)
            assert first_difference(program, expected.trace, result.trace) is None
            assert differing_bits(program, expected, result) == 0
            assert result.kv_entries == expected.kv_entries == whole.kv_entries, "no place is lost"
            counted = timing.run(program, run, timing.Options(whole, channels=Recorded(program, masks.active)))
            assert counted.kv_entries == result.kv_entries
            predicted, seen = predicted + counted.counters["CYCLES"], seen + result.counters["CYCLES"]
    assert went_back > RUNS // 4
    assert abs(predicted - seen) < 0.03 * seen


@pytest.mark.parametrize(("target", "kv"), SCHEDULES)
def test_every_turn_is_that_of_one_long_run(target: str, kv: str) -> None:
    """Three turns, then again after going back by 1 token, 2, and a whole chunk."""
    program, ids = program_of(target, kv), tuple[int, ...]()
    most = program.machine.tokens
    with Session(program, "rtl", rtl.Options(optimise=0)) as session:
        for back, said in ((0, (1, 2, 3, 4, 5)), (0, (6, 7)), (0, (8, 9, 10)), (1, (11,)), (2, (12, 13)), (most, (14,))):
            prompt = (*ids[: len(ids) - back], *said)
            run = session.follow(Run(prompt, 3))
            assert run.first > 0 or not ids
            result, whole = session.run(run), functional.run(program, Run(prompt, 3))
            assert result.tokens == whole.tokens
            assert result.kv_entries == whole.kv_entries
            ids = (*prompt, *result.tokens)


@pytest.mark.parametrize("kv", ["reuse", "dense"])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.8, seed=3)])
def test_drafts_change_no_token(kv: str, sampling: Sampling) -> None:
    """Greedy and drawn: with drafts and without, in RTL and in the functional engine; going back by rejected drafts."""
    program, prompt = program_of("tiny", kv, logits=True, vocabulary=16), (3, 5, 7, 3, 5, 7, 3, 5)
    plain = list(Generation(Session(program), sampling).tokens(prompt, 20))
    with Session(program, "rtl", rtl.Options(optimise=0)) as session:
        generation = Generation(session, sampling, Lookup(1, shortest=1))
        assert list(generation.tokens(prompt, 20)) == plain
    assert 0 < generation.accepted < generation.drafted, "some are rejected"


def test_a_halt_ends_what_was_kept() -> None:
    program, run = program_of("tiny", "reuse"), Run((1, 2, 3), 2)
    with rtl.Instance(program, rtl.Options(optimise=0)) as hardware:
        tokens, simulation = hardware.run(run).tokens, hardware.process
        code = program.regions["program"].address
        hardware.memory[0][code] = 255
        with pytest.raises(MachineHalt):
            hardware.run(Run((1, 2, 3, 4), 0, first=3))
        hardware.memory[0][code] = program.memory[0][code]
        with pytest.raises(ProgramError, match="the run begins at position 3; accepted by the RTL engine's machine: 0, where"):
            hardware.run(Run((1, 2, 3, 4), 0, first=3))
        assert hardware.run(run).tokens == tokens
        assert hardware.process is simulation, "on the same machine"
