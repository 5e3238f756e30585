"""The transposing buffer against a matrix."""

from __future__ import annotations

import numpy as np

from hw.pe.variants import Transposing
from tests.hw.pe.variants import number, outputs


def test_tiles_come_out_by_rows() -> None:
    """In any order of channels, some of them missing, while the next tile is written."""
    rng, dut, rows, tiles = np.random.default_rng(1), Transposing(16), 16, 6
    inputs: dict[str, list[int]] = {name: [] for name in ("channel", "valid", "number", "bank", "pair")}
    given, came = rng.integers(0, 16, (tiles, rows, rows)), rng.random((tiles, rows)) < 0.8
    reads: list[tuple[int, int, int]] = []
    for tile in range(tiles + 1):
        begin = len(inputs["bank"])
        for cycle in range(rows + 3):  # behind the last channel it stands
            channel = cycle if tile < tiles and cycle < rows else 0
            inputs["valid"].append(int(tile < tiles and cycle < rows and came[tile, channel]))
            inputs["number"].append(channel)
            inputs["channel"].append(number(given[min(tile, tiles - 1), channel], 4))
            inputs["bank"].append(tile & 1)
            pair = cycle % dut.pairs
            inputs["pair"].append(pair)
            if tile and cycle < dut.pairs:
                reads.append((begin + cycle + dut.latency, tile - 1, pair))
    seen = outputs(dut, inputs, len(inputs["bank"]) + dut.latency)["beat"]
    for cycle, tile, pair in reads:
        bytes = seen[cycle].to_bytes(rows, "little")
        for channel in np.flatnonzero(came[tile]):
            lower, upper = given[tile, channel, 2 * pair : 2 * pair + 2]
            assert bytes[channel] == lower + 16 * upper, (tile, pair, channel)
