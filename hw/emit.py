"""Verilog of an overlay."""

from __future__ import annotations

import functools
import gc
import importlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Thread
from typing import Any

from amaranth.back import verilog
from amaranth.hdl import Elaboratable, Signal
from amaranth.lib.wiring import Component

from hw.block import BlockUnit, either
from hw.library import Library
from hw.overlay import Overlay
from skipopu.machine.config import Machine

TOP = "overlay"


@functools.lru_cache(maxsize=8)
def overlay_verilog(machine: Machine) -> str:
    """The whole design as Verilog text, top module ``overlay``; the same machine gives the same bytes. Remembered.

    What repeats per memory port (``tile``, ``read_port``, ``write_port``) is one module, however many ports there are, and so are
    units that came out equal: all instances are of the first one's module.
    """
    return _interruptible(lambda: _overlay_parts(machine))


def _overlay_parts(machine: Machine) -> str:
    library = Library()
    text = component_verilog(Overlay(machine, library), TOP) + library_verilog(library)
    return equal_modules_once(without_unread_fields(text))


# A wire that is a field of another one, by Amaranth's naming.
_FIELD = re.compile(r"^  wire (?:\[\d+:0\] )?(\\\S+\.\S+ );$", re.MULTILINE)
_NAME = re.compile(r"\\\S+ ")
_DRIVEN = re.compile(r"  (?:wire (?:\[\d+:0\] )?|assign )(\\\S+ )")


def without_unread_fields(text: str) -> str:
    """The same design without names of fields that nothing reads: a sixth of the text."""

    def kept(match: re.Match[str]) -> str:
        body = match[0]
        times = Counter(_NAME.findall(body))
        unread = {name for name in _FIELD.findall(body) if times[name] == 2}  # declared and assigned
        lines = body.splitlines(keepends=True) if unread else [body]
        return "".join(line for line in lines if not ((own := _DRIVEN.match(line)) and own[1] in unread))

    return _MODULE.sub(kept, text)


# The signal that starts combinational processes in simulation, which Yosys calls otherwise in each module.
_START = re.compile(r"\\\$auto\$verilog_backend\S+ ")
_MODULE = re.compile(r"^module (\S+) ?\((.*?)\);\n(.*?)^endmodule\n", re.MULTILINE | re.DOTALL)
_WIRE = re.compile(r"^  (?:wire|input|output) [^=\n]*;$", re.MULTILINE)
_INSTANCE = re.compile(r"^  (\\?\S+)(?= +\\?\S+ +\($)", re.MULTILINE)


def equal_modules_once(text: str) -> str:
    """The same design without modules that differ from an earlier one in their name and in the order of ports and wires."""
    first: dict[tuple[object, ...], str] = {}
    instead: dict[str, str] = {}

    def kept(match: re.Match[str]) -> str:
        name, ports, body = match.groups()
        content = frozenset(ports.split(", ")), frozenset(_WIRE.findall(body)), _START.sub("start", _WIRE.sub("", body))
        if (found := first.setdefault(content, name)) == name:
            return match[0]
        instead[name] = found
        return ""

    text = _MODULE.sub(kept, text)
    # What the modules left out were instances in may be equal now.
    return equal_modules_once(_INSTANCE.sub(lambda match: f"  {instead.get(match[1], match[1])}", text)) if instead else text


def _interruptible(work: Callable[[], str]) -> str:
    """Result of ``work``, done in a thread of its own.

    An interrupt reaches the main thread. Raised in the middle of a conversion it would be lost where it meets one of Amaranth's
    ``__del__``; waiting for another thread, it ends the program at once.
    """
    outcome: Future[str] = Future()

    def target() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    Thread(target=target, daemon=True).start()
    return outcome.result()


def library_verilog(library: Library) -> str:
    """Modules that occur many times, also those that are first used in another one."""
    texts: dict[str, str] = {}
    while left := [name for name in library.modules if name not in texts]:
        texts |= {name: _unit_verilog(library.modules[name], name) for name in left}
    return "".join(texts.values())


def _unit_verilog(component: Component, name: str) -> str:
    """One of them, with a block's form beside the described one where there is one."""
    text = component_verilog(component, name)
    if isinstance(component, BlockUnit):
        return either(component.block, component_verilog(component.instantiated(), name), text)
    return text


def component_verilog(component: Component, name: str, sources: bool = False) -> str:
    """Verilog of one component as module ``name``; with ``sources``, an attribute names the line of Python behind each part."""
    with _zeros_left_out(), _no_collection():
        text = verilog.convert(component, name=name, strip_internal_attrs=not sources, emit_src=sources)
    return _MEMORY.sub(_zeroed, text)


def elaboratable_verilog(unit: Elaboratable, name: str, ports: Sequence[Signal]) -> str:
    """Verilog of a circuit whose ports are ``ports``, as module ``name``."""
    with _zeros_left_out():
        return verilog.convert(unit, name=name, ports=ports, strip_internal_attrs=True, emit_src=False)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Conversion makes millions of objects and frees next to none of them: looking for garbage takes a fifth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def _zeros_left_out() -> Iterator[None]:
    """Amaranth writes a memory's start value bit by bit; for u280's zeros that is 14 million bits and most of the time."""
    emitter: Any = importlib.import_module("amaranth.back.rtlil").ModuleEmitter  # its stubs leave it out
    emit = emitter.emit_memory

    def emit_unless_zero(self: object, cell_idx: int, cell: Any) -> None:
        if any(cell.init):
            emit(self, cell_idx, cell)

    emitter.emit_memory = emit_unless_zero
    try:
        yield
    finally:
        emitter.emit_memory = emit


# A memory, and whether a start value follows it.
_MEMORY = re.compile(r"^  reg \[\d+:0\] (\S+ +)\[(\d+):0\];\n(?!  initial)", re.MULTILINE)


def _zeroed(match: re.Match[str]) -> str:
    """The declaration with a loop that zeroes it in simulation. Block RAM starts at zero; no result depends on it."""
    name, label = match[1], re.sub(r"\W", "_", match[1].strip())
    loop = f"for (zero_{label} = 0; zero_{label} <= {match[2]}; zero_{label} = zero_{label} + 1)"
    return f"{match[0]}`ifndef SYNTHESIS\n  integer zero_{label};\n  initial {loop} {name}[zero_{label}] = 0;\n`endif\n"
