"""Generating with drafts: the same tokens, fewer runs; what the runs take."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from compiler.frontend.checkpoint import load
from compiler.frontend.shapes import outline
from compiler.pipeline import compile_checkpoint
from sim.functional import engine as functional
from sim.fuzz.choices import thresholds
from sim.generation import Generation
from sim.masks import Masks
from sim.result import Result, Routed
from sim.session import Session
from sim.speculation import Steps, draws
from sim.timing import engine as timing
from sim.timing.masks import Recorded
from skipopu.lookup import Lookup
from skipopu.machine.config import Machine
from skipopu.program.program import Program
from skipopu.program.run import Run
from skipopu.sampling import Sampling
from tests.support import random_checkpoint, said, small_config

PROMPT = b"def read(self, size):\n    return self.read("
DRAWN = Sampling(temperature=0.7, top_p=0.9, seed=2)


@pytest.fixture(scope="module")
def program() -> Program:
    return compile_checkpoint(load(Path("models/pybyte-300k")), Machine.load("ulx3s"), context=96)


@pytest.mark.slow
@pytest.mark.parametrize("sampling", [Sampling(), DRAWN])
@pytest.mark.parametrize("drafts", [1, 3, 7])
def test_the_same_tokens_in_fewer_runs(program: Program, sampling: Sampling, drafts: int) -> None:
    ids = program.text.encode(PROMPT)
    plain = Generation(Session(program), sampling)
    tokens = list(plain.tokens(ids, 32))
    drafting = Generation(Session(program), sampling, Lookup(drafts))
    assert list(drafting.tokens(ids, 32)) == tokens
    assert plain.runs == len(tokens) == 32
    assert drafting.runs == 32 - drafting.accepted
    assert 0 < drafting.accepted <= drafting.drafted
    few = Generation(Session(program), sampling, Lookup(drafts))
    assert list(few.tokens(ids, 2)) == tokens[:2]
    if sampling.greedy:
        assert tokens == functional.run(program, Run(ids, 32)).tokens


@pytest.mark.slow
def test_entries_of_rejected_drafts_are_given_back(program: Program) -> None:
    ids = program.text.encode(PROMPT)
    machines = [functional.Instance(program) for _ in range(2)]
    for machine, lookup in zip(machines, (None, Lookup(3, shortest=1)), strict=True):
        session = Session(program, machine)
        generation = Generation(session, DRAWN, lookup)
        tokens = list(generation.tokens(ids, 24))
        session.run(session.follow(Run((*ids, *tokens[:-1]), 0)))
    assert generation.accepted < generation.drafted
    first, second = (machine.state.pool for machine in machines if machine.state is not None)
    assert first.entries == second.entries
    assert (first.places == second.places).all()


@pytest.mark.slow
def test_runs_are_timed_as_they_end(program: Program) -> None:
    steps, alone = Steps(program), list[int]()

    def see(run: Run, result: Result) -> None:
        steps.see(run, result)
        assert isinstance(result, Routed)
        alone.append(timing.run(program, run, timing.Options(result)).counters["CYCLES"])

    generation = Generation(Session(program), lookup=Lookup(1), see=see)
    tokens = list(generation.tokens(program.text.encode(PROMPT), 12))
    assert steps.cycles == alone, "what a run left to remember changes no cycle"
    assert steps.tokens_per_s(len(tokens)) == pytest.approx(11 / (sum(alone[1:]) / (program.machine.clock_mhz * 1e6)))


def test_masks_are_those_of_the_run() -> None:
    """A rejected draft's channels count in its own run, though another token stands there later."""
    config = small_config(num_layers=2)
    checkpoint = dataclasses.replace(random_checkpoint(config, 1), masks=thresholds(config, seed=5, spread=200, fixed=0.1))
    masked = compile_checkpoint(checkpoint, Machine.load("tiny-masks"), context=40)
    masks, alone = Masks(masked, 40), list[int]()
    steps = Steps(masked, masks)

    def see(run: Run, result: Result) -> None:
        steps.see(run, result)
        assert isinstance(result, Routed)
        channels = Recorded(masked, {name: rows.copy() for name, rows in masks.active.items()})
        alone.append(timing.run(masked, run, timing.Options(result, channels=channels)).counters["CYCLES"])

    session = Session(masked, "functional", functional.Options(masks=masks.see))
    generation = Generation(session, lookup=Lookup(1, shortest=1), see=see)
    assert len(list(generation.tokens((3, 5, 7, 3, 5, 7, 3, 5), 16))) == 16
    assert generation.accepted < generation.drafted
    assert steps.cycles == alone


def test_nothing_behind_the_end_is_accepted(program: Program) -> None:
    """A draft that goes on behind an end-of-sequence id."""
    ids = program.text.encode(PROMPT)
    plain = list(Generation(Session(program)).tokens(ids, 12))
    ended = dataclasses.replace(program, model=dataclasses.replace(program.model, eos_token_ids=(plain[6],)))
    generation = Generation(Session(ended), lookup=Lookup(3, shortest=1))
    tokens = list(generation.tokens(ids, 12))
    assert tokens == plain[: plain.index(plain[6]) + 1]
    assert generation.runs == len(tokens) - generation.accepted


def test_no_draft_behind_a_prompt(program: Program) -> None:
    """It would be a chunk of its own."""
    seen = list[Run]()
    generation = Generation(Session(program), lookup=Lookup(7), see=lambda run, result: seen.append(run))
    list(generation.tokens(program.text.encode(b"aaaaaaaaaaaa"), 4))
    assert not seen[0].after
    assert max(len(run.known) - run.predict_from for run in seen if run.predict_from is not None) <= program.machine.tokens


def test_drawn_runs() -> None:
    runs = draws(5, 9, 1.0, 1)
    assert [run.first for run in runs] == [0, 5, 7, 9, 11]
    assert [len(run.known) for run in runs] == [5, 7, 9, 11, 13]
    assert all(run.predict_from == max(run.first, 4) for run in runs)
    none = draws(5, 9, 0.0, 1)
    assert [run.first for run in none] == [0, *range(5, 13)]
    assert len(none[-1].known) == 13, "no draft behind the last token"
    several = draws(5, 100, 0.5, 3, seed=1)
    assert 1.6 < 99 / (len(several) - 1) < 2.1, "1 + 1/2 + 1/4 + 1/8 tokens a run"


def test_two_tokens_read_what_either_executes() -> None:
    """As a single one would that executed all of it, but for a row of the embedding and of the rotary table, and their own entries."""
    program = compile_checkpoint(outline("", config=small_config(num_layers=4)), Machine.load("u280-slice4"), context=64)
    routing = np.random.default_rng(0).random((4, 2, 64)) < 0.5
    routing[0, 0] = True

    def beats(tokens: int, routing: NDArray[np.bool_]) -> int:
        run = Run((0,) * 20, after=(0,) * tokens, first=20, predict_from=20)
        return timing.Following(program).count(run, Routed(tokens=[], routing=routing)).counters["READ_BEATS"]

    either = routing.copy()
    either[..., 20] |= routing[..., 21]
    one, two, whole = beats(1, routing), beats(2, routing), beats(1, either)
    assert one < 0.95 * whole
    assert abs(two - whole) < 0.05 * whole


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["functional", "timing"])
def test_the_command(engine: str, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    file = tmp_path / "run.json"
    run = ["run", "models/pybyte-1m", "--target", "tiny", "--max-new", "24", "--engine", engine, "--json", file]
    assert said([*run, "--speculate", "lookup"], capsysbinary)[0] == 0
    data = json.loads(file.read_text())
    figures = {record["name"]: record["value"] for record in data["records"]}
    assert figures["runs"] == 24 - figures["accepted_tokens"]
    assert ("decode_tokens_per_s" in figures) == (engine == "timing")
    assert said(run, capsysbinary)[0] == 0
    assert json.loads(file.read_text())["outputs"]["tokens"] == data["outputs"]["tokens"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--drafts", "2"], "--drafts is of --speculate, which was not given"),
        (["--speculate", "lookup", "--engine", "reference"], "--speculate needs --engine functional, timing or rtl"),
        (["--speculate", "lookup", "--max-new", "0"], "--speculate has no effect on a prompt alone"),
        (["--speculate", "lookup", "--drafts", "9"], "--drafts is 9; machine tiny takes"),
        (["--speculate", "lookup", "--acceptance", "1"], "--acceptance is of --shape"),
        (["--speculate", "lookup", "--save-trace", "x.npy"], "--save-trace cannot be combined with --speculate"),
    ],
)
def test_refusals(options: list[str], sentence: str, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    code, text = said(["run", "models/pybyte-1m", "--target", "tiny", *options], capsysbinary)
    assert code != 0
    assert sentence in text
