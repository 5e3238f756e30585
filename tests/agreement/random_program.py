"""Random legal instruction sequences: any alignment, product, epilogue, list and store, chained by dependence tokens."""

from __future__ import annotations

import itertools

import numpy as np

from skipopu.adjust_record import ADJUST_RECORD, adjust_size
from skipopu.isa import spec
from skipopu.isa.registers import NO_TOKEN, Config
from skipopu.isa.spec import BUFFER_UNIT, AlignTarget, Epilogue, Finish, Reduce, TokenList, Unit
from skipopu.layout import EmbeddingRows, buffer_stride, round_up
from skipopu.machine.config import Machine
from skipopu.machine.limits import Range, ranges
from skipopu.model_config import ModelConfig
from skipopu.numerics import fp32
from skipopu.numerics.activation import Activation
from skipopu.policy import SKIP_POLICIES, WHOLE_RUN, KvPolicy, SkipPolicy
from skipopu.program.program import Program, place_instructions
from skipopu.program.run import Run
from skipopu.records import pack_router_record
from skipopu.streams import stream_of
from tests.support import Regions, random_codes

CONTEXT = 24
LAYERS = 2


def random_program(machine: Machine, seed: int) -> tuple[Program, Run]:
    """A program of about a dozen unit instructions in a two-layer loop, on random memory, and a run of it."""
    rng = np.random.default_rng(seed)

    def pick(low: int, high: int) -> int:
        return int(rng.integers(low, high + 1))

    group = machine.weight_lanes * pick(1, max(1, 128 // machine.weight_lanes))
    if machine.groups_in_beats and pick(0, 1):
        group = int(rng.choice(machine.groups_in_beats))
    inner = machine.activation // group // 2 * group
    widest = min(inner, 320)
    hidden, head_dim = pick(9, widest), max(16, machine.vector_lanes) * pick(1, 2)
    model = ModelConfig(hidden, 1, LAYERS, 1, 1, head_dim, pick(5, 90), CONTEXT)
    regions = Regions()
    region = regions.place
    region("program", 16 * machine.instructions)
    tokens = region("tokens", 4 * (CONTEXT + 1))
    region("ring", 16 * 4096)
    region("predicted", 4 * CONTEXT)
    rope = region("rope", CONTEXT * round_up(4 * head_dim, 64))
    embedding = EmbeddingRows(hidden, model.vocab_size, machine.ports)
    embedded = region("embedding", embedding.size)
    words: list[int] = []
    notes: list[str] = []
    placed: list[tuple[int, list[np.ndarray]]] = []

    def put(instruction: spec.Instruction, **fields: int) -> None:
        words.append(instruction.encode(fields))
        notes.append(f"random {instruction.name}")

    body: list[tuple[spec.Instruction, dict[str, int], Unit]] = []
    stride = buffer_stride(widest)
    slots_size = machine.tokens * stride
    places = [k * slots_size for k in range(min(4, machine.buffer // slots_size))]
    router_record = region("router", 64 * LAYERS)
    stored = 0
    adjusted: list[tuple[int, int]] = []  # records and their elements
    for _ in range(pick(2, 4)):
        source, elements = int(rng.choice(places)), pick(1, hidden)
        listed = int(rng.choice([TokenList.ALL, TokenList.ALL, TokenList.ATTENTION, TokenList.FFN]))
        target = pick(AlignTarget.RESIDUAL, AlignTarget.INNER)
        place = {"src": source // BUFFER_UNIT, "stride": stride // BUFFER_UNIT}
        body.append((spec.ALIGN, {**place, "list": listed, "elements": elements, "align": target}, Unit.VECTOR))
        epilogue = Epilogue(pick(0, 4))
        rows = 2 * pick(1, widest // 2) if epilogue is Epilogue.GATED else pick(1, widest)
        groups = -(-elements // group)
        weights = machine.weight_formats[pick(0, len(machine.formats) - 1)]
        stream = stream_of(machine, rows, groups, group, weights)
        codes = random_codes(weights, rng, (rows, groups, group))
        scales = (rng.choice([1.0, 1e-3, 1e-7, -1.0], (rows, groups)) * rng.random((rows, groups))).astype(np.float16)
        address = region(f"weights{len(body)}", stream.size)
        placed.append((address, stream.pack(codes, scales)))
        fields = {
            "list": listed,
            "address": address // 64,
            "dst": int(rng.choice(places)) // BUFFER_UNIT,
            "stride": stride // BUFFER_UNIT,
            **spec.matmul_shape(rows, machine.ports),
            "groups": groups,
            "format": weights.code,
            "epilogue": epilogue,
            "norm": pick(0, 1),
            "argmax": pick(0, 1) if epilogue in (Epilogue.NONE, Epilogue.STORE) and rows <= model.vocab_size else 0,
            "aux": pick(0, rows // head_dim) * head_dim if epilogue is Epilogue.ROPE else 0,
            "source": target == AlignTarget.INNER,
            # A product must not align into the region it reads.
            "align": AlignTarget.NONE if epilogue is Epilogue.NONE or pick(0, 1) else 3 - target,
        }
        body.append((spec.MATMUL, fields, Unit.ARRAY))
        if machine.adjust and pick(0, 1):
            whole, reduce, finish = pick(1, widest // 8) * 8, Reduce(pick(0, 2)), Finish(pick(0, 3))
            if reduce is Reduce.HEADS or finish is Finish.ROTATE:
                whole = pick(1, max(1, widest // head_dim)) * head_dim
            where = region(f"adjust{len(body)}", adjust_size(whole))
            adjusted.append((where, whole))
            fields = {
                **place,
                "list": listed,
                "address": where // 64,
                "dst": int(rng.choice(places)) // BUFFER_UNIT,
                "dst_stride": stride // BUFFER_UNIT,
                "elements": whole,
                "reduce": reduce,
                "finish": finish,
                "align": pick(AlignTarget.NONE, AlignTarget.QUERY),
            }
            body.append((spec.ADJUST, fields, Unit.VECTOR))
        if rng.random() < 0.5:
            body.append(
                (spec.ROUTE, {**place, "list": TokenList.ALL, "address": router_record // 64, "layered": 1}, Unit.VECTOR)
            )
        if rng.random() < 0.6:
            count = pick(1, widest)
            row = round_up(4 * count, 64)
            where = region(f"stored{stored}", CONTEXT * row)
            stored += 1
            copy = {**place, "list": listed, "elements": count, "row": row // 64, "address": where // 64}
            body.append((spec.STORE, copy, Unit.VECTOR))
    # The head below decides the token.
    head_rows = model.vocab_size
    head = stream_of(machine, head_rows, -(-hidden // group), group)
    head_address = region("head", head.size)
    head_codes = rng.integers(-8, 8, (head_rows, head.groups, group)).astype(np.int8)
    placed.append((head_address, head.pack(head_codes, rng.random((head_rows, head.groups)).astype(np.float16))))
    residual = AlignTarget.RESIDUAL
    first = {"src": 0, "stride": stride // BUFFER_UNIT, "list": TokenList.LAST, "elements": hidden, "align": residual}
    last = {
        "list": TokenList.LAST,
        "address": head_address // 64,
        **spec.matmul_shape(head_rows, machine.ports),
        "groups": head.groups,
        "epilogue": Epilogue.NONE,
        "norm": 1,
        "argmax": 1,
    }
    tail = [(spec.ALIGN, first, Unit.VECTOR), (spec.MATMUL, last, Unit.ARRAY)]
    embed = {
        "dst": 0,
        "stride": stride // BUFFER_UNIT,
        "address": embedded // 64,
        "elements": hidden,
        "row": embedding.row_bytes // 64,
    }
    prologue = [(spec.EMBED, embed, Unit.VECTOR)]
    if body[-1][2] is Unit.ARRAY:
        prologue.append((spec.MATMUL, {}, Unit.ARRAY))
    chain = prologue + body + tail
    for before, after in itertools.pairwise(chain):
        if before[2] is not after[2]:
            before[1]["push"] = 1 << after[2]
            after[1]["pop"] = 1 << before[2]
    for register, value in {
        Config.VOCABULARY: model.vocab_size,
        Config.CONTEXT: CONTEXT,
        Config.TOKENS: tokens // 64,
        Config.ROPE: rope // 64,
        Config.ROPE_ROW: round_up(4 * head_dim, 64) // 64,
        Config.HEAD_DIM: head_dim,
        Config.GROUP: group,
        Config.INVERSE_SIZE: int(fp32.bits(np.float32(1 / hidden))),
        Config.EPSILON: int(fp32.bits(np.float32(1e-5))),
        Config.EOS0: NO_TOKEN,
        Config.EOS1: NO_TOKEN,
        Config.EOS2: NO_TOKEN,
        Config.EOS3: NO_TOKEN,
        Config.INNER: inner,
        Config.ACTIVATION: pick(0, ranges(machine).get(Config.ACTIVATION, Range(0, Activation.LEAKY_RELU)).most),
        Config.PARAMETER: int(fp32.bits(np.float32(rng.uniform(-2, 2)))),
        Config.SCHEDULE: pick(0, 3),
    }.items():
        put(spec.SET, register=register, value=value)
    start = len(words)
    put(spec.CHUNK)
    for instruction, fields, _ in prologue:
        put(instruction, **fields)
    put(spec.LOOP, count=LAYERS, advance=1)
    for instruction, fields, _ in body:
        put(instruction, **fields)
    put(spec.END)
    for instruction, fields, _ in tail:
        put(instruction, **fields)
    put(spec.NEXT, target=start)
    put(spec.HALT)

    memory = [np.zeros(regions.end, np.uint8) for _ in range(machine.ports)]
    for address, streams in placed:
        for port, data in enumerate(streams):
            memory[port][address : address + len(data)] = data
    table = (rng.standard_normal((model.vocab_size, hidden)) * 10.0 ** rng.integers(-4, 3)).astype(np.float16)
    for port, part in enumerate(embedding.pack(table)):
        memory[port][embedded : embedded + len(part)] = part
    rows_of_rope = rng.uniform(-1, 1, regions["rope"].size // 4).astype(np.float32)
    memory[0][rope : rope + regions["rope"].size] = rows_of_rope.view(np.uint8)
    for address, elements in adjusted:
        numbers = rng.standard_normal(2 * elements).astype(np.float32).view(np.uint8)
        sizes = np.array([1 / elements, 1e-5], np.float32).view(np.uint32)
        record = ADJUST_RECORD.pack(inverse_size=int(sizes[0]), epsilon=int(sizes[1]), rope=rope // 64)
        memory[0][address : address + len(record) + len(numbers)] = np.concatenate([record, numbers])
    policies = np.random.default_rng(seed + (1 << 32))

    def any_policy() -> SkipPolicy:
        return list(WHOLE_RUN.values())[policies.integers(len(WHOLE_RUN))]

    for layer in range(LAYERS):
        bias = (float(rng.standard_normal()), float(rng.standard_normal()))
        record = pack_router_record(
            bias, ((SKIP_POLICIES[pick(0, 2)], SKIP_POLICIES[pick(0, 2)]), (any_policy(), any_policy()))
        )
        memory[0][router_record + 64 * layer : router_record + 64 * layer + 64] = record
    place_instructions(words, memory[0], 0)
    program = Program(
        machine,
        model,
        KvPolicy.DENSE,
        CONTEXT,
        False,
        words,
        notes,
        regions,
        {},
        (router_record, 64),
        memory,
        source={"checkpoint": f"random {seed}", "routers": True},
    )
    known = tuple(int(t) for t in rng.integers(0, model.vocab_size, pick(1, 9)))
    new, cut = pick(0, 3), int(policies.integers(1, len(known) + 1))
    predict_from = int(policies.integers(len(known))) if policies.random() < 0.5 else None
    return program, Run(known[:cut], new, check=True, after=known[cut:], predict_from=predict_from)
