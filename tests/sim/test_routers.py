"""Routers of two layers: the reference against PyTorch's own modules, the functional engine within the derived bounds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from compiler.pipeline import compile_checkpoint
from sim.check import check
from sim.quantise.calibrate import router_tensors
from sim.quantise.loss import rounded
from sim.reference import engine as reference
from sim.reference.model import SkipLlama
from sim.reference.state import load_hf_state_dict
from skipopu.machine.config import Machine
from skipopu.policy import KvPolicy
from skipopu.program.run import Run
from tests.support import random_checkpoint, small_config

pytestmark = pytest.mark.slow

PROMPT = tuple(range(1, 20))


@pytest.mark.parametrize("kv", KvPolicy)
def test_the_reference_is_torchs(kv: KvPolicy) -> None:
    """Linear, ReLU, Linear of the residual that enters each layer; the first output exceeds the second where a module executes."""
    checkpoint = random_checkpoint(small_config(num_layers=3), 3, routers="two-layer")
    base, routers = (
        {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
        for tensors in (checkpoint.tensors, router_tensors(checkpoint))
    )
    model = load_hf_state_dict(SkipLlama(checkpoint.config), base, routers).requires_grad_(False)
    tokens = torch.randint(0, 70, (2, 12), generator=torch.Generator().manual_seed(1))
    seen: list[torch.Tensor] = []

    def see(name: str, x: torch.Tensor) -> torch.Tensor:
        if name.endswith(".router"):
            seen.append(x)
        return x

    model.disturb = see
    out = model(tokens, kv=kv)
    assert 0.1 < out.gates.mean() < 0.9
    for layer in range(3):
        for module, name in enumerate(("attention", "mlp")):
            theirs = nn.Sequential(nn.Linear(96, 24), nn.ReLU(), nn.Linear(24, 2)).requires_grad_(False)
            prefix = f"model.layers.{layer}.router_{name}."
            for number, part in ((0, "hidden_layer"), (2, "weight_predictor")):
                theirs[number].weight.copy_(routers[f"{prefix}{part}.weight"])  # type: ignore[operator]
                theirs[number].bias.copy_(routers[f"{prefix}{part}.bias"])  # type: ignore[operator]
            scores = theirs(seen[2 * layer + module])
            assert torch.allclose(out.differences[:, layer, module], scores[..., 0] - scores[..., 1], atol=1e-5)
            if layer or module or kv is KvPolicy.DENSE:
                assert torch.equal(out.gates[:, layer, module].bool(), scores[..., 0] >= scores[..., 1])


@pytest.mark.parametrize("kv", KvPolicy)
@pytest.mark.parametrize(("hidden", "parallel", "weights"), [(96, False, "int4"), (60, True, "int8"), (104, False, "int4")])
def test_functional_engine_within_bounds(kv: KvPolicy, hidden: int, parallel: bool, weights: str) -> None:
    checkpoint = random_checkpoint(small_config(hidden_size=hidden, parallel=parallel), 3, routers="two-layer")
    program = compile_checkpoint(checkpoint, Machine.load("tiny"), kv, context=32, weights=weights)
    result = check(program, Run(PROMPT, 8), with_rtl=False)
    assert result.ok, result.problems
    assert 0.1 < result.functional.executed_share < 0.95
    assert result.agreement.routing_inside < 0.1 * result.agreement.routing_positions


def test_bounds_cover_what_is_aligned_between_the_layers() -> None:
    """An error of half a unit of the inner vector alone moves differences, by no more than its weights say, and is part of the bound."""
    program = compile_checkpoint(random_checkpoint(small_config(), 3, routers="two-layer"), Machine.load("tiny"), context=32)
    model, tokens = reference.model_of(program), torch.tensor([PROMPT])
    plain = model(tokens)
    noise = reference._noise(128, program.model, torch.Generator().manual_seed(0))
    names: list[str] = []

    def disturb(name: str, x: torch.Tensor) -> torch.Tensor:
        names.append(name)
        return x + 64 * (noise(name, x) - x) if name.endswith("router_hidden") else x

    model.disturb = disturb
    moved = (model(tokens, routing=plain.gates).differences - plain.differences).abs().amax((0, 3))
    assert {name for name in names if "router_hidden" in name} == {"layers.0.router_hidden", "layers.1.router_hidden"}
    assert (moved > 0).all()
    bound = reference.agreement(program, Run(PROMPT, 0), [list(PROMPT)], len(PROMPT), plain.gates.bool().numpy()).routing_bound
    assert 0 < float(moved.max()) / 64 < bound


@pytest.mark.parametrize("kind", ["linear", "two-layer"])
def test_losses_are_of_the_images_routers(kind: str) -> None:
    """What is measured without a program has the same groups."""
    checkpoint = random_checkpoint(small_config(hidden_size=72), 3, routers=kind)
    program, routers = compile_checkpoint(checkpoint, Machine.load("tiny"), context=16, group=32), router_tensors(checkpoint)
    own = {name: rounded(name, routers, 32) for name in routers if name.endswith("weight")}
    layers = reference.model_of(program).layers
    for name, weight in own.items():
        layer, router, part = name.split(".")[2:5]
        image = getattr(getattr(layers[int(layer)], router), part).weight.numpy()
        if part == "weight_predictor":
            weight, image = weight[:1] - weight[1:], image[:1, : weight.shape[1]]
        assert np.array_equal(image[: len(weight)], weight), name


def test_a_dial_moves_the_threshold_of_their_difference() -> None:
    program = compile_checkpoint(random_checkpoint(small_config(), 3, routers="two-layer"), Machine.load("tiny"), context=32)
    shares = []
    for dial in (-100.0, 0.0, 100.0):
        result = check(program, Run(PROMPT, 2, dial=dial), with_rtl=False)
        assert result.ok, result.problems
        shares.append(result.functional.executed_share)
    assert shares[0] == 1
    assert shares[0] > shares[1] > shares[2]
    assert np.isclose(shares[2], 0.25), "attention of the first layer is forced"
