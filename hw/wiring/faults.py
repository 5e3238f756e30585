"""Faults of the units, in rising priority."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Value

from hw.control.faults import Faults
from hw.memory.axi import ATTENTION, LOADER, WEIGHTS
from hw.memory.writer import CONTROL, VECTOR
from hw.wiring.units import Units
from skipopu.isa.registers import Error
from skipopu.isa.spec import Unit


def join(m: Module, units: Units) -> None:
    dispatch, overrun = units.dispatch, units.buffer.range
    array, vector, attention = (queue.pc for queue in units.queues)
    aligned = Mux(units.source.unit == Unit.ARRAY, array, Mux(units.source.unit == Unit.ATTENTION, attention, vector))

    def failed_read(client: int) -> Value:
        return Cat(reader.error[client] for reader in units.readers).any()

    def failed_write(client: int) -> Value:
        return Cat(writer.error & (writer.error_client == client) for writer in units.writers).any()

    faults: list[tuple[Value, Error, Value]] = [
        (overrun[Unit.ARRAY], Error.BUFFER_RANGE, array),
        (overrun[Unit.ATTENTION], Error.BUFFER_RANGE, attention),
        (overrun[Unit.VECTOR], Error.BUFFER_RANGE, vector),
        (units.activation.range | units.attention.range, Error.BUFFER_RANGE, aligned),
        (units.embed.bad_token, Error.TOKEN_OUT_OF_RANGE, vector),
        (units.kv_write.pool_full, Error.KV_POOL_FULL, vector),
        (units.kv_write.missing, Error.KV_MISSING, vector),
        (failed_write(VECTOR), Error.AXI_WRITE, vector),
        (failed_write(CONTROL), Error.AXI_WRITE, dispatch.pc),
        (failed_read(WEIGHTS), Error.AXI_READ, array),
        (failed_read(ATTENTION), Error.AXI_READ, attention),
        (failed_read(LOADER), Error.AXI_READ, Mux(dispatch.loading, 0, vector)),
        (Cat(reader.nobodys for reader in units.readers).any(), Error.AXI_READ, dispatch.pc),
    ]
    if units.adjust is not None:
        faults.append((units.adjust.illegal, Error.ILLEGAL_INSTRUCTION, vector))
    faults += [
        (overflow.any(), Error.DEPENDENCE, queue.pc)
        for overflow, queue in zip(units.tokens.overflow, units.queues, strict=True)
    ]
    m.submodules.faults = unit = Faults([code for _, code, _ in faults])
    for k, (cause, _, pc) in enumerate(faults):
        m.d.comb += [unit.causes[k].eq(cause), unit.pcs[k].eq(pc)]
    m.d.comb += [dispatch.fault.eq(unit.fault), dispatch.fault_code.eq(unit.code), dispatch.fault_pc.eq(unit.pc)]
