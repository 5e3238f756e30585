"""Loss of a text by a model in the reference's arithmetic: as the checkpoint is, or as the machine holds it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import torch

from compiler.frontend.canonical import EMBEDDING
from compiler.frontend.tensors import F32
from compiler.quantise.products import products, tensor_of
from sim.evaluation import Evaluation, Loss, windows_of
from sim.quantise.calibrate import BATCH, Asked, fill
from sim.reference.model import SkipLlama
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


def loss_of(model: SkipLlama, passage: Passage, window: int, kv: KvPolicy, dense: bool) -> Evaluation:
    """As :func:`sim.evaluation.evaluate` counts it, windows side by side."""
    head = np.array(passage.head, np.int64)
    given = max(len(head) - 1, 0)
    nats, share, counted, size, read = 0.0, 0.0, 0, 0, 0
    for same in _batches(windows_of(passage, window)):
        ids = np.stack([np.concatenate([head, passage.ids[part]]) for part in same])
        out = model(torch.from_numpy(ids), kv=kv, dense=dense)
        for row, logits in zip(ids, out.logits.numpy(), strict=True):
            loss = Loss(row[1:], model.config.vocab_size)
            loss.add(np.arange(len(row)), 0, logits)
            nats += loss.nats(given)
        share += float(out.gates.mean()) * ids.size
        counted += ids.size - len(ids) * (1 + given)
        read += ids.size
        if passage.sizes is not None:
            size += sum(int(passage.sizes[part][0 if len(head) else 1 :].sum()) for part in same)
    return Evaluation(nats, counted, None if passage.sizes is None else size, share / read)


def _batches(parts: list[slice]) -> Iterator[list[slice]]:
    """Parts of one length, some at a time."""
    for _, same in itertools.groupby(parts, lambda part: part.stop - part.start):
        alike = list(same)
        yield from (alike[first : first + BATCH] for first in range(0, len(alike), BATCH))


def to_nearest(config: ModelConfig, tensors: dict[str, F32], asked: Asked) -> dict[str, F32]:
    """Canonical ``tensors``, folded, with every product rounded to nearest."""
    result = dict(tensors)
    for product, layer in products(config):
        name, format = tensor_of(product, layer), asked.format(product)
        weight = tensors[name]
        result[name] = dequantise(*format.quantise(weight, asked.group), weight.shape[1])
    return result
