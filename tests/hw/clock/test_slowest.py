from __future__ import annotations

import networkx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hw.clock.cells import CELLS
from hw.clock.delays import FAMILIES, corner
from hw.clock.linked import linked
from hw.clock.netlist import Netlist, read
from hw.clock.slowest import levels, slowest
from skipopu.errors import SkipopuError
from tests.hw.clock.netlists import cell, lut, module, register

ULTRASCALE = CELLS["ultrascale+"]
LIKELY = corner("ultrascale+", "likely")
DELAYS = {name: delay[1] for name, delay in FAMILIES["ultrascale+"].cells.items()}
ONLY, SHARED = (part[1] for part in FAMILIES["ultrascale+"].wire[:2])
NEAR, UNCERTAIN = FAMILIES["ultrascale+"].near[1], FAMILIES["ultrascale+"].uncertainty[1]


def of(*cells: dict, **ports: dict) -> Netlist:
    return read(module(list(cells), **ports), ULTRASCALE)


def test_path_through_two_lookup_tables_has_every_part() -> None:
    netlist = of(register(9, 1), lut([1], 2), lut([2], 3), register(3, 4))
    expected = DELAYS["register"] + ONLY + 2 * DELAYS["LUT"] + ONLY + NEAR + DELAYS["data"] + UNCERTAIN
    path = slowest(netlist, LIKELY)
    assert path.ns == pytest.approx(expected)
    assert path.mhz == pytest.approx(1000 / expected)
    assert [step.kind for step in path.steps] == ["register", "LUT", "LUT"]
    assert path.end == "data"
    assert path.levels == levels(netlist) == 2


def test_wire_to_several_loads_takes_longer() -> None:
    one = slowest(of(register(9, 1), lut([1], 2), register(2, 3)), LIKELY)
    four = slowest(of(register(9, 1), lut([1], 2), register(2, 3), *(lut([1], k) for k in (5, 6, 7))), LIKELY)
    assert four.ns - one.ns == pytest.approx(SHARED - ONLY + FAMILIES["ultrascale+"].wire[2][1])


def test_carry_bit_reaches_higher_sums_only() -> None:
    chain = cell(
        "CARRY4",
        {"S": [1, 2, 3, 4], "DI": ["0"] * 4, "CI": ["0"], "CYINIT": ["0"]},
        {"O": [11, 12, 13, 14], "CO": [21, 22, 23, 24]},
    )
    netlist = of(chain)
    assert {(s, t) for s, t, _ in netlist.arcs.tolist()} == {
        (bits[s], bits[t])
        for bits in [_numbers(chain)]
        for i, s in enumerate((1, 2, 3, 4))
        for t in (*range(11 + i, 15), *range(21 + i, 25))
    }


def _numbers(chain: dict) -> dict[int, int]:
    """Nets are numbered as they are met, port by port in the order of their names."""
    met = [bit for port in sorted(chain["connections"]) for bit in chain["connections"][port] if isinstance(bit, int)]
    return {bit: number for number, bit in enumerate(met)}


def test_multiplier_and_distributed_ram_do_not_end_a_path() -> None:
    ram = cell("RAM32X1D", {"A0": [9], "DPRA0": [2], "D": [9], "WE": [9], "WCLK": [10_000]}, {"SPO": [30], "DPO": [3]})
    dsp = cell("DSP48E2", {"A": [3], "B": ["0"]}, {"P": [4]})
    netlist = of(register(9, 1), lut([1], 2), ram, dsp, lut([4], 5), register(5, 6))
    assert levels(netlist) == 3
    assert [step.kind for step in slowest(netlist, LIKELY).steps] == [
        "register",
        "LUT",
        "LUT RAM",
        "DSP operands + DSP multiplier + DSP adder",
        "LUT",
    ]


def test_borders_stand_for_registers_outside() -> None:
    netlist = of(lut([1], 2), inputs={"a": [1]}, outputs={"b": [2]})
    assert slowest(netlist, LIKELY).levels == 1
    assert slowest(netlist, LIKELY, borders=False).steps == ()


def test_loop_without_a_register_is_an_error() -> None:
    with pytest.raises(SkipopuError, match="loop"):
        slowest(of(lut([1], 2), lut([2], 1)), LIKELY)


def test_paths_across_units_count_and_wires_through_a_module_are_wires() -> None:
    inner = read(module([lut([1], 2)], {"a": [1], "through": [5]}, {"b": [2], "again": [2], "out": [5]}), ULTRASCALE)
    calls = [
        cell("inner", {"a": [1], "through": [7]}, {"b": [2], "again": [3], "out": [8]}),
        cell("inner", {"a": [3], "through": [2]}, {"b": [4], "again": [6], "out": [9]}),
    ]
    top = read(module([register(99, 1), *calls, register(4, 10), register(9, 11)]), ULTRASCALE)
    whole = linked("top", {"top": top, "inner": inner})
    flat = of(register(99, 1), lut([1], 2), lut([2], 4), register(4, 10), register(2, 11))
    assert slowest(whole, LIKELY).ns == pytest.approx(slowest(flat, LIKELY).ns)
    assert slowest(whole, LIKELY).levels == 2


@given(st.integers(0, 2**32 - 1))
def test_slowest_path_is_the_longest_of_the_graph(seed: int) -> None:
    """Random acyclic nets of lookup tables between registers, against another implementation; and cut in two units at any place."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 12))
    tables = [(k, sorted({int(rng.integers(0, k)) for _ in range(3)})) for k in range(3, 3 + count)]
    cells = [register(100 + k, k) for k in range(3)]
    cells += [lut(list(inputs), k) for k, inputs in tables]
    cells.append(register(2 + count, 200))
    netlist = of(*cells)
    loads = {k: sum(k in inputs for _, inputs in tables) + (k == 2 + count) for k in range(3 + count)}
    graph = networkx.DiGraph()
    for k, inputs in tables:
        for i in inputs:
            wire = ONLY if loads[i] == 1 else SHARED + FAMILIES["ultrascale+"].wire[2][1] * np.log2(loads[i] / 2)
            graph.add_edge(i, k, weight=wire + DELAYS["LUT"])
    into = {2 + count, *networkx.ancestors(graph, 2 + count)}
    longest = networkx.dag_longest_path_length(graph.subgraph(into))
    last = NEAR if loads[2 + count] == 1 else SHARED + FAMILIES["ultrascale+"].wire[2][1] * np.log2(loads[2 + count] / 2)
    expected = DELAYS["register"] + longest + last + DELAYS["data"] + UNCERTAIN
    assert slowest(netlist, LIKELY).ns == pytest.approx(expected)
    cut = int(rng.integers(1, count + 1))
    parts = {"one": tables[:cut], "two": tables[cut:]}
    made = {name: [k for k, _ in own] for name, own in parts.items()}
    used = {name: sorted({i for _, inputs in own for i in inputs} - set(made[name])) for name, own in parts.items()}
    modules = {
        name: module([lut(list(inputs), k) for k, inputs in own], {"i": used[name]}, {"o": made[name]})
        for name, own in parts.items()
    }
    calls = [cell(name, {"i": used[name]}, {"o": made[name]}) for name in parts]
    modules["top"] = module([*cells[:3], *calls, cells[-1]])
    whole = linked("top", {name: read(each, ULTRASCALE) for name, each in modules.items()})
    assert slowest(whole, LIKELY).ns == pytest.approx(expected)
