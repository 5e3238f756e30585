"""Loss of a text by a model in the reference's arithmetic: as the checkpoint is, or as the machine holds it."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from compiler.frontend.canonical import EMBEDDING
from compiler.frontend.tensors import F32
from compiler.quantise.products import products, tensor_of
from sim.evaluation import Evaluation, measured_by_reference
from sim.quantise.calibrate import Asked, fill
from sim.reference.model import GateRule, SkipLlama, execute_when_positive
from skipopu.isa.spec import BUFFER_UNIT
from skipopu.layout import round_up
from skipopu.model_config import ModelConfig
from skipopu.numerics import fp16
from skipopu.numerics.formats import INT4, dequantise, quantise_split
from skipopu.policy import KvPolicy
from skipopu.text import Passage


def model_of(config: ModelConfig, tensors: dict[str, F32], routers: dict[str, F32], group: int = 0) -> SkipLlama:
    """The model of canonical tensors; with ``group`` the machine's: embedding, keys and values in FP16, routers in two INT4 digits."""
    model = SkipLlama(config)
    if group:
        model.round_kv = True
        tensors = tensors | {EMBEDDING: fp16.from_fp32(tensors[EMBEDDING]).astype(np.float32)}
        routers = routers | {name: rounded(name, routers, group) for name in routers if name.endswith("weight")}
    fill(model, tensors, routers)
    return model


def rounded(name: str, routers: dict[str, F32], group: int) -> F32:
    """A router's weights as the machine has them: hidden layers in INT4, the last ones in two digits."""
    weight, n = routers[name], routers[name].shape[1]
    if "hidden_layer" in name:
        return dequantise(*INT4.quantise(weight, group), n)
    # Where they have hidden layers, behind what attention's router reads: groups begin there.
    two = name.replace("weight_predictor", "hidden_layer") in routers
    before = round_up(n, BUFFER_UNIT // 2) if two and "router_mlp" in name else 0
    digits = dequantise(*quantise_split(np.pad(weight, ((0, 0), (before, 0))), group), before + n)
    return (digits[0::2] + digits[1::2])[:, before:]


def loss_of(
    model: SkipLlama,
    passage: Passage,
    window: int,
    kv: KvPolicy,
    dense: bool,
    rule: GateRule = execute_when_positive,
    say: Callable[[int], None] = lambda done: None,
) -> Evaluation:
    """As :func:`sim.evaluation.evaluate` counts it, of a model that nothing was compiled of; ``say`` hears of tokens read."""
    read = functools.partial(model, kv=kv, dense=dense, rule=rule)
    return measured_by_reference(passage, window, read, model.config.vocab_size, say)


def to_nearest(config: ModelConfig, tensors: dict[str, F32], asked: Asked) -> dict[str, F32]:
    """Canonical ``tensors``, folded, with every product rounded to nearest."""
    result = dict(tensors)
    for product, layer in products(config):
        name, format = tensor_of(product, layer), asked.format(product)
        weight = tensors[name]
        result[name] = dequantise(*format.quantise(weight, asked.group), weight.shape[1])
    return result
