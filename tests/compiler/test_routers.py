"""Routers: from a file of their own or the model's, every form of them, or named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import torch as torch_file
from safetensors.numpy import save_file

from compiler.frontend.canonical import expected_shapes
from compiler.frontend.checkpoint import load
from compiler.frontend.routers import read
from skipopu.errors import CheckpointError
from tests.routers_like import routers, two_layers
from tests.support import random_checkpoint, small_config

CONFIG = small_config()
SKIPGPT = Path(__file__).parents[3] / "shared" / "data" / "skipgpt" / "router_stage1.pth"


def test_loads_and_takes_router_differences(directory: Path) -> None:
    assert load(directory).routers is None
    save_file(routers(2, CONFIG.hidden_size), directory / "routers.safetensors")
    found = load(directory).routers
    assert found is not None
    assert (found[1][0].weight == 1).all()
    assert found[1][1].bias == -0.5


def test_peft_prefix_is_understood(directory: Path) -> None:
    table = {"base_model.model." + name: tensor for name, tensor in routers(2, CONFIG.hidden_size).items()}
    save_file(table, directory / "other.safetensors")
    assert load(directory, directory / "other.safetensors").routers is not None


@pytest.mark.parametrize("prefix", ["", "base_model.model."])
def test_routers_among_the_models_tensors(directory: Path, prefix: str) -> None:
    """As in a fine-tuned model that was converted whole; a file beside it contradicts them, one that is named comes before them."""
    model, beside = directory / "model.safetensors", directory / "routers.safetensors"
    table = routers(2, CONFIG.hidden_size)
    own = random_checkpoint(CONFIG).tensors
    save_file({**own, **{prefix + name: tensor for name, tensor in table.items()}}, model)
    loaded = load(directory)
    assert loaded.routers is not None
    assert (loaded.routers[1][1].weight == 1).all()
    assert loaded.routers[1][1].bias == -0.5
    assert set(loaded.tensors) == set(own)
    save_file({name: 3 * tensor for name, tensor in table.items()}, beside)
    with pytest.raises(
        CheckpointError, match=rf"model.safetensors: tensor {prefix}model.layers.0.router_.* is a router's, and routers.saf"
    ):
        load(directory)
    found = load(directory, beside).routers
    assert found is not None
    assert found[1][1].bias == -1.5
    beside.unlink()
    save_file({**own, **table, "x." + (name := next(iter(table))): table[name]}, model)
    with pytest.raises(CheckpointError, match=r"model.safetensors: tensors .*router.* and .*router.* are the same router's"):
        load(directory)


@pytest.mark.parametrize("inside", [False, True])
def test_routers_without_any_bias_have_none(directory: Path, inside: bool) -> None:
    table = {name: tensor for name, tensor in routers(2, CONFIG.hidden_size).items() if name.endswith("weight")}
    place, own = ("model", random_checkpoint(CONFIG).tensors) if inside else ("routers", {})
    save_file({**own, **table}, directory / f"{place}.safetensors")
    found = load(directory).routers
    assert found is not None
    assert [router.bias for both in found for router in both] == [0.0] * 4
    bias = {"model.layers.1.router_mlp.weight_predictor.bias": np.ones(2, np.float32)}
    save_file({**own, **table, **bias}, directory / f"{place}.safetensors")
    with pytest.raises(CheckpointError, match=rf"{place}.safetensors: tensor model.layers.0.router_attention.*bias is missing"):
        load(directory)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {"a": torch.ones(1)}}, "tensor a is not known; accepted: weights and biases of a router's"),
        ({"state_dict": 3}, "entry state_dict is of int"),
        ({"model.embed_tokens.weight": torch.ones(1)}, "tensor model.embed_tokens.weight is not known"),
        ([torch.ones(1)], "the content is "),
        (
            {"model.layers.0.router_mlp.weight_predictor.weight": torch.ones(2, 96, dtype=torch.int8)},
            "entry model.layers.0.router_mlp",
        ),
        ({3: torch.ones(1)}, "the content is"),
        (
            {"model.layers.0.router_mlp.weight_predictor.weight": torch.ones(2, 96).to(torch.float8_e4m3fn)},
            "entry model.layers.0.router_mlp.* is .*; accepted: a dense tensor of F64, F32, F16, BF16",
        ),
        ({"a": torch.ones(2, 2).to_sparse()}, "entry a is of torch.sparse_coo; accepted: a dense tensor"),
        ({"a": torch.ones(2, device="meta")}, "entry a is of meta; accepted: a dense tensor"),
        ({"a": Path()}, r"not a readable PyTorch file of tensors alone \(UnpicklingError\)$"),
        ({"model.layers.7.router_mlp.weight_predictor.bias": torch.ones(2)}, "bias is of a layer beyond the model's 2"),
        (
            {"model.layers.0.router_mlp.weight_predictor.bias": torch.tensor([3e38, -3e38])},
            "router_mlp.weight_predictor.bias differ by more",
        ),
    ],
)
def test_router_files_name_what_is_wrong(directory: Path, content: object, message: str) -> None:
    if message.startswith("bias is of") or message.endswith("differ by more"):
        content = {name: torch.from_numpy(tensor) for name, tensor in routers(2, 96).items()} | content  # type: ignore[operator]
    torch.save(content, directory / "routers.pth")
    with pytest.raises(CheckpointError, match=f"routers.pth: .*{message}"):
        load(directory, directory / "routers.pth")


@pytest.mark.parametrize("name", ["router.safetensors", "routers.ckpt", "my-routers.pth"])
def test_files_that_may_be_meant_are_told(directory: Path, name: str) -> None:
    save_file(two_layers(2, 96, 24), directory / name)
    found = load(directory)
    assert found.routers is None
    assert found.remarks == (
        f"{directory / name}: not read; routers.* of .safetensors, .pth, .pt, .bin are, or --routers FILE",
    )


@pytest.mark.skipif(not SKIPGPT.exists(), reason="published SkipGPT routers are not at hand")
def test_published_skipgpt_routers_have_the_expected_keys(tmp_path: Path) -> None:
    table, left = read(SKIPGPT)
    assert not left
    assert table["model.layers.31.router_mlp.weight_predictor.weight"].shape == (2, 4096)
    assert len(table) == 128
    assert len(expected_shapes(CONFIG)) == 3 + 2 * 9


def test_routers_beside_the_model(directory: Path) -> None:
    """A PyTorch file, wrapped or not, is read like safetensors; of two nobody can say which is meant."""
    table = {name: torch.from_numpy(tensor) for name, tensor in routers(2, CONFIG.hidden_size).items()}
    for content in (table, {"state_dict": table}, {name: torch.nn.Parameter(tensor) for name, tensor in table.items()}):
        torch.save(content, directory / "routers.pth")
        found = load(directory).routers
        assert found is not None
        assert found[1][1].bias == -0.5
    torch_file.save_file(table, directory / "routers.safetensors")
    with pytest.raises(CheckpointError, match=r"routers.safetensors: routers.pth is beside it; accepted: one file"):
        load(directory)
