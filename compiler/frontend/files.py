"""The files of a checkpoint directory: which there are, and their tensors as they are."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from compiler.frontend.quantised.packed import Packed
from compiler.frontend.stored import FLOATS, Stored
from compiler.frontend.tensors import F32, FileTensors, Held
from skipopu.accept import MAPPING, TEXT, read_json, shown
from skipopu.errors import CheckpointError

ADAPTERS = ("adapter_config.json", "adapter_model.*")
INDEX = "model.safetensors.index.json"
Unpack = Callable[[Stored], dict[str, Packed]]


def plain(stored: Stored) -> dict[str, Packed]:
    """Of files that are not quantised."""
    return {}


class SafeTensors(FileTensors):
    """Tensors of floating-point numbers in safetensors files, read as float32; ``files`` has the file of each.

    ``unpack`` says which tensors are made of others, and which. Of numbers that it does not know nothing can be known without their
    scales: they are refused unless their names end with ``ignored``.

    Raises:
        CheckpointError: naming the file, and the tensor that two files hold or that holds no floating-point numbers.
    """

    def __init__(self, paths: list[Path], ignored: tuple[str, ...] = (), unpack: Unpack = plain) -> None:
        self.stored = stored = Stored(paths, ignored)
        self.packed = unpack(stored)
        used = {name for packed in self.packed.values() for name in packed.tensors}
        for name in filter(lambda name: name not in used, stored.files):
            if stored.kinds[name] not in FLOATS:
                raise CheckpointError(
                    f"{stored.files[name]}: tensor {name} holds {stored.kinds[name]}; accepted: {', '.join(FLOATS)}, or what"
                    " quantization_config of config.json describes"
                )
            if name in self.packed:
                by = self.packed[name].tensors[0]
                raise CheckpointError(f"{stored.files[name]}: tensor {name} is beside {by}; accepted: one of them")
        whole = {name: stored.shapes[name] for name in stored.files if name not in used}
        super().__init__(whole | {name: packed.shape for name, packed in self.packed.items()}, self._tensor, self._codes)
        self.files = {name: stored.files[name if name in whole else self.packed[name].tensors[0]] for name in self.shapes}

    def _tensor(self, name: str, rows: slice) -> F32:
        return self.packed[name].read(rows) if name in self.packed else self.stored.take(name, rows)

    def _codes(self, name: str, rows: slice) -> Held:
        return self.packed[name].codes(rows) if name in self.packed else None


def refuse_adapter(directory: Path) -> None:
    """Raises CheckpointError where weights of an adapter are beside the model's, or alone."""
    for pattern in ADAPTERS:
        for adapter in sorted(directory.glob(pattern)):
            raise CheckpointError(
                f"{adapter}: an adapter's weights are read by --lora {directory} alone; say so, or remove the file"
            )


def of_directory(directory: Path, ignored: tuple[str, ...], unpack: Unpack = plain) -> SafeTensors:
    """The tensors of model.safetensors, or else of the shards that an index names.

    Raises:
        CheckpointError: as of :class:`SafeTensors`; files and index differ about a tensor.
    """
    single, index = directory / "model.safetensors", directory / INDEX
    if os.path.lexists(single) or not os.path.lexists(index):
        return SafeTensors([single], ignored, unpack)
    table = read_json(index, CheckpointError).get("weight_map")
    if not MAPPING.holds(table) or not table:
        raise CheckpointError(f"{index}: weight_map is {shown(table)}; accepted: a mapping of tensors to files")
    for name, file in table.items():
        TEXT.check(file, f"{index}: weight_map.{name}", CheckpointError)
    tensors = SafeTensors([directory / name for name in sorted(set(table.values()))], ignored, unpack)
    for name, path in tensors.stored.files.items():
        if (said := table.get(name)) is None or directory / said != path:
            raise CheckpointError(f"{path}: tensor {name} is in this file; {index.name} names {said or 'none'}")
    for name, file in table.items():
        if name not in tensors.stored.files and not name.endswith(ignored):
            raise CheckpointError(f"{directory / file}: tensor {name} is missing; {index.name} names this file")
    return tensors
