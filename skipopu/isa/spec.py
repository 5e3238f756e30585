"""The instructions of the overlay, declared once.

Encoder, assembler, disassembler, RTL decoder, simulators and ``docs/isa.md`` are derived from this file; nothing else
knows an opcode or a bit position.

Conventions. Memory addresses count 64-byte blocks inside each port's own address space; every port sees the same
address. ``buffer`` is the on-chip FP32 buffer, addressed in blocks of 8 elements; ``stride`` is its distance between
consecutive token slots. A *slot* is a token of the present chunk (0 .. tokens-1). A unit executes its instructions in
order; before one starts it takes a dependence token from every unit named in ``pop`` and on completion gives one to
every unit named in ``push`` (bit 0 array, 1 vector, 2 attention). An instruction whose token list is empty touches
neither memory nor buffers but still exchanges its dependence tokens. A word of an opcode that is not known, or with bits set that no
field of its instruction has, is no instruction.

A run begins at position FIRST. Keys, values and map of the tokens before stay as the runs before left them; the places of all others are
given back: each port goes on at the place of the first layer's entry of its first token from FIRST on, with an empty history buffer.
So FIRST is a chunk's beginning where that chunk had more tokens than there are ports. It is at most the position that the run before
reached, or 0 behind a reset or an error; what lies beyond is refused. KNOWN_LENGTH is at least PROMPT_LENGTH: the host sees to that. Ids of tokens 0 .. KNOWN_LENGTH - 1 stand in memory;
those from PROMPT_LENGTH on are of the phase of generated tokens. A chunk is of one phase and of known tokens, or of the one token that
was generated last. Of all tokens from PREDICT_FROM on, generated ones too, the argmax is written by position, from address PREDICTED on.
"""

from __future__ import annotations

from enum import IntEnum

from skipopu.isa.fields import WORD_BITS, Field, Instruction, check_opcodes
from skipopu.numerics.formats import FORMATS

ADDRESS_UNIT = 64  # bytes per address count
ADDRESS_SHIFT = (ADDRESS_UNIT - 1).bit_length()
BUFFER_UNIT = 8  # FP32 elements per buffer address count
BLOCK_ROWS = 8  # outputs of one port that share an accumulator rotation
SHORT_BLOCK_ROWS = (
    6  # of a matrix that has no more, groups whole beats: accumulators are still updated no sooner than every 6 cycles
)
WORD_BYTES = WORD_BITS // 8  # of an instruction in memory


class Unit(IntEnum):
    """Units with instruction queues; the value is the bit in ``pop`` and ``push``."""

    ARRAY = 0
    VECTOR = 1
    ATTENTION = 2


class TokenList(IntEnum):
    """Which slots of the chunk an instruction works on."""

    ALL = 0
    ATTENTION = 1  # slots whose attention executes in this layer
    FFN = 2  # slots whose feed-forward network executes in this layer
    LAST = 3  # slots whose argmax is wanted: the last one where no known token follows it, those from PREDICT_FROM on


class Epilogue(IntEnum):
    """What happens to a product's FP32 results, ``y`` being the result after the optional 1/rms."""

    STORE = 0  # buffer[row] = y
    ROPE = 1  # rotate row pairs (2i, 2i+1) below ``aux``; store the others
    GATED = 2  # buffer[row/2] = activation(y[row]) * y[row+1], the activation of Config.ACTIVATION
    RESIDUAL = 3  # buffer[row] += y
    NONE = 4  # nothing is stored (argmax only)


class Reduce(IntEnum):
    """What ADJUST divides by the root of its mean square."""

    NONE = 0
    WHOLE = 1  # the vector
    HEADS = 2  # each Config.HEAD_DIM elements


class Finish(IntEnum):
    """What ADJUST does last, ``y`` being the number after gain and bias, with ``relu`` 0 where that is negative."""

    STORE = 0  # dst = y
    ROTATE = 1  # the same, pairs (2i, 2i+1) of each head rotated by the record's rotary table
    ACTIVATE = 2  # dst = activation(y), that of Config.ACTIVATION
    RESIDUAL = 3  # dst += y


class AlignTarget(IntEnum):
    """Where a result goes as aligned integers, beside its FP32 form in the buffer.

    The activation memory has two regions, both in groups of the weights' group size. With RESIDUAL the slot's 1/rms is taken
    from the same mantissas.
    """

    NONE = 0
    RESIDUAL = 1  # activation memory from element 0
    INNER = 2  # activation memory from element Config.INNER
    QUERY = 3  # query memory, groups of head_dim


def block_rows(rows: int, pieces: int = 1) -> int:
    """Rows of a block in the weight stream of a matrix with ``rows`` outputs, ``pieces`` of whose groups stand in a beat."""
    return SHORT_BLOCK_ROWS if rows <= SHORT_BLOCK_ROWS and pieces == 1 else BLOCK_ROWS


def matmul_rows(fields: dict[str, int], ports: int) -> int:
    """Outputs of a MATMUL on a machine with ``ports`` ports; 0 when it has no rounds."""
    if not fields["rounds"]:
        return 0
    return ((fields["rounds"] - 1) * ports + fields["ports"]) * BLOCK_ROWS - fields["spare"]


def matmul_shape(rows: int, ports: int) -> dict[str, int]:
    """The fields that say ``rows`` on a machine with ``ports`` ports."""
    blocks = -(-rows // BLOCK_ROWS)
    rounds = -(-blocks // ports)
    return {"rounds": rounds, "ports": blocks - (rounds - 1) * ports, "spare": blocks * BLOCK_ROWS - rows}


_HEAD = (
    Field("opcode", 5, "instruction code"),
    Field("pop", 3, "units to take a dependence token from before starting"),
    Field("push", 3, "units to give a dependence token to on completion"),
    Field("list", 2, "token list: 0 all, 1 attention, 2 ffn, 3 last"),
)
_ADDRESS = (
    Field("address", 28, "memory address in every port", "64 bytes"),
    Field("layered", 1, "1: the layer base is added to the address"),
)
_ALIGN = Field(
    "align", 2, "the result is aligned too: 0 no, 1 as the residual, with its 1/rms, 2 as an inner vector, 3 as queries"
)
_SOURCE = (Field("src", 16, "buffer address", "8 elements"), Field("stride", 12, "distance between token slots", "8 elements"))
_TARGET = (Field("dst", 16, "buffer address", "8 elements"), Field("stride", 12, "distance between token slots", "8 elements"))

HALT = Instruction("HALT", 0, "control", "Waits until every unit is idle and stops with status done.", _HEAD[:1])
SET = Instruction(
    "SET",
    1,
    "control",
    "Writes a 32-bit constant to a configuration register once every unit is idle.",
    (*_HEAD[:1], Field("register", 6, "configuration register"), Field("value", 32, "new value")),
)
CHUNK = Instruction(
    "CHUNK",
    2,
    "control",
    "Starts a chunk at the present position: up to M tokens of the prompt, up to M known ones behind it, or one generated token.",
    _HEAD[:1],
)
LOOP = Instruction(
    "LOOP",
    3,
    "control",
    "Starts the layer loop: layer = 0, layer base = 0; the body is the instructions up to END.",
    (*_HEAD[:1], Field("count", 12, "layers"), Field("advance", 28, "layer base increment per layer", "64 bytes")),
)
END = Instruction("END", 4, "control", "Advances layer and layer base; repeats the loop body while layers remain.", _HEAD[:1])
NEXT = Instruction(
    "NEXT",
    5,
    "control",
    "Once idle: writes the argmax tokens that are wanted, emits the last slot's where no known token follows it, advances the position,"
    " and branches to target unless the generation is complete.",
    (*_HEAD[:1], Field("target", 12, "instruction index of the chunk's start")),
)
EMBED = Instruction(
    "EMBED",
    8,
    "vector",
    "For each slot reads its token id, writes its FP16 embedding row as FP32 to the buffer, aligns it as the residual and loads"
    " its rotary cos/sin row.",
    (
        *_HEAD,
        *_ADDRESS,
        *_TARGET,
        Field("elements", 18, "hidden size"),
        Field("row", 12, "bytes of one row in one port", "64 bytes"),
    ),
)
ALIGN = Instruction(
    "ALIGN",
    9,
    "vector",
    "Aligns each listed slot's vector to its groups' largest exponents; for vectors that no other instruction aligned.",
    (*_HEAD, *_SOURCE, Field("elements", 18, "vector length"), _ALIGN),
)
MATMUL = Instruction(
    "MATMUL",
    10,
    "array",
    "Multiplies the aligned activations of the listed slots by quantised weights, groups ascending, applies the epilogue and"
    " aligns its results.",
    (
        *_HEAD,
        *_ADDRESS,
        *_TARGET,
        Field("rounds", 12, "rounds of one 8-row block per port"),
        Field("ports", 7, "ports with a block in the last round"),
        Field("spare", 3, "rows of the last block that do not exist"),
        Field("groups", 10, "groups along the input"),
        Field("format", 3, "weight format: " + ", ".join(f"{f.code} {f.name.upper()}" for f in FORMATS)),
        Field("epilogue", 3, "0 store, 1 rope, 2 gated, 3 residual, 4 none"),
        Field("norm", 1, "1: results are multiplied by 1/rms"),
        Field("argmax", 1, "1: each slot's results enter its argmax"),
        Field("aux", 15, "rope: rows to rotate; argmax: first row of this product, divided by 8"),
        Field("source", 1, "0 the aligned residual, 1 the aligned inner vector"),
        _ALIGN,
    ),
)
EXTEND = Instruction(
    "EXTEND",
    15,
    "control",
    "Further operands of the MATMUL behind it, which is layered or not with all of them. Each that is not 0 needs a unit of its own:"
    " a machine without it refuses the instruction, and none here has one for `side`. A mask applies to tokens that Config.MASKING names.",
    (
        *_HEAD[:1],
        Field("mask", 28, "address of thresholds: input channels below them count as zero", "64 bytes"),
        Field("side", 28, "address of a low-rank product's two matrices, whose result is added", "64 bytes"),
        Field("rank", 12, "rows of the first of them"),
    ),
)
ROUTE = Instruction(
    "ROUTE",
    11,
    "vector",
    "Turns the router product (attention high, low, ffn high, low) into routing bits and token lists by the layer's router record.",
    (*_HEAD, *_ADDRESS, *_SOURCE),
)
KVWRITE = Instruction(
    "KVWRITE",
    12,
    "vector",
    "Stores K and V (V behind K in the buffer) of the listed slots as new entries and maps every other slot to the previous"
    " layer's entry. ATTEND waits by itself for the entries of every KVWRITE before it.",
    (
        *_HEAD,
        *_SOURCE,
        Field(
            "late", 24, "position from which the write of a single token's entry waits for a running product to end; 0: never"
        ),
    ),
)
ATTEND = Instruction(
    "ATTEND",
    13,
    "attention",
    "Attention of the listed slots' queries over all mapped entries up to their own position, in a layer with a window the last of them.",
    (*_HEAD, *_TARGET, _ALIGN),
)
STORE = Instruction(
    "STORE",
    14,
    "vector",
    "Copies the listed slots' vectors from the buffer to memory at address + position * row in port 0.",
    (
        *_HEAD,
        *_ADDRESS,
        *_SOURCE,
        Field("elements", 18, "vector length"),
        Field("row", 14, "bytes between positions", "64 bytes"),
    ),
)

ADJUST = Instruction(
    "ADJUST",
    16,
    "vector",
    "Normalises each listed slot's vector, multiplies it by the gains and adds the biases of the adjust record at its address, then"
    " rotates it, activates it or adds it to another. A machine without the unit refuses it.",
    (
        *_HEAD,
        *_ADDRESS,
        *_SOURCE,
        Field("dst", 16, "buffer address of the results", "8 elements"),
        Field("dst_stride", 12, "distance between token slots there", "8 elements"),
        Field("elements", 18, "vector length, a multiple of 8"),
        Field("reduce", 2, "1/rms: 0 none, 1 of the vector, 2 of each head"),
        Field("finish", 2, "0 store, 1 rotate, 2 activate, 3 residual"),
        _ALIGN,
        Field("relu", 1, "1: behind gain and bias, negative numbers are 0"),
    ),
)

INSTRUCTIONS = (HALT, SET, CHUNK, LOOP, END, NEXT, EMBED, ALIGN, ADJUST, EXTEND, MATMUL, ROUTE, KVWRITE, ATTEND, STORE)
BY_OPCODE = check_opcodes(INSTRUCTIONS)
BY_NAME = {instruction.name: instruction for instruction in INSTRUCTIONS}
OPCODE_BITS = _HEAD[0].width
NO_INSTRUCTION = (1 << OPCODE_BITS) - 1  # an opcode that stays unknown
PC_BITS = NEXT.by_name["target"].width  # of an instruction's index


def instruction_of(word: int) -> Instruction | None:
    """The instruction that a word is; None when it is none: its opcode is not known, or bits are set that no field has."""
    instruction = BY_OPCODE.get(word & NO_INSTRUCTION)
    return instruction if instruction and not word >> instruction.used_bits else None


assert all(i.offsets["opcode"] == 0 for i in INSTRUCTIONS)
assert NO_INSTRUCTION not in BY_OPCODE
