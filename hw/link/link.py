"""The device's end of the host link: frames in, accesses to memory and registers, frames out."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib.crc import Processor, catalog
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out

from hw.control.host import ADDRESS_BITS, RESET_CYCLES
from hw.link.uart import DIVISOR_BITS, UartReceiver, UartTransmitter
from hw.memory.axi import AxiLite
from skipopu import link
from skipopu.link import ANSWER, ANSWER_HEADER, CHECKSUM_BYTES, HEADER, MEMORY, MOST_WORDS, REQUEST, SILENCE, Operation, Status

RECEIVED = 16  # bytes that may wait while a frame is executed and answered
AREA_BITS = 2  # of an address, from the top: memory, registers, the link's own


class HostLink(Component):
    """Executes the frames of :mod:`skipopu.link` that come in over a serial line.

    Parameters: memory_bytes, clock_hz, divisor (cycles per bit until told otherwise and after a break of the line).
    Members: rx (in), tx (out): the line; access_valid, access_write, access_address (byte address), access_data (out), access_ready
    (in, with access_result): one word of memory; host_*: an AXI4-Lite master to the overlay's registers; reset (out): of the overlay.
    """

    def __init__(self, memory_bytes: int, clock_hz: int, divisor: int) -> None:
        self.memory_bytes, self.clock_hz, self.first_divisor = memory_bytes, clock_hz, divisor
        super().__init__(
            {
                "rx": In(1),
                "tx": Out(1, init=1),
                "access_valid": Out(1),
                "access_write": Out(1),
                "access_address": Out(32 - AREA_BITS),
                "access_data": Out(32),
                "access_ready": In(1),
                "access_result": In(32),
                "reset": Out(1),
                **{f"host_{name}": member for name, member in AxiLite(ADDRESS_BITS).members.items()},
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.receiver = receiver = UartReceiver()
        m.submodules.transmitter = transmitter = UartTransmitter()
        m.submodules.received = received = SyncFIFOBuffered(width=8, depth=RECEIVED)
        m.submodules.checksum = checksum = Processor(catalog.CRC16_IBM_3740(data_width=8))
        m.submodules.words = words = Memory(shape=32, depth=MOST_WORDS + 1, init=[])
        write, read = words.write_port(), words.read_port()
        divisor = Signal(DIVISOR_BITS, init=self.first_divisor)
        next_divisor = Signal(DIVISOR_BITS, init=self.first_divisor)
        m.d.comb += [
            receiver.line.eq(self.rx),
            self.tx.eq(transmitter.line),
            receiver.divisor.eq(divisor),
            transmitter.divisor.eq(divisor),
            received.w_data.eq(receiver.bytes.payload),
            received.w_en.eq(receiver.bytes.valid),
            receiver.bytes.ready.eq(received.w_rdy),
        ]

        # A frame
        header = Signal(8 * HEADER.size)
        sequence, operation, count, address = header[0:8], header[8:16], header[16:24], header[24:56]
        position = Signal(range(max(HEADER.size, 4 * MOST_WORDS) + 1))
        word = Signal(32)
        silence = Signal(range(SILENCE + 1))
        last_write, wrote = Signal(8), Signal()
        repeated = wrote & (operation == Operation.WRITE) & (sequence == last_write)

        taken = Signal()  # a byte of the frame under way
        byte = received.r_data
        m.d.comb += [checksum.data.eq(byte), write.addr.eq(position >> 2), write.data.eq(Cat(word[8:], byte))]

        # Where an access goes
        done, failed, result = Signal(), Signal(), Signal(32)
        index = Signal(range(MOST_WORDS + 1))
        target = Signal(32)
        m.d.comb += [target.eq(address + (index << 2)), read.addr.eq(index)]
        accessing = Signal()
        writing = operation == Operation.WRITE
        m.d.comb += [
            self.access_write.eq(writing),
            self.access_address.eq(target),
            self.access_data.eq(read.data),
            self.host_awaddr.eq(target),
            self.host_araddr.eq(target),
            self.host_wdata.eq(read.data),
            self.host_wstrb.eq(15),
            self.host_bready.eq(1),
            self.host_rready.eq(1),
        ]
        requested, resetting = Signal(), Signal(range(RESET_CYCLES + 1))
        m.d.comb += self.reset.eq(resetting != 0)
        with m.If(resetting != 0):
            m.d.sync += resetting.eq(resetting - 1)
        with m.If(accessing):
            with m.Switch(target[-AREA_BITS:]):
                with m.Case(MEMORY >> (32 - AREA_BITS)):
                    with m.If(target[: 32 - AREA_BITS] < self.memory_bytes):
                        m.d.comb += [self.access_valid.eq(1), done.eq(self.access_ready), result.eq(self.access_result)]
                    with m.Else():
                        m.d.comb += [done.eq(1), failed.eq(1)]
                with m.Case(link.REGISTERS >> (32 - AREA_BITS)):
                    m.d.comb += [
                        self.host_awvalid.eq(writing & ~requested),
                        self.host_wvalid.eq(writing & ~requested),
                        self.host_arvalid.eq(~writing & ~requested),
                        done.eq(Mux(writing, self.host_bvalid, self.host_rvalid)),
                        result.eq(self.host_rdata),
                    ]
                    with m.If(Mux(writing, self.host_awready, self.host_arready)):
                        m.d.sync += requested.eq(1)
                with m.Case(link.LINK >> (32 - AREA_BITS)):
                    m.d.comb += done.eq(1)
                    with m.Switch(target[:8]):
                        for register, value in (
                            (link.Link.MAGIC, link.MAGIC),
                            (link.Link.MEMORY_BYTES, self.memory_bytes),
                            (link.Link.CLOCK_HZ, self.clock_hz),
                            (link.Link.DIVISOR, divisor),
                        ):
                            with m.Case(register):
                                m.d.comb += result.eq(value)
                        with m.Case(link.Link.RESET):
                            pass
                        with m.Default():
                            m.d.comb += failed.eq(1)
                    with m.If(writing & (target[:8] == link.Link.DIVISOR)):
                        m.d.sync += next_divisor.eq(read.data)
                    with m.If(writing & (target[:8] == link.Link.RESET)):
                        m.d.sync += resetting.eq(RESET_CYCLES)
                with m.Default():
                    m.d.comb += [done.eq(1), failed.eq(1)]
        with m.If(done):
            m.d.sync += requested.eq(0)

        # An answer
        status = Signal(8)
        sending = Signal(8)
        send, sent = Signal(), Signal()
        answer_words = Mux((operation == Operation.READ) & (status == Status.OK), count, 0)
        m.d.comb += [
            transmitter.bytes.valid.eq(send),
            transmitter.bytes.payload.eq(sending),
            sent.eq(send & transmitter.bytes.ready),
        ]

        # A frame that breaks off is forgotten.
        given_up = Signal()
        m.d.comb += [given_up.eq((silence == SILENCE) | receiver.broken), checksum.valid.eq(taken & received.r_rdy)]
        m.d.sync += silence.eq(Mux(taken & ~received.r_rdy, silence + 1, 0))
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += received.r_en.eq(1)
                m.d.sync += [position.eq(0), index.eq(0)]
                with m.If(transmitter.idle):
                    m.d.sync += divisor.eq(next_divisor)
                with m.If(received.r_rdy & (byte == REQUEST)):
                    m.d.comb += checksum.start.eq(1)
                    m.next = "HEADER"
            with m.State("HEADER"):
                m.d.comb += taken.eq(1)
                with m.If(received.r_rdy):
                    m.d.sync += [header.eq(Cat(header[8:], byte)), position.eq(position + 1)]
                    with m.If(position == HEADER.size - 1):
                        m.d.sync += position.eq(0)
                        # The operation and the count stand one byte lower than in the complete header.
                        payload = (header[16:24] == Operation.WRITE) & (header[24:32] != 0)
                        m.next = "CHECKSUM"
                        with m.If(payload):
                            m.next = "PAYLOAD"
                with m.Elif(given_up):
                    m.next = "IDLE"
            with m.State("PAYLOAD"):
                m.d.comb += [taken.eq(1), write.en.eq(received.r_rdy & (position[:2] == 3))]
                with m.If(received.r_rdy):
                    m.d.sync += [word.eq(Cat(word[8:], byte)), position.eq(position + 1)]
                    with m.If(position + 1 == count << 2):
                        m.d.sync += position.eq(0)
                        m.next = "CHECKSUM"
                with m.Elif(given_up):
                    m.next = "IDLE"
            with m.State("CHECKSUM"):
                m.d.comb += taken.eq(1)
                with m.If(received.r_rdy):
                    m.d.sync += position.eq(position + 1)
                    with m.If(position == CHECKSUM_BYTES - 1):
                        m.next = "CHECK"
                with m.Elif(given_up):
                    m.next = "IDLE"
            with m.State("CHECK"):
                m.d.sync += status.eq(Status.OK)
                m.next = "IDLE"
                with m.If(checksum.match_detected):
                    with m.If((count == 0) | repeated):
                        m.next = "ANSWER"
                    with m.Elif((operation != Operation.READ) & (operation != Operation.WRITE)):
                        m.d.sync += status.eq(Status.ADDRESS)
                        m.next = "ANSWER"
                    with m.Else():
                        m.next = "FETCH"
            with m.State("FETCH"):  # the word to write comes out of the buffer
                m.next = "ACCESS"
            with m.State("ACCESS"):
                m.d.comb += accessing.eq(1)
                with m.If(done):
                    m.d.comb += [write.addr.eq(index), write.data.eq(result), write.en.eq(~writing)]
                    m.d.sync += index.eq(index + 1)
                    with m.If(failed):
                        m.d.sync += status.eq(Status.ADDRESS)
                    with m.If(failed | (index + 1 == count)):
                        m.next = "ANSWER"
                    with m.Else():
                        m.next = "FETCH"
            with m.State("ANSWER"):
                m.d.sync += [index.eq(0), position.eq(0)]
                with m.If(writing & (status == Status.OK)):
                    m.d.sync += [last_write.eq(sequence), wrote.eq(1)]
                m.d.comb += [send.eq(1), sending.eq(ANSWER)]
                with m.If(sent):
                    m.d.comb += checksum.start.eq(1)
                    m.next = "ANSWER_HEADER"
            with m.State("ANSWER_HEADER"):
                fields = Cat(sequence, status, answer_words[:8])
                m.d.comb += [send.eq(1), sending.eq(fields.word_select(position[:2], 8)), checksum.data.eq(sending)]
                with m.If(sent):
                    m.d.comb += checksum.valid.eq(1)
                    m.d.sync += position.eq(position + 1)
                    with m.If(position == ANSWER_HEADER.size - 1):
                        m.d.sync += position.eq(0)
                        m.next = "ANSWER_CHECKSUM"
                        with m.If(answer_words != 0):
                            m.next = "ANSWER_PAYLOAD"
            with m.State("ANSWER_PAYLOAD"):
                m.d.comb += [
                    read.addr.eq(Mux(sent, position + 1, position) >> 2),
                    send.eq(1),
                    sending.eq(read.data.word_select(position[:2], 8)),
                    checksum.data.eq(sending),
                ]
                with m.If(sent):
                    m.d.comb += checksum.valid.eq(1)
                    m.d.sync += position.eq(position + 1)
                    with m.If(position + 1 == answer_words << 2):
                        m.d.sync += position.eq(0)
                        m.next = "ANSWER_CHECKSUM"
            with m.State("ANSWER_CHECKSUM"):
                m.d.comb += [send.eq(1), sending.eq(Mux(position == 0, checksum.crc[8:], checksum.crc[:8]))]
                with m.If(sent):
                    m.d.sync += position.eq(position + 1)
                    with m.If(position == CHECKSUM_BYTES - 1):
                        m.next = "IDLE"
        with m.If(taken):
            m.d.comb += received.r_en.eq(1)
        with m.If(receiver.broken):
            m.d.sync += [divisor.eq(self.first_divisor), next_divisor.eq(self.first_divisor)]
        return m
