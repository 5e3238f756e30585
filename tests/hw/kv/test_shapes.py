"""Widths hold the largest model that the machine accepts, and no more than they need."""

from __future__ import annotations

import pytest

from hw.kv.shapes import Heads, HeadShapes
from skipopu.isa.registers import Config
from skipopu.layout import KvEntry
from skipopu.machine.config import QUERY_LANES, Machine
from skipopu.machine.limits import ranges


@pytest.mark.parametrize("target", ["mono", "tiny", "trio", "ulx3s", "u280-slice4"])
def test_the_largest_model_fits(target: str) -> None:
    machine = Machine.load(target)
    allowed, shapes = ranges(machine), HeadShapes(machine)
    entry = KvEntry(allowed[Config.KV_HEADS].most, allowed[Config.HEAD_DIM].most, machine)
    blocks = -(-machine.tokens * allowed[Config.QUERY_GROUP].most // QUERY_LANES)
    largest = {
        "kv_heads": entry.kv_heads,
        "query_group": allowed[Config.QUERY_GROUP].most,
        "head_dim": entry.head_dim,
        "head_beats": entry.head_beats,
        "header_beats": entry.header_beats,
        "kv_words": entry.kv_heads * entry.head_beats,
        "key_beats": entry.key_beats,
    }
    members = Heads(machine).members
    assert set(members) == set(largest)
    for name, value in largest.items():
        assert members[name].shape == getattr(shapes, name)
        assert getattr(shapes, name).width == value.bit_length(), name
    assert shapes.blocks == blocks
    assert shapes.entry_words.width == (entry.kv_heads * blocks).bit_length()
    assert (1 << shapes.kv_entry.width) * 64 > entry.size
