"""Checkpoints of every family: the reference's logits are transformers'."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compiler.frontend.checkpoint import load
from sim.reference.model import SkipLlama, load_hf_state_dict
from sim.studies.families.models import MODELS, logits, save
from skipopu.policy import KvPolicy

pytest.importorskip("transformers")


def reference(directory: Path) -> SkipLlama:
    loaded = load(directory)
    base = {name: torch.from_numpy(tensor) for name, tensor in loaded.tensors.items()}
    return load_hf_state_dict(SkipLlama(loaded.config), base, {}).requires_grad_(False)


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_transformers(tmp_path: Path, name: str) -> None:
    theirs = save(name, tmp_path)
    ours = reference(tmp_path)
    tokens = torch.randint(0, 96, (2, 40), generator=torch.Generator().manual_seed(1))
    expected = logits(theirs, tokens)
    # FP32 in another order: 2^-24 times a few hundred terms of the logits' size.
    most = 2.0**-24 * 500 * expected.abs().max()
    assert (ours(tokens, dense=True).logits - expected).abs().max() < most
    for kv in KvPolicy:
        assert (ours(tokens, kv=kv).logits - expected).abs().max() < most, "routers of zeros execute everything"
