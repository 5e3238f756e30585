"""Boards: what they have, and whether a machine fits."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hw.dies import Luts, Plan, plan
from hw.report import FAMILIES, report, total
from hw.structure import structure_of
from hw.synthesis import Resources
from skipopu.errors import SkipopuError, not_known
from skipopu.machine.config import Machine

DESCRIPTIONS = Path(__file__).with_name("descriptions")
COMMITTED = Path(__file__).with_name("resources")


class BoardError(SkipopuError):
    """A board that is not known, or a machine that does not fit one."""


class Memory(BaseModel):
    """Memory that a machine's ports reach: ``channels`` of ``channel_bytes`` each, ``peak_gb_s`` over all of them; none: the machine's.

    ``mhz``: of its ports, where they have a clock of their own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str
    channels: int = Field(ge=1)
    channel_bytes: int = Field(ge=1)
    peak_gb_s: float | None = Field(default=None, gt=0)
    mhz: float | None = None


class Board(BaseModel):
    """A board: its device's resources (``bram`` of 36 kbit, of 18 on ECP5), memory, default machine ``target``, and how it is built.

    ``dies``: in a row, with ``die_lines`` between neighbours, the first one beside the memory.

    ``sources`` says where each figure is from.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    title: str
    part: str
    board_part: str | None = None
    platform: str | None = None
    family: Literal["ecp5", "ultrascale+"]
    target: str
    flow: Literal["open", "vitis", "vivado"]
    lut: int
    ff: int
    dsp: int
    bram: int
    uram: int
    dies: int = Field(default=1, ge=1)
    die_lines: int = Field(default=0, ge=0)
    memory: Memory
    sources: dict[str, str]

    @staticmethod
    def load(name: str) -> Board:
        """A shipped board; raises BoardError when it is not known or its description is wrong."""
        path = DESCRIPTIONS / f"{name}.yaml"
        if not path.exists():
            raise BoardError(not_known("board", name, names()))
        try:
            return Board(name=name, **yaml.safe_load(path.read_text()))
        except ValidationError as error:
            first = error.errors()[0]
            raise BoardError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def names() -> list[str]:
    return sorted(path.stem for path in DESCRIPTIONS.glob("*.yaml"))


@dataclass(frozen=True)
class Need:
    """One figure of a machine against a board's."""

    what: str
    needed: float
    available: float

    @property
    def fits(self) -> bool:
        return self.needed <= self.available

    @property
    def share(self) -> float:
        return self.needed / self.available if self.available else float(self.needed > 0)


def committed(machine: Machine) -> dict[str, Any] | None:
    """Figures by name of a machine with these parameters, from the committed records of ``skipopu hdl --report``, if there are any."""
    for path in sorted(COMMITTED.glob("*.json")):
        data: dict[str, Any] = json.loads(path.read_text())
        if data["inputs"].get("fingerprint") == machine.fingerprint:
            return {r["name"]: r["value"] for r in data["records"]}
    return None


def committed_resources(machine: Machine) -> Resources | None:
    """Its resources, from there."""
    values = committed(machine)
    if values is None:
        return None
    return Resources(*(values[f.name] for f in dataclasses.fields(Resources) if f.name != "levels"))


def floor_plan(board: Board, machine: Machine) -> Plan:
    """Which dies of ``board`` the machine's ports stand on: as its committed figures were counted, evenly where there are none of as many
    dies."""
    counts = [value for name, value in (committed(machine) or {}).items() if name.startswith("ports_of_die.")]
    return Plan.of(counts) if len(counts) == board.dies else plan(machine.ports, board.dies, Luts(1, 0, 0))


def outdated(machine: Machine) -> str:
    """A sentence where the committed resources of ``machine`` are of another design than the present one, else nothing.

    Generates its Verilog, a quarter of a minute for the largest, once for each state of the generator.
    """
    for path in sorted(COMMITTED.glob("*.json")):
        inputs = json.loads(path.read_text())["inputs"]
        if inputs.get("fingerprint") == machine.fingerprint:
            if inputs.get("structure") == structure_of(machine):
                return ""
            dies = f" --dies {inputs['dies']}" if inputs.get("dies", 1) > 1 else ""
            return (
                f"Resources of {machine.name} are of an earlier design, not of the present one; skipopu hdl --target {machine.name}"
                f" --report{dies} --json {path.name} synthesises that"
            )
    return ""


def resources_of(machine: Machine) -> Resources:
    """Resources of the overlay: committed, else synthesised now (minutes; cached)."""
    return committed_resources(machine) or total(report(machine, FAMILIES[machine.multiplier]).units)


def needs(board: Board, machine: Machine, resources: Resources) -> list[Need]:
    """Everything that can make ``machine`` too large for ``board``. Shells and memory controllers are not counted."""
    found = [Need(name, getattr(resources, name), getattr(board, name)) for name in ("lut", "ff", "dsp", "bram", "uram")]
    if board.flow == "open":  # memory is block RAM too
        blocks = machine.ports * machine.memory_bytes / 2048  # of eight bits of nine
        found[3] = dataclasses.replace(found[3], needed=found[3].needed + blocks)
    over = [value for name, value in (committed(machine) or {}).items() if name.startswith("lines_over_border.")]
    if over and len(over) == board.dies - 1:
        found.append(Need("signals between dies", max(over), board.die_lines))
    found.append(Need("memory ports", machine.ports, board.memory.channels))
    if board.flow != "open":
        found.append(Need("bytes per port", machine.memory_bytes, board.memory.channel_bytes))
    asked = machine.ports * machine.beat_bytes * machine.clock_mhz / 1000
    found.append(Need("GB/s", asked, board.memory.peak_gb_s or asked))
    return found


def check(board: Board, machine: Machine, resources: Resources) -> list[Need]:
    """:func:`needs`, all of which fit.

    Raises:
        BoardError: one does not, with both numbers.
    """
    if FAMILIES[machine.multiplier] != board.family:
        raise BoardError(
            f"machine {machine.name} is made of {machine.multiplier} multipliers ({FAMILIES[machine.multiplier]}); {board.title} is"
            f" {board.family}"
        )
    found = needs(board, machine, resources)
    for need in found:
        if not need.fits:
            raise BoardError(
                f"machine {machine.name} does not fit {board.title}: {need.what} {need.needed:.10g}, available {need.available:.10g}"
            )
    return found
