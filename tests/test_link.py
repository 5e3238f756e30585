"""The host link's frames: answers are found behind noise, damaged ones are not taken."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from skipopu.link import ANSWER, ANSWER_HEADER, MOST_WORDS, Status, checksum, parse_answer


def answer(sequence: int, status: int, payload: bytes = b"") -> bytes:
    body = ANSWER_HEADER.pack(sequence, status, len(payload) // 4) + payload
    return bytes([ANSWER]) + body + checksum(body)


@given(st.integers(0, 255), st.binary(max_size=4 * MOST_WORDS).map(lambda b: b[: len(b) // 4 * 4]), st.binary(max_size=20))
def test_answers_are_found_behind_noise(sequence: int, payload: bytes, noise: bytes) -> None:
    """Noise that looks like the start of a longer answer may hide one until more comes; it is never taken for one."""
    noise = noise.replace(bytes([ANSWER]), b"")
    whole = answer(sequence, Status.OK, payload)
    found, done = parse_answer(noise + whole + b"x")
    assert found is not None
    assert (found.sequence, found.payload, done) == (sequence, payload, len(noise + whole))
    assert parse_answer(noise + whole[:-1])[0] is None


@given(st.binary(min_size=8, max_size=60).map(lambda b: b[: len(b) // 4 * 4]), st.data())
def test_damaged_answers_are_not_taken(payload: bytes, data: st.DataObject) -> None:
    whole = bytearray(answer(7, Status.OK, payload))
    at = data.draw(st.integers(1, len(whole) - 1))
    whole[at] ^= 1 << data.draw(st.integers(0, 7))
    found, _ = parse_answer(bytes(whole))
    assert found is None
