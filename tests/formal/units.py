"""The units of which something is proven, in the order of docs/formal.md."""

from __future__ import annotations

from tests.formal.laws import Unit
from tests.formal.memory import reader, writer

UNITS: tuple[Unit, ...] = (*reader.UNITS, *writer.UNITS)
