"""Layer by layer: what a layer reads is seen with the layers in front of it quantised already."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compiler.follow import Follow, unseen
from compiler.frontend.checkpoint import Checkpoint
from compiler.frontend.tensors import F32
from compiler.quantise.awq import share_inner, share_values
from compiler.quantise.choose import Choice, choose
from compiler.quantise.nearest import Rounded
from compiler.quantise.products import READ, folded, in_layer, tensor_of
from compiler.quantise.ranges import power_for, rescale
from sim.evaluation import BATCH
from sim.quantise.observe import Observed, Ranges
from sim.reference.model import SkipLlama, Stream
from sim.reference.state import load_hf_state_dict
from skipopu.errors import CheckpointError
from skipopu.model_config import ModelConfig
from skipopu.numerics.formats import INT4, Format
from skipopu.numerics.fp32 import F64
from skipopu.policy import KvPolicy


@dataclass(frozen=True)
class Asked:
    """How to quantise: weights per scale, a method of :data:`compiler.quantise.choose.METHODS`, the ``usual`` format of products, and
    ``formats`` of those that have another one.

    ``dense`` executes every module; ``kv`` is the policy for tokens that skip attention; ``keep``: the result has the weights before
    they were rounded, too.
    """

    group: int
    method: str = "gptq"
    formats: dict[str, Format] = field(default_factory=dict)
    usual: Format = INT4
    kv: KvPolicy = KvPolicy.REUSE
    dense: bool = False
    keep: bool = False

    def format(self, product: str) -> Format:
        return self.formats.get(product, self.usual)


class Rescaled(NamedTuple):
    """What numbers beyond FP16 were divided by, 2^power, and what was multiplied by it: their largest was ``most``, in ``layer``."""

    power: int
    most: float
    layer: int


@dataclass
class Quantised:
    """A quantised model.

    Attributes:
        tensors: canonical ones, gains folded, factors moved, products rounded.
        choices: of each product's tensor.
        largest: as of :class:`sim.quantise.observe.Observed`, of the quantised model.
        rescaled: "key"s or "value"s that were made smaller.
        before: products' weights, factors moved, not yet rounded; where they were to be kept.
    """

    config: ModelConfig
    tensors: dict[str, F32]
    choices: dict[str, Choice]
    largest: Ranges
    rescaled: dict[str, Rescaled] = field(default_factory=dict)
    before: dict[str, F32] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Of all codes and scales."""
        return sum(choice.rounded.bytes for choice in self.choices.values())

    @property
    def rounded(self) -> dict[str, Rounded]:
        return {name: choice.rounded for name, choice in self.choices.items()}


def router_tensors(checkpoint: Checkpoint) -> dict[str, F32]:
    """Routers of a checkpoint as a reference model takes them."""
    tensors: dict[str, F32] = {}
    for layer, both in enumerate(checkpoint.routers or ()):
        for name, router in zip(("attention", "mlp"), both, strict=True):
            prefix = f"model.layers.{layer}.router_{name}"
            tensors[f"{prefix}.weight_predictor.weight"] = np.stack([router.weight, 0 * router.weight])
            tensors[f"{prefix}.weight_predictor.bias"] = np.array([router.bias, 0], np.float32)
            if router.hidden is not None:
                tensors[f"{prefix}.hidden_layer.weight"] = router.hidden.weight[:]
                tensors[f"{prefix}.hidden_layer.bias"] = router.hidden.bias
    return tensors


def fill(model: SkipLlama, tensors: dict[str, F32], routers: dict[str, F32]) -> None:
    base, own = ({name: torch.from_numpy(t) for name, t in part.items()} for part in (tensors, routers))
    load_hf_state_dict(model, base, own)
    model.requires_grad_(False)


class Calibration:
    """Windows of tokens on their way through a model that is quantised in front of them."""

    def __init__(self, checkpoint: Checkpoint, windows: NDArray[np.int64], asked: Asked) -> None:
        """``windows`` (samples, tokens) ids."""
        self.config, self.asked = checkpoint.config.untied, asked
        self.tensors, self.routers = folded(self.config, checkpoint.tensors), router_tensors(checkpoint)
        self.dense = asked.dense or checkpoint.routers is None
        self.model = Observed(self.config, asked.kv)
        fill(self.model, self.tensors, self.routers)
        self.batches = torch.from_numpy(windows).split(BATCH)
        self.choices: dict[str, Choice] = {}
        self.rescaled: dict[str, Rescaled] = {}
        self.before: dict[str, F32] = {}

    def begin(self) -> list[Stream]:
        return [self.model.begin(batch) for batch in self.batches]

    def see(self, wanted: Sequence[str], step: Callable[[Stream], Stream | Tensor], streams: list[Stream]) -> dict[str, F64]:
        """Moments of ``wanted`` inputs while ``step`` is done to all streams."""
        self.model.wanted, self.model.moments = set(wanted), {}
        for stream in streams:
            step(stream)
        self.model.wanted = set()
        return self.model.moments

    def layer(self, index: int) -> Callable[[Stream], Stream]:
        asked = self.asked
        return lambda s: self.model.advance(index, s, asked.kv, rule=self.model.decide, dense=self.dense)[0]

    def put(self, product: str, layer: int) -> None:
        """Shows the model a product's present weights."""
        linear = self.model.lm_head if product == "head" else getattr(self.model.layers[layer], f"{product}_proj")
        linear.weight.copy_(torch.from_numpy(self.tensors[tensor_of(product, layer)]))

    def survey(self) -> None:
        """Looks at the model as it is: keys and values that FP16 does not hold are made smaller, factors move between O and V."""
        streams, moments = self.begin(), []
        for index in range(self.config.num_layers):
            if "awq" in self.asked.method:
                moments.append(self.see(["o"], self.layer(index), streams)["o"])
            streams = [self.layer(index)(stream) for stream in streams]
        for kind in ("key", "value"):
            most, layer = self.model.most(kind)
            if most < math.inf and (power := power_for(most)):
                rescale(self.config, self.tensors, kind, power)
                self.rescaled[kind] = Rescaled(power, most, layer)
        if "awq" in self.asked.method:
            smaller = 4.0 ** -self.rescaled["value"].power if "value" in self.rescaled else 1.0
            own = [seen * smaller for seen in moments]
            share_values(self.config, self.tensors, own, self.asked.group, self.asked.format("o"))
        fill(self.model, self.tensors, self.routers)
        self.model.largest.clear()

    def choose(self, product: str, layer: int, moments: F64) -> None:
        name, format = tensor_of(product, layer), self.asked.format(product)
        if not (most := float(np.abs(self.tensors[name]).max())) <= format.largest_weight:
            raise CheckpointError(
                f"tensor {name} holds {most:.3g} with norm gains folded in; {format.full} times an FP16 scale reaches"
                f" {format.largest_weight:.3g}"
            )
        if self.asked.keep:
            self.before[name] = self.tensors[name]
        choice = choose(self.tensors[name], moments, self.asked.group, format, self.asked.method)
        self.choices[name], self.tensors[name] = choice, choice.rounded.values
        self.put(product, layer)

    def quantise_layer(self, index: int, streams: list[Stream]) -> list[Stream]:
        """What leaves the layer once its products are quantised."""
        moments = self.see([read for read in READ.values() if read != "head"], self.layer(index), streams)
        if "awq" in self.asked.method and self.config.gated:
            factors = share_inner(self.tensors, index, moments["down"], self.asked.group, self.asked.format("down"))
            moments["down"] /= np.outer(factors, factors)
        for product in in_layer(self.config):
            self.choose(product, index, moments[READ[product]])
        return [self.layer(index)(stream) for stream in streams]

    def carried_out(self, follow: Follow = unseen) -> Quantised:
        """All of it, once."""
        self.survey()
        streams = self.begin()
        for index in follow("quantising", range(self.config.num_layers)):
            streams = self.quantise_layer(index, streams)
        self.choose("head", 0, self.see(["head"], self.model.finish, streams)["head"])
        self.model.check()
        return Quantised(self.config, self.tensors, self.choices, self.model.largest, self.rescaled, self.before)


def quantise(checkpoint: Checkpoint, windows: NDArray[np.int64], asked: Asked, follow: Follow = unseen) -> Quantised:
    """Quantises all products of ``checkpoint`` on ``windows`` (samples, tokens) of ids; ``follow`` sees the layers go by.

    Raises:
        CheckpointError: numbers leave the machine's formats, with the layer, or a product's weights do, with its tensor.
    """
    return Calibration(checkpoint, windows, asked).carried_out(follow)
