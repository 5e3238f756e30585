"""Which die cells stand on, and what goes between dies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hw.clock.cells import CELLS
from hw.clock.delays import corner
from hw.clock.linked import linked
from hw.clock.netlist import Netlist, read
from hw.clock.slowest import Places, slowest
from hw.dies import FAR, Luts, Plan, die_of_nets, gearbox_lines, lines, luts_of, placed, plan, standing
from skipopu.machine.config import Machine
from tests.hw.clock.netlists import cell, lut, module, register

LIKELY = corner("ultrascale+", "likely")
FLOOR = Plan(3, (1, 0, 0, 2, 2), 1)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("tile_0", ("tile", 0)),
        ("writer_31", ("writer", 31)),
        ("attention_unit.fetch_7", ("fetch", 7)),
        ("tile_3.lanes", ("tile", 3)),
        ("queue_array", None),
        ("stage_2", None),
    ],
)
def test_what_stands_with_its_port(name: str, place: tuple[str, int] | None) -> None:
    assert standing(name) == place


@given(st.integers(1, 40), st.integers(1, 4), st.floats(1, 30_000), st.floats(0, 3_000), st.floats(0, 300_000))
def test_every_port_has_a_die_and_the_first_is_at_home(ports: int, dies: int, tile: float, write: float, rest: float) -> None:
    floor = plan(ports, dies, Luts(tile, write, rest))
    assert (floor.dies, sum(floor.counts), len(floor.tiles)) == (dies, ports, ports)
    assert floor.tiles[0] == floor.home == dies // 2
    for four in range(0, ports, 4):
        assert len(set(floor.tiles[four : four + 4])) == 1
    assert Plan.of(floor.counts) == floor


def test_the_fullest_die_has_as_little_as_can_be() -> None:
    assert plan(32, 3, Luts(25_000, 700, 120_000)).counts == [12, 8, 12]
    assert plan(32, 3, Luts(25_000, 700, 10_000)).counts[1] == 12
    assert plan(20, 2, Luts(25_000, 700, 300_000)).counts == [16, 4]
    floor = plan(32, 3, Luts(25_000, 700, 120_000))
    assert floor.writes(0) == floor.home
    assert floor.writes(31) == floor.memory == 0


def overlay(rest: list[dict[str, Any]]) -> Netlist:
    """Five ports whose tiles give a bit each, nets 1 to 5, and take one, 11 to 15; cells beside them; the clock 100, the reset 101."""
    tile = module([register(1, 2)], {"clk": [100], "rst": [101], "x": [1]}, {"y": [2]})
    calls = {f"tile_{p}": cell("tile", {"clk": [100], "rst": [101], "x": [11 + p]}, {"y": [1 + p]}) for p in range(5)}
    top = module(rest, {"clk": [100], "rst": [101]})
    top["cells"] |= calls
    cells = CELLS["ultrascale+"]
    return linked("top", {"top": read(top, cells), "tile": read(tile, cells)})


def test_sums_begin_on_the_dies_of_their_ports() -> None:
    """1 and 2 of ports on die 0 meet there in 20, those of die 2 in 21, both at home in 22; 23 is port 0's, at home."""
    rest = [lut([2, 3], 20), lut([4, 5], 21), lut([20, 21], 22), lut([1], 23), register(22, 24), register(20, 25)]
    whole = overlay(rest)
    assert placed(whole, FLOOR)[:6].tolist() == [0, 2, 1, 1, 1, 0]


def test_what_goes_everywhere_does_not_hold_its_readers() -> None:
    """A choice by a register that very many read is made on the die of what it chooses from."""
    many = [register(30, 200 + k) for k in range(FAR)]
    choice = lut([2, 30], 20)
    assert placed(overlay([choice, register(1, 30), *many]), FLOOR)[:2].tolist() == [0, 1]
    assert placed(overlay([choice, register(1, 30)]), FLOOR)[:2].tolist() == [1, 1]


def test_lines_are_signals_over_borders_and_reads_of_memory() -> None:
    whole = overlay([lut([2, 3], 20), lut([4, 5], 21), lut([20, 21], 22), register(22, 11), register(22, 15)])
    dies = placed(whole, FLOOR)
    # 20 from the first die, 21 from the last, the result's register to port 4
    assert lines(whole, dies, FLOOR, (0, 0)) == [1, 2]
    assert lines(whole, dies, FLOOR, (100, 1000)) == [1 + 3 * 100 + 1000, 2 + 2 * 100]


def test_a_border_takes_its_time() -> None:
    whole = overlay([lut([2], 20), register(20, 24)])
    one = placed(whole, Plan(1, (0,) * 5, 0))
    same = slowest(whole, LIKELY, places=Places(die_of_nets(whole, one), one))
    assert same.ns == pytest.approx(slowest(whole, LIKELY).ns)
    there = one.copy()
    there[np.flatnonzero(there == 0)[:2]] = 2  # the table and the register, two borders from the tiles
    far = slowest(whole, LIKELY, places=Places(die_of_nets(whole, there), there))
    assert far.ns == pytest.approx(same.ns + 2 * LIKELY.border)


def test_a_gearbox_s_narrow_side_is_of_half_the_width() -> None:
    machine = Machine.load("u280")
    half = machine.port_bits // 2
    read, write = gearbox_lines(machine)
    assert half < read < half + 100
    assert half + half // 8 < write < half + half // 8 + 100


def test_luts_are_of_what_stands_together() -> None:
    tile = module([], {}, {})
    parts = {f"tile_{p}": cell("tile", {}, {}) for p in range(2)} | {f"write_{p}": cell("write", {}, {}) for p in range(2)}
    fetches = module([], {}, {})
    fetches["cells"] = {f"fetch_{p}": cell("fetch", {}, {}) for p in range(2)}
    top = module([], {}, {})
    top["cells"] = parts
    modules = {name: read(each, CELLS["ultrascale+"]) for name, each in (("top", top), ("unit", fetches), ("tile", tile))}
    assert luts_of(2, modules, {"tile": 50, "write": 3, "fetch": 7, "top": 1, "unit": 9}, 130) == Luts(57, 3, 10)
