"""Netlists as Yosys writes them, from a few words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Pins = Mapping[str, Sequence[int | str]]


def cell(kind: str, inputs: Pins, outputs: Pins, **parameters: str) -> dict[str, Any]:
    directions = dict.fromkeys(inputs, "input") | dict.fromkeys(outputs, "output")
    return {"type": kind, "parameters": parameters, "port_directions": directions, "connections": {**inputs, **outputs}}


def lut(inputs: Sequence[int | str], output: int) -> dict[str, Any]:
    return cell(f"LUT{len(inputs)}", {f"I{k}": [bit] for k, bit in enumerate(inputs)}, {"O": [output]})


def register(data: int, output: int, clock: int = 10_000) -> dict[str, Any]:
    return cell("FDRE", {"C": [clock], "CE": ["1"], "R": ["0"], "D": [data]}, {"Q": [output]})


def module(cells: list[dict[str, Any]], inputs: Pins | None = None, outputs: Pins | None = None) -> dict[str, Any]:
    ports = [(name, "input", bits) for name, bits in (inputs or {}).items()]
    ports += [(name, "output", bits) for name, bits in (outputs or {}).items()]
    return {
        "ports": {name: {"direction": direction, "bits": bits} for name, direction, bits in ports},
        "cells": {f"cell_{k}": each for k, each in enumerate(cells)},
        "netnames": {name: {"bits": bits, "hide_name": 0} for name, _, bits in ports},
    }
