"""Configuration registers (written by SET), the AXI4-Lite host registers, and the error codes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Config(IntEnum):
    """Registers that SET writes; 32 bits each."""

    VOCABULARY = 0  # token ids below this are legal
    CONTEXT = 1  # tokens the program was planned for; rows of the KV map
    TOKENS = 2  # address of the token ids (uint32 each) in port 0, 64-byte units
    ROPE = 3  # address of the rotary rows (cos, sin FP32 pairs) in port 0, 64-byte units
    ROPE_ROW = 4  # bytes of one rotary row, 64-byte units
    TRACE = 5  # address of the routing trace in port 0, 64-byte units
    TRACE_ROW = 6  # bytes of one layer's trace, 64-byte units
    HEAD_DIM = 7  # elements of one head
    KV_HEADS = 8
    QUERY_GROUP = 9  # query heads per KV head
    KV_BASE = 10  # address of the KV pool, 64-byte units
    KV_ENTRY = 11  # bytes of one entry, 64-byte units
    KV_SLOTS = 12  # entries per port
    GROUP = 13  # weights per group
    INVERSE_SIZE = 14  # FP32 1/hidden, for the mean square
    EPSILON = 15  # FP32 epsilon of the norm
    EOS0 = 16  # end-of-sequence ids; 0xffffffff is none
    EOS1 = 17
    EOS2 = 18
    EOS3 = 19
    INNER = 20  # element of the activation memory where the inner region starts
    ACTIVATION = 21  # function of gated products, see skipopu.isa.spec.Activation
    PARAMETER = 22  # its FP32 parameter
    SCHEDULE = 23  # bits WEIGHTS_ON_DEMAND, SERIAL_ATTENTION (parts of the dataflow taken apart, for comparison), PREFETCH (entries of KV)
    HISTORY = 24  # tokens per port whose entries the KV history buffer keeps; 0 is off


NO_TOKEN = 0xFFFF_FFFF
WEIGHTS_ON_DEMAND, SERIAL_ATTENTION, PREFETCH = 1, 2, 4  # bits of Config.SCHEDULE


class Error(IntEnum):
    """Error codes of the status register; the machine halts with the failing instruction's index."""

    NONE = 0
    ILLEGAL_INSTRUCTION = 1
    TOKEN_OUT_OF_RANGE = 2  # a token id is not below VOCABULARY
    CONTEXT_FULL = 3  # a position reaches CONTEXT
    KV_POOL_FULL = 4
    AXI_READ = 5  # a read response was not OKAY
    AXI_WRITE = 6  # a write response was not OKAY
    BUFFER_RANGE = 7  # an instruction addresses more than a buffer holds
    PROGRAM_RANGE = 8  # the program counter left the program
    CONFIGURATION = 9  # a configuration register holds a value the machine cannot execute
    KV_MISSING = 10  # a token skips attention at the first layer, so it has no entry


@dataclass(frozen=True)
class HostRegister:
    """A 32-bit AXI4-Lite register at byte ``address``; ``access`` is "rw" or "r"."""

    name: str
    address: int
    access: str
    meaning: str


_HOST = (
    ("MAGIC", "r", "0x534b4950"),
    ("VERSION", "r", "ISA version"),
    ("MACHINE", "r", "low 32 bits of the machine fingerprint"),
    ("NUMERICS", "r", "low 32 bits of the numerics fingerprint"),
    ("CONTROL", "rw", "write 1: start; 2: clear status"),
    ("STATUS", "r", "bit 0 running, 1 done, 2 error, 3 numeric saturation (sticky)"),
    ("ERROR", "r", "error code"),
    ("ERROR_PC", "r", "index of the failing instruction"),
    ("PROGRAM", "rw", "address of the program in port 0, 64-byte units"),
    ("PROGRAM_LENGTH", "rw", "instructions"),
    ("PROMPT_LENGTH", "rw", "tokens of the prompt"),
    ("MAX_NEW", "rw", "tokens to generate; 0 evaluates the prompt only"),
    ("DIAL", "rw", "FP32 routing threshold: a module executes when its router difference is at least this"),
    ("CHECK", "rw", "1: append a signature per instruction to the trace ring"),
    ("RING", "rw", "address of the trace ring in port 0, 64-byte units"),
    ("RING_RECORDS", "rw", "records (16 bytes each) in the ring, a power of two"),
    ("GENERATED", "r", "tokens generated so far"),
    ("POSITION", "r", "tokens processed so far"),
    ("RETIRED", "r", "instructions dispatched so far"),
    ("KV_ENTRIES", "r", "KV entries allocated so far"),
    ("EXECUTED_ATTENTION", "r", "tokens x layers whose attention executed"),
    ("EXECUTED_FFN", "r", "tokens x layers whose feed-forward network executed"),
    ("CYCLES", "r", "clock cycles while running"),
    ("ARRAY_BUSY", "r", "cycles in which a pair of weight beats was multiplied with a token"),
    ("ARRAY_WEIGHTS", "r", "cycles in which a running product had no complete pair of weight beats"),
    ("ARRAY_DRAIN", "r", "cycles in which a running product waited for its accumulators to be drained"),
    ("ARRAY_EDGE", "r", "other cycles of running products: token lists, pipeline, last drain and alignment"),
    ("ARRAY_WAIT", "r", "cycles in which a product was queued and waited for another unit or for the multipliers"),
    ("ATTENTION_BUSY", "r", "cycles in which attention took a header beat or multiplied keys or values"),
    ("ATTENTION_MEMORY", "r", "cycles in which attention waited for beats of entries"),
    ("ATTENTION_EDGE", "r", "other cycles of running attention: lists, pipeline, first probabilities, divisions, alignment"),
    ("ATTENTION_WAIT", "r", "cycles in which attention was queued and waited for another unit or for the multipliers"),
    ("VECTOR_BUSY", "r", "cycles in which the vector unit read or wrote a word of the buffer, a rotary word or a beat"),
    ("VECTOR_MEMORY", "r", "cycles in which the vector unit waited for memory"),
    ("VECTOR_EDGE", "r", "other cycles of running vector instructions"),
    ("VECTOR_WAIT", "r", "cycles in which a vector instruction was queued and waited for another unit"),
    ("EPILOGUE_BUSY", "r", "cycles in which results were drained, a pair of rows per draining port"),
    ("ALIGN_BUSY", "r", "cycles in which a word was aligned"),
    ("WAIT_ROUTE", "r", "cycles dispatch waited for a routing decision"),
    ("READ_BEATS", "r", "read data beats over all ports"),
    ("WRITE_BEATS", "r", "write data beats over all ports"),
    ("HISTORY_BEATS", "r", "beats of KV entries that came from the history buffer, over all ports"),
    ("AHEAD_BEATS", "r", "beats of KV entries fetched ahead into the history buffer, over all ports"),
)
HOST_REGISTERS = tuple(HostRegister(name, 4 * i, access, text) for i, (name, access, text) in enumerate(_HOST))
HOST = {register.name: register for register in HOST_REGISTERS}
COUNTERS = tuple(name for name in HOST if HOST[name].address >= HOST["CYCLES"].address)
MAGIC = 0x534B4950
ISA_VERSION = 4

STATUS_RUNNING, STATUS_DONE, STATUS_ERROR, STATUS_SATURATED = 1, 2, 4, 8
