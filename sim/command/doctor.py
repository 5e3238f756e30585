"""``skipopu doctor``."""

from __future__ import annotations

import argparse
import importlib.metadata
import shutil
import subprocess
import sys
from collections.abc import Iterator

from packaging.requirements import Requirement
from rich.table import Table
from rich.text import Text

from skipopu.arguments import add_json
from skipopu.report import Record, write_json
from skipopu.terminal import out

PACKAGE = "skipopu"
DEVELOPMENT = "test"  # the extra that only work on the package itself needs
# program -> (needed, what for)
PROGRAMS = {
    "g++": (True, "RTL simulation needs it"),
    "iverilog": (False, "only its tests need it"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_json(parser, "write what was found as records")


def extra_of(requirement: Requirement) -> str | None:
    """The extra that asks for a requirement; None when the package itself does."""
    if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
        return None
    extras = importlib.metadata.metadata(PACKAGE).get_all("Provides-Extra") or []
    return next((extra for extra in extras if requirement.marker.evaluate({"extra": extra})), "")


def packages() -> Iterator[tuple[str, str, bool]]:
    """(package, its version or what to install, ok) of everything that skipopu's own metadata asks for on this machine."""
    try:
        asked = [Requirement(text) for text in importlib.metadata.requires(PACKAGE) or []]
    except importlib.metadata.PackageNotFoundError:
        yield PACKAGE, "not installed: pip install . in its folder", False
        return
    for requirement in asked:
        extra = extra_of(requirement)
        if extra in (DEVELOPMENT, ""):
            continue
        install = (
            f"pip install '{requirement.name}{requirement.specifier}'" if extra is None else f"pip install '{PACKAGE}[{extra}]'"
        )
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            yield requirement.name, f"missing: {install}" if extra is None else f"optional: {install}", extra is not None
            continue
        fits = requirement.specifier.contains(version, prereleases=True)
        yield requirement.name, version if fits else f"{version}, not {requirement.specifier}: {install}", fits


def programs() -> Iterator[tuple[str, str, bool]]:
    """The same of programs and of Python's shared library."""
    for name, (needed, use) in PROGRAMS.items():
        path = shutil.which(name)
        if path is None:
            yield (
                name,
                f"{'missing' if needed else 'optional'}, {use}: install it with the system's package manager",
                not needed,
            )
        else:
            option = "-V" if name == "iverilog" else "--version"
            answer = subprocess.run([path, option], capture_output=True, text=True, check=False).stdout
            yield name, next((line for line in answer.splitlines() if line.strip()), path), True
    try:
        import find_libpython

        library = find_libpython.find_libpython()
    except ImportError:
        library = None
    yield "libpython", library or "missing: RTL simulation needs a Python built with a shared library", library is not None


def findings() -> list[tuple[str, str, bool]]:
    """(what, found, ok)."""
    return [("python", sys.version.split()[0], sys.version_info >= (3, 11)), *packages(), *programs()]


def main(args: argparse.Namespace) -> int:
    found = findings()
    table = Table("tool", "found", "ok")
    for name, text, ok in found:
        table.add_row(name, text, "yes" if ok else Text("no", "red"))
    out.print(table)
    if args.json:
        records = [Record(name, text, "version", "measured", "skipopu doctor") for name, text, _ in found]
        write_json(args.json, "doctor", {}, records)
    return 0 if all(ok for *_, ok in found) else 1
