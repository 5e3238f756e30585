"""Write port: AXI4, whole bursts, and a run that is done when all of it is written."""

from __future__ import annotations

from amaranth.hdl import Mux, Signal, Value

from hw.memory.writer import WRITE_CLIENTS, WritePort
from skipopu.machine.config import Machine
from tests.formal.laws import Laws, Unit
from tests.formal.memory.reader import BEAT_BITS, MOST, free_run

MACHINE = Machine.load("mono")


def laws() -> Laws:
    laws, port = Laws(), WritePort(MACHINE)
    m, axi = laws.m, port.axi
    m.submodules.port = port
    laws.drive(axi.awready, axi.wready, axi.bresp, axi.bid, port.stop)
    for runs, beats in zip(port.runs, port.beats, strict=True):
        laws.offer(runs, free_run(laws))
        laws.offer(beats)
    beat_bits = (MACHINE.beat_bytes - 1).bit_length()
    page = 4096 // MACHINE.beat_bytes
    asked, sent = axi.awvalid & axi.awready, axi.wvalid & axi.wready
    # Memory takes data of a burst that it was asked for, and answers when it has all of them.
    length, left, owes = Signal(9), Signal(9), Signal()
    answered = axi.bvalid & axi.bready
    with m.If(asked):
        m.d.sync += [length.eq(axi.awlen), left.eq(axi.awlen + 1)]
    with m.Elif(sent):
        m.d.sync += left.eq(left - 1)
    finished = sent & axi.wlast
    m.d.sync += owes.eq((owes | finished) & ~answered)
    waits = laws.before(axi.bvalid & ~axi.bready)
    m.d.comb += axi.bvalid.eq(owes & (waits | laws.free(1)))
    # Beats of the client's run that are not written, and where the next one goes.
    taken = [runs.valid & runs.ready for runs in port.runs]
    run_left, next_beat, client, running = Signal(MOST.bit_length()), Signal(BEAT_BITS + 1), Signal(), Signal()
    for k, runs in enumerate(port.runs):
        with m.If(taken[k]):
            m.d.sync += [run_left.eq(runs.payload.count), next_beat.eq(runs.payload.beat), client.eq(k), running.eq(1)]
    with m.If(asked):
        m.d.sync += [run_left.eq(run_left - axi.awlen - 1), next_beat.eq(next_beat + axi.awlen + 1)]
    done = [Value.cast(done) for done in port.done]
    with m.If(done[0] | done[1] | (port.stop & answered)):
        m.d.sync += running.eq(0)

    laws.law("an address that was shown stands until it is taken", laws.stands(axi.awvalid, axi.awready, axi.awaddr, axi.awlen))
    laws.law("data shown stand until they are taken", laws.stands(axi.wvalid, axi.wready, axi.wdata, axi.wstrb, axi.wlast))
    laws.law(
        "a burst stays inside its page of 4096 bytes",
        ~axi.awvalid | (axi.awaddr[beat_bits:12] + axi.awlen < page) & (axi.awaddr[:beat_bits] == 0),
    )
    laws.law(
        "a burst has as many beats as its address said: no data beside it, WLAST on the last",
        ~axi.wvalid | ((left != 0) & (axi.wlast == (left == 1))),
    )
    laws.law("an address follows when the burst before it was answered", ~axi.awvalid | ((left == 0) & ~owes))
    laws.law(
        "bursts are the run, from its first beat to its last",
        ~axi.awvalid | ((axi.awaddr >> beat_bits == next_beat) & (axi.awlen < run_left) & running),
    )
    for k in range(WRITE_CLIENTS):
        laws.law(
            f"client {k}'s run is done with the response to its last beat",
            ~done[k] | (running & (client == k) & (run_left == 0) & (left == 0) & owes & answered),
        )
    for k, beats in enumerate(port.beats):
        laws.law(
            f"a beat that client {k} gave is on the bus in the same cycle, as it is",
            ~(beats.valid & beats.ready)
            | (sent & (client == k) & (axi.wdata == beats.payload.data) & (axi.wstrb == beats.payload.strobe)),
        )
    laws.law("quiet: no burst is under way", ~port.quiet | (~axi.awvalid & (left == 0) & ~owes))
    laws.law(
        "a response other than OKAY, or with another ID, is an error, and no other one",
        port.error == (answered & ((axi.bresp != 0) | (axi.bid != axi.awid))),
    )
    laws.reached(
        "a run of three bursts across a page is done", done[1] & (laws.counter(4, asked, Mux(done[0] | done[1], 1, 0)) >= 3)
    )
    return laws


def error_laws() -> Laws:
    """With whatever comes back."""
    laws, port = Laws(), WritePort(MACHINE)
    m, axi = laws.m, port.axi
    m.submodules.port = port
    laws.drive(axi.awready, axi.wready, axi.bvalid, axi.bresp, axi.bid, port.stop)
    for runs, beats in zip(port.runs, port.beats, strict=True):
        laws.offer(runs, free_run(laws))
        laws.offer(beats)
    owes, came = Signal(), axi.bvalid & axi.bready
    m.d.sync += owes.eq((owes & ~came) | (axi.wvalid & axi.wready & axi.wlast))
    laws.law(
        "a response is an error just when it is not OKAY, has another ID or no burst waits for it",
        port.error == (came & (~owes | (axi.bresp != 0) | (axi.bid != axi.awid))),
    )
    laws.law("a response comes at any time, and a burst is over with its own only", axi.bready & (~port.quiet | ~owes))
    return laws


_OF = "64-bit port, bursts of 4 beats, runs of 1 to 15"
UNITS = (Unit("hw/memory/writer.py", laws, _OF), Unit("hw/memory/writer.py", error_laws, _OF))
