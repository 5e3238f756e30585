"""Rounds of keys and values: steps of an entry, entries of a round, and how they follow one another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sim.timing.entries import EntryPace, entry_pace, held_pace
from skipopu.layout import KvEntry
from skipopu.machine.config import ENTRIES_AT_ONCE, QUERY_LANES, Machine


@dataclass(frozen=True)
class Rounds:
    """What attention of some queries takes on one machine, in cycles.

    Attributes:
        lanes: queries of each block that is listed.
        together: entries of a round of values.
        key_steps, value_steps: of an entry, those with work.
        key_round: from an entry's first step of keys to the next one's, at least.
        key_pace, value_pace: of entries that are read.
    """

    entry: KvEntry
    lanes: tuple[int, ...]
    together: int
    key_steps: int
    value_steps: int
    key_round: int
    key_pace: EntryPace
    value_pace: EntryPace

    def values(self, entries: int) -> int:
        """Steps of a round of values of so many entries, and what it waits for sums to be taken out."""
        beats = self.entry.kv_heads * self.entry.head_beats
        return beats * sum(max(entries, lanes) if self.together else lanes for lanes in self.lanes)

    @property
    def taken(self) -> int:
        """Cycles from the first query that is taken out of a block's sums to the last one."""
        return max(self.lanes) - 1 if self.together else 0


def rounds_of(machine: Machine, ports: int, listed: Sequence[int], queries: int, entry: KvEntry, serial: bool) -> Rounds:
    """Of ``listed`` slots with ``queries`` query heads per KV head over entries in each of ``ports``."""
    lanes = tuple(Counter((slot * queries + g) // QUERY_LANES for slot in listed for g in range(queries)).values())
    heads, head_beats = entry.kv_heads, entry.head_beats
    beats, key_run = heads * head_beats, entry.key_beats
    key_steps = entry.header_beats + beats * len(lanes)
    if not machine.stationary:
        value_steps = beats * sum(lanes)
        key_round = max(key_steps, key_run) + 1
        keys = entry_pace(machine, ports, entry.beats, key_run, entry.header_beats, len(lanes), key_round)
        values = entry_pace(machine, ports, entry.beats, beats, 0, sum(lanes), value_steps + 1)
        return Rounds(entry, lanes, 0, key_steps, value_steps, key_round, keys, values)
    together = 1
    if sum(lanes) > 1 and not serial:
        most = ENTRIES_AT_ONCE.bit_length()
        together = 1 << max(k for k in range(most) if not k or machine.adds_entries(k, beats, heads * len(lanes)))
    of_head = sum(max(head_beats, count) for count in lanes)
    key_round = entry.header_beats + heads * of_head + 1
    word = sum(max(together, count) for count in lanes)
    keys = held_pace(machine, ports, entry.beats, key_run, entry.header_beats, of_head / head_beats, 1, key_round)
    values = held_pace(machine, ports, entry.beats, beats, 0, word, together, -(-(beats * word + 1) // together))
    return Rounds(entry, lanes, together, key_steps, beats * len(lanes), key_round, keys, values)
