"""Every claim about every unit."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.formal.laws import Unit
from tests.formal.prove import outcomes
from tests.formal.units import UNITS


@pytest.mark.formal
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: f"{unit.path}-{unit.build.__name__}")
def test_claims_hold(unit: Unit, tmp_path: Path) -> None:
    wrong = [f"{o.claim.text} ({o.said})" for o in outcomes(unit.build(), tmp_path) if not o.holds]
    assert not wrong, "; ".join(wrong)
