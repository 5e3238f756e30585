"""The units of which something is proven, in the order of docs/formal.md."""

from __future__ import annotations

from tests.formal.control import host, queue, tokens
from tests.formal.kv import ahead, fetch, history, places, request, write
from tests.formal.kv import map as walk
from tests.formal.kv.stationary import held
from tests.formal.laws import Unit
from tests.formal.memory import reader, writer
from tests.formal.pe.stationary import multiplier
from tests.formal.shell import bases, gearbox

UNITS: tuple[Unit, ...] = tuple(
    unit
    for module in (
        reader,
        writer,
        host,
        bases,
        gearbox,
        queue,
        tokens,
        walk,
        places,
        write,
        request,
        history,
        ahead,
        fetch,
        held,
        multiplier,
    )
    for unit in module.UNITS
)
