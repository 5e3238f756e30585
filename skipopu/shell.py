"""The registers that a vendor shell puts behind the overlay's own (:mod:`skipopu.isa.registers`), on one AXI4-Lite port."""

MODULE = "skipopu_shell"
ADDRESS_BITS = 12
RESET = 0x200  # a write resets the overlay, at once: in a run after ABORT only, or memory may answer to nobody
BASES = 0x400  # of each port, 64 bits: where its memory starts in the board's address space, a multiple of 4096
BASE_STRIDE = 8


def base_register(port: int) -> int:
    """Byte address of the lower half of a port's base; the upper follows."""
    return BASES + BASE_STRIDE * port
