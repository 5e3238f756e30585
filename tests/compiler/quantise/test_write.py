"""Written directories: how integers are packed, and that every family's tensors are read back as they were meant."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from compiler.frontend.checkpoint import load
from compiler.pipeline import compile_checkpoint
from compiler.quantise.write import Writer, packed
from sim.quantise.calibrate import Asked, Quantised, quantise, router_tensors
from sim.reference.model import SkipLlama
from sim.reference.state import load_hf_state_dict
from skipopu.errors import CheckpointError
from skipopu.machine.config import Machine
from skipopu.numerics.formats import INT4, INT4Z, INT8, Format, dequantise
from tests.support import random_checkpoint, small_config
from tests.tokenizers_like import pythia_like, text_in

GROUP = 8
WINDOWS = np.random.default_rng(0).integers(0, 96, (2, 12))


def test_words_hold_the_first_integers_lowest() -> None:
    assert packed(np.array([[-8, -7, 0, 1, 2, 3, 4, 7, 5]], np.int8), 4).view(np.uint32).tolist() == [[0xFCBA9810, 0xD]]
    assert packed(np.array([[-127, 0, 127]], np.int8), 8).view(np.uint32).tolist() == [[0xFF8001]]


def written(source: Path, output: Path, asked: Asked, plain: bool) -> Quantised:
    checkpoint = load(source)
    writer = Writer(checkpoint, checkpoint.config.untied, asked.group, asked.format, plain)
    found = quantise(checkpoint, WINDOWS, asked)
    writer.write(output, found.tensors, found.rounded, None)
    return found


def families() -> list[str]:
    from sim.studies.families.models import MODELS

    return list(MODELS)


@pytest.mark.parametrize("name", families())
@pytest.mark.slow
def test_families_are_read_back(name: str, tmp_path: Path) -> None:
    """Exactly by this compiler, and by transformers where the family's own form is written."""
    transformers = pytest.importorskip("transformers")
    from sim.studies.families.models import logits, save

    save(name, tmp_path / "own")
    pythia_like().save(str(tmp_path / "own" / "tokenizer.json"))
    found = written(tmp_path / "own", tmp_path / "plain", Asked(GROUP, "awq"), plain=True)
    again = load(tmp_path / "plain")
    assert again.config.weight_group == GROUP
    assert set(again.tensors) == set(found.tensors)
    for key, tensor in found.tensors.items():
        assert np.array_equal(again.tensors[key], tensor), key
    if "skipopu" in json.loads((tmp_path / "plain" / "config.json").read_text()):  # another family's tokenizer, by default
        assert text_in(tmp_path / "plain").encode("text") == text_in(tmp_path / "own").encode("text")
    else:
        theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "plain", dtype=torch.float32).eval()
        model = SkipLlama(again.config)
        load_hf_state_dict(model, {n: torch.from_numpy(t) for n, t in again.tensors.items()}, {}).requires_grad_(False)
        expected = logits(theirs, torch.from_numpy(WINDOWS))
        ours = model(torch.from_numpy(WINDOWS), dense=True).logits
        assert (ours - expected).abs().max() < 2.0**-24 * 500 * expected.abs().max()


@pytest.mark.parametrize("usual", [INT4, INT4Z])
def test_integers_are_those_chosen(model: Path, tmp_path: Path, usual: Format) -> None:
    found = written(model, tmp_path / "out", Asked(GROUP, "gptq", {"down": INT8, "head": INT8}, usual), plain=False)
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    for name in found.rounded:
        module = name.removesuffix("weight")
        words = tensors[f"{module}weight_packed"].view(np.uint32)
        bits = 8 if "down" in name or "head" in name else 4
        fields = words[..., None] >> np.arange(0, 32, bits, dtype=np.uint32) & (1 << bits) - 1
        rows, n = tensors[f"{module}weight_shape"]
        codes = (fields.reshape(rows, -1)[:, :n].astype(np.int16) - (1 << bits - 1)).astype(np.int8).reshape(rows, -1, GROUP)
        zeros = tensors.get(f"{module}weight_zero_point")
        assert (zeros is not None) == (usual is INT4Z and bits == 4)
        if zeros is not None:
            of_rows = zeros.view(np.uint32)[:, None] >> np.arange(0, 32, 4, dtype=np.uint32)[:, None] & 15
            codes = codes - (of_rows.reshape(-1, zeros.shape[1])[:rows, :, None].astype(np.int8) - np.int8(8))
        values = dequantise(codes, tensors[f"{module}weight_scale"], n)
        assert np.array_equal(values, found.tensors[name]), name
    groups = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]["config_groups"]
    assert {tuple(group["targets"]): group["weights"]["num_bits"] for group in groups.values()} == {
        tuple(f"re:.*{name}_proj$" for name in ("gate", "k", "o", "q", "up", "v")): 4,
        ("re:.*down_proj$", "re:.*lm_head$"): 8,
    }
    program = compile_checkpoint(load(tmp_path / "out"), Machine.load("tiny"), context=8)
    assert isinstance(program.weights, dict)
    assert {program.weights[name] for name in ("q", "kv", "o", "gate_up")} == {usual.name}
    assert not [line for line in program.source["warnings"] if "beyond" in line]


def test_shapes_of_files_have_their_formats(tmp_path: Path) -> None:
    """What another target would take is asked without numbers; heads may grow there."""
    checkpoint, source = random_checkpoint(small_config(head_dim=20, vocab_size=96), 3), tmp_path / "in"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(checkpoint.config.to_hf()))
    save_file({**checkpoint.tensors}, source / "model.safetensors")
    asked = Asked(GROUP, "rtn", dict.fromkeys(("q", "k", "v", "o"), INT8), INT4Z)
    written(source, tmp_path / "out", asked, plain=False)
    found, machine = load(tmp_path / "out"), dataclasses.replace(Machine.load("tiny"), port_bits=256, vector_lanes=16)
    whole, shape = (
        compile_checkpoint(each, machine, context=8, group=32) for each in (found, dataclasses.replace(found, outline=True))
    )
    assert isinstance(whole.weights, dict)
    assert {*whole.weights.values()} == {"int4z", "int8"}
    assert shape.weights == whole.weights
    assert shape.port_bytes == whole.port_bytes


def test_hidden_layers_of_routers_stay_as_they_are_measured(tmp_path: Path) -> None:
    """In INT4, whatever the products beside them have."""
    checkpoint, source = random_checkpoint(small_config(vocab_size=96), 3, "two-layer"), tmp_path / "in"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(checkpoint.config.to_hf()))
    save_file({**checkpoint.tensors, **router_tensors(checkpoint)}, source / "model.safetensors")
    written(source, tmp_path / "out", Asked(GROUP, "rtn", usual=INT4Z), plain=False)
    program = compile_checkpoint(load(tmp_path / "out"), Machine.load("tiny"), context=8)
    assert program.weights == "int4z"
    assert program.matrices["router_hidden"]["format"] == "int4"


@pytest.mark.parametrize("kind", ["linear", "two-layer"])
def test_routers_among_the_models_tensors_stay_there(tmp_path: Path, kind: str) -> None:
    """Under their own names, whatever prefix they had."""
    checkpoint, source, output = random_checkpoint(small_config(vocab_size=96), 3, kind), tmp_path / "in", tmp_path / "out"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(checkpoint.config.to_hf()))
    routers = router_tensors(checkpoint)
    save_file({**checkpoint.tensors, **{f"base_model.model.{n}": t for n, t in routers.items()}}, source / "model.safetensors")
    written(source, output, Asked(GROUP, "rtn"), plain=False)
    again = load(output)
    assert again.routers is not None
    found = router_tensors(again)
    assert found.keys() == routers.keys()
    assert all(np.array_equal(found[name], tensor) for name, tensor in routers.items())


def test_what_the_format_does_not_hold_is_refused(model: Path) -> None:
    checkpoint = load(model)
    with pytest.raises(CheckpointError, match="intermediate_size is 200, no multiple of 16 weights per scale"):
        Writer(checkpoint, checkpoint.config.untied, 16, Asked(16).format, plain=False)
    data = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(data | {"quantization_config": {}}))
    with pytest.raises(CheckpointError, match="accepted: weights that are not quantised yet"):
        Writer(checkpoint, checkpoint.config.untied, GROUP, Asked(GROUP).format, plain=False)


def test_rows_of_one_tensor_have_one_format(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from sim.studies.families.models import save

    save("phi3", tmp_path)
    checkpoint = load(tmp_path)
    with pytest.raises(CheckpointError, match=r"up is part of tensor .*gate_up_proj.weight, whose other rows are int4"):
        Writer(checkpoint, checkpoint.config.untied, GROUP, Asked(GROUP, formats={"up": INT8}).format, plain=True)
