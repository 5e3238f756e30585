"""What is in the training loop beside the model."""

from __future__ import annotations

import torch

from models.loop import RunningMasks, straight_through
from sim.calibrate.budget import GRID
from sim.reference.model import SkipLlama
from skipopu.masks import FFN_INNER, channels
from tests.support import small_config

CONFIG = small_config()
PLACES = [(layer, own) for layer in range(CONFIG.num_layers) for own in channels(CONFIG)]


def masks() -> RunningMasks:
    curves = {place: [ratio**2 * (4 if place[1] == FFN_INNER else 1) for ratio in GRID] for place in PLACES}
    return RunningMasks(curves, dict.fromkeys(PLACES, 1.0), 0)


def test_masks_in_the_loop_leave_out_their_ratios() -> None:
    """By the quantiles of what executes; thresholds follow what is seen, and stay where they are when they are to."""
    torch.manual_seed(0)
    model, own = SkipLlama(CONFIG), masks()
    ids = torch.randint(70, (4, 64))
    model.mask = own
    with torch.no_grad():
        for _ in range(2):
            own.begin(0.4)
            assert abs(sum(own.ratios.values()) / len(PLACES) - 0.4) < 1e-9
            model(ids, rule=own.noting(straight_through(None, 1.0)))
        assert own.executing
        before = {place: quantiles.clone() for place, quantiles in own.quantiles.items()}
        own.learning, seen = False, {}

        def see(name: str, x: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor | None:
            kept = own(name, x, scale)
            seen[name] = 1.0 if kept is None else float(kept.float().mean())
            return kept

        model.mask = see
        model(2 * ids % 70, dense=True)
    assert set(own.quantiles) == set(PLACES)
    assert all(torch.equal(own.quantiles[place], before[place]) for place in PLACES)
    for layer in range(2):
        assert abs(seen[f"layers.{layer}.down"] - 1 + own.ratios[layer, FFN_INNER]) < 0.1
        assert seen[f"layers.{layer}.q"] == seen[f"layers.{layer}.v"] < seen[f"layers.{layer}.down"]
    assert "lm_head" in seen
    own.begin(0.0)
    assert all(own(f"layers.0.{product}", torch.ones(1, 1, 96), None) is None for product in ("q", "up"))


def test_masked_channels_get_no_gradient() -> None:
    torch.manual_seed(0)
    model = SkipLlama(CONFIG)
    kept = torch.rand(1, 1, 96) > 0.5
    model.mask = lambda name, x, scale: kept.expand_as(x) if name.endswith((".gate", ".up")) else None
    model(torch.randint(70, (2, 8)), dense=True).logits.square().sum().backward()
    for layer in model.layers:
        gradient = layer.up_proj.weight.grad  # type: ignore[union-attr]
        assert not gradient[:, ~kept[0, 0]].any()  # type: ignore[index]
        assert gradient[:, kept[0, 0]].any()  # type: ignore[index]
