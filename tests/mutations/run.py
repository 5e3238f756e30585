"""Runs a fault's test on a copy of the tree with the fault in it, and without."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as xml
from dataclasses import asdict, dataclass
from pathlib import Path

from skipopu.cache import cache_entry, digest_of, fill_once
from tests.mutations.faults import Fault, changed

ROOT = Path(__file__).parents[2]
ROOMS = ("skipopu", "hw", "compiler", "sim", "tests")  # what tests of hardware import
SECONDS = 300  # limit of a test, which a fault may keep waiting for ever
ASSERTION = ("AssertionError", "assert ")  # how pytest says that one failed
RESULT = "result.json"


@dataclass(frozen=True)
class Outcome:
    """Of a test: whether it passed, whether it failed in an assertion, the first line of what it said, seconds that it took."""

    passed: bool
    failed: bool
    said: str
    seconds: float


@functools.cache
def _shared() -> str:
    """Digest of all that a copy holds but the tests themselves."""
    own = Path(__file__).parent
    files = [
        file
        for room in ROOMS
        for file in sorted((ROOT / room).rglob("*"))
        if file.suffix in (".py", ".yaml") and own not in file.parents and not file.name.startswith("test_")
    ]
    return digest_of(files, ROOT)


def attempt(test: str, fault: Fault | None = None) -> Outcome:
    """Of the test of this node id, with ``fault`` in the tree or without; kept in the cache.

    Raises:
        SkipopuError: the fault's line does not stand in its file exactly once, or the cache cannot be written.
    """
    own = "" if fault is None else f"{fault.file}\n{fault.before}\n{fault.after}"
    text = "\n".join([_shared(), digest_of([ROOT / test.partition("::")[0]], ROOT), test, own])
    directory = cache_entry("mutations", test.rpartition("::")[2], hashlib.sha256(text.encode()).hexdigest())
    fill_once(directory, lambda work: (work / RESULT).write_text(json.dumps(asdict(_run(test, fault)))))
    return Outcome(**json.loads((directory / RESULT).read_text()))


def _run(test: str, fault: Fault | None) -> Outcome:
    ignored = shutil.ignore_patterns(".*")
    with tempfile.TemporaryDirectory(prefix="mutation-") as name:
        copy = Path(name)
        for room in ROOMS:
            shutil.copytree(ROOT / room, copy / room, ignore=ignored)
        shutil.copy2(ROOT / "pyproject.toml", copy)
        if fault is not None:
            file = copy / fault.file
            file.write_text(changed(fault, file.read_text()))
            for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*"):
                compiled.unlink()
        report = copy / "report.xml"
        options = ["-p", "no:cacheprovider", "-q", "-x", "-m", "", f"--timeout={SECONDS}", f"--junitxml={report}"]
        command = [sys.executable, "-m", "pytest", *options, test]
        start = time.perf_counter()
        run = subprocess.run(command, cwd=copy, env=os.environ | {"PYTHONPATH": name}, capture_output=True, text=True)
        seconds = round(time.perf_counter() - start, 1)
        failures = list(xml.parse(report).iter("failure")) if report.exists() else []
    said = failures[0].get("message", "") if failures else (run.stdout + run.stderr).strip()
    first = next(iter(said.splitlines()), "") if failures else said[-300:]
    return Outcome(run.returncode == 0, said.startswith(ASSERTION) and bool(failures), first[:300], seconds)
