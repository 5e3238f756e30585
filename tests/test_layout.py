"""Packers and unpackers are inverse to each other for every shape."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from skipopu.layout import EmbeddingRows, WeightStream


@given(st.integers(1, 90), st.integers(1, 5), st.sampled_from([16, 32, 64, 128]), st.integers(1, 5), st.integers(0, 99))
def test_weight_stream(rows: int, groups: int, group: int, ports: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    q = rng.integers(-8, 8, (rows, groups, group)).astype(np.int8)
    scale = rng.random((rows, groups)).astype(np.float16)
    stream = WeightStream(rows, groups, group, ports)
    packed = stream.pack(q, scale)
    assert all(len(part) == stream.size for part in packed)
    again, again_scale = stream.unpack(packed)
    assert (again == q).all()
    assert (again_scale == scale).all()


@given(st.integers(1, 200), st.integers(1, 20), st.integers(1, 5))
def test_embedding(hidden: int, vocabulary: int, ports: int) -> None:
    table = np.random.default_rng(0).standard_normal((vocabulary, hidden)).astype(np.float16)
    rows = EmbeddingRows(hidden, vocabulary, ports)
    assert (rows.unpack(rows.pack(table)) == table).all()
