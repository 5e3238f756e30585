"""Result records, the one format of ``--json`` files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skipopu import __version__

KINDS = ("simulated", "synthesised", "measured", "published", "derived", "estimated")


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


def write_json(path: Path, command: str, inputs: dict[str, Any], records: Sequence[Record]) -> None:
    """Writes ``{"command", "version", "inputs", "records"}``; keys that do not apply are left out."""
    body = {
        "command": command,
        "version": __version__,
        "inputs": {
            name: value if isinstance(value, int | float | bool | type(None)) else str(value) for name, value in inputs.items()
        },
        "records": [{k: v for k, v in dataclasses.asdict(r).items() if v is not None or k == "value"} for r in records],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(body, indent=1) + "\n")
