"""Where thresholds lie in each port's memory."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from skipopu.masks import ThresholdTable, channels
from tests.support import small_config

tables = st.builds(
    ThresholdTable, st.integers(1, 12), st.sampled_from((8, 16, 32, 64)), st.integers(1, 5), st.sampled_from((8, 16, 32, 64))
)


@given(tables, st.integers(0, 7), st.randoms(use_true_random=False))
def test_tables(table: ThresholdTable, missing: int, random: object) -> None:
    """Group g is in port g mod ports, in whole beats behind the groups before it there; what is behind the last channel is 0."""
    rng = np.random.default_rng(random.getrandbits(32))  # type: ignore[attr-defined]
    every = rng.integers(0, 1 << 16, table.groups * table.group - missing).astype(np.uint16)
    parts = table.pack(every)
    assert {len(part) for part in parts} == {table.size}
    assert table.size % 64 == 0
    padded = np.concatenate([every, np.zeros(missing, np.uint16)]).reshape(table.groups, table.group)
    assert np.array_equal(table.unpack(parts), padded)
    for g, group in enumerate(padded):
        own, at = parts[g % table.ports], g // table.ports * table.group_bytes
        assert at % table.beat == 0
        assert own[at : at + 2 * table.group].tobytes() == group.astype("<u2").tobytes()
    used = sum(int(np.count_nonzero(part)) for part in parts)
    assert used == np.count_nonzero(every.astype("<u2").view(np.uint8)), "padding is zero"


def test_inputs_of_a_layer() -> None:
    config = small_config(head_dim=20)
    assert channels(config) == {"self_attn.input": 96, "self_attn.output": 80, "mlp.input": 96, "mlp.inner": 200}
