"""Configuration registers (written by SET), the AXI4-Lite host registers, and the error codes."""

from __future__ import annotations

from collections.abc import Mapping
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
    ACTIVATION = 21  # function of gated products, see skipopu.numerics.activation.Activation
    PARAMETER = 22  # its FP32 parameter
    SCHEDULE = 23  # bits WEIGHTS_ON_DEMAND, SERIAL_ATTENTION (parts of the dataflow taken apart, for comparison), PREFETCH (entries of KV)
    HISTORY = 24  # tokens per port whose entries the KV history buffer keeps; 0 is off
    SOFT_CAP = 25  # FP32 factor of skipopu.numerics.soft_cap; 0 is none, as when a run starts; of machines with soft_cap
    MASKING = 26  # whose tokens' masks apply: bits MASK_PROMPT, MASK_GENERATED; 0 when a run starts; of machines with masks


NO_TOKEN = NO_POSITION = 0xFFFF_FFFF
WEIGHTS_ON_DEMAND, SERIAL_ATTENTION, PREFETCH = 1, 2, 4  # bits of Config.SCHEDULE
MASK_PROMPT, MASK_GENERATED = 1, 2  # bits of Config.MASKING


ERROR_BITS = 8


class Error(IntEnum):
    """Error codes of the status register; the machine halts with the failing instruction's index."""

    NONE = 0
    ILLEGAL_INSTRUCTION = 1
    TOKEN_OUT_OF_RANGE = 2  # a token id is not below VOCABULARY
    CONTEXT_FULL = 3  # a position reaches CONTEXT
    KV_POOL_FULL = 4
    AXI_READ = 5  # a read response was not OKAY, not asked for, or not as long as its burst
    AXI_WRITE = 6  # a write response was not OKAY, or not asked for
    BUFFER_RANGE = 7  # an instruction addresses more than a buffer holds
    PROGRAM_RANGE = 8  # the program counter left the program
    CONFIGURATION = 9  # a configuration register, or FIRST, was given what the machine cannot execute
    KV_MISSING = 10  # a token skips attention at the first layer, so it has no entry
    DEPENDENCE = 11  # a unit was given more dependence tokens than are counted, without taking them
    ABORTED = 12  # the host ended the run
    WATCHDOG = 13  # for very long nothing moved: no beat, no instruction


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
    (
        "CONTROL",
        "rw",
        "write 1: start, which also ends what an error left and is ignored while STATUS says running or owed; 2: clear done and saturation;"
        " 4: abort the run",
    ),
    (
        "STATUS",
        "r",
        "bit 0 running, 1 done, 2 error, 3 numeric saturation (sticky), 4 memory owes answers behind a run; after an error it runs until memory owes none,"
        " or has been silent for as long as WATCHDOG takes",
    ),
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
    (
        "FIRST",
        "rw",
        "position at which the run begins: what the runs before it left of earlier tokens stays, what they left of others is given back",
    ),
    ("KNOWN_LENGTH", "rw", "tokens that are known: the prompt's, and those behind it that were generated"),
    ("PREDICT_FROM", "rw", "first position whose argmax token is wanted; 0xffffffff: none but those that are generated"),
    ("PREDICTED", "rw", "address of the argmax tokens wanted (uint32 each, by position) in port 0, 64-byte units"),
    ("GENERATED", "r", "tokens generated so far"),
    ("POSITION", "r", "tokens processed so far"),
    ("RETIRED", "r", "instructions dispatched so far"),
    ("KV_ENTRIES", "r", "KV entries allocated so far"),
)
# 64 bits each: a register of the lower half, and one of the upper half as it was when the lower one was read.
_WIDE = (
    ("EXECUTED_ATTENTION", "tokens x layers whose attention executed"),
    ("EXECUTED_FFN", "tokens x layers whose feed-forward network executed"),
    ("CYCLES", "clock cycles while running"),
    ("ARRAY_BUSY", "cycles in which a pair of weight beats was multiplied with a token"),
    ("ARRAY_WEIGHTS", "cycles in which a running product had no complete pair of weight beats"),
    ("ARRAY_DRAIN", "cycles in which a running product waited for its accumulators to be drained"),
    ("ARRAY_EDGE", "other cycles of running products: token lists, pipeline, last drain and alignment"),
    ("ARRAY_WAIT", "cycles in which a product was queued and waited for another unit or for the multipliers"),
    ("ATTENTION_BUSY", "cycles in which attention took a header beat or multiplied keys or values"),
    ("ATTENTION_MEMORY", "cycles in which attention waited for beats of entries"),
    ("ATTENTION_EDGE", "other cycles of running attention: lists, pipeline, first probabilities, divisions, alignment"),
    ("ATTENTION_WAIT", "cycles in which attention was queued and waited for another unit or for the multipliers"),
    ("VECTOR_BUSY", "cycles in which the vector unit read or wrote a word of the buffer, a rotary word or a beat"),
    ("VECTOR_MEMORY", "cycles in which the vector unit waited for memory"),
    ("VECTOR_EDGE", "other cycles of running vector instructions"),
    ("VECTOR_WAIT", "cycles in which a vector instruction was queued and waited for another unit"),
    ("EPILOGUE_BUSY", "cycles in which results were drained, a pair of rows per draining port"),
    ("ALIGN_BUSY", "cycles in which a word was aligned"),
    ("WAIT_ROUTE", "cycles dispatch waited for a routing decision"),
    ("READ_BEATS", "read data beats over all ports"),
    ("WRITE_BEATS", "write data beats over all ports"),
    ("HISTORY_BEATS", "beats of KV entries that came from the history buffer, over all ports"),
    ("AHEAD_BEATS", "beats of KV entries fetched ahead into the history buffer, over all ports"),
    # Of machines with masks, on others 0:
    (
        "CHANNELS_READ",
        "input channels of products with thresholds that a token of the chunk needs, with those behind the last in its group",
    ),
    ("CHANNELS_LEFT_OUT", "input channels of products with thresholds that none needs"),
)
_ALL = (
    *_HOST,
    *((name + half, "r", text + why) for name, text in _WIDE for half, why in (("", ""), ("_HIGH", "; upper half"))),
)
HOST_REGISTERS = tuple(HostRegister(name, 4 * i, access, text) for i, (name, access, text) in enumerate(_ALL))
HOST = {register.name: register for register in HOST_REGISTERS}
WIDE = tuple(name for name, _ in _WIDE)
COUNTERS = WIDE[WIDE.index("CYCLES") :]
OF_MASKS = WIDE[WIDE.index("CHANNELS_READ") :]
MAGIC = 0x534B4950
ISA_VERSION = 9


def identity(fingerprint: str) -> int:
    """What the registers MACHINE and NUMERICS hold of a fingerprint."""
    return int(fingerprint[-8:], 16)


def counted(values: Mapping[str, int]) -> dict[str, int]:
    """The 64-bit counters, by name, from the values of all registers."""
    return {name: values[name] | values[f"{name}_HIGH"] << 32 for name in WIDE}


CONTROL_START, CONTROL_CLEAR, CONTROL_ABORT = 1, 2, 4
STATUS_RUNNING, STATUS_DONE, STATUS_ERROR, STATUS_SATURATED, STATUS_OWED = 1, 2, 4, 8, 16
