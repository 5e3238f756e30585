"""Checkpoints of every family: the reference's logits are transformers'."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from compiler.frontend.checkpoint import load
from compiler.frontend.shapes import outline
from compiler.frontend.tensors import Tensors
from sim.reference.model import SkipLlama
from sim.reference.state import load_hf_state_dict
from sim.studies.families.models import MODELS, logits, save
from skipopu.policy import KvPolicy

pytest.importorskip("transformers")


def reference(directory: Path) -> SkipLlama:
    loaded = load(directory)
    base = {name: torch.from_numpy(tensor) for name, tensor in loaded.tensors.items()}
    return load_hf_state_dict(SkipLlama(loaded.config), base, {}).requires_grad_(False)


@pytest.fixture(scope="module", params=MODELS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.nn.Module]:
    """A checkpoint directory and transformers' model of it."""
    directory = tmp_path_factory.mktemp(request.param)
    return directory, save(request.param, directory)


TOKENS = torch.randint(0, 96, (2, 40), generator=torch.Generator().manual_seed(1))


def bound(expected: torch.Tensor) -> torch.Tensor:
    """FP32 in another order: 2^-24 times a few hundred terms of the logits' size."""
    return 2.0**-24 * 500 * expected.abs().max()


def test_logits_are_transformers(made: tuple[Path, torch.nn.Module]) -> None:
    """Dense, with routers that execute everything, and with routing that skips the last layer: as if it were not there."""
    directory, theirs = made
    ours = reference(directory)
    expected = logits(theirs, TOKENS)
    assert (ours(TOKENS, dense=True).logits - expected).abs().max() < bound(expected)
    routing = torch.ones(2, 3, 2, 40)
    routing[:, 2] = 0
    layers = (theirs.gpt_neox if hasattr(theirs, "gpt_neox") else theirs.model).layers
    del layers[2]
    theirs.config.num_hidden_layers = 2
    shorter = logits(theirs, TOKENS)
    for kv in KvPolicy:
        assert (ours(TOKENS, kv=kv).logits - expected).abs().max() < bound(expected)
        assert (ours(TOKENS, kv=kv, routing=routing).logits - shorter).abs().max() < bound(shorter)


def test_shapes_need_no_weights(made: tuple[Path, torch.nn.Module]) -> None:
    loaded, without = load(made[0]), outline(str(made[0] / "config.json"))
    assert without.config == loaded.config
    assert {n: t.shape for n, t in without.tensors.items()} == {n: t.shape for n, t in loaded.tensors.items()}
    rows = slice(3, 7)
    assert isinstance(loaded.tensors, Tensors)
    for key, tensor in loaded.tensors.items():
        assert tensor.dtype == np.float32
        assert np.allclose(loaded.tensors.read(key, rows), tensor[rows], rtol=0, atol=1e-6), "rows are those of the whole"


OLDER = {
    "linear": ("llama", {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}}),
    "yarn": (
        "llama",
        {
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 16,
                "beta_fast": 16,
                "mscale": 0.7,
                "mscale_all_dim": 0.9,
                "truncate": False,
            }
        },
    ),
    "longrope": (
        "llama",
        {
            "rope_scaling": {
                "rope_type": "longrope",
                "factor": 4.0,
                "short_factor": [1.5] * 8,
                "long_factor": [3.0] * 8,
                "original_max_position_embeddings": 48,
            }
        },
    ),
    "windows": ("qwen2", {"use_sliding_window": True, "sliding_window": 5, "layer_types": None, "max_window_layers": 2}),
    "default window": ("mistral", {"sliding_window": "absent"}),
    "windows by layer": (
        "mistral",
        {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ),
    "unrotated": (
        "smollm3",
        {"no_rope_layers": [0, 1, 1], "layer_types": None, "use_sliding_window": True, "sliding_window": 6},
    ),
    "two bases": (
        "gemma3",
        {
            "rope_theta": 1e6,
            "rope_local_base_freq": 3e3,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            "layer_types": None,
            "sliding_window_pattern": 3,
            "_sliding_window_pattern": "absent",
        },
    ),
    "a pattern that nobody reads": (
        "gemma3",
        {"rope_theta": 1e6, "rope_local_base_freq": 3e3, "layer_types": None, "_sliding_window_pattern": 2},
    ),
    "share": ("pythia", {"rotary_pct": 0.5, "rotary_emb_base": 2000}),
}


@pytest.mark.parametrize("case", OLDER)
def test_older_configuration_files(tmp_path: Path, case: str) -> None:
    """Keys as transformers wrote them before rope_parameters, and masks that were saved with the weights."""
    transformers = pytest.importorskip("transformers")
    name, changes = OLDER[case]
    save(name, tmp_path)
    path = tmp_path / "config.json"
    data = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in data.items() if v != "absent" and k != "rope_parameters"}))
    file = tmp_path / "model.safetensors"
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    if name == "pythia":
        masks = {"bias": torch.ones(1, 1, 4, 4, dtype=torch.bool), "masked_bias": torch.tensor(-1e9)}
        save_file(load_file(file) | {f"gpt_neox.layers.0.attention.{k}": v for k, v in masks.items()}, file)
    expected = logits(theirs, TOKENS)
    assert (reference(tmp_path)(TOKENS, dense=True).logits - expected).abs().max() < bound(expected)
