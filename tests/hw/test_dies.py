"""Signals between the ports' units and the rest of an overlay."""

from __future__ import annotations

import numpy as np
import pytest

from hw.clock.netlist import Instance, Netlist
from hw.dies import REST, connections, port_of

NO_WAYS = np.zeros((0, 3), np.int32)


@pytest.mark.parametrize(("name", "port"), [("tile_0", 0), ("writer_31", 31), ("queue_array", REST), ("stage_2", REST)])
def test_ports_by_their_instances_names(name: str, port: int) -> None:
    assert port_of(name) == port


def nets(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int32)


def module(inputs: int, loads: list[int], outputs: list[int]) -> Netlist:
    """One with nets 0, the clock, to ``inputs`` from outside, and ``outputs`` of these or other nets."""
    ports = {"clk": nets(0), "x": nets(*range(1, inputs + 1))}
    ends = nets(*loads).reshape(-1, 1).repeat(2, 1)
    return Netlist(9, {}, ["way"], NO_WAYS, ends[:0], ends, nets(0, *loads), ports, {"z": nets(*outputs)})


def test_signals_are_counted_once() -> None:
    """Nets of the overlay: 0 clock, 1 from port 0 to the middle, 2 of both ports, 3 through the middle to port 1, which is 4 there, 5 and 6
    of port 1 with the top level's own logic, 7 of two units of port 0, 8 from the middle to port 1."""
    modules = {
        "unit": module(4, [1, 2, 3, 4], []),
        "middle": module(2, [1], [2, 5]),  # of its inputs the first is used, the second is its first output
    }

    def instance(kind: str, name: str, inputs: np.ndarray, outputs: np.ndarray) -> Instance:
        return Instance(kind, name, {"clk": nets(0), "x": inputs, "z": outputs})

    overlay = Netlist(
        9,
        {},
        ["way"],
        NO_WAYS,
        nets(5, 0).reshape(1, 2),
        nets(6, 0).reshape(1, 2),
        nets(6),
        {"clk": nets(0), "rst": nets()},
        {},
        [
            instance("unit", "tile_0", nets(1, 2, 3, 7), nets()),
            instance("unit", "read_0", nets(7, -1, -1, -1), nets()),
            instance("unit", "tile_1", nets(2, 4, 5, 6), nets()),
            instance("unit", "read_1", nets(8, -1, -1, -1), nets()),
            instance("middle", "switch", nets(1, 3), nets(4, 8)),
        ],
    )
    modules["middle"].starts = nets(5, 0).reshape(1, 2)
    # Of port 0: 1, of port 1: 5, 6, 8; common: 2 and what passes through.
    assert connections(overlay, modules) == (1, 2)
    overlay.instances[0] = instance("unit", "tile_0", nets(1, 2, 3, 8), nets())
    assert connections(overlay, modules) == (1, 3)
    overlay.instances[0] = instance("unit", "tile_0", nets(1, 2, 5, 6), nets())
    assert connections(overlay, modules) == (1, 3)
