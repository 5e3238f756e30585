"""Rounds of keys and values: steps of an entry, entries of a round, and how they follow one another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sim.timing.entries import EntryPace, entry_pace, held_pace
from skipopu.layout import KvEntry
from skipopu.machine import pipeline
from skipopu.machine.config import QUERY_LANES, TOGETHER, Machine


@dataclass(frozen=True)
class Rounds:
    """What attention of some queries takes on one machine, in cycles.

    Attributes:
        lanes: queries of each block that is listed.
        together: entries of a round of values; 0 where one query at a time meets them, whose sums nobody takes out.
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

    @property
    def of_round(self) -> int:
        """Steps of a round of values with all its entries, and what it waits for sums to be taken out."""
        return self.entry.kv_heads * self.of_head(max(1, self.together))

    def of_head(self, entries: int) -> int:
        return self.entry.head_beats * sum(max(entries, lanes) if self.together else lanes for lanes in self.lanes)

    def values(self, rounds: int, made: int, first: int) -> int:
        """From the first probability to the last step of values of ``rounds`` entries, nothing else in the way, in a stationary array.

        ``made``: cycles of an entry's probabilities and until the next one's, ``first``: until the first head's may be used.
        """
        heads, made_head = self.entry.kv_heads, (made - 1) // self.entry.kv_heads
        ends, ready = [0, 0], 0
        for begun in range(0, rounds, self.together):
            entries = min(self.together, rounds - begun)
            # Two rounds' are under way at most.
            ready = max(ready, ends[-2] + 1) + entries * made
            last = ready - made  # the round's last entry's first
            steps = self.of_head(entries)
            begin = max(last + first, ends[-1] + (entries >= self.lanes[-1]))
            ends.append(max(begin + heads * steps, last + first + (heads - 1) * made_head + steps))
        return ends[-1]

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
        gap = pipeline.between_rounds(machine)
        key_round = max(key_steps, key_run) + gap
        keys = entry_pace(machine, ports, entry.beats, key_run, entry.header_beats, len(lanes), key_round)
        values = entry_pace(machine, ports, entry.beats, beats, 0, sum(lanes), value_steps + gap)
        return Rounds(entry, lanes, 0, key_steps, value_steps, key_round, keys, values)
    together = 1
    if sum(lanes) > 1 and not serial:
        together = 1 << max(k for k in TOGETHER if not k or machine.adds_entries(k, beats, heads * len(lanes)))
    of_head = sum(max(head_beats, count) for count in lanes)
    # The first block's queries meet the last sums of the round before as they are taken out.
    first = max(lanes[-1], 1 + entry.header_beats + head_beats) - max(lanes[-1], head_beats)
    key_round = max(heads * of_head + first, pipeline.answered(machine) + 1)
    round_of = beats * sum(max(together, count) for count in lanes) + (together >= lanes[-1])
    of_word = (key_round - 1 - entry.header_beats) / beats, (round_of - 1) / beats
    keys = held_pace(machine, ports, entry.beats, key_run, entry.header_beats, of_word[0], 1, key_round)
    values = held_pace(machine, ports, entry.beats, beats, 0, of_word[1], together, -(-round_of // together))
    return Rounds(entry, lanes, together, key_steps, beats * len(lanes), key_round, keys, values)
