"""A compiled program: instructions, what each is for, the memory image of every port, and its own description."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipopu.accept import MAPPING, Accepted
from skipopu.adjust_record import adjust_size
from skipopu.channel_stream import ChannelStream
from skipopu.errors import ProgramError
from skipopu.isa.registers import Config
from skipopu.isa.spec import ADDRESS_UNIT, SET, WORD_BYTES, instruction_of
from skipopu.layout import EmbeddingRows, WeightStream
from skipopu.machine.config import Machine
from skipopu.machine.limits import ranges
from skipopu.masks import ThresholdTable
from skipopu.model_config import ModelConfig
from skipopu.numerics import formats
from skipopu.policy import KvPolicy
from skipopu.program import file
from skipopu.records import RING_RECORD, ROUTER_RECORD
from skipopu.streams import stream_of
from skipopu.text import Text, text_of


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
        regions: memory map, the same in every port: program, tokens, trace, ring, rope, embedding, layers, final, head, logits,
            kv (some may be missing).
        matrices: weight streams by name: address, layer_stride, rows, n, groups, group, ``format`` by name, and ``order``,
            which says how the checkpoint's rows lie in the stream.
        adjusts: operands of ADJUST by name: address of the records in port 0, layer_stride, elements, and ``order``, as of matrices.
        masks: thresholds by what they are of, see :data:`skipopu.masks.INPUT_OF`: address, layer_stride, channels.
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
    adjusts: dict[str, dict[str, Any]] = field(default_factory=dict)
    masks: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def text(self) -> Text:
        """Text of the model: ``encode``, ``decode``, ``chat``.

        Raises:
            ProgramError: its ids are not known to be bytes and it has no tokenizer.json, or one that does not fit.
        """
        files = self.source.get("text", {})
        Accepted(
            "a mapping of files to text", lambda v: MAPPING.holds(v) and all(isinstance(t, str) for t in v.values())
        ).check(files, f"program of {self.source['checkpoint']}: source: text", ProgramError)
        return text_of(self.model, files, self.source["checkpoint"])

    @property
    def weights(self) -> str | dict[str, str]:
        """The weights' format, by its name; of each matrix where they have several. Routers are not counted."""
        formats = {name: matrix["format"] for name, matrix in self.matrices.items() if not name.startswith("router")}
        every = set(formats.values())
        return every.pop() if len(every) == 1 else formats

    @property
    def decides_ahead(self) -> bool:
        """Whether what a layer executes is known in front of it: its policies weigh nothing, and its routers' sums are zeros of no layer."""
        return self.matrices.get("router", {}).get("layer_stride") == 0

    @property
    def ring_records(self) -> int:
        return self.regions["ring"].size // RING_RECORD.size

    @property
    def port_bytes(self) -> int:
        """Bytes of one port's memory."""
        return max(region.address + region.size for region in self.regions.values())

    def register(self, register: Config) -> int:
        """What the program writes to a configuration register; 0 where it does not."""
        words = [SET.decode(word) for word in self.instructions if instruction_of(word) is SET]
        return next((f["value"] for f in words if f["register"] == register), 0)

    def save(self, directory: str | Path) -> Path:
        """Writes ``directory/program.skpu`` and returns its path.

        Raises:
            ProgramError: the program has no memory image, or the file cannot be written.
        """
        if not self.memory:
            raise ProgramError(f"the program of shape {self.source['checkpoint']} has no weights to write")
        description = {
            "machine": self.machine.to_dict(),
            "machine_fingerprint": self.machine.fingerprint,
            "numerics": self.numerics,
            "numerics_fingerprint": self.machine.numerics_fingerprint(self.numerics),
            "model": self.model.to_hf(),
            "kv": self.kv,
            "context": self.context,
            "logits": self.logits,
            "instructions": [f"{word:032x}" for word in self.instructions],
            "notes": self.notes,
            "regions": {name: [r.address, r.size] for name, r in self.regions.items()},
            "matrices": self.matrices,
            "adjusts": self.adjusts,
            "masks": self.masks,
            "router_record": list(self.router_record),
            "port_bytes": self.port_bytes,
            "source": self.source,
        }
        return file.write(Path(directory), description, self.memory)

    @staticmethod
    def load(path: str | Path) -> Program:
        """Reads a program written by :meth:`save`; ``path`` is the file or its directory.

        Raises:
            ProgramError: missing, truncated, foreign, corrupt, of another version, or with a fingerprint that this
                installation's machine description or numerics do not reproduce.
        """
        path, d, images = file.read(Path(path))
        machine = Machine.from_dict(d["machine"], f"{path}: machine")
        if machine.fingerprint != d["machine_fingerprint"]:
            raise ProgramError(
                f"{path}: machine fingerprint {d['machine_fingerprint']} differs from {machine.fingerprint} here"
            )
        known = machine.numerics_fingerprint(d["numerics"]) if d["numerics"] in machine.numerics else "none"
        if known != d["numerics_fingerprint"]:
            raise ProgramError(
                f"{path}: numerics {d['numerics']} has fingerprint {d['numerics_fingerprint']}, here it is {known}"
            )
        if len(images) != machine.ports * d["port_bytes"]:
            raise ProgramError(
                f"{path}: port_bytes is {d['port_bytes']}; {len(images)} bytes of memory for {machine.ports} ports follow"
            )
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
            memory=list(images.reshape(machine.ports, d["port_bytes"])),
            numerics=d["numerics"],
            source=d["source"],
            adjusts=d["adjusts"],
            masks=d["masks"],
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
            "predicted": 4 * self.context,
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
            if d["group"] not in (allowed := ranges(self.machine)[Config.GROUP]):
                raise ProgramError(f"{where}: matrix {name} has group {d['group']}; accepted: {allowed}")
            if d["format"] not in self.machine.formats:
                raise ProgramError(
                    f"{where}: matrix {name} has format {d['format']}; accepted: {', '.join(self.machine.formats)}"
                )
            last = (layers - 1) * d["layer_stride"] if name != "head" else 0
            inside(f"matrix {name}", d["address"] + last, self.stream(name).size, end)
        for name, d in self.adjusts.items():
            last = (layers - 1) * d["layer_stride"]
            inside(f"adjust record {name}", d["address"] + last, adjust_size(d["elements"]), end)
        for name, d in self.masks.items():
            inside(f"mask {name}", d["address"] + (layers - 1) * d["layer_stride"], self.thresholds_of(name).size, end)

    def stream(self, name: str) -> WeightStream | ChannelStream:
        """How the ports hold matrix ``name``."""
        d = self.matrices[name]
        return stream_of(self.machine, d["rows"], d["groups"], d["group"], formats.BY_NAME[d["format"]])

    def thresholds_of(self, name: str) -> ThresholdTable:
        """How the ports hold the thresholds of input ``name``; its groups are those of the layers' matrices."""
        group, machine = self.matrices["q"]["group"], self.machine
        return ThresholdTable(-(-self.masks[name]["channels"] // group), group, machine.mask_ports, machine.beat_bytes)

    def thresholds(self, name: str, layer: int) -> NDArray[np.uint16]:
        """(channels,) of a layer's input ``name``."""
        d, table = self.masks[name], self.thresholds_of(name)
        address = d["address"] + layer * d["layer_stride"]
        return table.unpack([port[address : address + table.size] for port in self.memory]).reshape(-1)[: d["channels"]]

    def require_machine(self, machine: Machine) -> None:
        """Raises ProgramError unless the program was compiled for ``machine``."""
        if machine.fingerprint != self.machine.fingerprint:
            raise ProgramError(
                f"program was compiled for machine {self.machine.name} ({self.machine.fingerprint}),"
                f" not for {machine.name} ({machine.fingerprint})"
            )


def place_instructions(instructions: list[int], memory: NDArray[np.uint8], address: int) -> None:
    """Writes the words to memory, little endian, 16 bytes each."""
    code = b"".join(word.to_bytes(WORD_BYTES, "little") for word in instructions)
    memory[address : address + len(code)] = np.frombuffer(code, np.uint8)


def address_units(value: int) -> int:
    """Bytes to 64-byte address counts."""
    if value % ADDRESS_UNIT:
        raise ProgramError(f"address {value:#x} is not a multiple of {ADDRESS_UNIT}")
    return value // ADDRESS_UNIT
