"""Runs vendor scripts under a real Tcl interpreter; commands that only the vendor's tool has are recorded."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

tkinter = pytest.importorskip("tkinter", reason="Tcl comes with Python's tkinter")


def record(script: str, directory: Path, answers: dict[str, str] | None = None) -> list[tuple[str, ...]]:
    """Vendor commands of ``script`` with their arguments, in order; each answers its name and first argument, or of ``answers``.

    Raises:
        tkinter.TclError: the script is not valid Tcl, or uses what was not set.
    """
    calls: list[tuple[str, ...]] = []

    def unknown(*words: str) -> str:
        calls.append(words)
        return (answers or {}).get(words[0], "@".join((words[0], *words[-1:])))

    interpreter = tkinter.Tcl()
    interpreter.createcommand("recorded", unknown)
    interpreter.eval("proc unknown args { uplevel 1 [linsert $args 0 recorded] }")
    # What the scripts do to files stays out of the way.
    interpreter.eval(
        "rename file real_file; proc file args { recorded file {*}$args }; proc glob args { recorded glob {*}$args }"
    )
    with contextlib.chdir(directory):  # the interpreter's directory is the process's
        interpreter.eval(script)
    return calls
