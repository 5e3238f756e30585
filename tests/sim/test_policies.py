"""Skip policies in the functional engine, the reference and the timing engine: what they decide, and that all three agree."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compiler.pipeline import compile_checkpoint
from sim import check as checking
from sim.functional import engine as functional
from skipopu.errors import ProgramError
from skipopu.machine.config import Machine
from skipopu.policy import WINDOW
from skipopu.program.program import Program
from skipopu.program.run import Run
from tests.support import random_checkpoint, said, small_config

pytestmark = pytest.mark.slow

LAYERS, PROMPT, NEW = 5, tuple(range(1, 12)), 4
TINY = Machine.load("tiny")
MASKS = {
    "prefill": {"attention": "never"},
    "decode": {"ffn": "never"},
    "layers": {"1": {"attention": "always"}, "2-3": {"decode": {"attention": "never", "ffn": "always"}}, "4": {"ffn": "exit"}},
}
BY_NORM = {"attention": "norm", "ffn": "norm"}
EITHER_KV = pytest.mark.parametrize("kv", ["reuse", "dense"])


def compiled(kv: str = "reuse", policies: Any = None, routers: bool = True, machine: Machine = TINY) -> Program:
    return _compiled(kv, json.dumps(policies), routers, machine)


@functools.cache
def _compiled(kv: str, policies: str, routers: bool, machine: Machine) -> Program:
    checkpoint = random_checkpoint(small_config(num_layers=LAYERS), 1, routers)
    return compile_checkpoint(checkpoint, machine, kv, context=24, policies=json.loads(policies))


@EITHER_KV
def test_masks_hold_per_layer_module_and_phase(kv: str) -> None:
    run = Run(PROMPT, NEW)
    seen = functional.run(compiled(kv, MASKS), run).routing
    prefill, decode = seen[:, :, : len(PROMPT)], seen[:, :, len(PROMPT) :]
    assert decode.shape[2] == NEW - 1
    assert prefill[0, 0].all() == (kv == "reuse"), "what the KV policy forces"
    assert not prefill[2:, 0].any()
    assert seen[1, 0].all()
    assert not decode[:2, 1].any()
    assert decode[2:4, 1].all()
    assert not decode[2:4, 0].any()
    assert 0 < prefill[2:4, 1].mean() < 1, "routers decide what no mask says"


@EITHER_KV
def test_early_exit_is_for_good(kv: str) -> None:
    program = compiled(kv)
    routed, seen = (functional.run(program, Run(PROMPT, NEW, routing=name)).routing for name in ("router", "exit"))
    assert (np.diff(seen.astype(int), axis=0) <= 0).all(), "a skipped module stays skipped"
    assert 0 < seen[-1].mean() < seen[1].mean() < 1
    prompt = slice(0, len(PROMPT))
    assert (seen[0, :, prompt] == routed[0, :, prompt]).all(), "in front of the first layer there is nothing to stay skipped"
    assert seen[0, 0].all() == (kv == "reuse")
    more = functional.run(program, Run(PROMPT, NEW, -1000.0, routing="exit")).routing
    assert more.all(), "the dial is its threshold"


@EITHER_KV
def test_norms_decide_without_routers(kv: str) -> None:
    program = compiled(kv, BY_NORM, routers=False)
    assert functional.run(program, Run(PROMPT, NEW, routing="norm")).routing.all(), "every layer changes the norm by 0 or more"
    shares = [functional.run(program, Run(PROMPT, NEW, dial, routing="norm")).routing for dial in (0.3, 0.6, 0.99)]
    assert 1 > shares[0].mean() > shares[1].mean() > shares[2].mean() > 0.5
    for seen in shares:
        assert seen[0].all(), "the first layer changes it wholly"
        assert (seen[1:] | seen[:-1]).all(), "whoever skipped a layer executes the next"
        assert (seen[1:, 0] == seen[1:, 1]).all(), "both modules see the same norm"


@EITHER_KV
def test_without_routers_it_is_decided_ahead(kv: str) -> None:
    """Zeros once per chunk instead of a product per layer; what is never weighed cannot be asked for later."""
    ahead, weighed = compiled(kv, routers=False), compiled(kv, BY_NORM, routers=False)
    assert [program.decides_ahead for program in (ahead, weighed, compiled(kv))] == [True, False, False]
    run = Run(PROMPT, NEW, routing="always")
    one, other = (functional.run(program, run) for program in (ahead, weighed))
    assert one.tokens == other.tokens
    with pytest.raises(ProgramError, match="policy is 'norm', which weighs the residual; this program of model random decides"):
        Run(PROMPT, NEW, routing="norm").validate(ahead)


@EITHER_KV
@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_best_of_each_window_execute(kv: str, keep: int) -> None:
    program, run = compiled(kv), Run(PROMPT, NEW, routing=f"top{keep}")
    seen = functional.run(program, run).routing
    begun = 1 if kv == "reuse" else 0
    for first in range(0, len(PROMPT), WINDOW):
        window = seen[:, :, first : min(first + WINDOW, len(PROMPT))]
        assert (window[begun:].sum(-1) == -(-keep * window.shape[2] // WINDOW)).all()
    routed = functional.run(program, Run((*PROMPT, *functional.run(program, run).tokens), routing="router")).routing
    assert (seen[0, 1, len(PROMPT) :] == routed[0, 1, len(PROMPT) : seen.shape[2]]).all(), (
        "in decoding the router's dial decides"
    )
    differences = checking.reference.forward(
        program, checking.reference.model_of(program), torch.tensor([PROMPT]), run
    ).differences
    best = differences[0, 0, 1, :WINDOW].argsort(descending=True)[:keep]
    assert set(best.tolist()) == set(np.flatnonzero(seen[0, 1, :WINDOW]).tolist())


def test_windows_need_whole_chunks() -> None:
    three = dataclasses.replace(TINY, tokens=3)
    with pytest.raises(
        ProgramError, match="policy is 'top2', which compares windows of 4 tokens; machine tiny takes 3 at once;"
    ):
        functional.run(compiled(machine=three), Run(PROMPT, routing="top2"))
    with pytest.raises(ProgramError, match="policy is 'top1', which compares windows of 4 tokens; machine tiny takes 3"):
        compiled(machine=three, policies={"layers": {"2": {"ffn": "top1"}}})


def test_a_dial_beyond_the_range_saturates() -> None:
    run = Run(PROMPT, dial=3e38, routing="norm")
    program = compiled("reuse", BY_NORM, routers=False)
    assert not functional.run(program, dataclasses.replace(run, dial=1e30)).saturated
    small = dataclasses.replace(program, memory=[port.copy() for port in program.memory])
    region = program.regions["embedding"]
    for port in small.memory:
        table = port[region.address : region.address + region.size].view(np.float16)
        table[:] = table * np.float16(0.01)
    assert functional.run(small, run).saturated


def asked(name: str) -> tuple[Any, Run]:
    """Policies to compile with, and the run."""
    dial = {"norm": 0.4}.get(name, 0.0)
    return (MASKS, Run(PROMPT, NEW)) if name == "masks" else (None, Run(PROMPT, NEW, dial, routing=name))


POLICIES = ["masks", "exit", "norm", "top2"]


@EITHER_KV
@pytest.mark.parametrize("name", POLICIES)
def test_reference_and_timing_engine_follow(kv: str, name: str) -> None:
    policies, run = asked(name)
    program = compiled(kv, policies)
    found = checking.check(program, run, with_rtl=False)
    assert found.ok
    assert found.reference.tokens == found.functional.tokens
    assert (found.reference.routing == found.functional.routing).all()
    weighed = sum(len(PROMPT if phase == 0 else range(NEW - 1)) for layer in run.policies(program) for phase in (0, 1)
                  for policy in layer[phase] if policy.weighs)  # fmt: skip
    assert found.agreement.routing_positions == weighed > 0
    assert found.agreement.routing_inside < weighed / 10
    assert (found.timing.routing == found.functional.routing).all()
    assert found.timing.kv_entries == found.functional.kv_entries
    replayed = functional.run(program, Run(PROMPT, NEW, routing=found.functional.routing))
    assert (replayed.routing == found.functional.routing).all()
    assert replayed.tokens == found.functional.tokens


@pytest.mark.parametrize("name", POLICIES)
def test_a_decision_that_is_another_is_found(name: str) -> None:
    policies, run = asked(name)
    golden = compiled("dense", policies)
    seen = functional.run(golden, run)
    for layer, module, position in ((0, 1, 3), (LAYERS - 1, 1, 5), (LAYERS - 1, 1, len(PROMPT))):
        other = seen.routing.copy()
        other[layer, module, position] ^= True
        sequence = [*PROMPT, *seen.tokens]
        found = checking.reference.agreement(golden, run, [sequence], len(PROMPT), other[None])
        weighs = run.policies(golden)[layer][position >= len(PROMPT)][module].weighs
        assert bool(found.routing_differing) == bool(weighs)


@EITHER_KV
@pytest.mark.parametrize("name", POLICIES)
def test_no_decision_depends_on_the_chunk(kv: str, name: str) -> None:
    policies, run = asked(name)
    four, eight = (functional.run(compiled(kv, policies, machine=TINY.with_chunk(n)), run) for n in (4, 8))
    assert (four.routing == eight.routing).all()
    assert four.tokens == eight.tokens


@pytest.mark.parametrize("policy", ["exit", "norm"])
def test_undecided_positions_are_shown(policy: str) -> None:
    """A dial on a token's own difference, or change of norm: within the bound whatever the machine decides is accepted."""
    last = LAYERS - 1
    program = compiled(policies={"attention": "always", "ffn": "always", "layers": {str(last): {"ffn": policy}}})
    model = checking.reference.model_of(program)
    out, deciding, _ = checking.reference.decided(program, model, torch.tensor([PROMPT]), Run(PROMPT))
    before, norm = deciding.norms[-2:]
    dial = out.differences[:, last, 1] if policy == "exit" else (before - norm).abs() / norm
    run = Run(PROMPT, dial=float(dial[0, 4]))
    found = checking.check(program, run, with_rtl=False)
    assert found.agreement.routing_inside > 0
    other = found.functional.routing.copy()
    other[last, 1, 4] ^= True
    assert not checking.reference.agreement(program, run, [[*PROMPT]], len(PROMPT), other[None]).routing_differing


def test_policies_that_ask_routers_need_some() -> None:
    program = compiled(routers=False)
    with pytest.raises(ProgramError, match="policy is 'exit', which asks routers; model random has none"):
        functional.run(program, Run(PROMPT, routing="exit"))
    assert functional.run(compiled(routers=False, policies={"decode": {"ffn": "never"}}), Run(PROMPT, NEW)).executed_share < 1


def test_programs_keep_them(tmp_path: Path) -> None:
    program = compiled(policies=MASKS)
    loaded = Program.load(program.save(tmp_path))
    run = Run(PROMPT, NEW)
    assert run.policies(loaded) == run.policies(program)
    assert dataclasses.replace(run, routing="always").policies(loaded) != run.policies(program)


def test_commands(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    masks, out = tmp_path / "masks.yaml", tmp_path / "figures.json"
    masks.write_text("layers: {1-3: {ffn: never}}")
    common = ["pybyte-300k", "--target", "ulx3s", "--context", "32"]
    short = [*common, "--prompt", "def", "--max-new", "2"]
    text = tmp_path / "text"
    text.write_bytes(b"def read(self):\n")
    shares = []
    for command in (
        ["run", *short, "--policies", masks],
        ["run", *short, "--policies", masks, "--policy", "router"],
        ["check", *short, "--no-rtl", "--policy", "exit"],
        ["run", *short, "--engine", "timing", "--policy", "exit"],
        ["eval", *common, "--text", text, "--policies", masks],
        ["eval", *common, "--text", text, "--policy", "exit", "--dial", "44"],
        ["eval", *common, "--text", text, "--policy", "exit", "--dial", "44", "--engine", "reference"],
    ):
        code, error = said([*command, "--json", out], capsysbinary)
        assert code == 0, error
        records = {record["name"]: record["value"] for record in json.loads(out.read_text())["records"]}
        if "executed_share" in records:
            shares.append(records["executed_share"])
    code, error = said(
        ["compile", "--shape", "llama-2-7b", "--target", "u280", "--policies", masks, "-o", tmp_path / "x"], capsysbinary
    )
    assert (code, "--policies has no effect on --shape" in error) == (2, True)
    code, error = said(["eval", *common, "--text", text, "--always", "--dial", "1"], capsysbinary)
    assert (code, "dial is 1.0; it has no effect" in error) == (2, True)
    code, error = said(["eval", *common, "--text", text, "--policy", "top2"], capsysbinary)
    assert (code, "machine ulx3s takes 2 at once; accepted: a multiple of 4" in error) == (2, True)
    assert len(set(shares)) == len(shares) - 1, "each policy skips another share; both engines the same"
