"""What there is to cover in generated Verilog, as Yosys writes it: branches, registers and outputs, states and their changes."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

NAME = r"\\\S+ ?|[A-Za-z_][\w$]*"
MODULE = re.compile(r"^module (\\?[^\s(]+)", re.MULTILINE)
DECLARED = re.compile(rf"^  (output|wire|reg)(?: \[\d+:0\])? ({NAME})(?: = .*| *\[\d+:0\])?;")
CLOCKED = re.compile(rf"^    ({NAME})\s*<= ")
DEFINED = re.compile(rf"^  assign ({NAME})\s*= (.*);$")
CONSTANT = re.compile(r"\b\d+'(?:h([0-9a-f]+)|d(\d+))")
MUX = re.compile(r" \? .* : ")
TEMPORARY = re.compile(r"\\\$\d+ ")
RESET = r"rst|run_reset"  # of the host's registers, and of all that begins anew with a run
LONGEST = 160  # characters of a condition


def plain(name: str) -> str:
    """A signal's name as Amaranth has it: without Verilog's backslash, and without the number that makes it the module's only one."""
    return re.sub(r"(?<=.)\$\d+$", "", name.strip().removeprefix("\\"))


@dataclass(frozen=True)
class Block:
    """A module's text.

    Attributes:
        module: its name in Verilog, without the backslash.
        first: line number of its first line in the file.
    """

    module: str
    first: int
    lines: list[str]

    @property
    def unit(self) -> str:
        """The module's name, the same on every machine."""
        return unit_name(self.module)

    @functools.cached_property
    def kept(self) -> dict[str, str]:
        """Registers and outputs, what toggles are counted of: Verilog name to Amaranth's. Signals of one name are told apart by ``'``."""
        clocked = {found[1].strip() for line in self.lines if (found := CLOCKED.match(line))}
        outputs = {found[2].strip() for line in self.lines if (found := DECLARED.match(line)) and found[1] == "output"}
        names: dict[str, str] = {}
        for name in sorted(clocked | outputs, key=lambda name: (plain(name), len(name), name)):
            own = plain(name)
            while own in names.values():
                own += "'"
            names[name] = own
        return names

    @functools.cached_property
    def defined(self) -> dict[str, str]:
        """What intermediate values are."""
        found = (DEFINED.match(line) for line in self.lines)
        return {match[1].strip(): match[2] for match in found if match and TEMPORARY.fullmatch(match[1])}


def blocks(text: str) -> list[Block]:
    """The modules of ``text``."""
    lines = text.splitlines()
    starts = [k for k, line in enumerate(lines) if line.startswith("module ")]
    found = []
    for start in starts:
        end = lines.index("endmodule", start)
        match = MODULE.match(lines[start])
        assert match is not None
        found.append(Block(match[1].removeprefix("\\"), start + 1, lines[start : end + 1]))
    return found


def unit_name(module: str) -> str:
    """A module's name without the numbers that make it unique: it means the same unit on every machine."""
    return re.sub(r"\$\d+", "", module.removeprefix("\\"))


def condition(block: Block, text: str) -> str:
    """``text`` with the intermediate values in it spelled out and without widths: the same for equal conditions of other machines."""

    def spelled(name: str, left: int) -> str:
        inner = block.defined.get(name.strip())
        return name if inner is None or left == 0 else f"({expand(inner, left - 1)})"

    def expand(inner: str, left: int) -> str:
        return TEMPORARY.sub(lambda match: spelled(match[0], left), inner)

    whole = CONSTANT.sub(lambda match: str(int(match[1], 16) if match[1] else int(match[2])), expand(text, 4))
    whole = re.sub(r"\\(\S+) ?", r"\1", whole)
    whole = re.sub(r"(?<=\w)\$\d+(?:\$\d+)*", "", re.sub(r"\s+", " ", whole)).strip()
    return whole if len(whole) <= LONGEST else f"{whole[: LONGEST - 3]}..."


@dataclass
class Branches:
    """Of one module: (line in the file, Verilator's name of the kind) to the conditions under which it is taken."""

    block: Block
    found: dict[tuple[int, str], str] = field(default_factory=dict)

    def read(self) -> dict[tuple[int, str], str]:
        path: list[list[str]] = []
        selected: list[tuple[int, str]] = []  # how deep a case is, and what selects
        for offset, line in enumerate(self.block.lines):
            number, text = self.block.first + offset, line.strip()
            if text.startswith("always "):
                path, selected = [[]], []
            elif "verilog_backend.cc" in text:
                continue
            elif text.startswith("assign ") and MUX.search(text):
                self._mux(number, text)
            elif not path:
                continue
            elif found := re.fullmatch(r"(end else )?if \((.*)\) begin", text):
                self._taken(number, path, found[2], bool(found[1]))
            elif text == "end else begin":
                path[-1][-1] = f"!({path[-1][-1]})"
            elif text == "begin":
                path.append([])
            elif found := re.fullmatch(r"casez? \((.*)\)", text):
                selected.append((len(path), condition(self.block, found[1])))
                path.append([])
            elif selected and (found := re.fullmatch(r"(\d+'\S+(?:, \d+'\S+)*|default):", text)):
                depth, what = selected[-1]
                del path[depth + 1 :]
                value = CONSTANT.sub(lambda match: str(int(match[1] or match[2], 16 if match[1] else 10)), found[1])
                path[depth] = [f"{what} = {value}"]
                self._add(number, "case", path)
            elif text == "endcase":
                depth, _ = selected.pop()
                del path[depth:]
            elif text == "end":
                path.pop()
        return self.found

    def _mux(self, number: int, text: str) -> None:
        chosen = condition(self.block, text.partition(" = ")[2].partition(" ? ")[0])
        self.found[number, "cond_then"], self.found[number, "cond_else"] = f"{chosen} ?", f"{chosen} :"

    def _taken(self, number: int, path: list[list[str]], asked: str, behind: bool) -> None:
        here = condition(self.block, asked)
        before = [f"!({path.pop()[-1]})"] if behind else []
        if re.fullmatch(RESET, here):
            path.append([here])
            return
        path.append([*before, here])
        for kind in ("if", "elsif"):
            self._add(number, kind, path)
        path[-1][-1] = f"!({here})"
        self._add(number, "else", path)
        path[-1][-1] = here

    def _add(self, number: int, kind: str, path: list[list[str]]) -> None:
        self.found[number, kind] = " & ".join(part for level in path for part in level)


def branches(block: Block) -> dict[tuple[int, str], str]:
    """(line, kind) of each point of Verilator's line coverage that stands for a branch, and its conditions."""
    return Branches(block).read()


@dataclass(frozen=True)
class Machine:
    """A state machine: its register, what resets it, the states, and every change of state that the unit's circuit can make."""

    register: str
    reset: str
    states: tuple[int, ...]
    changes: tuple[tuple[int, int], ...]


def machine(block: Block) -> Machine | None:
    """The one of a unit that has one. What a reset does is no change."""
    follows = next((found[1] for line in block.lines if (found := re.match(r"    fsm_state <= (\\\S+) ;", line))), None)
    if follows is None:
        return None
    states, changes = {0}, set[tuple[int, int]]()
    at: int | None = None
    depth, inside, reset = 0, False, ""  # of the case whose arms are states; in the block of the register; in its reset
    resets = set[str]()
    for line in block.lines:
        text, indent = line.strip(), len(line) - len(line.lstrip())
        if text.startswith("always "):
            inside, reset, at, depth = False, "", None, 0
        elif re.fullmatch(rf"{re.escape(follows)} += fsm_state;", text):
            inside = True
        elif text == "casez (fsm_state)":
            depth = indent
        elif text == "endcase" and indent == depth:
            at, depth = None, 0
        elif depth and indent == depth + 2 and (found := re.fullmatch(r"(\d+'\S+):", text)):
            at = value(found[1])
            states.add(at)
        elif found := re.fullmatch(rf"if \(({RESET})\) begin", text):
            reset = found[1]
            resets |= {reset} if inside else set()
        elif inside and not reset and text.startswith(f"{follows} "):
            to = value(text.rpartition("= ")[2].rstrip(";"))
            states.add(to)
            changes |= {(at, to)} if at is not None else {(other, to) for other in states}
    (cleared,) = resets
    return Machine("fsm_state", cleared, tuple(sorted(states)), tuple(sorted(c for c in changes if c[0] != c[1])))


def value(constant: str) -> int:
    """Of ``3'h5``."""
    base, digits = constant.partition("'")[2][0], constant.partition("'")[2][1:]
    return int(digits, 16 if base == "h" else 10)


def declared(block: Block) -> Iterator[tuple[int, str, str]]:
    """(line in the module, kind, name) of its declarations."""
    for number, line in enumerate(block.lines):
        if found := DECLARED.match(line):
            yield number, found[1], found[2].strip()
