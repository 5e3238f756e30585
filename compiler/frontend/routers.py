"""SkipGPT's routers, linear or of two layers, from a file of their own, safetensors or PyTorch, or from among the model's tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compiler.frontend.files import FLOATS, SafeTensors
from compiler.frontend.tensors import F32, FileTensors, Rows, Shape, Tensors, blocks, rows_of
from skipopu.accept import MAPPING
from skipopu.errors import CheckpointError
from skipopu.isa.spec import BUFFER_UNIT
from skipopu.layout import round_up

ROUTERS_FILE = "routers.safetensors"
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
WRAPPERS = ("state_dict", "model_state_dict", "model")  # of training loops, which keep more beside it
LAYERS = "model.layers."  # PEFT, DataParallel and others put a prefix before the model's own names
MODULES = ("attention", "mlp")
OF_ROUTER = re.compile(r"model\.layers\.\d+\.router_(?:attention|mlp)\..*")
_NAME = re.compile(r"model\.layers\.(\d+)\.router_(?:attention|mlp)\.(weight_predictor|hidden_layer)\.(weight|bias)")
Where = Callable[[str], Path]  # the file of a tensor


def usual_width(hidden: int) -> int:
    """Elements between a router's two layers, of a model of ``hidden`` elements, where no file says."""
    return max(1, hidden // 4)


def width_of_both(width: int) -> int:
    """Elements between the layers of both modules' routers: ``width`` of each, and zeros to half of the buffer's unit."""
    return len(MODULES) * round_up(width, BUFFER_UNIT // len(MODULES))


@dataclass(frozen=True)
class Hidden:
    """The first layer of a router of two: max(weight h + bias, 0). weight (width, hidden size), bias (width,) float32."""

    weight: Rows | F32
    bias: F32

    @property
    def width(self) -> int:
        return self.weight.shape[0]


@dataclass(frozen=True)
class Router:
    """Difference form of a router: executes when x . weight + bias >= the dial. weight (n,) float32.

    x is the residual h or, of a router of two layers, what the ``hidden`` one makes of it.
    """

    weight: F32
    bias: float
    hidden: Hidden | None = None


def beside(directory: Path) -> Path | None:
    """The router file of a checkpoint directory, if it has one; raises CheckpointError for several."""
    found = sorted(path for path in directory.glob("routers.*") if path.suffix in SUFFIXES)
    if len(found) > 1:
        raise CheckpointError(f"{found[1]}: {found[0].name} is beside it; accepted: one file of routers, or --routers FILE")
    return found[0] if found else None


def _named(names: Iterable[str], where: Where) -> dict[str, str]:
    """What tensors are called here, and there; raises CheckpointError for two of one name."""
    result: dict[str, str] = {}
    for name in names:
        own = name[max(0, name.find(LAYERS)) :]
        if own in result:
            raise CheckpointError(
                f"{where(name)}: tensors {result[own]} and {name} are the same router's; accepted: one of them"
            )
        result[own] = name
    return result


def inside(own: FileTensors) -> dict[str, str]:
    """Tensors of routers among a model's: their names without a prefix, and those that they have there.

    Raises:
        CheckpointError: one is there twice.
    """
    return _named((name for name in own.files if OF_ROUTER.fullmatch(name[max(0, name.find(LAYERS)) :])), own.files.__getitem__)


def read(path: Path) -> tuple[Mapping[str, F32], list[str]]:
    """Tensors of a router file under the model's names, and of a file that has a whole model's those that are no router's.

    Raises:
        CheckpointError: an unreadable file, an entry that is no tensor of floating-point numbers, or one that is there twice.
    """
    held = SafeTensors([path]) if path.suffix == ".safetensors" else _pickled(path)
    names = _named(held, lambda name: path)
    own = {name: there for name, there in names.items() if OF_ROUTER.fullmatch(name)} or names
    return _renamed(held, own), [there for name, there in names.items() if name not in own]


def _renamed(held: Mapping[str, F32], names: Mapping[str, str]) -> Mapping[str, F32]:
    """Some of the tensors, under other names: ``names`` has what they are called in ``held``."""
    if not isinstance(held, Tensors):
        return {name: held[there] for name, there in names.items()}
    return Tensors({name: held.shapes[there] for name, there in names.items()}, lambda name, rows: held.read(names[name], rows))


def _pickled(path: Path) -> dict[str, F32]:
    """The tensors of a PyTorch file."""
    import torch

    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except Exception as error:  # whose text advises to trust the file
        raise CheckpointError(f"{path}: not a readable PyTorch file of tensors alone ({type(error).__name__})") from None
    kinds = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    MAPPING.check(loaded, f"{path}: the content", CheckpointError)
    if wrapped := [key for key in WRAPPERS if MAPPING.holds(loaded.get(key))]:
        loaded = loaded[wrapped[0]]
    for name, tensor in loaded.items():
        what = type(tensor).__name__
        if isinstance(tensor, torch.Tensor):
            odd = tensor.dtype not in kinds, tensor.layout != torch.strided, tensor.is_meta
            what = next((str(of) for of, why in zip((tensor.dtype, tensor.layout, tensor.device), odd, strict=True) if why), "")
        if what:
            raise CheckpointError(f"{path}: entry {name} is of {what}; accepted: a dense tensor of {', '.join(FLOATS)}")
    return {name: tensor.detach().resolve_neg().float().numpy() for name, tensor in loaded.items()}


def of_model(table: Mapping[str, F32], where: Where, layers: int, hidden: int) -> list[tuple[Router, Router]]:
    """The routers of attention and of the feed-forward network, for each layer; without any bias of a kind, those are 0.

    They are all linear, or all of two layers, of one width.

    Raises:
        CheckpointError: a tensor that is missing, misshapen, not finite, or of no such router.
    """
    kinds: dict[tuple[str, str], str] = {}
    for name in table:
        if (match := _NAME.fullmatch(name)) is None:
            raise CheckpointError(
                f"{where(name)}: tensor {name} is not known; accepted: weights and biases of a router's weight_predictor and"
                " hidden_layer"
            )
        if int(match[1]) >= layers:
            raise CheckpointError(f"{where(name)}: tensor {name} is of a layer beyond the model's {layers}")
        kinds.setdefault((match[2], match[3]), name)
    width = 0
    if first := next((name for (part, _), name in kinds.items() if part == "hidden_layer"), None):
        first = f"{first.rpartition('.')[0]}.weight"
        width = next(iter(_shape(table, first)), 0) if first in table else usual_width(hidden)
        if not width:
            raise CheckpointError(
                f"{where(first)}: tensor {first} has shape {_shape(table, first)}; accepted: any rows of {hidden}"
            )

    def need(name: str, shape: Shape) -> str:
        path = where(name)
        if name not in table:
            why = ", as another router has a hidden layer" if first else ""
            raise CheckpointError(f"{path}: tensor {name} is missing; a tensor of shape {shape} is needed{why}")
        if (found := _shape(table, name)) != shape:
            what = f"{first} and config.json ask" if first else "config.json asks"
            raise CheckpointError(f"{path}: tensor {name} has shape {found}; {what} for {shape}")
        if not all(np.isfinite(rows_of(table, name)[rows]).all() for rows in blocks(shape)):
            raise CheckpointError(f"{path}: tensor {name} holds NaN, infinity, or a number beyond FP32")
        return name

    def difference(name: str, shape: Shape) -> F32:
        tensor = table[need(name, shape)]
        with np.errstate(over="ignore", invalid="ignore"):
            result = tensor[0] - tensor[1]
        if not np.isfinite(result).all():
            raise CheckpointError(f"{where(name)}: the rows of tensor {name} differ by more than FP32 holds")
        return result

    def router(layer: int, module: str) -> Router:
        prefix = f"model.layers.{layer}.router_{module}."
        inner = None
        if width:
            weight = rows_of(table, need(f"{prefix}hidden_layer.weight", (width, hidden)))
            biased = ("hidden_layer", "bias") in kinds
            inner = Hidden(
                weight, table[need(f"{prefix}hidden_layer.bias", (width,))] if biased else np.zeros(width, np.float32)
            )
        biased = ("weight_predictor", "bias") in kinds
        bias = float(difference(f"{prefix}weight_predictor.bias", (2,))) if biased else 0.0
        return Router(difference(f"{prefix}weight_predictor.weight", (2, width or hidden)), bias, inner)

    return [(router(layer, "attention"), router(layer, "mlp")) for layer in range(layers)]


def _shape(table: Mapping[str, F32], name: str) -> Shape:
    return rows_of(table, name).shape


def of_checkpoint(
    directory: Path, own: FileTensors, held: dict[str, str], given: Path | None, layers: int, hidden: int
) -> tuple[list[tuple[Router, Router]] | None, tuple[str, ...]]:
    """The routers of file ``given``; else those ``held`` among a checkpoint's ``own`` tensors, or in a file beside these; else None.
    Remarks about them.

    Raises:
        CheckpointError: as of :func:`of_model`, :func:`read` and :func:`beside`, or there are both.
    """
    path = beside(directory) if given is None else given
    if path is None and not held:
        near = [file for file in sorted(directory.glob("*router*")) if file.is_file()]
        return None, tuple(f"{file}: not read; routers.* of {', '.join(SUFFIXES)} are, or --routers FILE" for file in near)
    first = next(iter(held.values()), "")
    if path is None:
        return of_model(_renamed(own, held), lambda name: own.files[held.get(name, first)], layers, hidden), ()
    if held and given is None:
        raise CheckpointError(
            f"{own.files[first]}: tensor {first} is a router's, and {path.name} is beside it; accepted: routers in one of them,"
            " or --routers FILE"
        )
    table, left = read(path)
    remark = (
        f"{path}: {len(left)} tensors that are no router's are not read ({', '.join(left[:1])}, ...): the model is {directory}"
    )
    return of_model(table, lambda name: path, layers, hidden), (remark,) if left else ()
