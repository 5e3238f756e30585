"""The device's end of the host link: frames in, accesses to memory and registers, frames out."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib.crc import Processor, catalog
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.memory import Memory

from hw.arithmetic.pipeline import registered
from hw.component import Component, given, gives
from hw.control.host import ADDRESS_BITS, RESET_CYCLES
from hw.link.uart import DIVISOR_BITS, UartReceiver, UartTransmitter
from hw.memory.axi import AxiLite
from hw.memory.block_ram import WordAccess
from skipopu import link
from skipopu.link import (
    ANSWER,
    ANSWER_HEADER,
    BITS_PER_BYTE,
    CHECKSUM_BYTES,
    HEADER,
    MEMORY,
    MOST_WORDS,
    REQUEST,
    SILENCE,
    STREAMED,
    Operation,
    Status,
)

RECEIVED = 16  # bytes that may wait while a frame is executed and answered
ACCESS = 4  # cycles of a word's access, more than the memory takes
# The longest write is executed and answered before what follows it fills them.
assert BITS_PER_BYTE * STREAMED * (RECEIVED - 1 - ANSWER_HEADER.size - CHECKSUM_BYTES) >= ACCESS * MOST_WORDS
SETTLED = 3  # cycles from a position to its byte of an answer: the word, the byte of it, the choice
AREA_BITS = 2  # of an address, from the top: memory, registers, the link's own


class Frame:
    """Units and registers that the link's parts share: the frame under way, the access it asks for, the answer."""

    def __init__(self, m: Module, first_divisor: int) -> None:
        m.submodules.receiver = self.receiver = UartReceiver()
        m.submodules.transmitter = self.transmitter = UartTransmitter()
        m.submodules.received = self.received = SyncFIFOBuffered(width=8, depth=RECEIVED)
        m.submodules.checksum = checksum = Processor(catalog.CRC16_IBM_3740(data_width=8))
        self.checksum: Any = checksum  # Amaranth's stubs leave it out
        m.submodules.words = words = Memory(shape=32, depth=MOST_WORDS + 1, init=[])
        self.write = words.write_port()
        self.read = words.read_port()
        self.divisor = Signal(DIVISOR_BITS, init=first_divisor)
        self.next_divisor = Signal(DIVISOR_BITS, init=first_divisor)
        # The frame
        self.header = Signal(8 * HEADER.size)
        self.position = Signal(range(max(HEADER.size, 4 * MOST_WORDS) + 1))
        self.word = Signal(32)
        self.silence = Signal(range(SILENCE + 1))
        self.last_write = Signal(8)
        self.wrote = Signal()
        self.taken = Signal()  # a byte of the frame under way
        self.byte = self.received.r_data
        # The access
        self.done = Signal()  # it ended the cycle before
        self.failed = Signal()  # with it
        self.result = Signal(32)  # with it
        self.index = Signal(range(MOST_WORDS + 1))
        self.target = Signal(32)
        self.inside = Signal()  # the target, of memory
        self.accessing = Signal()
        self.requested = Signal()
        self.resetting = Signal(range(RESET_CYCLES + 1))
        # The answer
        self.status = Signal(8)
        self.next_byte = Signal(8)  # to send, by the state and the position
        self.sending = Signal(8)
        self.send = Signal()
        self.sent = Signal()
        self.settling = Signal(range(SETTLED + 1))  # cycles until ``sending`` is the byte of the position
        self.sequence, self.operation = self.header[0:8], self.header[8:16]
        self.count, self.address = self.header[16:24], self.header[24:56]
        self.writing: Value = self.operation == Operation.WRITE
        self.repeated = self.wrote & self.writing & (self.sequence == self.last_write)
        self.answer_words = Mux((self.operation == Operation.READ) & (self.status == Status.OK), self.count, 0)


class HostLink(Component):
    """Executes the frames of :mod:`skipopu.link` that come in over a serial line.

    Latency: 5 cycles from a frame's last byte to its first access, 4 per word more than the access takes. Throughput: the
    line's, of bits of :data:`skipopu.link.STREAMED` cycles or more.

    Parameters:
        memory_bytes: of the memory.
        clock_hz: of this unit, as the host is told.
        divisor: cycles per bit until told otherwise and after a break of the line.
    """

    def __init__(self, memory_bytes: int, clock_hz: int, divisor: int) -> None:
        self.memory_bytes, self.clock_hz, self.first_divisor = memory_bytes, clock_hz, divisor
        self.rx = given(1, "the line from the host")
        self.tx = gives(1, "the line to the host", init=1)
        self.access = gives(WordAccess(), "words of memory", "access_{}")
        self.reset = gives(1, "of the overlay")
        self.host = gives(AxiLite(ADDRESS_BITS), "AXI4-Lite master to the overlay's registers", "host_{}")
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        s = Frame(m, self.first_divisor)
        m.d.comb += [
            s.receiver.line.eq(self.rx),
            self.tx.eq(s.transmitter.line),
            s.receiver.divisor.eq(s.divisor),
            s.transmitter.divisor.eq(s.divisor),
            s.received.w_data.eq(s.receiver.bytes.payload),
            s.received.w_en.eq(s.receiver.bytes.valid),
            s.receiver.bytes.ready.eq(s.received.w_rdy),
            s.checksum.data.eq(s.byte),
            s.write.addr.eq(s.position >> 2),
            s.write.data.eq(Cat(s.word[8:], s.byte)),
        ]
        self._access(m, s)
        m.d.comb += [
            s.transmitter.bytes.valid.eq(s.send & (s.settling == 0)),
            s.transmitter.bytes.payload.eq(s.sending),
            s.sent.eq(s.transmitter.bytes.valid & s.transmitter.bytes.ready),
        ]
        m.d.sync += [s.sending.eq(s.next_byte), s.settling.eq(Mux(s.send & ~s.sent, s.settling - (s.settling != 0), SETTLED))]
        # A frame that breaks off is forgotten.
        given_up = Signal()
        m.d.comb += [
            given_up.eq((s.silence == SILENCE) | s.receiver.broken),
            s.checksum.valid.eq(s.taken & s.received.r_rdy),
        ]
        m.d.sync += s.silence.eq(Mux(s.taken & ~s.received.r_rdy, s.silence + 1, 0))
        with m.FSM():
            self._receive(m, s, given_up)
            self._execute(m, s)
            self._answer(m, s)
        with m.If(s.taken):
            m.d.comb += s.received.r_en.eq(1)
        with m.If(s.receiver.broken):
            m.d.sync += [s.divisor.eq(self.first_divisor), s.next_divisor.eq(self.first_divisor)]
        return m

    def _access(self, m: Module, s: Frame) -> None:
        """A word's access while ``accessing``: memory, the overlay's registers or the link's own, by its address."""
        m.d.comb += [
            s.read.addr.eq(s.index),
            self.access.write.eq(s.writing),
            self.access.address.eq(s.target[: 32 - AREA_BITS]),
            self.access.data.eq(s.read.data),
            self.host.awaddr.eq(s.target),
            self.host.araddr.eq(s.target),
            self.host.wdata.eq(s.read.data),
            self.host.wstrb.eq(15),
            self.host.bready.eq(1),
            self.host.rready.eq(1),
            self.reset.eq(s.resetting != 0),
        ]
        m.d.sync += [
            s.target.eq(s.address + (s.index << 2)),
            s.inside.eq(s.target[: 32 - AREA_BITS] < self.memory_bytes),
        ]
        with m.If(s.resetting != 0):
            m.d.sync += s.resetting.eq(s.resetting - 1)
        done, failed, result = Signal(), Signal(), Signal(32)
        m.d.sync += [s.done.eq(done), s.failed.eq(failed), s.result.eq(result)]
        with m.If(s.accessing & ~s.done):
            with m.Switch(s.target[-AREA_BITS:]):
                with m.Case(MEMORY >> (32 - AREA_BITS)):
                    with m.If(s.inside):
                        m.d.comb += [self.access.valid.eq(1), done.eq(self.access.ready), result.eq(self.access.result)]
                    with m.Else():
                        m.d.comb += [done.eq(1), failed.eq(1)]
                with m.Case(link.REGISTERS >> (32 - AREA_BITS)):
                    m.d.comb += [
                        self.host.awvalid.eq(s.writing & ~s.requested),
                        self.host.wvalid.eq(s.writing & ~s.requested),
                        self.host.arvalid.eq(~s.writing & ~s.requested),
                        done.eq(Mux(s.writing, self.host.bvalid, self.host.rvalid)),
                        result.eq(self.host.rdata),
                    ]
                    with m.If(Mux(s.writing, self.host.awready, self.host.arready)):
                        m.d.sync += s.requested.eq(1)
                with m.Case(link.LINK >> (32 - AREA_BITS)):
                    m.d.comb += done.eq(1)
                    with m.Switch(s.target[:8]):
                        for register, value in (
                            (link.Link.MAGIC, link.MAGIC),
                            (link.Link.MEMORY_BYTES, self.memory_bytes),
                            (link.Link.CLOCK_HZ, self.clock_hz),
                            (link.Link.DIVISOR, s.divisor),
                        ):
                            with m.Case(register):
                                m.d.comb += result.eq(value)
                        with m.Case(link.Link.RESET):
                            pass
                        with m.Default():
                            m.d.comb += failed.eq(1)
                    with m.If(s.writing & (s.target[:8] == link.Link.DIVISOR)):
                        m.d.sync += s.next_divisor.eq(s.read.data)
                    with m.If(s.writing & (s.target[:8] == link.Link.RESET)):
                        m.d.sync += s.resetting.eq(RESET_CYCLES)
                with m.Default():
                    m.d.comb += [done.eq(1), failed.eq(1)]
        with m.If(s.done):
            m.d.sync += s.requested.eq(0)

    @staticmethod
    def _receive(m: Module, s: Frame, given_up: Signal) -> None:
        """States that take a frame's bytes, payload words into memory."""
        with m.State("IDLE"):
            m.d.comb += s.received.r_en.eq(1)
            m.d.sync += [s.position.eq(0), s.index.eq(0)]
            with m.If(s.transmitter.idle):
                m.d.sync += s.divisor.eq(s.next_divisor)
            with m.If(s.received.r_rdy & (s.byte == REQUEST)):
                m.d.comb += s.checksum.start.eq(1)
                m.next = "HEADER"
        with m.State("HEADER"):
            m.d.comb += s.taken.eq(1)
            with m.If(s.received.r_rdy):
                m.d.sync += [s.header.eq(Cat(s.header[8:], s.byte)), s.position.eq(s.position + 1)]
                with m.If(s.position == HEADER.size - 1):
                    m.d.sync += s.position.eq(0)
                    # The operation and the count stand one byte lower than in the complete header.
                    payload = (s.header[16:24] == Operation.WRITE) & (s.header[24:32] != 0)
                    m.next = "CHECKSUM"
                    with m.If(payload):
                        m.next = "PAYLOAD"
            with m.Elif(given_up):
                m.next = "IDLE"
        with m.State("PAYLOAD"):
            m.d.comb += [s.taken.eq(1), s.write.en.eq(s.received.r_rdy & (s.position[:2] == 3))]
            with m.If(s.received.r_rdy):
                m.d.sync += [s.word.eq(Cat(s.word[8:], s.byte)), s.position.eq(s.position + 1)]
                with m.If(s.position + 1 == s.count << 2):
                    m.d.sync += s.position.eq(0)
                    m.next = "CHECKSUM"
            with m.Elif(given_up):
                m.next = "IDLE"
        with m.State("CHECKSUM"):
            m.d.comb += s.taken.eq(1)
            with m.If(s.received.r_rdy):
                m.d.sync += s.position.eq(s.position + 1)
                with m.If(s.position == CHECKSUM_BYTES - 1):
                    m.next = "CHECK"
            with m.Elif(given_up):
                m.next = "IDLE"

    @staticmethod
    def _execute(m: Module, s: Frame) -> None:
        """States that check the frame and make its accesses, one per word."""
        with m.State("CHECK"):
            m.d.sync += s.status.eq(Status.OK)
            m.next = "IDLE"
            with m.If(s.checksum.match_detected):
                with m.If((s.count == 0) | s.repeated):
                    m.next = "ANSWER"
                with m.Elif((s.operation != Operation.READ) & (s.operation != Operation.WRITE)):
                    m.d.sync += s.status.eq(Status.ADDRESS)
                    m.next = "ANSWER"
                with m.Else():
                    m.next = "FETCH"
        with m.State("FETCH"):  # the word to write comes out of the buffer
            m.next = "AIM"
        with m.State("AIM"):
            m.next = "ACCESS"
        with m.State("ACCESS"):
            m.d.comb += s.accessing.eq(1)
            with m.If(s.done):
                m.d.comb += [s.write.addr.eq(s.index), s.write.data.eq(s.result), s.write.en.eq(~s.writing)]
                m.d.sync += s.index.eq(s.index + 1)
                with m.If(s.failed):
                    m.d.sync += s.status.eq(Status.ADDRESS)
                with m.If(s.failed | (s.index + 1 == s.count)):
                    m.next = "ANSWER"
                with m.Else():
                    m.next = "FETCH"

    @staticmethod
    def _answer(m: Module, s: Frame) -> None:
        """States that send the answer."""
        read_byte = registered(m, s.read.data.word_select(s.position[:2], 8), "read_byte")
        with m.State("ANSWER"):
            m.d.sync += [s.index.eq(0), s.position.eq(0)]
            with m.If(s.writing & (s.status == Status.OK)):
                m.d.sync += [s.last_write.eq(s.sequence), s.wrote.eq(1)]
            m.d.comb += [s.send.eq(1), s.next_byte.eq(ANSWER)]
            with m.If(s.sent):
                m.d.comb += s.checksum.start.eq(1)
                m.next = "ANSWER_HEADER"
        with m.State("ANSWER_HEADER"):
            fields = Cat(s.sequence, s.status, s.answer_words[:8])
            m.d.comb += [s.send.eq(1), s.next_byte.eq(fields.word_select(s.position[:2], 8)), s.checksum.data.eq(s.sending)]
            with m.If(s.sent):
                m.d.comb += s.checksum.valid.eq(1)
                m.d.sync += s.position.eq(s.position + 1)
                with m.If(s.position == ANSWER_HEADER.size - 1):
                    m.d.sync += s.position.eq(0)
                    m.next = "ANSWER_CHECKSUM"
                    with m.If(s.answer_words != 0):
                        m.next = "ANSWER_PAYLOAD"
        with m.State("ANSWER_PAYLOAD"):
            m.d.comb += [
                s.read.addr.eq(s.position >> 2),
                s.send.eq(1),
                s.next_byte.eq(read_byte),
                s.checksum.data.eq(s.sending),
            ]
            with m.If(s.sent):
                m.d.comb += s.checksum.valid.eq(1)
                m.d.sync += s.position.eq(s.position + 1)
                with m.If(s.position + 1 == s.answer_words << 2):
                    m.d.sync += s.position.eq(0)
                    m.next = "ANSWER_CHECKSUM"
        with m.State("ANSWER_CHECKSUM"):
            m.d.comb += [s.send.eq(1), s.next_byte.eq(Mux(s.position == 0, s.checksum.crc[8:], s.checksum.crc[:8]))]
            with m.If(s.sent):
                m.d.sync += s.position.eq(s.position + 1)
                with m.If(s.position == CHECKSUM_BYTES - 1):
                    m.next = "IDLE"
