"""Of the entries wanted, misses are asked for, hits go on, and what is not wanted any more is dropped."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from amaranth.sim import SimulatorContext

from hw.kv.request import EntryRequests
from skipopu.isa.spec import ADDRESS_UNIT
from skipopu.layout import KvEntry
from skipopu.machine.accepted import LARGEST_MAP
from skipopu.machine.config import Machine
from skipopu.machine.limits import LARGEST_CONTEXT
from tests.hw.bench import exercise
from tests.hw.kv.support import head_values

MACHINE = Machine.load("tiny")
ENTRY, POOL = KvEntry(2, 8, MACHINE), (1 << 27) + 1000  # the pool lies above 4 GB
FIRST = LARGEST_CONTEXT - 40  # token
KEY_BEATS, VALUE_BEATS = ENTRY.key_beats, ENTRY.beats - ENTRY.key_beats


def held(place: int) -> bool:
    """Whether the history buffer holds the half of this place."""
    return place % 3 == 0


def entries(count: int, seed: int) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    return [
        {
            "place": rng.choice((rng.randrange(1000), LARGEST_MAP - 1 - rng.randrange(1000))),
            "entry": {
                "token": FIRST + token,
                "score": token,
                "half": {"slot": rng.randrange(64), "base": token, "values": rng.randrange(2)},
                "kept": 1,
                "ahead": int(rng.random() < 0.3),
            },
        }
        for token in range(count)
    ]


@pytest.mark.parametrize("filling", [0, 1])
def test_where_entries_go(filling: int) -> None:
    dut = EntryRequests(MACHINE)
    wanted = entries(40, filling)
    hits = [w["entry"] for w in wanted if held(w["place"]) and not w["entry"]["ahead"]]
    asked = [w for w in wanted if not held(w["place"]) and (filling or not w["entry"]["ahead"])]
    runs = []
    for w in asked:
        values = w["entry"]["half"]["values"]
        beat = (POOL + w["place"] * (ENTRY.size // ADDRESS_UNIT)) * (ADDRESS_UNIT // MACHINE.beat_bytes)
        runs.append({"beat": beat + values * KEY_BEATS, "count": VALUE_BEATS if values else KEY_BEATS})
    expected = [w["entry"]["token"] for w in asked]
    misses: list[int] = []
    dropped = 0

    async def beside(ctx: SimulatorContext, stalls: random.Random | None) -> None:
        nonlocal dropped
        misses.clear()
        dropped = 0
        while True:
            watched = (dut.taken, dut.wanted.payload.place, dut.misses.valid, dut.misses.payload.token, dut.dropped)
            _, _, taken, place, valid, token, drop = await ctx.tick().sample(*watched)
            if taken:
                ctx.set(dut.held, held(place))
            if valid:
                misses.append(token)
            dropped += drop

    run = exercise(
        dut,
        {dut.wanted: wanted},
        {dut.runs: runs, dut.hits: hits},
        constants=[
            *head_values(dut.heads, ENTRY),
            (dut.pool.base, POOL),
            (dut.pool.entry, ENTRY.size // ADDRESS_UNIT),
            (dut.filling, filling),
            (dut.misses.ready, 1),
        ],
        beside=beside,
    )
    assert misses == expected
    assert dropped == len(wanted) - len(hits) - len(asked)
    # What is asked for goes a cycle later than a hit, and the next entry is taken as much later.
    later = [w in asked for w in wanted]
    taken = np.cumsum([0] + [2 + late for late in later])
    assert run.taken[dut.wanted] == taken[:-1].tolist()
    gone = {w["entry"]["token"]: time for w, time in zip(asked, run.given[dut.runs], strict=True)}
    gone |= {entry["token"]: time for entry, time in zip(hits, run.given[dut.hits], strict=True)}
    assert all(time == taken[token - FIRST] + 1 + later[token - FIRST] for token, time in gone.items())
