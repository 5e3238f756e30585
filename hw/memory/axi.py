"""AXI4 and AXI4-Lite signal bundles at the overlay's boundary."""

from __future__ import annotations

from amaranth.lib.wiring import In, Out, Signature

ADDRESS_BITS = 40
READ_CLIENTS = 3  # AXI read IDs: 0 weights, 1 loader, 2 attention
WEIGHTS, LOADER, ATTENTION = range(READ_CLIENTS)
BURST_INCR = 1


def axi4(data_bits: int, address_bits: int = ADDRESS_BITS) -> Signature:
    """An AXI4 master of ``data_bits``: reads tagged by client, writes with one ID. Full-width INCR bursts only."""
    return Signature(
        {
            "araddr": Out(address_bits),
            "arlen": Out(8),
            "arid": Out(2),
            "arsize": Out(3),
            "arburst": Out(2),
            "arvalid": Out(1),
            "arready": In(1),
            "rdata": In(data_bits),
            "rid": In(2),
            "rresp": In(2),
            "rlast": In(1),
            "rvalid": In(1),
            "rready": Out(1),
            "awaddr": Out(address_bits),
            "awlen": Out(8),
            "awid": Out(2),
            "awsize": Out(3),
            "awburst": Out(2),
            "awvalid": Out(1),
            "awready": In(1),
            "wdata": Out(data_bits),
            "wstrb": Out(data_bits // 8),
            "wlast": Out(1),
            "wvalid": Out(1),
            "wready": In(1),
            "bid": In(2),
            "bresp": In(2),
            "bvalid": In(1),
            "bready": Out(1),
        }
    )


def axi4_lite(address_bits: int) -> Signature:
    """An AXI4-Lite master's view of 32-bit registers; the overlay is the flipped side."""
    return Signature(
        {
            "awaddr": Out(address_bits),
            "awvalid": Out(1),
            "awready": In(1),
            "wdata": Out(32),
            "wstrb": Out(4),
            "wvalid": Out(1),
            "wready": In(1),
            "bresp": In(2),
            "bvalid": In(1),
            "bready": Out(1),
            "araddr": Out(address_bits),
            "arvalid": Out(1),
            "arready": In(1),
            "rdata": In(32),
            "rresp": In(2),
            "rvalid": In(1),
            "rready": Out(1),
        }
    )
