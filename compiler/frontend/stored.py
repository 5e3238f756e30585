"""The tensors of safetensors files as they are stored: numbers of any kind, read when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from compiler.frontend.tensors import Shape
from skipopu.errors import CheckpointError

FLOATS = ("F64", "F32", "F16", "BF16")


class Stored:
    """``files``, ``kinds`` and ``shapes`` have every tensor's file, number format (as safetensors calls it) and shape.

    Tensors whose names end with ``ignored`` are left out.

    Raises:
        CheckpointError: naming the file, and the tensor that two files hold.
    """

    def __init__(self, paths: list[Path], ignored: tuple[str, ...] = ()) -> None:
        self.files: dict[str, Path] = {}
        self.kinds: dict[str, str] = {}
        self.shapes: dict[str, Shape] = {}
        for path in paths:
            with opened(path) as file:
                names = [name for name in file.keys() if not name.endswith(ignored)]  # noqa: SIM118 (no mapping)
                held = {name: (file.get_slice(name).get_dtype(), tuple(file.get_slice(name).get_shape())) for name in names}
            for name, (kind, shape) in held.items():
                if name in self.files:
                    raise CheckpointError(f"{path}: tensor {name} is in {self.files[name].name} too; accepted: one of them")
                self.files[name], self.kinds[name], self.shapes[name] = path, kind, shape

    def take(self, name: str, *index: slice) -> NDArray[Any]:
        """A tensor, or a part of it: integers as they are, floating-point numbers as float32."""
        with opened(self.files[name]) as file:
            whole = all(part == slice(None) for part in index)
            tensor = file.get_tensor(name) if whole else file.get_slice(name)[index]
            return (tensor.float() if tensor.is_floating_point() else tensor).numpy()

    def need(self, name: str, kinds: tuple[str, ...], shape: tuple[int | None, ...] | None, by: str) -> None:
        """Raises CheckpointError unless ``name``, which tensor ``by`` asks for, is stored so; None stands for any size."""
        if name not in self.files:
            raise CheckpointError(f"{self.files[by]}: tensor {name} is missing; {by} needs it")
        where = f"{self.files[name]}: tensor {name}"
        if self.kinds[name] not in kinds:
            raise CheckpointError(f"{where} holds {self.kinds[name]}; accepted: {', '.join(kinds)}")
        found = self.shapes[name]
        if shape is None:
            return
        if (
            0 in found
            or len(found) != len(shape)
            or any(asked not in (None, size) for asked, size in zip(shape, found, strict=True))
        ):
            text = ", ".join("any" if size is None else str(size) for size in shape)
            raise CheckpointError(f"{where} has shape {found}; {by} and config.json ask for ({text})")


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A safetensors file, mapped while it is open or an array of it alive: as long, what was read of it counts as used memory."""
    try:
        if path.is_dir():
            raise CheckpointError(f"{path} is a directory; accepted: a safetensors file")
        with safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from None
