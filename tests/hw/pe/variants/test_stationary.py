"""Output-stationary multipliers against integers: weights with gaps between channels, keys, values."""

from __future__ import annotations

import numpy as np
import pytest

from hw.pe.variants import Stationary
from hw.pe.variants.stationary import PART_BITS
from sim.studies.channels import synthesised
from skipopu.numerics import align, fp32
from tests.hw.pe.variants import number, outputs

ROWS = 8


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("plain", [0, 1, 3])
def test_weights(plain: int, beside: bool) -> None:
    """Groups of any number of channels, gaps among them: what is put aside is read while the next group is added up."""
    rng, dut = np.random.default_rng(plain), Stationary(ROWS, hard=False, beside=beside)
    inputs: dict[str, list[int]] = {name: [] for name in ("beat", "valid", "first", "last", "activations_0", "activations_1")}
    select, exponents = [0] * 3000, [0] * 3000
    expected: list[tuple[int, int, int, int]] = []
    for _ in range(30):
        channels = int(rng.integers(1, 40))
        fed = np.flatnonzero(rng.random(4 * channels + dut.lanes) < 0.7)[:channels]
        fed[-1] = max(fed[-1], dut.lanes)
        nibbles = rng.integers(0, 16, (channels, ROWS))
        x = rng.choice([rng.integers(-(2**17) + 1, 2**17), 2**17 - 1, -(2**17) + 1], (channels, 2))
        begin = len(inputs["beat"])
        for cycle in range(int(fed[-1]) + 1):
            (k,) = np.flatnonzero(fed == cycle) if cycle in fed else (None,)
            inputs["valid"].append(int(k is not None))
            inputs["first"].append(int(k == 0))
            inputs["last"].append(int(k == channels - 1))
            inputs["beat"].append(number(nibbles[k] if k is not None else rng.integers(0, 16, ROWS), 4))
            for token in range(2):
                value = x[k, token] if k is not None else int(rng.integers(0, 9))
                inputs[f"activations_{token}"].append(int(value) & (1 << align.ALIGNED_BITS) - 1)
        weights = np.where([plain & 1, plain >> 1] * (ROWS // 2), nibbles - 8, nibbles - 16 * (nibbles > 7))
        sums = x.T @ weights
        ready, exponent = begin + int(fed[-1]) + dut.PUT_ASIDE, int(rng.integers(100, 160))
        for lane in range(dut.lanes):
            select[ready + lane], exponents[ready + lane] = lane, exponent
            token, pair = divmod(lane, ROWS // 2)
            expected += [
                (ready + lane + dut.latency, member, int(sums[token, 2 * pair + member]), exponent) for member in range(2)
            ]
    inputs |= {"select": select, "exponent": exponents, "plain": [plain] * 3000}
    seen = outputs(dut, inputs, max(cycle for cycle, *_ in expected) + 1)
    for cycle, member, total, exponent in expected:
        value = fp32.from_integer(np.array([total]), np.array([exponent - align.ALIGNED_BIAS]))
        assert seen[f"sums_{member}"][cycle] == int(fp32.bits(value)[0]), (cycle, member, total)


@pytest.mark.parametrize("values", [False, True])
def test_attention(values: bool) -> None:
    """Each quarter of the multipliers has a query: its dot product with a key of two beats, or its sums of four tokens' values."""
    rng, dut, beats = np.random.default_rng(values), Stationary(ROWS, hard=False), 4 if values else 2
    elements = rng.integers(-(2**17) + 1, 2**17, (beats, dut.quarter))
    queries = rng.integers(-(2**17) + 1, 2**17, (beats, 4, dut.quarter))
    probabilities = rng.integers(0, 1 << 25, (beats, 4))
    inputs = {
        "valid": [1] * beats,
        "first": [1] + [0] * (beats - 1),
        "last": [0] * (beats - 1) + [1],
        "attend": [1] * beats,
        "values": [int(values)] * beats,
        "elements": [number(row, 18) for row in elements],
        "queries": [number(row.reshape(-1), 18) for row in queries],
        "probabilities": [number(row, 25) for row in probabilities],
        "select": [0] * (beats - 1 + dut.PUT_ASIDE) + [dut.quarter * query for query in range(4)],
    }
    depth = (dut.quarter - 1).bit_length()
    begin = beats - 1 + dut.PUT_ASIDE + 1
    seen = outputs(dut, inputs, begin + depth + 4)
    for query in range(4):
        if values:
            parts = (probabilities[:, query, None] * elements).sum(0)
            assert seen["parts"][begin + query] == number(parts, PART_BITS)
        else:
            assert seen["dot"][begin + depth + query] == int((queries[:, query] * elements).sum())


@pytest.mark.synth
def test_multipliers_are_blocks_with_their_accumulators() -> None:
    for beside in (False, True):
        unit = Stationary(ROWS, beside=beside)
        found = synthesised(unit)
        assert found.dsp == unit.lanes * (1.5 if beside else 1)
