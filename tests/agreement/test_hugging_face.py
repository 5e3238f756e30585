"""Random checkpoints of other shapes and families, saved by transformers: all engines, the RTL among them, agree."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from compiler.frontend.checkpoint import load
from compiler.frontend.shapes import random_routers
from compiler.pipeline import compile_checkpoint
from sim import check
from sim.fuzz.choices import thresholds
from skipopu import cli
from skipopu.machine.config import Machine
from skipopu.program.run import Run


@pytest.mark.rtl
def test_checkpoint_saved_by_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(3)
    # Nothing is a multiple of the group of 128; heads are no multiple of a beat's 8 elements.
    config = transformers.LlamaConfig(
        hidden_size=180,
        intermediate_size=300,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=3,
        head_dim=20,
        vocab_size=261,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        initializer_range=0.15,
        eos_token_id=260,
        bos_token_id=None,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    out = tmp_path / "out.json"
    code = cli.main(
        [
            "check",
            str(tmp_path),
            "--target",
            "tiny",
            "--tokens",
            "7,260,31,9,111,2",
            "--max-new",
            "8",
            "--skip",
            "attn=0.4,ffn=0.3",
            "--json",
            str(out),
        ]
    )
    records = {(r["name"], r.get("engine")): r["value"] for r in json.loads(out.read_text())["records"]}
    assert code == 0
    assert records["differing_bits", "rtl"] == 0
    assert records["tokens_equal", "rtl"] == 1
    assert abs(records["cycle_error", "timing"]) < 0.03


@pytest.mark.rtl
@pytest.mark.parametrize("family", ["pythia", "gemma2", "phi4-mini"])
def test_families_with_masks(family: str, tmp_path: Path) -> None:
    """Parallel modules, norms behind modules under capped scores, partial rotation: every input with thresholds and without."""
    pytest.importorskip("transformers")
    from sim.studies.families.models import save

    save(family, tmp_path)
    loaded = load(tmp_path)
    checkpoint = dataclasses.replace(
        loaded,
        routers=random_routers(loaded.config, np.random.default_rng(1)),
        masks=thresholds(loaded.config, seed=1, spread=200, fixed=0.1),
    )
    program = compile_checkpoint(checkpoint, Machine.load("tiny-masks"), "reuse", context=24)
    result = check.check(program, Run((3, 14, 15, 92, 65, 35, 89, 79, 32), 6))
    assert result.ok, result.problems
    assert result.cycle_error is not None
    assert abs(result.cycle_error) < 0.03
    assert result.rtl is not None
    assert result.rtl.counters["CHANNELS_LEFT_OUT"] > 0
