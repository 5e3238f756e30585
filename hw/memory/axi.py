"""AXI4 and AXI4-Lite signal bundles at the overlay's boundary."""

from __future__ import annotations

from hw.component import Bundle, given, gives

ADDRESS_BITS = 40
READ_CLIENTS = 3  # AXI read IDs: 0 weights, 1 loader, 2 attention
WEIGHTS, LOADER, ATTENTION = range(READ_CLIENTS)
BURST_INCR = 1


class AxiRead(Bundle):
    """Read channels of an AXI4 master of ``data_bits``, tagged by client. Full-width INCR bursts only."""

    def __init__(self, data_bits: int, address_bits: int = ADDRESS_BITS) -> None:
        self.declare_read(data_bits, address_bits)
        super().__init__()

    def declare_read(self, data_bits: int, address_bits: int) -> None:
        self.araddr = gives(address_bits, "address of the burst")
        self.arlen = gives(8, "beats less one")
        self.arid = gives(2, "client")
        self.arsize = gives(3, "logarithm of a beat's bytes")
        self.arburst = gives(2, "kind of burst")
        self.arvalid = gives(1, "a burst is asked for")
        self.arready = given(1, "it is taken")
        self.rdata = given(data_bits, "data of a beat")
        self.rid = given(2, "its client")
        self.rresp = given(2, "0: as it should be")
        self.rlast = given(1, "the burst's last beat")
        self.rvalid = given(1, "a beat is there")
        self.rready = gives(1, "it is taken")


class AxiWrite(Bundle):
    """Write channels of an AXI4 master of ``data_bits``, with one ID. Full-width INCR bursts only."""

    def __init__(self, data_bits: int, address_bits: int = ADDRESS_BITS) -> None:
        self.declare_write(data_bits, address_bits)
        super().__init__()

    def declare_write(self, data_bits: int, address_bits: int) -> None:
        self.awaddr = gives(address_bits, "address of the burst")
        self.awlen = gives(8, "beats less one")
        self.awid = gives(2, "always 0")
        self.awsize = gives(3, "logarithm of a beat's bytes")
        self.awburst = gives(2, "kind of burst")
        self.awvalid = gives(1, "a burst is announced")
        self.awready = given(1, "it is taken")
        self.wdata = gives(data_bits, "data of a beat")
        self.wstrb = gives(data_bits // 8, "bytes to write")
        self.wlast = gives(1, "the burst's last beat")
        self.wvalid = gives(1, "a beat is there")
        self.wready = given(1, "it is taken")
        self.bid = given(2, "ID of the response")
        self.bresp = given(2, "0: as it should be")
        self.bvalid = given(1, "a burst was written")
        self.bready = gives(1, "that is taken note of")


class Axi4(AxiRead, AxiWrite):
    """An AXI4 master of ``data_bits``: both of the above."""

    def __init__(self, data_bits: int, address_bits: int = ADDRESS_BITS) -> None:
        self.declare_read(data_bits, address_bits)
        self.declare_write(data_bits, address_bits)
        Bundle.__init__(self)


class AxiLite(Bundle):
    """An AXI4-Lite master's view of 32-bit registers; the overlay is given it."""

    def __init__(self, address_bits: int) -> None:
        self.awaddr = gives(address_bits, "address to write")
        self.awvalid = gives(1, "it is there")
        self.awready = given(1, "it is taken")
        self.wdata = gives(32, "data to write")
        self.wstrb = gives(4, "bytes to write")
        self.wvalid = gives(1, "they are there")
        self.wready = given(1, "they are taken")
        self.bresp = given(2, "0: as it should be")
        self.bvalid = given(1, "it is written")
        self.bready = gives(1, "that is taken note of")
        self.araddr = gives(address_bits, "address to read")
        self.arvalid = gives(1, "it is there")
        self.arready = given(1, "it is taken")
        self.rdata = given(32, "what stands there")
        self.rresp = given(2, "0: as it should be")
        self.rvalid = given(1, "it is there")
        self.rready = gives(1, "it is taken")
        super().__init__()
