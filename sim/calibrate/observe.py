"""The reference model with masks, watched: key sums of what a layer's products read, and how many channels they are left."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sim.reference.functions import ACTIVATIONS
from sim.reference.masks import COUNTED, Read, key
from sim.reference.model import GateRule, SkipLlama, Stream
from skipopu.masks import ATTENTION, ATTENTION_OUTPUT, FFN, FFN_INNER, INPUT_OF, channels
from skipopu.model_config import ModelConfig
from skipopu.numerics import mask
from skipopu.policy import KvPolicy, Module

# A product of each input that is computed for all tokens whose input is masked, whatever the KV policy.
SEEN_BY = {ATTENTION: "k", ATTENTION_OUTPUT: "o", FFN: "up", FFN_INNER: "down"}
MOST = 1 << 22  # numbers of an input that are kept at a time, some tokens left out evenly

Place = tuple[int, str]  # a layer and one of its inputs
I32 = NDArray[np.int32]


class Seen(NamedTuple):
    """What an input was for the tokens that read it: (tokens, channels) key sums, and whether a scale is part of them.

    Of what down reads behind a gate also (tokens, channels) magnitudes of the gate, activated, and (channels,) the mean one of up.
    """

    sums: I32
    scaled: bool
    gate: NDArray[np.float32] | None = None
    up: NDArray[np.float32] | None = None


class _Parts:
    """What batches showed of one input."""

    def __init__(self) -> None:
        self.sums: list[Tensor] = []
        self.gates: list[Tensor] = []
        self.ups: list[Tensor] = []
        self.scaled = False

    def seen(self) -> Seen:
        sums = torch.cat(self.sums)
        rows = slice(None, None, max(1, -(-sums.numel() // MOST)))
        gate = torch.cat(self.gates)[rows].numpy() if self.gates else None
        up = torch.cat(self.ups).mean(0).numpy() if self.ups else None
        return Seen(sums[rows].numpy(), self.scaled, gate, up)


class Masked(SkipLlama):
    """A model whose inputs are masked by ``thresholds``, all tokens'; what has none is not.

    Attributes:
        wanted: inputs whose key sums are kept, see :meth:`seen`.
        counts: by layer and product: channels that were active, all of the tokens that executed it, and all of all tokens.
    """

    def __init__(self, config: ModelConfig, kv: KvPolicy) -> None:
        super().__init__(config)
        self.kv = kv
        self.wanted: set[Place] = set()
        self.counts: dict[tuple[int, str], tuple[int, int, int]] = {}
        self.executing: dict[int, Tensor] = {}
        self.results: dict[str, Tensor] = {}
        self.mask = self._mask
        self._parts: dict[Place, _Parts] = {}

    @classmethod
    def of(cls, model: SkipLlama, kv: KvPolicy) -> Masked:
        """A model with the weights and thresholds of another, which it shares."""
        result = cls(model.config, kv)
        for name, part in (*model.named_children(), *model.named_parameters(recurse=False)):
            setattr(result, name, part)
        result.round_kv, result.thresholds = model.round_kv, model.thresholds
        return result

    def put(self, place: Place, thresholds: NDArray[np.uint16]) -> None:
        """Masks an input of a layer."""
        layer, own = place
        if own not in self.thresholds:
            shape = (self.config.num_layers, channels(self.config)[own])
            self.thresholds[own] = torch.zeros(shape, dtype=torch.int32)
        self.thresholds[own][layer] = torch.from_numpy(thresholds.astype(np.int32))

    def seen(self) -> dict[Place, Seen]:
        """What was kept of the wanted inputs since the last time."""
        parts, self._parts = self._parts, {}
        return {place: part.seen() for place, part in parts.items()}

    def advance(self, *args: Any, **options: Any) -> tuple[Stream, list[Tensor], list[Tensor]]:
        self.executing.clear()  # a module that nobody decides about executes
        return super().advance(*args, **options)

    def noting(self, rule: GateRule) -> GateRule:
        """``rule``; the tokens that it lets execute are those that count."""

        def noted(difference: Tensor, layer: int, module: int) -> Tensor:
            gate = rule(difference, layer, module)
            self.executing[module] = gate.bool()
            return gate

        return noted

    def _product(self, name: str, x: Tensor, linear: nn.Linear, gain: Tensor | None = None) -> Tensor:
        result = super()._product(name, x, linear, gain)
        self.results[name.rpartition(".")[2]] = result
        return result

    def _mask(self, name: str, x: Tensor, scale: Tensor | None) -> Tensor | None:
        product = name.rpartition(".")[2]
        if (own := INPUT_OF.get(product)) is None:
            return None
        place = int(name.split(".")[1]), own
        executed = None if product == "k" and self.kv is KvPolicy.DENSE else self._executed(own)
        if place in self.wanted and product == SEEN_BY[own]:
            self._keep(self._parts.setdefault(place, _Parts()), own, x, scale, executed)
        if own not in self.thresholds:
            active = torch.ones_like(x, dtype=torch.bool)
        else:
            active = Read(x, scale).active(self.thresholds[own][place[0]])
        if product in COUNTED:
            counted, before = _rows(active, executed), self.counts.get((place[0], product), (0, 0, 0))
            now = int(counted.sum()), counted.numel(), active.numel()
            self.counts[place[0], product] = before[0] + now[0], before[1] + now[1], before[2] + now[2]
        return active if own in self.thresholds else None

    def _executed(self, own: str) -> Tensor | None:
        return self.executing.get(Module.ATTENTION if own in (ATTENTION, ATTENTION_OUTPUT) else Module.FFN)

    def _keep(self, parts: _Parts, own: str, x: Tensor, scale: Tensor | None, executed: Tensor | None) -> None:
        parts.scaled = scale is not None
        parts.sums.append(_rows(key(x) + (mask.ONE if scale is None else key(scale)), executed))
        if own == FFN_INNER and self.config.gated:
            parts.gates.append(_rows(ACTIVATIONS[self.config.hidden_act](self.results["gate"]).abs(), executed))
            parts.ups.append(_rows(self.results["up"].abs(), executed))


def _rows(values: Tensor, executed: Tensor | None) -> Tensor:
    """(rows, channels) of the tokens (batch, tokens) that execute; all where nobody decided."""
    return values.flatten(0, -2) if executed is None else values[executed]
