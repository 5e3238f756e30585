"""Machine descriptions: shipped ones load, wrong ones name the key."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from compiler.pipeline import compile_checkpoint
from skipopu.errors import ConfigError, ProgramError
from skipopu.machine.config import TARGETS, Machine
from tests.support import random_checkpoint, small_config


@pytest.mark.parametrize("path", sorted(TARGETS.glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_targets_load(path: Path) -> None:
    machine = Machine.load(path.stem)
    assert machine.name == path.stem
    assert Machine.from_dict(machine.to_dict()) == machine


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("ports", 0, "ports is 0; accepted: 1..64"),
        ("port_bits", 96, "port_bits is 96"),
        ("ports", "two", "an integer is needed"),
        ("vector_lanes", 3, "vector_lanes is 3"),
        ("wieght_fifo", 4, "unknown key 'wieght_fifo'"),
        ("weight_fifo", 4, "weight_fifo is 4; accepted: at least two bursts"),
        ("numerics", ["exact17"], "numerics is"),
        ("memory", {"delay": 3}, "keys: latency, beats_per_256_cycles"),
    ],
)
def test_errors_name_the_key(tmp_path: Path, key: str, value: object, message: str) -> None:
    data = yaml.safe_load((TARGETS / "tiny.yaml").read_text()) | {key: value}
    path = tmp_path / "machine.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(ConfigError, match=message):
        Machine.load(path)


def test_unknown_target_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="accepted: kv260, mono, tiny, trio"):
        Machine.load("huge")


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"intermediate_size": 5000}, {}, "residual and inner vector is 5248; accepted: up to activation, 1024"),
        ({"num_heads": 12, "num_kv_heads": 2}, {}, "query heads per key-value head is 6; accepted: 1 to 4"),
        ({}, {"context": 100}, "context is 100; accepted: 1 to 64"),
        ({}, {"group": 48}, "weight group is 48; accepted: a multiple of 32 from 32 to 512"),
        ({"head_dim": 18}, {}, "head_dim is 18; accepted: a multiple of 4 from 8 to 256"),
        ({"vocab_size": 4000}, {"logits": True}, "machine tiny has buffer 8192"),
    ],
)
def test_models_that_do_not_fit_are_refused_with_both_numbers(changes: dict, options: dict, message: str) -> None:
    checkpoint = random_checkpoint(small_config(**changes))
    with pytest.raises(ProgramError, match=message):
        compile_checkpoint(checkpoint, Machine.load("tiny"), **options)
