"""Soft caps of scores without RTL: attention against the formula, what a program says, what machines refuse."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from compiler.pipeline import compile_checkpoint
from sim.functional import engine as functional
from sim.functional.attention import attend
from sim.reference import engine as reference
from sim.timing import engine as timing
from sim.walk import decode
from skipopu.errors import MachineHalt, ProgramError
from skipopu.isa.registers import Config
from skipopu.isa.spec import SET
from skipopu.machine import pipeline
from skipopu.machine.config import Machine
from skipopu.numerics import align, fp16, fp32, soft_cap
from skipopu.program.program import Program
from skipopu.program.run import Run
from tests.support import random_checkpoint, small_config

CONTEXT, TINY = 40, Machine.load("tiny")


def compiled(cap: float, machine: Machine = TINY, **changes: object) -> Program:
    config = small_config(num_layers=3, attention_cap=cap, **changes)
    return compile_checkpoint(random_checkpoint(config, 1), machine, context=CONTEXT)


@pytest.mark.parametrize("spread", [0.3, 3.0, 40.0])
@pytest.mark.parametrize("cap", [soft_cap.LEAST, 2.0, 50.0, soft_cap.LARGEST])
def test_attention_is_the_formula(cap: float, spread: float) -> None:
    """Queries, keys and values as the machine has them, exactly; scores up to several times ``spread``."""
    rng = np.random.default_rng(int(spread))
    slots, tokens, heads, dim = 3, 30, 2, 16
    key, value = (rng.standard_normal((2, tokens, heads, dim)) * spread**0.5).astype(np.float16)
    query = (rng.standard_normal((slots, heads, 1, dim)) * spread**0.5 * soft_cap.argument(cap) / 4).astype(np.float32)
    mantissas, exponents = align.align(query, dim)
    mantissas, exponents = mantissas[..., 0, :], exponents[..., 0]
    fields = [np.full((tokens, heads), fp16.exponent_field(x).max()) for x in (key, value)]
    aligned = [fp16.align(x, field[..., None]) for x, field in zip((key, value), fields, strict=True)]
    units = [np.ldexp(x, field[..., None] - fp16.ALIGNED_BIAS) for x, field in zip(aligned, fields, strict=True)]
    visible = np.array([tokens - 2, tokens - 1, tokens])
    factor = soft_cap.factor(cap)
    seen = attend(mantissas, exponents, aligned[0], fields[0], aligned[1], fields[1], visible, cap=factor)
    exact = np.ldexp(mantissas, exponents[..., None] - align.ALIGNED_BIAS)
    scores = np.einsum("shqd,thd->shqt", exact, units[0]) / soft_cap.argument(cap)
    weights = np.exp(cap * np.tanh(scores / cap)) * (np.arange(tokens) < visible[:, None, None, None])
    expected = np.einsum("shqt,thd->shqd", weights / weights.sum(-1, keepdims=True), units[1])
    # An exponent is off by sigmoid's error and three roundings of values up to F, twice; a probability by that and 1.3 units of 2^-24.
    relative = np.expm1(np.log(2) * 2 * float(factor) * (soft_cap.ERROR + 3 * 2.0**-25))
    bound = 2 * np.abs(units[1]).max() * (relative + tokens * 1.3 * 2.0**-24 + 2.0**-21)
    assert np.abs(seen - expected).max() <= bound
    if spread == 40.0 and cap == 2.0:
        plain = np.exp(scores - scores.max(-1, keepdims=True)) * (np.arange(tokens) < visible[:, None, None, None])
        other = np.einsum("shqt,thd->shqd", plain / plain.sum(-1, keepdims=True), units[1])
        assert np.abs(other - expected).max() > 100 * bound, "the cap changes nothing here"


@pytest.mark.slow
def test_the_bounds_know_the_largest_caps_error() -> None:
    """Scores are off by more than alignment moves them."""
    program, run = compiled(soft_cap.LARGEST), Run(tuple(range(1, 12)), 2)
    seen = functional.run(program, run)
    sequences = [[*run.prompt, *seen.tokens]]
    wide = reference.agreement(program, run, sequences, len(run.prompt), seen.routing[None])
    narrow = reference.agreement(compiled(0.0), run, sequences, len(run.prompt), seen.routing[None])
    assert wide.ok
    assert wide.logit_bound > 2 * narrow.logit_bound


def registers(program: Program) -> dict[int, int]:
    return {s.fields["register"]: s.fields["value"] for s in decode(program) if s.instruction is SET}


def test_a_program_sets_the_register_only_for_a_cap() -> None:
    assert registers(compiled(30.0))[Config.SOFT_CAP] == int(fp32.bits(soft_cap.factor(30.0)))
    assert Config.SOFT_CAP not in registers(compiled(0.0))


def test_it_costs_what_the_unit_takes() -> None:
    """At least once per attention; without one nothing."""
    run = Run(tuple(range(1, 25)), 6, routing="always")
    program = compiled(50.0)
    cycles = [timing.run(p, run).counters["ATTENTION_EDGE"] for p in (program, compiled(0.0))]
    chunks = 24 // TINY.tokens + 6 - 1
    assert cycles[0] - cycles[1] >= 3 * chunks * pipeline.SOFT_CAP


@pytest.mark.parametrize("value", [int(fp32.bits(soft_cap.factor(soft_cap.LARGEST))) + 1, 0x7F800000, 0x7FC00000, 0x80000001])
def test_what_the_register_refuses(value: int) -> None:
    program = compiled(soft_cap.LARGEST)
    (number,) = [s.pc for s in decode(program) if s.instruction is SET and s.fields["register"] == Config.SOFT_CAP]
    program.instructions[number] = SET.encode({"register": Config.SOFT_CAP, "value": value})
    with pytest.raises(MachineHalt, match=f"instruction {number}: SOFT_CAP is {value}; accepted: 0 to "):
        functional.run(program, Run((1, 2), 1))


@pytest.mark.parametrize("cap", [soft_cap.LEAST / 2, soft_cap.LARGEST * 1.01, 1e-38])
def test_caps_that_are_refused(cap: float) -> None:
    with pytest.raises(ProgramError, match=r"attention_cap is .*; accepted: 0, no cap, or 0.001 to 1000"):
        compiled(cap)


def test_what_a_machine_without_the_unit_refuses() -> None:
    for name in ("mono", "trio", "ulx3s"):
        assert not Machine.load(name).soft_cap
    lacking = dataclasses.replace(TINY, soft_cap=False)
    assert "soft_cap" not in lacking.hardware_parameters
    assert lacking.fingerprint != TINY.fingerprint
    with pytest.raises(
        ProgramError, match=r"machine tiny: soft_cap is False; accepted: true, for the model's attention_cap 30"
    ):
        compiled(30.0, lacking)
    assert compiled(0.0, lacking).instructions == compiled(0.0).instructions
