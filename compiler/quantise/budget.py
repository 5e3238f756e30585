"""Which products are worth 8 bits, where there is room for some of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

from compiler.quantise.products import in_layer
from skipopu.model_config import ModelConfig

TOGETHER = (("q",), ("k", "v"), ("o",), ("gate", "up"), ("down",), ("head",))  # rows of one instruction, in all layers


def parts(config: ModelConfig, tensor: Callable[[str], str] = lambda product: product) -> list[tuple[str, ...]]:
    """Products that have one format: those of an instruction, and those whose rows lie in one ``tensor`` of the file."""
    there = {*in_layer(config), "head"}
    found: list[set[str]] = []
    for products in TOGETHER:
        own = {product for product in products if product in there}
        names = {tensor(product) for product in own}
        for other in [one for one in found if names & {tensor(product) for product in one}]:
            found.remove(other)
            own |= other
        found.append(own)
    order = [product for products in TOGETHER for product in products]
    return [tuple(sorted(own, key=order.index)) for own in found if own]


def within(room: int, costs: Mapping[tuple[str, ...], int], gains: Mapping[tuple[str, ...], float]) -> list[tuple[str, ...]]:
    """The parts whose ``gains`` are the most together and whose ``costs`` fit the ``room``; of as much gain the fewest bytes."""
    worth = [part for part in costs if gains[part] > 0]
    every = [some for count in range(len(worth) + 1) for some in itertools.combinations(worth, count)]
    fitting = [some for some in every if sum(costs[part] for part in some) <= room]
    return list(max(fitting, key=lambda some: (sum(gains[part] for part in some), -sum(costs[part] for part in some))))
