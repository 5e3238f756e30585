"""A randomly initialised checkpoint of another shape, saved by transformers, passes ``skipopu check`` with RTL."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from skipopu import cli


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
