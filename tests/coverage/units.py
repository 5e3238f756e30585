"""Which class of ``hw/`` a module of the generated Verilog comes from."""

from __future__ import annotations

import ast
import functools
import json
import re
from pathlib import Path

from hw.emit import TOP, component_verilog
from hw.library import Library
from hw.overlay import Overlay
from skipopu.cache import cache_entry, digest_of, fill_once
from skipopu.machine.config import Machine
from tests.coverage.verilog import unit_name

ROOT = Path(__file__).parents[2]
MODULE = re.compile(r'^\(\* src = "([^"]+):(\d+)" \*\)\n(?:\(\* .* \*\)\n)*module (\\?[^\s(]+)', re.MULTILINE)
UNITS = "units.json"


def units_of(target: str) -> dict[str, str]:
    """Unit to ``control/dispatch.py Dispatcher``: the file below ``hw/`` and the class. Amaranth's own FIFOs are left out.

    Kept on disk: generating Verilog takes seconds.
    """
    machine = Machine.load(target)
    sources = digest_of([*sorted((ROOT / "hw").rglob("*.py")), *sorted((ROOT / "skipopu").rglob("*.py")), Path(__file__)], ROOT)
    directory = cache_entry("coverage", f"units-{machine.name}", sources)
    fill_once(directory, lambda work: (work / UNITS).write_text(json.dumps(_found(machine))))
    return json.loads((directory / UNITS).read_text())


def _found(machine: Machine) -> dict[str, str]:
    library = Library()
    parts = {TOP: component_verilog(Overlay(machine, library), TOP, sources=True)}
    while left := [name for name in library.modules if name not in parts]:  # a module may bring others
        parts |= {name: component_verilog(library.modules[name], name, sources=True) for name in left}
    found: dict[str, str] = {}
    for file, line, module in MODULE.findall("".join(parts.values())):
        path = Path(file)
        if path.is_relative_to(ROOT / "hw"):
            found[unit_name(module)] = f"{path.relative_to(ROOT / 'hw').as_posix()} {_class(path, int(line))}"
    return found


@functools.cache
def _classes(path: Path) -> list[tuple[int, int, str]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [(node.lineno, node.end_lineno or 0, node.name) for node in tree.body if isinstance(node, ast.ClassDef)]


def _class(path: Path, line: int) -> str:
    """The class around a line."""
    return next((name for first, last, name in _classes(path) if first <= line <= last), "")
