from __future__ import annotations

import itertools

import pytest

from hw.clock.cells import CELLS, dsp48
from hw.clock.delays import CORNERS, FAMILIES, corner
from tests.hw.clock.netlists import cell


def settings(kind: str) -> list[dict[str, str]]:
    """Every choice of a cell's registers."""
    chosen = {
        "DSP48E2": dict.fromkeys(("AREG", "BREG", "MREG", "PREG"), "01") | {"USE_MULT": ("MULTIPLY", "NONE")},
        "RAMB18E2": {"DOA_REG": "01", "DOB_REG": "01"},
        "RAMB36E2": {"DOA_REG": "01", "DOB_REG": "01"},
        "URAM288": {"OREG_A": ("FALSE", "TRUE"), "OREG_B": ("FALSE", "TRUE")},
        "MULT18X18D": {"REG_INPUTA_CLK": ("NONE", "CLK0"), "REG_OUTPUT_CLK": ("NONE", "CLK0")},
        "DP16KD": {"REGMODE_A": ("NOREG", "OUTREG"), "REGMODE_B": ("NOREG", "OUTREG")},
    }.get(kind, {})
    return [dict(zip(chosen, values, strict=True)) for values in itertools.product(*chosen.values())]


@pytest.mark.parametrize(("family", "kind"), [(family, kind) for family, cells in CELLS.items() for kind in cells])
def test_every_way_through_a_cell_has_a_delay_and_the_corners_are_in_order(family: str, kind: str) -> None:
    for parameters in settings(kind):
        ways = CELLS[family][kind].of(parameters)
        assert ways
        low, likely, high = (corner(family, name).of([way.kind for way in ways]) for name in CORNERS)
        assert (low <= likely).all()
        assert (likely <= high).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_wires_take_longer_with_more_loads(family: str) -> None:
    for name in CORNERS:
        first, *others = FAMILIES[family].wire
        of_corner = CORNERS.index(name)
        assert first[of_corner] <= others[0][of_corner]
        assert others[1][of_corner] >= 0


@pytest.mark.parametrize(
    ("registers", "through", "started", "ended"),
    [
        ("", ["DSP operands + DSP multiplier + DSP adder"], [], []),
        ("P", [], ["DSP register"], ["DSP operands + DSP multiplier + DSP adder"]),
        ("M", [], ["DSP register + DSP adder"], ["DSP operands + DSP multiplier"]),
        ("A", [], ["DSP register + DSP operands + DSP multiplier + DSP adder"], ["DSP data"]),
        ("AMP", [], ["DSP register"], ["DSP data"]),
    ],
)
def test_registers_of_a_multiplier_cut_what_goes_through_it(
    registers: str, through: list[str], started: list[str], ended: list[str]
) -> None:
    ways = dsp48({f"{name}REG": "1" for name in registers})
    of_operands = [way for way in ways if "B" in getattr(way, "inputs", "")]
    kinds = {name: [way.kind for way in ways if type(way).__name__ == name] for name in ("Pass", "Starts", "Ends")}
    assert [way.kind for way in of_operands] == through + ended
    assert kinds["Starts"][: len(started)] == started
    assert cell("DSP48E2", {}, {})["type"] in CELLS["ultrascale+"]
