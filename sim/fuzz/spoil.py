"""Values out of place, on the border of what is accepted or beyond it."""

from __future__ import annotations

from typing import Any

from sim.fuzz.draw import Draw

ODD_VALUES = (0, -1, 1, 3, 6, 48, 1000, 4095, 1.5, float("nan"), "16", "", None, True, [1], {})
ODD_MODEL = (0, -1, 1, 3, 1.5, float("nan"), "8", None, [2])
ODD_OPTIONS: dict[str, tuple[Any, ...]] = {
    "kv": ("both",),
    "context": (1, 100_000, -1),
    "group": (1, 24, 1024, -32),
    "weights": ("int2",),
    "history": (-1, 1, 100_000),
    "policies": ({"ffn": "trace"}, {"layers": {"99": {}}}, {"decode": "never"}),
}
ODD_RUN: dict[str, tuple[Any, ...]] = {
    "prompt": ([], [-1], [1 << 20]),
    "max_new": (-1, 1000),
    "dial": (float("nan"), float("inf")),
}


def spoil_machine(draw: Draw, machine: dict[str, Any]) -> None:
    """Puts one value of a machine's description out of place."""
    kind = draw.between(0, 9)
    if kind == 0 and isinstance(machine["memory"], dict):
        machine["memory"][draw.of(list(machine["memory"]))] = draw.of(ODD_VALUES)
    elif kind == 1:
        del machine[draw.of(list(machine))]
    elif kind == 2:
        machine[draw.of(("slices", "memory", "numerics", "name"))] = draw.of(("hbm9", ["exact17"], "a b/c", 7))
    elif kind < 7:
        key = draw.of([k for k in machine if k not in ("name", "numerics", "memory")])
        machine[key] = draw.of(ODD_VALUES)
    else:
        key = draw.of([k for k, v in machine.items() if isinstance(v, int)])
        machine[key] = machine[key] + draw.of((-1, 1)) if draw.chance(0.6) else machine[key] // 2


def spoil_program(draw: Draw, program: dict[str, Any]) -> None:
    """Puts one value of a model, of how it is compiled or run out of place."""
    part, values = draw.of((("model", dict.fromkeys(program["model"], ODD_MODEL)), ("compile", ODD_OPTIONS), ("run", ODD_RUN)))
    key = draw.of(list(values))
    program[part][key] = draw.of(values[key])
