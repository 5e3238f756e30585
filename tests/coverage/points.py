"""What a simulation counted, read from Verilator's coverage.dat and told by unit instead of by line of Verilog."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from skipopu.errors import SkipopuError
from tests.coverage.instrument import RECORDER
from tests.coverage.verilog import blocks, branches, unit_name

HEAD = "# SystemC::Coverage-3"
RECORD = re.compile(r"C '(.*)' (\d+)")
TOGGLED = re.compile(r"(.*?)(?:\[(\d+)\])?:([01]->[01])")
ESCAPED = re.compile(r"__0([0-9A-F]{2})")


@dataclass(frozen=True, order=True)
class Point:
    """Something that a simulation reaches or not.

    Attributes:
        kind: branch, toggle, state or change.
        name: a branch's conditions, a toggle's signal, a state's number, or the two of a change.
        bit: of a toggle's signal.
        edge: of a toggle: 0->1 or 1->0.
    """

    unit: str
    kind: str
    name: str
    bit: int = 0
    edge: str = ""


def records(text: Iterable[str]) -> Iterator[tuple[dict[str, str], int]]:
    """Fields and count of each line of a coverage.dat; the fields' short names are Verilator's: ``f`` file, ``l`` line, ``t`` type...

    Raises:
        SkipopuError: the text is none.
    """
    lines = iter(text)
    if (first := next(lines, "").rstrip("\n")) != HEAD:
        raise SkipopuError(f"coverage begins with {first!r}; accepted: {HEAD!r}")
    for line in lines:
        if not (found := RECORD.fullmatch(line.rstrip("\n"))):
            raise SkipopuError(f"coverage has the line {line!r}; accepted: C 'fields' count")
        fields = (part.partition("\x02") for part in found[1].split("\x01") if part)
        yield {name: value for name, _, value in fields}, int(found[2])


class Reader:
    """Reads what was counted in simulations of one instrumented Verilog file."""

    def __init__(self, verilog: str) -> None:
        lines = verilog.splitlines()
        self.taken: dict[tuple[int, str], Point] = {}
        self.signals: dict[str, dict[str, str]] = {}
        for block in blocks(verilog):
            self.signals[block.module] = block.kept
            for place, conditions in branches(block).items():
                self.taken[place] = Point(block.unit, "branch", conditions)
            for number in range(block.first, block.first + len(block.lines)):
                if found := RECORDER.search(lines[number - 1]):
                    kind = "change" if found[2] else "state"
                    self.taken[number, "if"] = Point(block.unit, kind, f"{found[1]} to {found[2]}" if found[2] else found[1])

    def read(self, text: Iterable[str]) -> Counter[Point]:
        """Counts by point; those of instances of a module are together already."""
        seen = Counter[Point]()
        for fields, count in records(text):
            if (point := self._point(fields)) is not None:
                seen[point] += count
        return seen

    def _point(self, fields: dict[str, str]) -> Point | None:
        """None for what stands for no branch: a process, the other side of a recorder."""
        if fields["t"] != "toggle":
            return self.taken.get((int(fields["l"]), fields["o"]))
        module = fields["page"].partition("/")[2]
        found = TOGGLED.fullmatch(fields["o"])
        if found is None or module not in self.signals:
            raise SkipopuError(
                f"coverage has the toggle {fields['o']!r} of {module!r}; accepted: a signal of a module, and an edge"
            )
        signal = ESCAPED.sub(lambda match: chr(int(match[1], 16)), found[1])
        kept = self.signals[module]
        name = kept.get(signal) or kept.get(f"\\{signal}")
        return Point(unit_name(module), "toggle", name, int(found[2] or 0), found[3]) if name else None
