"""SkipGPT's linear routers, from safetensors or a PyTorch file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compiler.frontend.files import SafeTensors
from compiler.frontend.tensors import F32
from skipopu.accept import MAPPING, shown
from skipopu.errors import CheckpointError

ROUTERS_FILE = "routers.safetensors"
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
_NAME = re.compile(r"model\.layers\.(\d+)\.router_(?:attention|mlp)\.weight_predictor\.(?:weight|bias)")


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


def read(path: Path) -> dict[str, F32]:
    """Tensors of a router file under the model's names.

    Raises:
        CheckpointError: an unreadable file, or an entry that is no tensor of floating-point numbers.
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
        MAPPING.check(loaded, f"{path}: the content", CheckpointError)
        if set(loaded) == {"state_dict"}:
            loaded = MAPPING.check(loaded["state_dict"], f"{path}: entry state_dict", CheckpointError)
        for name, tensor in loaded.items():
            if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
                raise CheckpointError(f"{path}: entry {name} is {shown(tensor)}; accepted: a tensor of floating-point numbers")
        tensors = {name: tensor.float().numpy() for name, tensor in loaded.items()}
    # PEFT puts a prefix before the model's own names.
    return {name[max(0, name.find("model.layers.")) :]: tensor for name, tensor in tensors.items()}


def of_model(path: Path, layers: int, hidden: int) -> list[tuple[Router, Router]]:
    """The routers of attention and of the feed-forward network, for each layer.

    Raises:
        CheckpointError: as of :func:`read`, or a tensor that is missing, misshapen, not finite, or of no such router.
    """
    table = read(path)
    for name in table:
        if "hidden_layer" in name:
            raise CheckpointError(f"{path}: tensor {name} belongs to a two-layer router; linear routers are supported")
        if (match := _NAME.fullmatch(name)) is None:
            raise CheckpointError(f"{path}: tensor {name} is not known; accepted: weights and biases of linear routers")
        if int(match[1]) >= layers:
            raise CheckpointError(f"{path}: tensor {name} is of a layer beyond the model's {layers}")

    def take(name: str, shape: tuple[int, ...]) -> F32:
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
        return Router(take(prefix + "weight", (2, hidden)), float(take(prefix + "bias", (2,))))

    return [(router(layer, "attention"), router(layer, "mlp")) for layer in range(layers)]
