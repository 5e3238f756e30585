"""Masks of input channels: what they leave out, whose tokens' they are, functional engine and reference against each other."""

from __future__ import annotations

import dataclasses
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compiler.frontend import masks
from compiler.frontend.checkpoint import Checkpoint, load
from compiler.pipeline import compile_checkpoint
from sim.check import check
from sim.evaluation import evaluate
from sim.functional import engine as functional
from sim.masks import Masks
from sim.reference import engine as reference
from sim.result import Computed, logits_of
from sim.timing import engine as timing
from sim.walk import decode
from skipopu import cli
from skipopu.errors import MachineHalt, ProgramError
from skipopu.isa.registers import Config, Error
from skipopu.isa.spec import EXTEND, SET
from skipopu.layout import EmbeddingRows
from skipopu.machine.config import Machine
from skipopu.masks import ATTENTION, INPUT_OF, channels
from skipopu.numerics import mask
from skipopu.policy import KvPolicy
from skipopu.program.program import Program
from skipopu.program.run import Run
from tests.support import random_checkpoint, small_config
from tests.variants import VARIANTS

MASKING = dataclasses.replace(Machine.load("tiny"), stationary=True, masks=True)
CONFIG = small_config(num_layers=3)
PROMPT = tuple(range(3, 14))
PLAIN = random_checkpoint(CONFIG, 2)
# Products' tensors that read an input.
TENSORS = {
    own: tuple(name for name in ("q", "k", "v", "o", "gate", "up", "down") if INPUT_OF[name] == own) for own in channels(CONFIG)
}


def filled(checkpoint: Checkpoint, value: int, *inputs: str) -> Checkpoint:
    config = checkpoint.config
    given = {n: np.full((config.num_layers, size), value, np.uint16) for n, size in channels(config).items() if n in inputs}
    return dataclasses.replace(checkpoint, masks=given)


def drawn(checkpoint: Checkpoint, seed: int = 0) -> Checkpoint:
    """Thresholds about the keys of numbers from 2^-4 to 2; a tenth of them 0."""
    config, rng = checkpoint.config, np.random.default_rng(seed)
    shapes = {name: (config.num_layers, size) for name, size in channels(config).items()}
    given = {name: rng.integers(2 * mask.ONE - 4 * 128, 2 * mask.ONE + 128, shape) for name, shape in shapes.items()}
    given = {name: np.where(rng.random(rows.shape) < 0.1, 0, rows).astype(np.uint16) for name, rows in given.items()}
    return dataclasses.replace(checkpoint, masks=given)


def compiled(checkpoint: Checkpoint, machine: Machine = MASKING, **options: Any) -> Program:
    return compile_checkpoint(checkpoint, machine, **{"context": 40, "logits": True, "mask_prompt": True} | options)


def recorded(program: Program, run: Run) -> tuple[Computed, Masks]:
    """A run's result, and its masks of the tokens that were processed."""
    seen = Masks(program, len(run.prompt) + run.max_new)
    result = functional.run(program, run, functional.Options(masks=seen.see))
    return result, seen.until(result.routing.shape[-1])


def test_thresholds_of_0_change_no_bit() -> None:
    run = Run(PROMPT, 4, check=True)
    plain, masked = (functional.run(compiled(c, mask_prompt=c is not PLAIN), run) for c in (PLAIN, filled(PLAIN, 0, *TENSORS)))
    assert [r.signature for r in plain.trace] == [r.signature for r in masked.trace]
    assert (plain.tokens, plain.channels) == (masked.tokens, (0, 0))
    assert masked.channels[0] == masked.channels[1] > 0


@pytest.mark.parametrize("own", TENSORS)
def test_channels_that_never_count_are_zeros(own: str) -> None:
    """Bit for bit what weights of zeros give."""
    names = [f".{name}_proj.weight" for name in TENSORS[own]]
    zeros = {n: 0 * t if n.endswith(tuple(names)) else t for n, t in PLAIN.tensors.items()}
    programs = compiled(filled(PLAIN, mask.NEVER, own)), compiled(dataclasses.replace(PLAIN, tensors=zeros), mask_prompt=False)
    results = [functional.run(program, Run(PROMPT, 3, check=True)) for program in programs]
    logits = [logits_of(p, r, len(PROMPT) + 2) for p, r in zip(programs, results, strict=True)]
    assert np.array_equal(*(numbers.view(np.uint32) for numbers in logits))
    assert [r.signature for r in results[0].trace] == [r.signature for r in results[1].trace]
    assert results[0].channels[0] == 0 < results[0].channels[1]


def test_the_first_masks_are_those_of_the_rule() -> None:
    """Embeddings and 1/rms as the machine has them, patterns taken apart by hand; 96 channels do not fill a group of 128."""
    program, run = compiled(drawn(PLAIN)), Run(PROMPT)
    _, seen = recorded(program, run)
    region = program.regions["embedding"]
    rows = EmbeddingRows(96, CONFIG.vocab_size, 2).unpack(
        [p[region.address : region.address + region.size] for p in program.memory]
    )

    def key(x: float) -> int:
        return struct.unpack("<I", struct.pack("<f", abs(x)))[0] >> 16

    close = 0
    for position, token in enumerate(PROMPT):
        x = rows[token].astype(np.float64)
        root = 1 / np.sqrt(np.square(x).mean() + CONFIG.rms_norm_eps)
        expected = [key(v) + key(root) >= t for v, t in zip(x, program.thresholds(ATTENTION, 0).tolist(), strict=True)]
        assert seen.active[ATTENTION][0, position].tolist() == expected
        close += sum(key(v) + key(root) == t for v, t in zip(x, program.thresholds(ATTENTION, 0).tolist(), strict=True))
    assert close, "none at its threshold"


@pytest.mark.parametrize("prompt", [False, True])
def test_whose_tokens_are_masked(prompt: bool) -> None:
    """Whatever the chunks are; counted alike by both engines."""
    run, results = Run(PROMPT, 5), []
    for tokens in (4, 16):
        program = compiled(drawn(PLAIN), MASKING.with_chunk(tokens), mask_prompt=prompt)
        result, seen = recorded(program, run)
        for own, tokens_seen in seen.seen.items():
            first = 0 if prompt else len(PROMPT)
            assert not tokens_seen[:, :first].any()
            assert tokens_seen[0, first:].all() or own.startswith("mlp")
        results.append((result.tokens, result.channels, {name: a.tobytes() for name, a in seen.active.items()}))
    assert results[0] == results[1]
    seen_active = sum(
        int((seen.active[own] & seen.seen[own][..., None]).sum()) * (2 if own == ATTENTION else 1) for own in seen.active
    )
    assert result.channels[0] == seen_active
    sequence = [*PROMPT, *result.tokens]
    model = reference.model_of(program)
    replayed = reference.replayed([seen])
    ids = torch.tensor([sequence[: result.routing.shape[-1]]])
    out, _, _ = reference.decided(program, model, ids, run, torch.from_numpy(result.routing[None].copy()), replayed)
    assert out.channels == result.channels


def test_the_reference_masks_the_same_tokens() -> None:
    ids, logits = torch.tensor([PROMPT]), []
    for checkpoint, prompt in ((PLAIN, False), (drawn(PLAIN), False), (drawn(PLAIN), True)):
        program = compiled(checkpoint, mask_prompt=prompt)
        logits.append(reference.forward(program, reference.model_of(program), ids, Run(PROMPT)).logits)
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])


def agreed(program: Program, run: Run, *spoiled: tuple[str, int]) -> reference.Agreement:
    """Functional engine against reference, masks replayed; ``spoiled`` inputs' masks of a layer are turned round."""
    result, seen = recorded(program, run)
    count = result.routing.shape[-1]
    for own, layer in spoiled:
        seen.active[own][layer] ^= seen.seen[own][layer][:, None]
    sequence = [*run.prompt, *result.tokens]
    logits = logits_of(program, result, count)[None] if program.logits else None
    return reference.agreement(program, run, [sequence], len(run.prompt), result.routing[None], logits, masks=[seen])


@pytest.mark.parametrize("kv", KvPolicy)
def test_engines_agree(kv: KvPolicy) -> None:
    program, run = compiled(drawn(PLAIN), kv=kv), Run(PROMPT, 3)
    found = agreed(program, run)
    assert found.ok
    assert found.max_logit_error is not None
    assert found.max_logit_error < found.logit_bound
    assert found.masks.inside < 0.1 * found.masks.positions
    wrong = agreed(program, run, ("mlp.inner", 1))
    assert not wrong.ok
    assert wrong.masks.differing > 0.5 * wrong.masks.positions / 12


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_engines_agree_on_every_form(name: str) -> None:
    """Also where ADJUST makes what a product reads, or no norm is in front of it; random networks may magnify a flip, masks are replayed."""
    checkpoint = random_checkpoint(small_config(num_layers=2, **VARIANTS[name]), 3)
    found = agreed(compiled(drawn(checkpoint), weights="int8"), Run(PROMPT, 2))
    assert found.ok
    assert found.masks.positions > 1000
    assert found.masks.inside < 0.2 * found.masks.positions


@pytest.mark.rtl
@pytest.mark.parametrize("kv", KvPolicy)
@pytest.mark.parametrize("prompt", [False, True])
def test_the_shipped_model(shipped: Path, kv: KvPolicy, prompt: bool) -> None:
    program = compiled(drawn(load(shipped)), kv=kv, mask_prompt=prompt, context=64, logits=False)
    found = check(program, Run(tuple(b"def read(self, size=-1):\n"), 16))
    assert found.ok, found.problems
    assert found.differing_bits == 0
    assert abs(found.cycle_error or 1) < 0.03
    assert found.functional.active_channels_share is not None
    assert 0.2 < found.functional.active_channels_share < 0.9
    assert found.agreement.masks.inside < 0.1 * found.agreement.masks.positions


@pytest.mark.slow
def test_the_bounds_are_needed(shipped: Path) -> None:
    """Keys of the machine's numbers are others here and there: without bounds engines would differ."""
    program, text = compiled(drawn(load(shipped)), context=128, logits=False), (shipped / "heldout.txt").read_bytes()
    run = Run(tuple(text[:127]))
    result, seen = recorded(program, run)
    ids, routing = (torch.from_numpy(x) for x in (np.array([run.prompt]), result.routing[None].copy()))
    _, _, masking = reference.decided(program, reference.model_of(program), ids, run, routing, reference.replayed([seen]))
    masking.spread(masking)
    assert masking.compared(0.0, 0.0, 0).differing > 0
    assert agreed(program, run).ok


@pytest.mark.slow
def test_losses_and_commands(shipped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = drawn(load(shipped))
    assert checkpoint.masks is not None
    file, target, text = tmp_path / "m.safetensors", tmp_path / "masking.yaml", tmp_path / "text"
    masks.write(file, checkpoint.masks)
    target.write_text("base: tiny\nstationary: true\nmasks: true\n")
    text.write_bytes((shipped / "heldout.txt").read_bytes()[:600])
    program = compiled(checkpoint, MASKING.with_chunk(64), context=64, logits=False)
    passage = program.text.passage(text.read_bytes())
    losses = [evaluate(program, passage, engine, 64, False) for engine in ("functional", "reference")]
    assert abs(losses[0].nats - losses[1].nats) < 0.01 * losses[0].nats
    assert abs(losses[0].channels[0] - losses[1].channels[0]) < 0.01 * losses[0].channels[0]
    given = ["--target", str(target), "--masks", str(file)]
    for more, command in ((["--prompt", "def ", "--max-new", "4"], "run"), (["--text", str(text), "--mask-prompt"], "eval")):
        assert cli.main([command, str(shipped), *given, *more, "--json", str(tmp_path / "json")]) == 0
        records = {r["name"]: r["value"] for r in json.loads((tmp_path / "json").read_text())["records"]}
        assert 0 < records["active_channels_share"] < 1
    assert cli.main(["eval", str(shipped), *given, "--text", str(text)]) == 0
    assert "the program masks no channels; --mask-prompt" in capsys.readouterr().err.replace("\n", " ")


def test_timing_asks_which_channels_are_left_out() -> None:
    program, run = compiled(drawn(PLAIN)), Run(PROMPT, 1)
    routed = functional.run(program, run)
    with pytest.raises(ProgramError, match="which channels are left out is not said"):
        timing.run(program, run, timing.Options(routed))


def replaced(program: Program, pc: int, word: int) -> Program:
    return dataclasses.replace(program, instructions=[*program.instructions[:pc], word, *program.instructions[pc + 1 :]])


def test_what_the_machine_refuses() -> None:
    program = compiled(drawn(PLAIN))
    steps = decode(program)
    extend = next(step for step in steps if step.instruction is EXTEND)
    register = next(step for step in steps if step.instruction is SET and step.fields["register"] == Config.MASKING)
    other = dataclasses.replace(program, machine=Machine.load("tiny"))  # without masks
    cases = [
        (replaced(program, extend.pc, EXTEND.encode({**extend.fields, "rank": 1})), extend.pc, Error.ILLEGAL_INSTRUCTION),
        (other, register.pc, Error.CONFIGURATION),
        (replaced(other, register.pc, program.instructions[0]), extend.pc, Error.ILLEGAL_INSTRUCTION),
        (replaced(program, extend.pc, EXTEND.encode({"mask": (1 << 28) - 1})), extend.pc + 1, Error.AXI_READ),
        (
            replaced(program, register.pc, SET.encode({"register": Config.MASKING, "value": 4})),
            register.pc,
            Error.CONFIGURATION,
        ),
    ]
    for wrong, pc, code in cases:
        with pytest.raises(MachineHalt) as caught:
            functional.run(wrong, Run(PROMPT, 1))
        assert (caught.value.code, caught.value.pc) == (code, pc)
