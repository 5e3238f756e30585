"""SkipGPT's linear routers, from a file of their own, safetensors or PyTorch, or from among the model's tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compiler.frontend.files import FLOATS, SafeTensors
from compiler.frontend.tensors import F32, FileTensors
from skipopu.accept import MAPPING, shown
from skipopu.errors import CheckpointError

ROUTERS_FILE = "routers.safetensors"
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
LAYERS = "model.layers."  # PEFT puts a prefix before the model's own names
OF_ROUTER = re.compile(r"model\.layers\.\d+\.router_(?:attention|mlp)\..*")
_NAME = re.compile(r"model\.layers\.(\d+)\.router_(?:attention|mlp)\.weight_predictor\.(?:weight|bias)")
Where = Callable[[str], Path]  # the file of a tensor


@dataclass(frozen=True)
class Router:
    """Difference form of a linear router: executes when h . weight + bias >= the dial. weight (hidden,) float32."""

    weight: F32
    bias: float


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


def read(path: Path) -> dict[str, F32]:
    """Tensors of a router file under the model's names.

    Raises:
        CheckpointError: an unreadable file, an entry that is no tensor of floating-point numbers, or one that is there twice.
    """
    if path.suffix == ".safetensors":
        tensors = dict(SafeTensors([path]))
    else:
        import torch

        try:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise CheckpointError(f"{path}: no such file") from None
        except Exception as error:
            raise CheckpointError(f"{path}: not a readable PyTorch file of tensors ({' '.join(str(error).split())})") from None
        kinds = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
        MAPPING.check(loaded, f"{path}: the content", CheckpointError)
        if set(loaded) == {"state_dict"}:
            loaded = MAPPING.check(loaded["state_dict"], f"{path}: entry state_dict", CheckpointError)
        for name, tensor in loaded.items():
            if not isinstance(tensor, torch.Tensor) or tensor.dtype not in kinds:
                raise CheckpointError(f"{path}: entry {name} is {shown(tensor)}; accepted: a tensor of {', '.join(FLOATS)}")
        tensors = {name: tensor.float().numpy() for name, tensor in loaded.items()}
    return {name: tensors[own] for name, own in _named(tensors, lambda name: path).items()}


def of_model(table: Mapping[str, F32], where: Where, layers: int, hidden: int) -> list[tuple[Router, Router]]:
    """The routers of attention and of the feed-forward network, for each layer; without any bias, their biases are 0.

    Raises:
        CheckpointError: a tensor that is missing, misshapen, not finite, or of no such router.
    """
    for name in table:
        if "hidden_layer" in name:
            raise CheckpointError(f"{where(name)}: tensor {name} belongs to a two-layer router; linear routers are supported")
        if (match := _NAME.fullmatch(name)) is None:
            raise CheckpointError(f"{where(name)}: tensor {name} is not known; accepted: weights and biases of linear routers")
        if int(match[1]) >= layers:
            raise CheckpointError(f"{where(name)}: tensor {name} is of a layer beyond the model's {layers}")
    biased = any(name.endswith("bias") for name in table)

    def take(name: str, shape: tuple[int, ...]) -> F32:
        path = where(name)
        if (tensor := table.get(name)) is None:
            raise CheckpointError(f"{path}: tensor {name} is missing; a tensor of shape {shape} is needed")
        if tensor.shape != shape:
            raise CheckpointError(f"{path}: tensor {name} has shape {tensor.shape}; config.json asks for {shape}")
        with np.errstate(over="ignore", invalid="ignore"):
            difference = tensor[0] - tensor[1]
        if not np.isfinite(tensor).all():
            raise CheckpointError(f"{path}: tensor {name} holds NaN, infinity, or a number beyond FP32")
        if not np.isfinite(difference).all():
            raise CheckpointError(f"{path}: the rows of tensor {name} differ by more than FP32 holds")
        return difference

    def router(layer: int, module: str) -> Router:
        prefix = f"model.layers.{layer}.router_{module}.weight_predictor."
        return Router(take(prefix + "weight", (2, hidden)), float(take(prefix + "bias", (2,))) if biased else 0.0)

    return [(router(layer, "attention"), router(layer, "mlp")) for layer in range(layers)]


def of_checkpoint(
    directory: Path, own: FileTensors, held: dict[str, str], given: Path | None, layers: int, hidden: int
) -> list[tuple[Router, Router]] | None:
    """The routers of file ``given``; else those ``held`` among a checkpoint's ``own`` tensors, or in a file beside these; else None.

    Raises:
        CheckpointError: as of :func:`of_model`, :func:`read` and :func:`beside`, or there are both.
    """
    path = beside(directory) if given is None else given
    if path is None and not held:
        return None
    first = next(iter(held.values()), "")
    if path is None:
        tensors = {name: own[there] for name, there in held.items()}
        return of_model(tensors, lambda name: own.files[held.get(name, first)], layers, hidden)
    if held and given is None:
        raise CheckpointError(
            f"{own.files[first]}: tensor {first} is a router's, and {path.name} is beside it; accepted: routers in one of them,"
            " or --routers FILE"
        )
    return of_model(read(path), lambda name: path, layers, hidden)
