"""Adapters as PEFT saves them: what they add is the formula's, in every form; what does not fit the model is named."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import skipopu as sk
from compiler.frontend.checkpoint import load
from compiler.pipeline import compile_checkpoint
from compiler.quantise.write import Writer
from sim.quantise.calibrate import Asked, quantise
from skipopu.errors import CheckpointError, ProgramError
from skipopu.machine.config import Machine
from skipopu.numerics.formats import INT4, INT8, Format
from tests.adapters import CONFIG, DOWN, PEFT, QUERY, RANK, UP, adapter, added, drawn, pair, product
from tests.support import random_checkpoint, said, small_config


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, 6 / 4),
        ({"use_rslora": True}, 6 / 2),
        ({"lora_alpha": 1, "target_modules": ["c_attn", "mlp.up_proj"], "layers_to_transform": [1]}, 1 / 4),
        ({"target_modules": r".*\.1\.mlp\.up_proj"}, 6 / 4),
        ({"alpha_pattern": {"up_proj": 10, "mlp.up_proj": 11}}, 10 / 4),
        ({"alpha_pattern": {"layers.0.mlp.up_proj": 10, r"layers\.\d+\.mlp\..*": 12}}, 12 / 4),
        ({"rank_pattern": {"up_proj": 3}}, 6 / 3),
        ({"r": 64, "rank_pattern": {"^model.layers.1.mlp.up_proj": 3}, "use_rslora": True}, 6 / math.sqrt(3)),
        ({"target_modules": [UP], "layers_to_transform": [0]}, 6 / 4),  # a whole name is of its own layer
        ({"target_modules": ["up_proj"], "exclude_modules": ["layers.0.mlp.up_proj"]}, 6 / 4),
        ({"target_modules": "all-linear", "fan_in_fan_out": True, "lora_dropout": 0.1, "task_type": "CAUSAL_LM"}, 6 / 4),
    ],
)
def test_the_formula(directory: Path, config: dict[str, Any], scale: float) -> None:
    tensors = pair(UP, 3 if "rank_pattern" in config else RANK)
    path = adapter(directory, tensors, **config)
    assert np.allclose(added(directory, path, UP), product(tensors, UP, scale), atol=1e-6)
    assert not added(directory, path, DOWN).any()


@pytest.mark.parametrize(
    ("prefix", "name"),
    [("", ""), (PEFT, "default."), (f"module.{PEFT}", "other."), (f"_orig_mod.{PEFT}", ""), ("base_model.model.", "a-b.")],
)
def test_names_with_prefixes_and_an_adapters(directory: Path, prefix: str, name: str) -> None:
    tensors = pair(UP, prefix=prefix, name=name)
    path = adapter(directory, tensors)
    assert np.allclose(added(directory, path, UP), product(tensors, UP, 1.5, prefix, name), atol=1e-6)


def test_modules_inside_others(directory: Path) -> None:
    """SkipGPT's layers are around the model's own; an adapter of the model without its head has no ``model.`` in front."""
    tensors = pair(UP)
    for old, new in (("layers.1.", "layers.1.block."), ("model.layers", "layers")):
        renamed = {f"{PEFT}{name.removeprefix(PEFT).replace(old, new)}": tensor for name, tensor in tensors.items()}
        assert renamed.keys() != tensors.keys()
        path = adapter(directory, renamed, target_modules=["up_proj"], layers_to_transform=1)
        assert np.allclose(added(directory, path, UP), product(tensors, UP, 1.5), atol=1e-6)


def test_rows_are_merged_as_they_are_read(directory: Path) -> None:
    """No row depends on what is read with it: as little as is asked for is read."""
    path = adapter(directory, pair(UP) | {f"{PEFT}{UP}.lora_magnitude_vector": 1 + drawn(200)}, use_dora=True)
    own = load(directory, lora=path).own
    assert own is not None
    whole = own.read(f"{UP}.weight", slice(None))
    for rows in (slice(0, 1), slice(3, 50), slice(199, 200), slice(5, 5), slice(2, 90, 3)):
        assert np.allclose(own.read(f"{UP}.weight", rows), whole[rows], atol=1e-6)
        assert own.read(f"{UP}.weight", rows).shape == whole[rows].shape


def test_weights_with_magnitudes(directory: Path) -> None:
    """DoRA: rows of the sum, each as long as its magnitude says."""
    tensors, magnitude = pair(QUERY), 1 + np.abs(drawn(128))
    for name in ("lora_magnitude_vector", "lora_magnitude_vector.weight", "lora_magnitude_vector.default.weight"):
        path = adapter(directory, tensors | {f"{PEFT}{QUERY}.{name}": magnitude}, use_dora=True)
        found = load(directory, lora=path).tensors[f"{QUERY}.weight"]
        total = random_checkpoint(CONFIG).tensors[f"{QUERY}.weight"] + product(tensors, QUERY, 1.5)
        assert np.allclose(np.linalg.norm(found, axis=1), magnitude, rtol=1e-5)
        assert np.allclose(found, magnitude[:, None] * total / np.linalg.norm(total, axis=1, keepdims=True), atol=1e-5)


def test_an_embedding(directory: Path) -> None:
    a, b, module = drawn(RANK, 70), drawn(96, RANK), "model.embed_tokens"
    for name in ("", ".default"):
        path = adapter(directory, {f"{PEFT}{module}.lora_embedding_A{name}": a, f"{PEFT}{module}.lora_embedding_B{name}": b})
        assert np.allclose(added(directory, path, module), 1.5 * (b.astype(np.float64) @ a).T, atol=1e-6)
        assert np.allclose(
            load(directory, lora=path).tensors.read(f"{module}.weight", slice(3, 5)),  # type: ignore[attr-defined]
            load(directory, lora=path).tensors[f"{module}.weight"][3:5],
        )


def test_biases(directory: Path) -> None:
    """Those that were trained, whole, and those of B, which are added."""
    checkpoint = random_checkpoint(small_config(biases=("q", "o")), 1)
    (directory / "config.json").write_text(json.dumps(checkpoint.config.to_hf()))
    save_file(dict(checkpoint.tensors), directory / "model.safetensors")
    new, more, tensors = drawn(96), drawn(128), pair(QUERY)
    for name in ("bias", "base_layer.bias"):
        whole = {f"{PEFT}model.layers.0.self_attn.o_proj.{name}": new}
        path = adapter(directory, tensors | whole | {f"{PEFT}{QUERY}.lora_B.bias": more}, bias="all", lora_bias=True)
        found = load(directory, lora=path).tensors
        assert (found["model.layers.0.self_attn.o_proj.bias"] == new).all()
        assert np.allclose(added(directory, path, QUERY, "bias"), 1.5 * more, atol=1e-6)
        assert not added(directory, path, "model.layers.1.self_attn.o_proj", "bias").any()


def test_whole_modules(directory: Path) -> None:
    """``modules_to_save``, and the embedding that matrices are added to; routers may be among them."""
    norm, head, table = drawn(96), drawn(70, 96), drawn(70, 96)
    a, b = drawn(RANK, 70), drawn(96, RANK)
    tensors = {
        f"{PEFT}model.norm.weight": norm,
        f"{PEFT}lm_head.modules_to_save.default.weight": head,
        f"{PEFT}model.embed_tokens.base_layer.weight": table,
        f"{PEFT}model.embed_tokens.lora_embedding_A": a,
        f"{PEFT}model.embed_tokens.lora_embedding_B": b,
    }
    for layer in range(2):
        for module in ("attention", "mlp"):
            tensors[f"{PEFT}model.layers.{layer}.router_{module}.weight_predictor.weight"] = np.array([[2], [1]]) * np.ones(
                (1, 96), np.float32
            )
    path = adapter(directory, tensors, modules_to_save=["model.norm", "lm_head", "router_attention", "router_mlp"])
    found = load(directory, lora=path)
    assert (found.tensors["model.norm.weight"] == norm).all()
    assert (found.tensors["lm_head.weight"] == head).all()
    assert np.allclose(found.tensors["model.embed_tokens.weight"], table + 1.5 * (b @ a).T, atol=1e-6)
    assert found.routers is not None
    assert (found.routers[1][0].weight == 1).all()


def test_only_one_of_two_tensors_that_are_one(directory: Path) -> None:
    (directory / "config.json").write_text(json.dumps(CONFIG.to_hf() | {"tie_word_embeddings": True}))
    own = dict(random_checkpoint(CONFIG).tensors)
    del own["lm_head.weight"]
    save_file(own, directory / "model.safetensors")
    embedding, head, table = f"{PEFT}model.embed_tokens", f"{PEFT}lm_head", drawn(70, 96)
    matrices = {f"{embedding}.lora_embedding_A": drawn(RANK, 70), f"{embedding}.lora_embedding_B": drawn(96, RANK)}
    for tensors in (matrices, {f"{embedding}.weight": table}, {f"{head}.weight": table}):
        with pytest.raises(CheckpointError, match=r"it changes tensor .* alone, and config.json says tie_word_embeddings"):
            load(directory, lora=adapter(directory, tensors))
    found = load(directory, lora=adapter(directory, matrices, ensure_weight_tying=True)).tensors
    assert not np.array_equal(found["model.embed_tokens.weight"], own["model.embed_tokens.weight"])
    both = {f"{embedding}.weight": table, f"{head}.weight": table}
    assert (load(directory, lora=adapter(directory, both)).tensors["model.embed_tokens.weight"] == table).all()
    with pytest.raises(CheckpointError, match=r"lm_head.weight differs from the embedding"):
        load(directory, lora=adapter(directory, both | {f"{head}.weight": 2 * table}))


def test_an_adapter_in_the_models_directory_is_merged_when_it_is_named(directory: Path) -> None:
    tensors = pair(UP)
    path = adapter(directory, tensors)
    for file in path.iterdir():
        shutil.copy(file, directory)
    for lora in (None, path):
        with pytest.raises(CheckpointError, match=r"adapter_config.json: an adapter's weights are read by --lora"):
            load(directory, lora=lora)
    assert not np.array_equal(
        load(directory, lora=directory).tensors[f"{UP}.weight"], random_checkpoint(CONFIG).tensors[f"{UP}.weight"]
    )


def test_another_base_is_only_remarked(directory: Path) -> None:
    for base, remarks in (("org/other-7b", 1), (f"org/{directory.name}", 0), (None, 0), ("", 0)):
        found = load(directory, lora=adapter(directory, pair(UP), base_model_name_or_path=base))
        assert len(found.remarks) == remarks
    assert (
        "adapter_config.json: base_model_name_or_path is 'org/other-7b'; merged into"
        in (load(directory, lora=adapter(directory, pair(UP), base_model_name_or_path="org/other-7b")).remarks[0])
    )


@pytest.mark.parametrize("format", [INT4, INT8])
def test_a_quantised_base_is_rounded_again(directory: Path, format: Format) -> None:
    """What is added to its integers is no longer one of them, which the compiler says; as many bits are taken."""
    config = small_config(intermediate_size=192)
    (directory / "config.json").write_text(json.dumps(config.to_hf()))
    save_file(dict(random_checkpoint(config).tensors), directory / "model.safetensors")
    checkpoint, base, formats = load(directory), directory / "base", {"gate": format, "up": format}
    asked = Asked(32, "rtn", formats)
    found = quantise(checkpoint, np.zeros((1, 4), np.int64), asked)
    Writer(checkpoint, config.untied, 32, asked.format, plain=False).write(base, found.tensors, found.rounded, None)
    tensors = {f"{PEFT}{UP}.lora_A.weight": drawn(RANK, 96), f"{PEFT}{UP}.lora_B.weight": drawn(192, RANK)}
    merged = load(base, lora=adapter(directory, tensors))
    assert np.allclose(
        merged.tensors[f"{UP}.weight"], load(base).tensors[f"{UP}.weight"] + product(tensors, UP, 1.5), atol=1e-6
    )
    program = compile_checkpoint(merged, Machine.load("tiny"), context=8, group=32)
    assert program.matrices["gate_up"]["format"] == format.name
    assert program.source["warnings"] == [
        f"1 of 15 quantised matrices are rounded again: 1 as an adapter is added to them ({UP}.weight)"
    ]


def test_commands_and_functions_merge_it(directory: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    tensors, output = pair(UP), tmp_path / "out"
    path = adapter(directory, tensors)
    assert said(["compile", directory, "--lora", path, "-o", output], capsysbinary)[0] == 0
    program, plain = sk.Program.load(output), sk.compile(directory)
    assert any((one != other).any() for one, other in zip(program.memory, plain.memory, strict=True))
    again = sk.compile(directory, lora=path)
    assert all((one == other).all() for one, other in zip(program.memory, again.memory, strict=True))
    assert json.loads((output / "report.json").read_text())["inputs"]["lora"] == str(path)
    with pytest.raises(ProgramError, match=r"lora is .*, and the model no directory; accepted"):
        sk.compile(sk.checkpoint(directory), lora=path)
    for arguments in (
        ["compile", "--shape", "llama-3.2-1b", "--lora", path, "-o", output],
        ["run", "--shape", "llama-3.2-1b", "--engine", "timing", "--lora", path],
        ["run", output, "--lora", path],
    ):
        code, error = said(arguments, capsysbinary)
        assert code == 2
        assert "--lora has no effect on" in error
    np.save(tmp_path / "ids.npy", np.arange(60))
    asked = ["--plain", "--method", "rtn", "--samples", 1, "--window", 8, "--calibration", tmp_path / "ids.npy"]
    code, _ = said(["quantise", directory, "--lora", path, "-o", tmp_path / "q", *asked], capsysbinary)
    assert code == 0
    written, original = load_file(tmp_path / "q" / "model.safetensors"), random_checkpoint(CONFIG).tensors
    difference = written[f"{UP}.weight"] / load(directory).tensors["model.layers.1.post_attention_layernorm.weight"]
    assert np.abs(difference - original[f"{UP}.weight"] - product(tensors, UP, 1.5)).max() < 0.1
