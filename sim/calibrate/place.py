"""A model's masked inputs: what their channels' weights weigh and take, and thresholds found layer by layer."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from compiler.follow import Follow, unseen
from compiler.frontend.canonical import EMBEDDING
from compiler.frontend.checkpoint import Checkpoint
from compiler.frontend.masks import Masks
from compiler.frontend.tensors import F32, Codes, Tensors
from compiler.quantise.nearest import bytes_of
from compiler.quantise.products import folded, in_layer, products, tensor_of
from sim.calibrate.observe import Masked, Place
from sim.calibrate.rules import TEAL, thresholds
from sim.evaluation import BATCH, Evaluation
from sim.quantise.calibrate import fill, router_tensors
from sim.quantise.loss import loss_of, rounded
from sim.reference.masks import COUNTED
from sim.reference.model import Stream, execute_when_positive
from skipopu.masks import INPUT_OF, THRESHOLD_BYTES, channels
from skipopu.model_config import ModelConfig
from skipopu.numerics import fp16
from skipopu.numerics.formats import INT4, Format, dequantise
from skipopu.policy import KvPolicy
from skipopu.text import Passage

ALIKE = {"v": "k", "gate": "up"}  # products that are counted as others are: they read the same for the same tokens


@dataclass(frozen=True)
class How:
    """The rule that thresholds follow, the policy for tokens that skip attention, and whether every module executes."""

    rule: str = TEAL
    kv: KvPolicy = KvPolicy.REUSE
    dense: bool = False


@dataclass
class Subject:
    """A model as the machine holds it, in the reference's arithmetic.

    Attributes:
        tensors: canonical ones, gains folded, products rounded to ``formats`` by tensor, unless the file's integers are it.
    """

    config: ModelConfig
    tensors: dict[str, F32]
    routers: dict[str, F32]
    formats: dict[str, Format]
    how: How
    model: Masked = field(init=False)

    def __post_init__(self) -> None:
        self.model = Masked(self.config, self.how.kv)
        self.model.round_kv = True
        fill(self.model, self.tensors, self.routers)

    @functools.cached_property
    def places(self) -> list[Place]:
        """Every input of every layer, in the order in which a token meets them."""
        return [(layer, own) for layer in range(self.config.num_layers) for own in channels(self.config)]

    def readers(self, place: Place) -> list[str]:
        """Products that read an input."""
        return [product for product in in_layer(self.config) if INPUT_OF[product] == place[1]]

    def norms(self, place: Place) -> NDArray[np.float64]:
        """(channels,) of the columns of all weights that read an input."""
        layer = place[0]
        squares = [np.square(self.tensors[tensor_of(p, layer)], dtype=np.float64).sum(0) for p in self.readers(place)]
        return np.sqrt(np.sum(squares, axis=0))

    def bytes(self, product: str, layer: int) -> tuple[float, float]:
        """Of a product's codes, and all of it, scales among it. A channel that is left out takes its codes with it."""
        name = tensor_of(product, layer)
        shape, group = self.tensors[name].shape, self.config.weight_group
        return shape[0] * shape[1] * self.formats[name].bits / 8, bytes_of(shape, group, self.formats[name])

    def read(self, product: str, layer: int) -> tuple[float, float, float]:
        """Bytes of a product's codes and of the rest of it that a token reads, and the active share of channels, by ``model.counts``."""
        codes, every = self.bytes(product, layer)
        if product == "head":
            return codes, every - codes, 1.0
        active, read, total = self.model.counts[layer, ALIKE.get(product, product)]
        return codes * read / total, (every - codes) * read / total, active / read if read else 1.0

    def step(self, layer: int, stream: Stream) -> Stream:
        """What leaves a layer."""
        model = self.model
        return model.advance(layer, stream, self.how.kv, rule=model.noting(execute_when_positive), dense=self.how.dense)[0]

    def loss(self, passage: Passage, window: int, say: Callable[[int], None] = lambda done: None) -> Evaluation:
        """Of a text under the present thresholds; ``model.counts`` are of it, ``say`` hears of tokens read."""
        model = self.model
        model.counts.clear()
        return loss_of(model, passage, window, self.how.kv, self.how.dense, model.noting(execute_when_positive), say)

    def masks(self) -> Masks:
        """The present thresholds as files have them."""
        return {own: rows.numpy().astype(np.uint16) for own, rows in self.model.thresholds.items() if rows.any()}


def subject_of(checkpoint: Checkpoint, how: How) -> Subject:
    """The model of a checkpoint whose products are rounded to nearest, INT4, where its file holds no integers.

    Embedding, keys and values are in FP16, routers in two INT4 digits, as :func:`sim.quantise.loss.model_of` has them.
    """
    config, group = checkpoint.config.untied, checkpoint.config.weight_group
    tensors, own = folded(config, checkpoint.tensors), checkpoint.tensors
    formats: dict[str, Format] = {}
    for product, layer in products(config):
        name = tensor_of(product, layer)
        codes = own.codes(name, slice(0, 1)) if isinstance(own, Tensors) and name in own else None
        formats[name] = INT4 if codes is None or codes.format is None else codes.format
        if not (isinstance(codes, Codes) and np.array_equal(tensors[name], own[name])):
            weight = tensors[name]
            tensors[name] = dequantise(*formats[name].quantise(weight, group), weight.shape[1])
    tensors[EMBEDDING] = fp16.from_fp32(tensors[EMBEDDING]).astype(np.float32)
    routers = router_tensors(checkpoint)
    routers |= {name: rounded(name, routers, group) for name in routers if name.endswith("weight")}
    return Subject(config, tensors, routers, formats, how)


def choose(subject: Subject, windows: NDArray[np.int64], ratios: Mapping[Place, float], follow: Follow = unseen) -> None:
    """Gives the subject thresholds that leave out ``ratios`` of the channels of ``windows`` (samples, tokens) of ids.

    Each input is seen with all inputs in front of it masked already.
    """
    model = subject.model
    model.thresholds.clear()
    streams = [model.begin(batch) for batch in torch.from_numpy(windows).split(BATCH)]
    for layer in follow("thresholds", range(subject.config.num_layers)):
        step: Callable[[Stream], Stream] = functools.partial(subject.step, layer)
        for place in (place for place in subject.places if place[0] == layer and ratios.get(place, 0) > 0):
            model.wanted = {place}
            for stream in streams:
                step(stream)
            if place in (seen := model.seen()):
                model.put(place, thresholds(subject.how.rule, seen[place], ratios[place], subject.norms(place)))
        model.wanted = set()
        streams = [step(stream) for stream in streams]
    model.counts.clear()


def weight_bytes(subject: Subject) -> tuple[float, float]:
    """Bytes of weights, the head's among them, that a token of those counted reads: were nothing masked, and as masked, with thresholds."""
    plain = masked = 0.0
    for product, layer in products(subject.config):
        codes, others, active = subject.read(product, layer)
        plain, masked = plain + codes + others, masked + codes * active + others
        if product in COUNTED and INPUT_OF[product] in subject.model.thresholds:
            _, read, total = subject.model.counts[layer, product]
            # Read for each product, those that are one matrix together
            masked += THRESHOLD_BYTES * channels(subject.config)[INPUT_OF[product]] * read / total
    return plain, masked
