"""A compiled program: instructions, what each is for, the memory image of every port, and its own description."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipopu.accept import BOOLEAN, MAPPING, TEXT, Accepted, list_of, one_of, whole
from skipopu.errors import ProgramError
from skipopu.isa.spec import ADDRESS_UNIT, WORD_BYTES
from skipopu.layout import ROUTER_RECORD, EmbeddingRows, WeightStream, pack_router_record, router_record
from skipopu.machine.config import Machine
from skipopu.model_config import ModelConfig
from skipopu.numerics import formats, fp32
from skipopu.numerics.profile import fingerprint
from skipopu.policy import BY_NAME, TRACE, KvPolicy, under
from skipopu.row_order import ORDERS

FILE_NAME = "program.skpu"
MAGIC = b"SKIPOPU\n"
VERSION = 4
HEADER = struct.Struct("<8sIIQ32s")  # magic, version, description bytes, image bytes, SHA-256 of both


@dataclass(frozen=True)
class Region:
    """A named range of every port's memory, bytes."""

    address: int
    size: int


@dataclass
class Program:
    """Everything an engine needs to run.

    Attributes:
        machine: the target it was compiled for.
        instructions: 128-bit words; also stored in port 0 at region ``program``.
        notes: one line per instruction, naming layer and tensor.
        regions: memory map, the same in every port: program, tokens, trace, ring, rope, embedding, layers, head, logits,
            kv (some may be missing).
        matrices: weight streams by name: address, layer_stride, rows, n, groups, group, ``format`` by name, and ``order``,
            which says how the checkpoint's rows lie in the stream.
        router_record: (address, stride) of the layers' router records in port 0.
        model: shape of the model; ``kv`` policy; ``context`` planned tokens.
        memory: initial image per port, (bytes,) uint8, all of one size.
    """

    machine: Machine
    model: ModelConfig
    kv: KvPolicy
    context: int
    logits: bool
    instructions: list[int]
    notes: list[str]
    regions: dict[str, Region]
    matrices: dict[str, dict[str, Any]]
    router_record: tuple[int, int]
    memory: list[NDArray[np.uint8]]
    numerics: str = "exact18"
    source: dict[str, Any] = field(default_factory=dict)

    @property
    def ring_records(self) -> int:
        return self.regions["ring"].size // 16

    @property
    def port_bytes(self) -> int:
        """Bytes of one port's memory."""
        return max(region.address + region.size for region in self.regions.values())

    def save(self, directory: Path) -> Path:
        """Writes ``directory/program.skpu`` and returns its path.

        Raises:
            ProgramError: the program has no memory image.
        """
        if not self.memory:
            raise ProgramError(f"the program of shape {self.source['checkpoint']} has no weights to write")
        description = json.dumps(
            {
                "machine": self.machine.to_dict(),
                "machine_fingerprint": self.machine.fingerprint,
                "numerics": self.numerics,
                "numerics_fingerprint": fingerprint(self.numerics),
                "model": self.model.to_hf(),
                "kv": self.kv,
                "context": self.context,
                "logits": self.logits,
                "instructions": [f"{word:032x}" for word in self.instructions],
                "notes": self.notes,
                "regions": {name: [r.address, r.size] for name, r in self.regions.items()},
                "matrices": self.matrices,
                "router_record": list(self.router_record),
                "port_bytes": self.port_bytes,
                "source": self.source,
            },
            sort_keys=True,
        ).encode()
        image = b"".join(port.tobytes() for port in self.memory)
        digest = hashlib.sha256(description + image).digest()
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / FILE_NAME
        path.write_bytes(HEADER.pack(MAGIC, VERSION, len(description), len(image), digest) + description + image)
        return path

    @staticmethod
    def load(path: Path) -> Program:
        """Reads a program written by :meth:`save`; ``path`` is the file or its directory.

        Raises:
            ProgramError: missing, truncated, foreign, corrupt, of another version, or with a fingerprint that this
                installation's machine description or numerics do not reproduce.
        """
        path = Path(path)
        if path.is_dir():
            path = path / FILE_NAME
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise ProgramError(f"{path}: no such file; `skipopu compile` writes one") from None
        except OSError as error:
            raise ProgramError(f"{path}: cannot be read ({error.strerror})") from None
        if len(data) < HEADER.size or data[: len(MAGIC)] != MAGIC:
            raise ProgramError(f"{path}: not a skipopu program (its first bytes are {data[:8]!r}, not {MAGIC!r})")
        _, version, described, imaged, digest = HEADER.unpack_from(data)
        if version != VERSION:
            raise ProgramError(f"{path}: version {version}; this installation reads version {VERSION}")
        if len(data) != HEADER.size + described + imaged:
            raise ProgramError(f"{path}: truncated, {len(data)} bytes instead of {HEADER.size + described + imaged}")
        body = data[HEADER.size :]
        if hashlib.sha256(body).digest() != digest:
            raise ProgramError(f"{path}: checksum mismatch; the file was altered after it was written")
        d = _described(body[:described], f"{path}: description")
        machine = Machine.from_dict(d["machine"], f"{path}: machine")
        if machine.fingerprint != d["machine_fingerprint"]:
            raise ProgramError(
                f"{path}: machine fingerprint {d['machine_fingerprint']} differs from {machine.fingerprint} here"
            )
        known = fingerprint(d["numerics"]) if d["numerics"] in machine.numerics else "none"
        if known != d["numerics_fingerprint"]:
            raise ProgramError(
                f"{path}: numerics {d['numerics']} has fingerprint {d['numerics_fingerprint']}, here it is {known}"
            )
        if imaged != machine.ports * d["port_bytes"]:
            raise ProgramError(
                f"{path}: port_bytes is {d['port_bytes']}; {imaged} bytes of memory for {machine.ports} ports follow"
            )
        image = np.frombuffer(body, np.uint8, offset=described).reshape(machine.ports, d["port_bytes"])
        program = Program(
            machine=machine,
            model=ModelConfig.from_dict(d["model"], f"{path}: model"),
            kv=KvPolicy(d["kv"]),
            context=d["context"],
            logits=d["logits"],
            instructions=[int(word, 16) for word in d["instructions"]],
            notes=d["notes"],
            regions={name: Region(*value) for name, value in d["regions"].items()},
            matrices=d["matrices"],
            router_record=(d["router_record"][0], d["router_record"][1]),
            memory=[row.copy() for row in image],
            numerics=d["numerics"],
            source=d["source"],
        )
        program._check_map(str(path))
        return program

    def _check_map(self, where: str) -> None:
        """Raises ProgramError, naming ``where``, for a region or matrix outside the memory or too small for what lies in it."""
        layers, end = self.model.num_layers, len(self.memory[0])

        def inside(what: str, address: int, size: int, most: int) -> None:
            if address + size > most:
                raise ProgramError(f"{where}: {what} ends at {address + size:#x}; accepted: up to {most:#x}")

        # Bytes that the host or an engine takes from a region.
        taken = {
            "program": WORD_BYTES * len(self.instructions),
            "tokens": 4 * self.context,
            "trace": layers * self.context,
            "embedding": EmbeddingRows(self.model.hidden_size, self.model.vocab_size, self.machine.ports).size,
        }
        for name, region in self.regions.items():
            inside(f"region {name}", region.address, region.size, end)
            inside(f"the content of region {name}", region.address, taken.get(name, 0), region.address + region.size)
        if self.regions["trace"].size % layers:
            raise ProgramError(f"{where}: region trace has {self.regions['trace'].size} bytes, no multiple of {layers} layers")
        inside("router_record", self.router_record[0] + (layers - 1) * self.router_record[1], ROUTER_RECORD.size, end)
        for name, d in self.matrices.items():
            if d["group"] % self.machine.weight_lanes:
                raise ProgramError(
                    f"{where}: matrix {name} has group {d['group']}; accepted: a multiple of {self.machine.weight_lanes}"
                )
            last = (layers - 1) * d["layer_stride"] if name != "head" else 0
            inside(f"matrix {name}", d["address"] + last, self.stream(name).size, end)

    def stream(self, name: str) -> WeightStream:
        """How the ports hold matrix ``name``."""
        d, machine = self.matrices[name], self.machine
        return WeightStream(
            d["rows"], d["groups"], d["group"], machine.ports, machine.weight_lanes, formats.BY_NAME[d["format"]]
        )

    def require_machine(self, machine: Machine) -> None:
        """Raises ProgramError unless the program was compiled for ``machine``."""
        if machine.fingerprint != self.machine.fingerprint:
            raise ProgramError(
                f"program was compiled for machine {self.machine.name} ({self.machine.fingerprint}),"
                f" not for {machine.name} ({machine.fingerprint})"
            )


_COUNT = whole(0, (1 << 40) - 1)
_PAIR = Accepted("a list of two counts", lambda value: list_of(_COUNT).holds(value) and len(value) == 2)
_WORD = Accepted(
    "a word of 32 hexadecimal digits", lambda value: isinstance(value, str) and bool(re.fullmatch("[0-9a-f]{32}", value))
)
# Keys of a program file's description, of a matrix in it, and of its source.
_KEYS = {
    "machine": MAPPING,
    "machine_fingerprint": TEXT,
    "numerics": TEXT,
    "numerics_fingerprint": TEXT,
    "model": MAPPING,
    "kv": one_of([policy.value for policy in KvPolicy]),
    "context": whole(1, 1 << 32),
    "logits": BOOLEAN,
    "instructions": list_of(_WORD),
    "notes": list_of(TEXT),
    "regions": MAPPING,
    "matrices": MAPPING,
    "router_record": _PAIR,
    "port_bytes": whole(1, 1 << 40),
    "source": MAPPING,
}
_MATRIX = {
    "address": _COUNT,
    "layer_stride": _COUNT,
    "rows": whole(1, 1 << 24),
    "n": whole(1, 1 << 24),
    "groups": whole(1, 1 << 24),
    "group": whole(1, 1 << 16),
    "format": one_of(list(formats.BY_NAME)),
    "order": one_of(ORDERS),
}
_SOURCE = {"checkpoint": Accepted("text", lambda value: isinstance(value, str)), "routers": BOOLEAN, "warnings": list_of(TEXT)}
_REGIONS = ("program", "tokens", "trace", "ring", "rope", "embedding", "layers", "head", "kv")
_MATRICES = ("router", "kv", "q", "o", "gate_up", "down", "head")


def _require(data: dict[str, Any], kinds: dict[str, Accepted], where: str) -> None:
    """Raises ProgramError unless ``data`` has all keys of ``kinds``, each of its kind."""
    for key, kind in kinds.items():
        if key not in data:
            raise ProgramError(f"{where}: {key} is missing; accepted: {kind.text}")
        kind.check(data[key], f"{where}: {key}", ProgramError)


def _described(text: bytes, where: str) -> dict[str, Any]:
    """A program file's description, every value of its type; raises ProgramError naming ``where`` and the key."""
    try:
        d = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProgramError(f"{where}: not valid JSON ({error})") from None
    MAPPING.check(d, f"{where}: the content", ProgramError)
    _require(d, _KEYS, where)
    _require(d["source"], _SOURCE, f"{where}: source")
    _require(d["regions"], dict.fromkeys(_REGIONS, _PAIR), f"{where}: regions")
    _require(d["regions"], dict.fromkeys(d["regions"], _PAIR), f"{where}: regions")
    _require(d["matrices"], dict.fromkeys(_MATRICES, MAPPING), f"{where}: matrices")
    for name, matrix in d["matrices"].items():
        MAPPING.check(matrix, f"{where}: matrices: {name}", ProgramError)
        _require(matrix, _MATRIX, f"{where}: matrices: {name}")
    if len(d["notes"]) != len(d["instructions"]):
        raise ProgramError(
            f"{where}: notes are {len(d['notes'])}; accepted: one for each of {len(d['instructions'])} instructions"
        )
    return d


def place_instructions(instructions: list[int], memory: NDArray[np.uint8], address: int) -> None:
    """Writes the words to memory, little endian, 16 bytes each."""
    code = b"".join(word.to_bytes(WORD_BYTES, "little") for word in instructions)
    memory[address : address + len(code)] = np.frombuffer(code, np.uint8)


COMPILED = "program"  # routing as compiled


@dataclass(frozen=True)
class Run:
    """One execution of a program.

    Attributes:
        prompt: token ids.
        max_new: tokens to generate; 0 evaluates the prompt only.
        dial: FP32 routing threshold.
        check: append signatures to the trace ring.
        routing: "program" keeps the policies it was compiled with; the name of one of :data:`skipopu.policy.BY_NAME` puts every
            module under it, as "always" executes it; an array of bool (layers, 2, tokens), 1 = execute, replays a trace. What the KV
            policy forces runs anyway.
    """

    prompt: tuple[int, ...]
    max_new: int = 0
    dial: float = 0.0
    check: bool = False
    routing: str | NDArray[np.bool_] = COMPILED

    def validate(self, program: Program) -> None:
        """Raises ProgramError when the run does not fit the program."""
        if not self.prompt:
            raise ProgramError("prompt is empty; at least one token is needed")
        if bad := [t for t in self.prompt if not 0 <= t < program.model.vocab_size]:
            raise ProgramError(f"prompt token {bad[0]} is out of range; the vocabulary has {program.model.vocab_size} ids")
        if self.max_new < 0:
            raise ProgramError(f"{self.max_new} new tokens are asked for; 0 or more are accepted")
        if len(self.prompt) + self.max_new > program.context:
            raise ProgramError(
                f"prompt of {len(self.prompt)} tokens plus {self.max_new} new ones exceeds the program's context of {program.context}"
            )
        if not np.isfinite(np.float32(self.dial)):
            raise ProgramError(f"dial is {self.dial}; a finite number is needed")
        if isinstance(self.routing, str):
            one_of([COMPILED, *BY_NAME]).check(self.routing, "routing", ProgramError)
        else:
            shape = self.routing.shape
            layers, needed = program.model.num_layers, len(self.prompt) + max(self.max_new - 1, 0)
            if len(shape) != 3 or shape[:2] != (layers, 2) or not needed <= shape[2] <= program.context:
                raise ProgramError(
                    f"routing trace has shape {shape}; accepted: ({layers}, 2, tokens) with {needed} to {program.context} tokens"
                )

    def registers(self, program: Program) -> dict[str, int]:
        """What the host writes to the machine's registers before it starts this run."""
        return {
            "PROGRAM": address_units(program.regions["program"].address),
            "PROGRAM_LENGTH": len(program.instructions),
            "PROMPT_LENGTH": len(self.prompt),
            "MAX_NEW": self.max_new,
            "DIAL": int(fp32.bits(np.float32(self.dial))),
            "CHECK": int(self.check),
            "RING": address_units(program.regions["ring"].address),
            "RING_RECORDS": program.ring_records,
        }

    def prepare(self, program: Program) -> list[NDArray[np.uint8]]:
        """A copy of the program's memory with the prompt (and the routing trace) in place."""
        self.validate(program)
        memory = [port.copy() for port in program.memory]
        address = program.regions["tokens"].address
        memory[0][address : address + 4 * len(self.prompt)] = np.array(self.prompt, "<u4").view(np.uint8)
        if not isinstance(self.routing, str):
            region, layers = program.regions["trace"], program.model.num_layers
            rows = memory[0][region.address : region.address + region.size].reshape(layers, -1)
            executed = self.routing.astype(np.uint8)
            rows[:, : executed.shape[2]] = executed[:, 0] | executed[:, 1] << 1
        if not isinstance(self.routing, str) or self.routing != COMPILED:
            policy = BY_NAME[self.routing] if isinstance(self.routing, str) else TRACE
            first, stride = program.router_record
            for layer in range(program.model.num_layers):
                address = first + layer * stride
                bias, _ = router_record(memory[0], address)
                record = pack_router_record(bias.tolist(), under(program.kv, policy, layer))
                memory[0][address : address + len(record)] = record
        return memory


def address_units(value: int) -> int:
    """Bytes to 64-byte address counts."""
    if value % ADDRESS_UNIT:
        raise ProgramError(f"address {value:#x} is not a multiple of {ADDRESS_UNIT}")
    return value // ADDRESS_UNIT
