"""A small checkpoint's directory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from tests.support import random_checkpoint, small_config

CONFIG = small_config()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    checkpoint = random_checkpoint(CONFIG)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG.to_hf()))
    save_file(checkpoint.tensors, tmp_path / "model.safetensors")
    return tmp_path
