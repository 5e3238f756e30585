"""Files of thresholds, and what programs make of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import skipopu as sk
from compiler.frontend import masks
from compiler.frontend.checkpoint import load
from compiler.passes.heads import widen
from compiler.pipeline import compile_checkpoint
from sim.walk import decode
from skipopu.errors import CheckpointError, ProgramError
from skipopu.isa.registers import Config
from skipopu.isa.spec import EXTEND, MATMUL
from skipopu.machine.config import Machine
from skipopu.masks import ATTENTION, ATTENTION_OUTPUT, FFN, FFN_INNER, channels
from skipopu.program import file
from skipopu.program.program import Program
from tests.support import random_checkpoint, small_config

TINY = Machine.load("tiny")
STATIONARY = dataclasses.replace(TINY, stationary=True)
MASKING = dataclasses.replace(STATIONARY, masks=True)
CONFIG = small_config(head_dim=16)
LAYER = "model.layers.1."


def drawn(layers: int = 2, **sizes: int) -> masks.Masks:
    rng = np.random.default_rng(1)
    inputs = sizes or channels(CONFIG)
    return {name: rng.integers(0, 1 << 16, (layers, size)).astype(np.uint16) for name, size in inputs.items()}


def test_a_file_says_what_was_written(tmp_path: Path) -> None:
    given = drawn()
    masks.write(tmp_path / "m" / "any.safetensors", given, {"rule": "random"})
    read = masks.read(tmp_path / "m" / "any.safetensors", CONFIG)
    assert read.keys() == given.keys()
    assert all(np.array_equal(read[name], given[name]) for name in given)


def test_what_a_file_leaves_out_is_not_masked(tmp_path: Path) -> None:
    save_file({f"{LAYER}mlp.inner": np.full(200, 7, np.uint16)}, tmp_path / "m.safetensors")
    read = masks.read(tmp_path / "m.safetensors", CONFIG)
    assert list(read) == [FFN_INNER]
    assert read[FFN_INNER].tolist() == [[0] * 200, [7] * 200]


@pytest.mark.parametrize(
    ("name", "tensor", "said"),
    [
        (
            f"{LAYER}mlp.input",
            np.zeros(95, np.uint16),
            r"model.layers.1.mlp.input has shape \(95,\); config.json asks for \(96,\)",
        ),
        (f"{LAYER}mlp.input", np.zeros((96, 1), np.uint16), r"has shape \(96, 1\); config.json asks for \(96,\)"),
        (f"{LAYER}mlp.inner", np.zeros(96, np.uint16), r"has shape \(96,\); config.json asks for \(200,\)"),
        (f"{LAYER}mlp.input", np.zeros(96, np.int16), r"model.layers.1.mlp.input holds I16; accepted: U16"),
        (f"{LAYER}mlp.input", np.zeros(96, np.float32), r"holds F32; accepted: U16"),
        ("model.layers.2.mlp.input", np.zeros(96, np.uint16), r"model.layers.2.mlp.input is of a layer beyond the model's 2"),
        (f"{LAYER}mlp.outer", np.zeros(96, np.uint16), r"mlp.outer is not known; accepted: model.layers.N.self_attn.input, "),
        ("model.layers.01.mlp.input", np.zeros(96, np.uint16), r"model.layers.01.mlp.input is not known"),
        ("lm_head.input", np.zeros(96, np.uint16), r"lm_head.input is not known"),
    ],
)
def test_tensors_that_are_refused(name: str, tensor: np.ndarray, said: str, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({name: tensor}, path)
    with pytest.raises(CheckpointError, match=f"^{path}: tensor .*{said}"):
        masks.read(path, CONFIG)


def test_files_that_are_refused(tmp_path: Path) -> None:
    save_file({}, tmp_path / "empty.safetensors")
    (tmp_path / "text.safetensors").write_text("thresholds")
    for name, said in (
        ("empty", "it holds no thresholds"),
        ("text", "not a readable safetensors file"),
        ("no", "no such file"),
    ):
        with pytest.raises(CheckpointError, match=f"^{tmp_path / name}.safetensors: {said}"):
            masks.read(tmp_path / f"{name}.safetensors", CONFIG)
    with pytest.raises(CheckpointError, match=f"^{tmp_path} is a directory; accepted: a safetensors file"):
        masks.read(tmp_path, CONFIG)


def test_which_file_is_read(model: Path, tmp_path: Path) -> None:
    """The one beside the checkpoint, unless another or none is asked for."""
    assert load(model).masks is None
    masks.write(model / masks.MASKS_FILE, {FFN: np.ones((2, 96), np.uint16)})
    masks.write(tmp_path / "other", {FFN_INNER: np.ones((2, 200), np.uint16)})
    beside, other = sk.checkpoint(model).masks, sk.checkpoint(model, masks=tmp_path / "other").masks
    assert beside
    assert other
    assert (list(beside), list(other)) == ([FFN], [FFN_INNER])
    assert sk.checkpoint(model, masks=False).masks is None
    (model / masks.MASKS_FILE).rename(tmp_path / "moved")
    (model / masks.MASKS_FILE).symlink_to(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match=f"{masks.MASKS_FILE}: no such file"):
        load(model)
    (tmp_path / "moved").rename(model / masks.MASKS_FILE)
    with pytest.raises(ProgramError, match=r"machine tiny: masks is False; accepted: true, for .* or --no-masks"):
        sk.compile(model)
    assert not sk.compile(model, masks=False).masks
    with pytest.raises(
        ProgramError, match=r"masks is 'm', and the model no directory; accepted: sk.checkpoint\(directory, masks="
    ):
        sk.compile(sk.checkpoint(model, masks=False), masks="m")


@pytest.mark.parametrize("only", [None, FFN_INNER])
def test_a_program_holds_them(only: str | None, tmp_path: Path) -> None:
    """Each product that reads a masked input has an EXTEND in front of it, of the same address where the input is; no other has one."""
    given = {name: rows for name, rows in drawn().items() if only in (None, name)}
    checkpoint = dataclasses.replace(random_checkpoint(CONFIG), masks=given)
    program = compile_checkpoint(checkpoint, MASKING, context=40)
    program = Program.load(program.save(tmp_path))
    for name, rows in given.items():
        assert all(np.array_equal(program.thresholds(name, layer), rows[layer]) for layer in range(2))
    steps = decode(program)
    masked = [at for at, step in enumerate(steps) if step.instruction is EXTEND]
    assert all(steps[at + 1].instruction is MATMUL and steps[at + 1].fields["layered"] for at in masked)
    order = [ATTENTION, ATTENTION, ATTENTION_OUTPUT, FFN, FFN_INNER] if only is None else [only]
    assert [steps[at].fields["mask"] * 64 for at in masked] == [program.masks[name]["address"] for name in order]
    assert program.register(Config.MASKING) == 2
    assert compile_checkpoint(checkpoint, MASKING, context=40, mask_prompt=True).register(Config.MASKING) == 3


def test_without_thresholds_nothing_is_changed() -> None:
    plain = random_checkpoint(CONFIG)
    program, before = (compile_checkpoint(plain, machine, context=40) for machine in (MASKING, STATIONARY))
    assert program.instructions == before.instructions
    assert all(np.array_equal(a, b) for a, b in zip(program.memory, before.memory, strict=True))
    assert "masks" not in TINY.hardware_parameters
    assert MASKING.fingerprint != TINY.fingerprint
    assert MASKING.numerics_fingerprint("exact18") != TINY.numerics_fingerprint("exact18")
    with pytest.raises(ProgramError, match=r"mask_prompt \(--mask-prompt\) has no effect"):
        compile_checkpoint(plain, MASKING, mask_prompt=True)


def test_heads_that_grow_take_their_thresholds_along() -> None:
    config = small_config(head_dim=20, weight_group=64)
    wide = dataclasses.replace(MASKING, port_bits=256, vector_lanes=16)
    given = drawn(**channels(config))
    grown = widen(dataclasses.replace(random_checkpoint(config), masks=given), wide)
    assert grown.masks is not None
    heads = grown.masks[ATTENTION_OUTPUT].reshape(2, config.num_heads, 32)
    assert np.array_equal(heads[..., :20].reshape(2, -1), given[ATTENTION_OUTPUT])
    assert not heads[..., 20:].any()
    assert np.array_equal(grown.masks[FFN], given[FFN])


def test_files_from_before_there_were_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = file.write
    monkeypatch.setattr(file, "write", lambda where, d, images: write(where, {k: d[k] for k in d if k != "masks"}, images))
    program = compile_checkpoint(random_checkpoint(CONFIG), TINY, context=40)
    assert Program.load(program.save(tmp_path)).masks == {}


def test_a_file_of_a_description_that_names_no_input(tmp_path: Path) -> None:
    program = compile_checkpoint(dataclasses.replace(random_checkpoint(CONFIG), masks=drawn()), MASKING, context=40)
    program.masks["mlp.outer"] = program.masks[FFN]
    with pytest.raises(ProgramError, match=r"description: masks: a key is 'mlp.outer'; accepted: 'self_attn.input' or "):
        Program.load(program.save(tmp_path))
    del program.masks["mlp.outer"]
    program.masks[FFN] = {**program.masks[FFN], "address": len(program.memory[0])}
    with pytest.raises(ProgramError, match=r"mask mlp.input ends at "):
        Program.load(program.save(tmp_path))
