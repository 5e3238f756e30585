"""The files of a checkpoint directory: which there are, and their tensors as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from compiler.frontend.tensors import F32, Shape, Tensors
from skipopu.accept import MAPPING, TEXT, read_json, shown
from skipopu.errors import CheckpointError

FLOATS = ("F64", "F32", "F16", "BF16")
ADAPTERS = ("adapter_config.json", "adapter_model.*")
INDEX = "model.safetensors.index.json"


class SafeTensors(Tensors):
    """Tensors of floating-point numbers in safetensors files, read as float32; ``files`` has the file of each.

    Of other numbers nothing can be known without their scales: they are refused unless their names end with ``ignored``.

    Raises:
        CheckpointError: naming the file, and the tensor that two files hold or that holds no floating-point numbers.
    """

    def __init__(self, paths: list[Path], ignored: tuple[str, ...] = ()) -> None:
        self.files: dict[str, Path] = {}
        self.open: dict[Path, Any] = {}
        shapes: dict[str, Shape] = {}
        for path in paths:
            try:
                file = self.open[path] = safe_open(path, framework="pt").__enter__()
                names = [name for name in file.keys() if not name.endswith(ignored)]  # noqa: SIM118 (no mapping)
                held = {name: file.get_slice(name) for name in names}
            except FileNotFoundError:
                raise CheckpointError(f"{path}: no such file") from None
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from None
            for name, part in held.items():
                if (kind := part.get_dtype()) not in FLOATS:
                    raise CheckpointError(
                        f"{path}: tensor {name} holds {kind}; accepted: {', '.join(FLOATS)} (quantised checkpoints are not read)"
                    )
                if name in self.files:
                    raise CheckpointError(f"{path}: tensor {name} is in {self.files[name].name} too; accepted: one of them")
                self.files[name], shapes[name] = path, tuple(part.get_shape())
        super().__init__(shapes, self._tensor)

    def _tensor(self, name: str, rows: slice) -> F32:
        path = self.files[name]
        try:
            whole = rows == slice(None)
            tensor = self.open[path].get_tensor(name) if whole else self.open[path].get_slice(name)[rows]
            return tensor.float().numpy()
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from None


def refuse_adapter(directory: Path) -> None:
    """Raises CheckpointError where weights of an adapter are beside the model's, or alone."""
    for pattern in ADAPTERS:
        for adapter in sorted(directory.glob(pattern)):
            raise CheckpointError(f"{adapter}: an adapter's weights are not read; merge it into the model and remove the file")


def of_directory(directory: Path, ignored: tuple[str, ...]) -> SafeTensors:
    """The tensors of model.safetensors, or else of the shards that an index names.

    Raises:
        CheckpointError: as of :class:`SafeTensors`; files and index differ about a tensor.
    """
    single, index = directory / "model.safetensors", directory / INDEX
    if single.exists() or not index.exists():
        return SafeTensors([single], ignored)
    table = read_json(index, CheckpointError).get("weight_map")
    if not MAPPING.holds(table) or not table or not all(map(TEXT.holds, table.values())):
        raise CheckpointError(f"{index}: weight_map is {shown(table)}; accepted: a mapping of tensors to files")
    tensors = SafeTensors([directory / name for name in sorted(set(table.values()))], ignored)
    for name, path in tensors.files.items():
        if (said := table.get(name)) != path.name:
            raise CheckpointError(f"{path}: tensor {name} is in this file; {index.name} names {said or 'none'}")
    for name, file in table.items():
        if name not in tensors.files and not name.endswith(ignored):
            raise CheckpointError(f"{directory / file}: tensor {name} is missing; {index.name} names this file")
    return tensors
