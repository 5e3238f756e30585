"""Routers of two layers: every form of their files, what programs hold of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from compiler.frontend.checkpoint import load
from compiler.frontend.shapes import outline
from compiler.frontend.tensors import Rows
from compiler.pipeline import compile_checkpoint
from sim.reference.image import adjusted, dequantised
from skipopu.errors import CheckpointError, ProgramError
from skipopu.machine.config import Machine
from tests.routers_like import routers, two_layers
from tests.support import random_checkpoint, small_config

CONFIG = small_config()


@pytest.mark.parametrize("width", [24, 7])
@pytest.mark.parametrize(
    ("prefix", "form"),
    [
        ("", "safetensors"),
        ("base_model.model.", "safetensors"),
        ("module.", "pth"),
        ("module.base_model.model.", "state_dict"),
        ("", "model_state_dict"),
        ("", "inside"),
        ("base_model.model.", "whole"),
    ],
)
def test_two_layer_routers_in_every_form(directory: Path, width: int, prefix: str, form: str) -> None:
    table = two_layers(2, 96, width)
    named = {prefix + name: tensor for name, tensor in table.items()}
    # As views that are negated when they are read
    pickled = {name: torch._neg_view(torch.from_numpy(-tensor)) for name, tensor in named.items()}
    if form == "safetensors":
        save_file(named, directory / "routers.safetensors")
    elif form == "inside":
        save_file({**random_checkpoint(CONFIG).tensors, **named}, directory / "model.safetensors")
    else:
        others = {f"{prefix}model.layers.0.block.mlp.up_proj.weight": torch.ones(3, 4)} if form == "whole" else {}
        wrapped = {form: pickled} | ({"epoch": 3} if form == "model_state_dict" else {})
        torch.save(wrapped if "state_dict" in form else others | pickled, directory / "routers.pth")
    loaded = load(directory)
    assert loaded.routers is not None
    assert loaded.router_width == (48 if width == 24 else 16)
    router, name = loaded.routers[1][1], "model.layers.1.router_mlp"
    assert router.hidden is not None
    assert (router.hidden.weight[:] == table[f"{name}.hidden_layer.weight"]).all()
    assert (router.hidden.bias == table[f"{name}.hidden_layer.bias"]).all()
    assert (router.weight == -np.diff(table[f"{name}.weight_predictor.weight"], axis=0)[0]).all()
    assert router.bias == -np.diff(table[f"{name}.weight_predictor.bias"])[0]
    assert len(loaded.remarks) == (form == "whole")
    if form == "whole":
        assert (
            "routers.pth: 1 tensors that are no router's are not read (base_model.model.model.layers.0.block"
            in loaded.remarks[0]
        )


@pytest.mark.parametrize("biases", [(), ("hidden_layer",), ("weight_predictor",)])
def test_two_layer_routers_without_biases(directory: Path, biases: tuple[str, ...]) -> None:
    save_file(two_layers(2, 96, 24, biases), directory / "routers.safetensors")
    found = load(directory).routers
    assert found is not None
    for router in (router for both in found for router in both):
        assert router.hidden is not None
        assert (router.bias == 0) == ("weight_predictor" not in biases)
        assert (not router.hidden.bias.any()) == ("hidden_layer" not in biases)


FIRST = "model.layers.0.router_attention."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: {n: x for n, x in t.items() if ".1.router_mlp.hidden" not in n},
            "1.router_mlp.hidden_layer.weight is missing; a",
        ),
        (
            lambda t: t | {n: x for n, x in routers(2, 96).items() if ".1." in n},
            r"layers.1.router_attention.weight_predictor.weight has shape \(2, 96\); .*hidden_layer.weight and config.json ask for \(2, 24",
        ),
        (
            lambda t: t | {f"{FIRST}hidden_layer.weight": np.ones((24, 90), np.float32)},
            r"weight has shape \(24, 90\); .* \(24, 96\)",
        ),
        (
            lambda t: t | {f"{FIRST}hidden_layer.weight": np.array(1, np.float32)},
            r"weight has shape \(\); accepted: any rows of 96",
        ),
        (
            lambda t: t | {f"{FIRST}hidden_layer.bias": np.ones(23, np.float32)},
            r"hidden_layer.bias has shape \(23,\); .* for \(24,\)",
        ),
        (lambda t: t | {f"{FIRST}hidden_layer.bias": np.full(24, np.inf, np.float32)}, "hidden_layer.bias holds NaN, infinity"),
        (lambda t: t | {f"{FIRST}hidden_layer.weight": np.full((24, 96), np.nan, np.float32)}, "hidden_layer.weight holds NaN"),
        (
            lambda t: t | {f"{FIRST}hidden_layer.gain": np.ones(24, np.float32)},
            "hidden_layer.gain is not known; accepted: weights and",
        ),
        (
            lambda t: {n: x for n, x in t.items() if n != f"{FIRST}hidden_layer.bias"},
            "hidden_layer.bias is missing; .* has a hidden",
        ),
        (
            lambda t: {n: x for n, x in t.items() if "hidden_layer.weight" not in n},
            "hidden_layer.weight is missing; .*another router",
        ),
    ],
)
def test_two_layer_routers_are_of_one_form(directory: Path, change: Callable[[dict], dict], message: str) -> None:
    save_file(change(two_layers(2, 96, 24)), directory / "routers.safetensors")
    with pytest.raises(CheckpointError, match=f"routers.safetensors: tensor .*{message}"):
        load(directory)


def test_hidden_layers_of_routers_are_not_held(directory: Path) -> None:
    """A 7B's are a gigabyte: rows are read when they are placed."""
    save_file(two_layers(2, 96, 24), directory / "routers.safetensors")
    found = load(directory).routers
    assert found is not None
    assert found[0][0].hidden is not None
    assert isinstance(found[0][0].hidden.weight, Rows)


def test_two_layer_routers_need_adjust_and_room() -> None:
    checkpoint = random_checkpoint(small_config(), routers="two-layer")
    with pytest.raises(ProgramError, match="machine mono: adjust is False; accepted: true, for routers of two layers"):
        compile_checkpoint(checkpoint, Machine.load("mono"), context=16)
    wide = random_checkpoint(small_config(hidden_size=1024, intermediate_size=32), routers="two-layer")
    machine = dataclasses.replace(Machine.load("tiny"), activation=1024 + 384)
    with pytest.raises(ProgramError, match="residual and inner vector is 1536; accepted: up to activation, 1408"):
        compile_checkpoint(wide, machine, context=16)
    compile_checkpoint(random_checkpoint(wide.config), machine, context=16)


def test_what_a_program_of_two_layer_routers_holds() -> None:
    """Rows of both routers under one another, each half padded to whole words of an ADJUST; the same program as a shape's."""
    config = small_config(hidden_size=60)  # 15 elements for each, of 16
    checkpoint = random_checkpoint(config, 3, routers="two-layer")
    program = compile_checkpoint(checkpoint, Machine.load("tiny"), context=16, weights="int8")
    assert checkpoint.routers is not None
    for layer, both in enumerate(checkpoint.routers):
        rows = dequantised(program, "router_hidden", layer)
        _, bias = adjusted(program, "router_hidden", layer)
        last = dequantised(program, "router", layer)
        assert rows.shape == (32, 60)
        for module, router in enumerate(both):
            assert router.hidden is not None
            half = slice(16 * module, 16 * module + 15)
            assert np.abs(rows[half] - router.hidden.weight[:]).max() < np.abs(router.hidden.weight[:]).max() / 250
            assert (bias[half] == router.hidden.bias).all()
            total = last[2 * module] + last[2 * module + 1]
            assert np.abs(total[half] - router.weight).max() < np.abs(router.weight).max() / 120
            assert not np.delete(total, np.arange(32)[half]).any()
        assert not rows[[15, 31]].any()
        assert not bias[[15, 31]].any()
    shape = compile_checkpoint(outline("shape", "two-layer", config), Machine.load("tiny"), context=16)
    assert shape.instructions == compile_checkpoint(checkpoint, Machine.load("tiny"), context=16).instructions
