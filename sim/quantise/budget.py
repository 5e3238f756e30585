"""What each product gains by 8 bits, and the formats that fit a number of bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compiler.follow import Follow, unseen
from compiler.frontend.checkpoint import Checkpoint
from compiler.quantise.budget import within
from compiler.quantise.nearest import Rounded
from compiler.quantise.products import products, tensor_of
from sim.quantise.calibrate import Asked, Quantised, quantise, router_tensors
from sim.quantise.loss import loss_of, model_of
from skipopu.numerics.formats import INT8
from skipopu.text import Passage

Part = tuple[str, ...]


@dataclass(frozen=True)
class Gain:
    """What 8 bits for a part cost in bytes, and by how much they make the loss smaller, in nats per token."""

    part: Part
    bytes: int
    nats: float


def gains(
    checkpoint: Checkpoint, found: Quantised, asked: Asked, parts: Sequence[Part], text: Passage, window: int
) -> list[Gain]:
    """Of each part of a quantised model that kept its weights ``before``, alone in 8 bits, rounded to nearest."""
    routers, dense = router_tensors(checkpoint), asked.dense or checkpoint.routers is None

    def nats(tensors: dict) -> float:
        return loss_of(model_of(found.config, tensors, routers, asked.group), text, window, asked.kv, dense).nats_per_token

    usual, result = nats(found.tensors), []
    for part in parts:
        names = [tensor_of(product, layer) for product, layer in products(found.config) if product in part]
        wider = {name: eight_bits(found.before[name], asked.group) for name in names}
        cost = sum(wider[name].bytes - found.choices[name].rounded.bytes for name in names)
        result.append(Gain(part, cost, usual - nats(found.tensors | {name: wider[name].values for name in names})))
    return result


def eight_bits(weight: NDArray[np.float32], group: int) -> Rounded:
    return Rounded(*INT8.quantise(weight, group), weight.shape[1], INT8)


def by_budget(
    checkpoint: Checkpoint,
    windows: NDArray[np.int64],
    asked: Asked,
    parts: Sequence[Part],
    text: Passage,
    most: int,
    follow: Follow = unseen,
) -> tuple[Asked, list[Gain]]:
    """``asked`` with 8 bits for the parts that gain the most within ``most`` bytes of codes and scales.

    Each part's gain is measured on ``text`` by itself; what several gain together is taken to be their sum.
    """
    found = quantise(checkpoint, windows, dataclasses.replace(asked, keep=True), follow)
    narrow = [part for part in parts if not set(part) & set(asked.formats)]
    seen = gains(checkpoint, found, asked, narrow, text, windows.shape[1])
    chosen = within(most - found.bytes, {one.part: one.bytes for one in seen}, {one.part: one.nats for one in seen})
    formats = asked.formats | {product: INT8 for part in chosen for product in part}
    return dataclasses.replace(asked, formats=formats), seen
