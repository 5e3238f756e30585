"""Packers and unpackers are inverse to each other for every shape."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from skipopu.layout import EmbeddingRows, WeightStream
from skipopu.numerics.formats import FORMATS, Format


@given(
    st.integers(1, 90),
    st.integers(1, 5),
    st.sampled_from([(16, 16), (32, 16), (64, 32), (128, 32), (128, 128)]),
    st.integers(1, 5),
    st.sampled_from(FORMATS),
    st.integers(0, 99),
)
def test_weight_stream(rows: int, groups: int, sizes: tuple[int, int], ports: int, form: Format, seed: int) -> None:
    group, lanes = sizes
    rng = np.random.default_rng(seed)
    q = rng.choice(form.values, (rows, groups, group)).astype(np.int8)
    scale = rng.random((rows, groups)).astype(np.float16)
    stream = WeightStream(rows, groups, group, ports, lanes, form)
    packed = stream.pack(q, scale)
    assert all(len(part) == stream.size for part in packed)
    again, again_scale = stream.unpack(packed)
    assert (again == q).all()
    assert (again_scale == scale).all()


@given(
    st.integers(1, 700),
    st.integers(1, 9),
    st.integers(1, 5),
    st.sampled_from(FORMATS),
    st.integers(0, 300),
)
def test_parts_follow_one_another(rows: int, groups: int, ports: int, form: Format, least: int) -> None:
    rng = np.random.default_rng(rows)
    q = rng.choice(form.values, (rows, groups, 16)).astype(np.int8)
    scale = rng.random((rows, groups)).astype(np.float16)
    stream = WeightStream(rows, groups, 16, ports, 16, form)
    parts = [part.pack(q[taken], scale[taken]) for taken, part in stream.parts(least)]
    for port, whole in enumerate(stream.pack(q, scale)):
        assert np.concatenate([part[port] for part in parts]).tobytes() == whole.tobytes()


@given(st.integers(1, 200), st.integers(1, 20), st.integers(1, 5))
def test_embedding(hidden: int, vocabulary: int, ports: int) -> None:
    table = np.random.default_rng(0).standard_normal((vocabulary, hidden)).astype(np.float16)
    rows = EmbeddingRows(hidden, vocabulary, ports)
    assert (rows.unpack(rows.pack(table)) == table).all()
