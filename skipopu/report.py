"""Result records, the one format of ``--json`` files."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from skipopu import __version__

KINDS = ("simulated", "synthesised", "measured", "published", "derived", "estimated")


PREFIXES = {"G": 1e9, "M": 1e6, "k": 1e3, "": 1.0, "m": 1e-3, "µ": 1e-6, "n": 1e-9}


def unit_of(value: float, unit: str, largest: str = "") -> tuple[float, str]:
    """(how much one is, its name) of the unit to show ``value`` in: the largest, from ``largest`` prefix down, in which it is 0.1 or more."""
    names = list(PREFIXES)
    down = names[names.index(largest) :]
    prefix = next((name for name in down if abs(value) >= 0.1 * PREFIXES[name]), largest if not value else down[-1])
    return PREFIXES[prefix], prefix + unit


@dataclass(frozen=True)
class Record:
    """One figure: ``kind`` says how it came about, ``source`` from what; the optional keys say of what."""

    name: str
    value: float | int | str | None
    unit: str
    kind: str
    source: str
    engine: str | None = None
    target: str | None = None
    model: str | None = None
    context: str | None = None
    skip: float | None = None
    kv: str | None = None
    phase: str | None = None
    system: str | None = None
    precision: str | None = None
    stack: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"record {self.name}: kind {self.kind!r} is none of {KINDS}")


_stdout: list[TextIO] = []  # the stream that ``--json -`` has to itself


@contextlib.contextmanager
def alone_on_stdout() -> Iterator[None]:
    """Everything but records goes to standard error meanwhile."""
    _stdout.append(sys.stdout)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _stdout.pop()


def _plain(value: Any) -> Any:
    """``value`` as JSON has it; what it has no type for as text."""
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(part) for part in value]
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items()}
    return value if isinstance(value, int | float | bool | type(None)) else str(value)


def write_json(
    path: Path, command: str, inputs: Mapping[str, Any], records: Sequence[Record], outputs: Mapping[str, Any] | None = None
) -> None:
    """Writes ``{"command", "version", "inputs", "records"}``, and ``outputs`` where there are any; "-" is standard output.

    Keys of records that do not apply are left out.
    """
    body = {
        "command": command,
        "version": __version__,
        "inputs": _plain(dict(inputs)),
        **({"outputs": _plain(dict(outputs))} if outputs else {}),
        "records": [{k: v for k, v in dataclasses.asdict(r).items() if v is not None or k == "value"} for r in records],
    }
    text = json.dumps(body, indent=1) + "\n"
    if str(path) == "-":
        (_stdout or [sys.stdout])[-1].write(text)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
