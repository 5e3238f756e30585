"""Packers and unpackers are inverse to each other for every shape."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from skipopu.layout import EmbeddingRows, WeightStream
from skipopu.numerics.formats import FORMATS, INT4, INT4Z, Format
from tests.support import random_codes


@given(
    st.integers(1, 90),
    st.integers(1, 5),
    st.sampled_from([(16, 16), (32, 16), (64, 32), (128, 32), (128, 128), (8, 16), (8, 32), (16, 32), (32, 128), (64, 128)]),
    st.integers(1, 5),
    st.sampled_from(FORMATS),
    st.integers(0, 99),
)
def test_weight_stream(rows: int, groups: int, sizes: tuple[int, int], ports: int, form: Format, seed: int) -> None:
    group, lanes = sizes
    rng = np.random.default_rng(seed)
    q = random_codes(form, rng, (rows, groups, group))
    scale = rng.random((rows, groups)).astype(np.float16)
    stream = WeightStream(rows, groups, group, ports, lanes, form)
    packed = stream.pack(q, scale)
    assert all(len(part) == stream.size for part in packed)
    again, again_scale = stream.unpack(packed)
    assert (again == q).all()
    assert (again_scale == scale).all()


def test_short_groups_stand_side_by_side() -> None:
    """One port, 32 lanes, groups of 8: a beat has the first members of four pairs, the next one the second members."""
    rng = np.random.default_rng(0)
    q, scale = random_codes(INT4, rng, (8, 3, 8)), rng.random((8, 3)).astype(np.float16)
    (packed,) = WeightStream(8, 3, 8, 1, 32).pack(q, scale)
    beats = packed[64:].reshape(-1, 16)
    for group in range(3):
        for member in range(2):
            nibbles = np.stack([beats[2 * group + member] & 15, beats[2 * group + member] >> 4], 1).reshape(4, 8)
            assert (nibbles == q[member::2, group] & 15).all()
    assert packed[:64].view(np.float16)[:24].tolist() == scale.T.reshape(-1).tolist()
    assert WeightStream(4, 3, 8, 1, 32).block_rows == 8


@given(
    st.integers(1, 700),
    st.integers(1, 9),
    st.integers(1, 5),
    st.sampled_from(FORMATS),
    st.integers(0, 300),
)
def test_parts_follow_one_another(rows: int, groups: int, ports: int, form: Format, least: int) -> None:
    rng = np.random.default_rng(rows)
    q = random_codes(form, rng, (rows, groups, 16))
    scale = rng.random((rows, groups)).astype(np.float16)
    stream = WeightStream(rows, groups, 16, ports, 16, form)
    parts = [part.pack(q[taken], scale[taken]) for taken, part in stream.parts(least)]
    for port, whole in enumerate(stream.pack(q, scale)):
        assert np.concatenate([part[port] for part in parts]).tobytes() == whole.tobytes()


@given(st.integers(9, 90), st.integers(1, 5), st.integers(0, 99))
def test_zero_points_lie_behind_24_scales(rows: int, groups: int, seed: int) -> None:
    """One port: a word every 24 groups of rows, 5 bits of it for each zero point, which are the least that the integers need."""
    rng = np.random.default_rng(seed)
    q, scale = random_codes(INT4Z, rng, (rows, groups, 16)), rng.random((rows, groups)).astype(np.float16)
    stream = WeightStream(rows, groups, 16, 1, 16, INT4Z)
    (packed,) = stream.pack(q, scale)
    for row in range(rows):
        for group in range(groups):
            number = (row // 8 * groups + group) * 8 + row % 8
            word = packed[number // 24 * (64 + 24 * 8) :][:64]
            k = number % 24
            zero = int.from_bytes(word[48:].tobytes(), "little") >> 5 * k & 31
            assert zero == max(0, -int(q[row, group].min()))
            assert word[2 * k : 2 * k + 2].tobytes() == scale[row, group].tobytes()


@given(st.integers(1, 200), st.integers(1, 20), st.integers(1, 5))
def test_embedding(hidden: int, vocabulary: int, ports: int) -> None:
    table = np.random.default_rng(0).standard_normal((vocabulary, hidden)).astype(np.float16)
    rows = EmbeddingRows(hidden, vocabulary, ports)
    assert (rows.unpack(rows.pack(table)) == table).all()
