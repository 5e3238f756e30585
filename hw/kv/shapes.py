"""Widths of what describes heads and KV entries, from the ranges of :mod:`skipopu.machine.limits`."""

from __future__ import annotations

from hw.arithmetic.pipeline import count_shape
from hw.component import Bundle, gives
from skipopu.isa.registers import Config
from skipopu.isa.spec import ADDRESS_UNIT
from skipopu.machine.config import QUERY_LANES, Machine
from skipopu.machine.limits import largest_entry, ranges


class HeadShapes:
    """Shapes of a model's numbers, each as wide as the largest model of ``machine``.

    Attributes:
        kv_heads, query_group, head_dim: as in the configuration registers.
        blocks: largest number of blocks of four queries per KV head.
        head_beats: beats of a head. header_beats: of an entry's header. kv_words: of an entry's K (or V).
        key_beats: beats of header and K. entry_words: score words of an entry. kv_entry: its size in address units.
        most_head_beats, most_header_beats: the largest values of two of them.
    """

    def __init__(self, machine: Machine) -> None:
        allowed, entry = ranges(machine), largest_entry(machine)
        self.most_head_beats, self.most_header_beats = entry.head_beats, entry.header_beats
        self.blocks = -(-machine.tokens * machine.query_group // QUERY_LANES)
        self.kv_heads, self.query_group, self.head_dim = (
            count_shape(allowed[register].most) for register in (Config.KV_HEADS, Config.QUERY_GROUP, Config.HEAD_DIM)
        )
        self.head_beats, self.header_beats = count_shape(entry.head_beats), count_shape(entry.header_beats)
        self.kv_words = count_shape(entry.key_beats - entry.header_beats)
        self.key_beats = count_shape(entry.key_beats)
        self.entry_words = count_shape(machine.kv_heads * self.blocks)
        self.kv_entry = count_shape(entry.size // ADDRESS_UNIT)


class Heads(Bundle):
    """The running model's heads and entries."""

    def __init__(self, machine: Machine) -> None:
        shapes = HeadShapes(machine)
        self.kv_heads = gives(shapes.kv_heads, "heads of K, as many of V")
        self.query_group = gives(shapes.query_group, "queries per KV head")
        self.head_dim = gives(shapes.head_dim, "elements of a head")
        self.head_beats = gives(shapes.head_beats, "beats of a head: of K, of V, words of a query")
        self.header_beats = gives(shapes.header_beats, "beats of an entry's header")
        self.kv_words = gives(shapes.kv_words, "beats of an entry's K (or V): words of a query over all KV heads")
        self.key_beats = gives(shapes.key_beats, "beats of header and K")
        super().__init__()


class Pool(Bundle):
    """Where entries lie, the same in every port's memory."""

    def __init__(self, machine: Machine) -> None:
        self.base = gives(32, "address of the pool, 64-byte units")
        self.entry = gives(HeadShapes(machine).kv_entry, "size of an entry, 64-byte units")
        super().__init__()
