"""What compiling takes of memory, beside the image that it makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from skipopu.program.program import Program
from tests.compiler.peak import measure, write
from tests.support import small_config

LARGE = 24 << 20  # elements of the largest tensors: more than a block, less than all


@pytest.mark.slow
def test_compiling_takes_little_more_than_the_image(tmp_path: Path) -> None:
    """62 M parameters, of which the embedding is 100 MB in FP32: nothing holds such a table, and what rounds it, at once."""
    config = small_config(
        hidden_size=512, intermediate_size=1536, num_layers=4, num_heads=8, head_dim=64, vocab_size=LARGE // 512, num_kv_heads=2
    )
    parameters = write(tmp_path / "checkpoint", config)
    assert parameters > 60e6
    found = measure(tmp_path / "checkpoint", "u280", tmp_path / "out")
    assert found["peak"] - found["imports"] - found["image"] < 250e6
    assert Program.load(tmp_path / "out").model.vocab_size == config.vocab_size
