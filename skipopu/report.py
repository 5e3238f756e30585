"""What commands report: records, the one format of ``--json`` files, and tables, plots and sentences that show them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypedDict

import numpy as np

from skipopu import __version__

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = ("simulated", "synthesised", "measured", "published", "derived", "estimated")


class Keys(TypedDict, total=False):
    """What a record may say of its figure beyond the necessary, to be handed on; see :class:`Record`."""

    engine: str | None
    target: str | None
    model: str | None
    context: str | None
    skip: float | None
    masked: float | None
    kv: str | None
    phase: str | None
    system: str | None
    precision: str | None
    stack: str | None


@dataclass(frozen=True)
class Record:
    """One figure: ``kind`` says how it came about, ``source`` from what; the optional keys say of what.

    ``digits`` is the format that rounds the value for files, as ``.3f``; it is none of their keys.
    """

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
    masked: float | None = None
    kv: str | None = None
    phase: str | None = None
    system: str | None = None
    precision: str | None = None
    stack: str | None = None
    digits: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.value, np.generic):
            object.__setattr__(self, "value", self.value.item())
        if self.kind not in KINDS:
            raise ValueError(f"record {self.name}: kind {self.kind!r} is none of {KINDS}")

    @property
    def stored(self) -> dict[str, Any]:
        """As files hold it: keys that do not apply are left out, the value is rounded."""
        whole = {k: v for k, v in dataclasses.asdict(self).items() if k != "digits" and (v is not None or k == "value")}
        if self.digits and isinstance(self.value, int | float) and math.isfinite(self.value):
            text = format(self.value, self.digits)
            whole["value"] = int(text) if self.digits == ".0f" else float(text)
        return whole


@dataclass(frozen=True)
class Shown:
    """A cell's figures: ``form`` is a format of their values, or makes the cell's text of them."""

    form: str | Callable[..., str]
    records: tuple[Record, ...]

    def __str__(self) -> str:
        make = self.form.format if isinstance(self.form, str) else self.form
        return make(*(record.value for record in self.records))


def shown(form: str | Callable[..., str], *records: Record) -> Shown:
    return Shown(form, records)


Cell = str | Shown


@dataclass(frozen=True)
class Table:
    """Rows of cells under ``columns``; ``marked`` are numbers of rows that stand out, ``aside`` columns that a terminal has no room for."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    marked: Sequence[int] = ()
    aside: Sequence[str] = ()

    @property
    def texts(self) -> list[list[str]]:
        """Rows of the cells' texts."""
        return [[str(cell) for cell in row] for row in self.rows]

    @property
    def records(self) -> Iterator[Record]:
        return (record for row in self.rows for cell in row if isinstance(cell, Shown) for record in cell.records)

    @property
    def markdown(self) -> str:
        """Header and rows, without title and note."""
        lines = [self.columns, *self.texts]
        texts = ["| " + " | ".join(line) + " |" for line in lines]
        return "\n".join([texts[0], "|" + "---|" * len(self.columns), *texts[1:]])


@dataclass(frozen=True)
class Plot:
    """A figure: ``draw`` gets an empty one of matplotlib, ``size`` inches wide and high; see :mod:`skipopu.plots`.

    ``constrained``: matplotlib's layout of this name is kept while it draws; else ``draw`` lays out.
    """

    name: str
    draw: Callable[[Figure], None]
    size: tuple[float, float]
    caption: str = ""
    constrained: bool = True


@dataclass(frozen=True)
class Report:
    """What a study found. ``listed`` are records that come first in files, whether a table shows them or not."""

    tables: Sequence[Table] = ()
    plots: Sequence[Plot] = ()
    findings: Sequence[str] = ()
    listed: Sequence[Record] = ()

    @property
    def records(self) -> list[Record]:
        """Every figure once: those listed, then what else the tables show."""
        every = [*self.listed, *(record for table in self.tables for record in table.records)]
        return list({id(record): record for record in every}.values())

    @property
    def markdown(self) -> str:
        """The tables under their titles, and what was found."""
        parts = [f"**{table.title}**\n\n{table.markdown}" for table in self.tables]
        found = ["\n".join(f"- {line}" for line in self.findings)] if self.findings else []
        return "\n\n".join([*parts, *found]) + "\n"


def joined(parts: Sequence[Report]) -> Report:
    """One report of several, in their order."""
    return Report(
        [table for part in parts for table in part.tables],
        [plot for part in parts for plot in part.plots],
        [line for part in parts for line in part.findings],
        [record for part in parts for record in part.records],
    )


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
    """Writes ``{"command", "version", "inputs", "records"}``, and ``outputs`` where there are any; "-" is standard output."""
    body = {
        "command": command,
        "version": __version__,
        "inputs": _plain(dict(inputs)),
        **({"outputs": _plain(dict(outputs))} if outputs else {}),
        "records": [record.stored for record in records],
    }
    text = json.dumps(body, indent=1) + "\n"
    if str(path) == "-":
        (_stdout or [sys.stdout])[-1].write(text)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
