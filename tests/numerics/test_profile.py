"""A profile's fingerprint says what its operations compute."""

from __future__ import annotations

import numpy as np
import pytest

from skipopu.numerics import align, fp32, tables
from skipopu.numerics.fp32 import Saturation
from skipopu.numerics.profile import PROFILES, fingerprint


def test_profiles_differ_and_nothing_saturates() -> None:
    Saturation.seen = False
    assert len({fingerprint.__wrapped__(name) for name in PROFILES}) == len(PROFILES)
    assert not Saturation.seen


@pytest.mark.parametrize(
    ("module", "name", "changed"),
    [
        (fp32, "add", lambda a, b: np.float32(a) + np.float32(b) + np.float32(1e-7)),
        (align, "align", lambda x, group, bits=18, align=align.align: align(x * np.float32(1 + 2**-16), group, bits)),
        (tables, "reciprocal", lambda x: np.float32(1) / (x + (x == 0))),
    ],
)
def test_another_bit_is_another_fingerprint(
    monkeypatch: pytest.MonkeyPatch, module: object, name: str, changed: object
) -> None:
    before = fingerprint.__wrapped__("exact18")
    monkeypatch.setattr(module, name, changed)
    assert fingerprint.__wrapped__("exact18") != before
