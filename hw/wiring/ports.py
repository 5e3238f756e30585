"""Memory ports and their users."""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib.wiring import connect

from hw.arithmetic.pipeline import delay_valid
from hw.memory.axi import ATTENTION, LOADER, WEIGHTS
from hw.memory.share import SharedLoader, SharedWriter
from hw.memory.writer import CONTROL, VECTOR
from hw.wiring.units import Units
from skipopu.isa.spec import ADJUST, EMBED, KVWRITE, ROUTE, STORE


def join(m: Module, units: Units) -> None:
    dispatch, records, attention = units.dispatch, units.records, units.attention
    # An instruction stands at the queue's head for a cycle before its unit begins: so late are ports given to it.
    chosen = {
        instruction: delay_valid(
            m, units.switch.chosen(instruction) & ~dispatch.loading, 1, f"{instruction.name.lower()}_chosen"
        )
        for instruction in units.switch.units
    }
    loading_program = delay_valid(m, dispatch.loading, 1, "program_chosen")
    for p, (reader, writer) in enumerate(zip(units.readers, units.writers, strict=True)):
        m.d.comb += [
            reader.stop.eq(dispatch.stop),
            writer.stop.eq(dispatch.stop),
            reader.background.eq(attention.background),
            attention.loaders[p].level.eq(reader.attention_level),
            units.kv_write.written[p].eq(writer.done[VECTOR]),
        ]
        connect(m, units.weights.runs[p], reader.runs[WEIGHTS])
        connect(m, reader.beats[WEIGHTS], units.array.beats[p])
        if not units.machine.stationary:
            m.d.comb += units.array.behind[p].eq(reader.weights_behind)
        connect(m, attention.loaders[p].runs, reader.runs[ATTENTION])
        connect(m, reader.beats[ATTENTION], attention.loaders[p].beats)
        loading = [(units.embed.runs[p], units.embed.beats[p], chosen[EMBED])]
        writing = [(units.kv_write.writes[p].runs, units.kv_write.writes[p].beats, chosen[KVWRITE])]
        if p == 0:
            loading += [
                (units.route.runs, units.route.beats, chosen[ROUTE]),
                (dispatch.runs, dispatch.beats, loading_program),
            ]
            if units.adjust is not None:
                loading.append((units.adjust.runs, units.adjust.beats, chosen[ADJUST]))
            writing += [(units.store.runs, units.store.beats, chosen[STORE])]
            connect(m, records.runs, writer.runs[CONTROL])
            connect(m, records.beats, writer.beats[CONTROL])
            m.d.comb += [records.written.eq(writer.done[CONTROL]), units.store.written.eq(writer.done[VECTOR])]
        # The ports behind the first one have one user for each, and the same circuit.
        loader = SharedLoader(units.machine, len(loading)) if p == 0 else units.shared("loader", SharedLoader, p)
        shared = SharedWriter(units.machine, len(writing)) if p == 0 else units.shared("writer", SharedWriter, p)
        m.submodules[f"loader_{p}"], m.submodules[f"writer_{p}"] = loader, shared
        for user, (runs, beats, here), bit in zip(loader.users, loading, loader.chosen, strict=True):
            connect(m, runs, user.runs)
            connect(m, user.beats, beats)
            m.d.comb += bit.eq(here)
        for user, (runs, beats, here), bit in zip(shared.users, writing, shared.chosen, strict=True):
            connect(m, runs, user.runs)
            connect(m, beats, user.beats)
            m.d.comb += bit.eq(here)
        connect(m, loader.loads.runs, reader.runs[LOADER])
        connect(m, reader.beats[LOADER], loader.loads.beats)
        connect(m, shared.writes.runs, writer.runs[VECTOR])
        connect(m, shared.writes.beats, writer.beats[VECTOR])
