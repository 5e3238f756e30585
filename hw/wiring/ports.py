"""Memory ports and their users."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Value
from amaranth.lib.wiring import connect

from hw.arithmetic.pipeline import delay_valid
from hw.memory.axi import ATTENTION, LOADER, WEIGHTS
from hw.memory.share import SharedLoader, SharedWriter
from hw.memory.writer import CONTROL, VECTOR, Writes
from hw.wiring.units import Units
from skipopu.isa.spec import ADJUST, EMBED, KVWRITE, ROUTE, STORE
from skipopu.machine import pipeline


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
    entries = send(m, units)
    for p, (reader, writer) in enumerate(zip(units.readers, units.writers, strict=True)):
        m.d.comb += [
            reader.stop.eq(dispatch.stop),
            writer.stop.eq(dispatch.stop),
            reader.background.eq(attention.background),
            attention.loaders[p].level.eq(reader.attention_level),
        ]
        connect(m, units.weights.runs[p], reader.runs[WEIGHTS])
        connect(m, reader.beats[WEIGHTS], units.array.beats[p])
        m.d.comb += units.array.behind[p].eq(reader.weights_behind)
        if pipeline.told(units.machine):
            m.d.comb += units.array.further[p].eq(reader.weights_further)
            if not units.machine.stationary:
                m.d.comb += attention.loaders[p].beyond.eq(reader.attention_further)
        connect(m, attention.loaders[p].runs, reader.runs[ATTENTION])
        connect(m, reader.beats[ATTENTION], attention.loaders[p].beats)
        loading = [(units.embed.runs[p], units.embed.beats[p], chosen[EMBED])]
        writes, written = entries[p]
        m.d.comb += written.eq(writer.done[VECTOR])
        if p == 0:
            loading += [
                (units.route.runs, units.route.beats, chosen[ROUTE]),
                (dispatch.runs, dispatch.beats, loading_program),
            ]
            if units.adjust is not None:
                loading.append((units.adjust.runs, units.adjust.beats, chosen[ADJUST]))
            m.submodules.writer_0 = shared = SharedWriter(units.machine, 2)
            writing = [
                (writes.runs, writes.beats, chosen[KVWRITE]),
                (units.store.runs, units.store.beats, chosen[STORE]),
            ]
            for user, (runs, beats, here), bit in zip(shared.users, writing, shared.chosen, strict=True):
                connect(m, runs, user.runs)
                connect(m, beats, user.beats)
                m.d.comb += bit.eq(here)
            writes = shared.writes
            connect(m, records.runs, writer.runs[CONTROL])
            connect(m, records.beats, writer.beats[CONTROL])
            m.d.comb += [records.written.eq(writer.done[CONTROL]), units.store.written.eq(writer.done[VECTOR])]
        # The ports behind the first one have one user for each, and the same circuit.
        loader = SharedLoader(units.machine, len(loading)) if p == 0 else units.shared("loader", SharedLoader, p)
        m.submodules[f"loader_{p}"] = loader
        for user, (runs, beats, here), bit in zip(loader.users, loading, loader.chosen, strict=True):
            connect(m, runs, user.runs)
            connect(m, user.beats, beats)
            m.d.comb += bit.eq(here)
        connect(m, loader.loads.runs, reader.runs[LOADER])
        connect(m, reader.beats[LOADER], loader.loads.beats)
        connect(m, writes.runs, writer.runs[VECTOR])
        connect(m, writes.beats, writer.beats[VECTOR])


def send(m: Module, units: Units) -> list[tuple[Writes, Value]]:
    """Per port: where KV entries come from, and who waits for them to be written. Several ports have outposts on the way."""
    if not units.outposts:
        return [(units.kv_write.writes, units.kv_write.written)]
    sent, first = units.kv_write.sent, 0
    for outpost in units.outposts:
        here, to = sent.here[first : first + len(outpost.writes)], outpost.sent
        for taken, given in (
            (to.here, here),
            (to.run, sent.run),
            (to.begin, sent.begin),
            (to.beat, sent.beat),
            (to.valid, sent.valid),
        ):
            m.d.comb += taken.eq(given)
        first += len(outpost.writes)
    m.d.comb += [
        sent.room.eq(Cat(outpost.sent.room for outpost in units.outposts).all()),
        sent.done.eq(Cat(outpost.sent.done for outpost in units.outposts).any()),
    ]
    return [place for outpost in units.outposts for place in zip(outpost.writes, outpost.written, strict=True)]
