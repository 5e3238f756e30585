"""The reference model, watched: what its products read, of the tokens that execute them, and how large numbers become."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compiler.passes.fold import attention_scale
from compiler.quantise.products import READ
from sim.reference.model import SkipLlama, Stream, execute_when_positive
from skipopu.errors import CheckpointError
from skipopu.model_config import ModelConfig
from skipopu.numerics import fp16
from skipopu.numerics.fp32 import F64
from skipopu.policy import KvPolicy, Module

# Kinds of numbers, and what the machine's format of each holds. A norm sums the squares of the residual in FP32: the root is safe.
FP16, FP32 = float(fp16.LARGEST), float(np.finfo(np.float32).max)
HELD = {
    "residual": math.sqrt(FP32),
    "query": FP32,
    "key": FP16,
    "value": FP16,
    "score": FP32,
    "attention": FP32,  # what O reads
    "inner": FP32,  # what down reads
    "product": FP32,  # results of products
}
WHY = {FP16: "FP16 reaches", FP32: "FP32 reaches", HELD["residual"]: "FP32 sums of squares hold"}
OUTPUT = -1  # in a layer's place: behind the last one
_READS = {"o": "attention", "down": "inner"}  # what every other product reads is the residual

Ranges = dict[tuple[str, int], float]  # (kind, layer) -> largest magnitude


class Observed(SkipLlama):
    """Sums X^T X of what products read.

    Attributes:
        wanted: inputs (values of :data:`compiler.quantise.products.READ`) whose moments are summed.
        moments: (n, n) float64 of each of them; norms in front of products are part of what they read.
        largest: magnitude of each kind of number in each layer; infinite where one is not finite.
    """

    def __init__(self, config: ModelConfig, kv: KvPolicy) -> None:
        super().__init__(config)
        self.kv = kv
        self.wanted: set[str] = set()
        self.moments: dict[str, F64] = {}
        self.largest: Ranges = {}
        self.executing: dict[int, Tensor] = {}
        self.queries: Tensor | None = None
        self.disturb = self._see

    def advance(self, *args: Any, **options: Any) -> tuple[Stream, list[Tensor], list[Tensor]]:
        self.executing.clear()  # a module that nobody decides about executes
        return super().advance(*args, **options)

    def decide(self, difference: Tensor, layer: int, module: int) -> Tensor:
        """The machine's rule; what it decides is what counts."""
        gate = execute_when_positive(difference, layer, module)
        self.executing[module] = gate.bool()
        return gate

    def _note(self, kind: str, name: str, x: Tensor) -> None:
        layer = OUTPUT if name.endswith("lm_head") else int(name.split(".")[1])
        most = float(x.abs().max()) if x.numel() else 0.0
        self.largest[kind, layer] = max(self.largest.get((kind, layer), 0.0), most if math.isfinite(most) else math.inf)

    def _see(self, name: str, x: Tensor) -> Tensor:
        place = name.rpartition(".")[2]
        if place == "score":  # capped
            return x
        self._note(place if place in HELD else _READS.get(place, "residual"), name, x)
        if place == "query":
            self.queries = x
        if place == "key" and self.queries is not None:
            self._scores(name, self.queries, x)
        return x

    def _scores(self, name: str, queries: Tensor, keys: Tensor) -> None:
        """Of (windows, heads, tokens, head_dim), a head at a time, as the machine scales them."""
        repeat = queries.shape[1] // keys.shape[1]
        for head in range(queries.shape[1]):
            scores = queries[:, head] @ keys[:, head // repeat].transpose(-1, -2)
            self._note("score", name, attention_scale(self.config) * scores.tril())

    def _product(self, name: str, x: Tensor, linear: nn.Linear, gain: Tensor | None = None) -> Tensor:
        place = name.rpartition(".")[2]
        place = "head" if place == "lm_head" else place
        read = READ[place]
        if read in self.wanted and place not in ("v", "gate"):  # which read what k and up do
            module = Module.ATTENTION if read in ("q", "kv", "o") else Module.FFN
            every = place == "head" or (read == "kv" and self.kv is KvPolicy.DENSE)
            gate = None if every else self.executing.get(module)
            rows = (x.flatten(0, -2) if gate is None else x[gate]).double()
            if gain is not None:
                rows = rows * torch.rsqrt(rows.square().mean(-1, keepdim=True) + self.config.rms_norm_eps)
            seen = rows.numpy()
            self.moments[read] = self.moments.get(read, 0.0) + seen.T @ seen
        result = super()._product(name, x, linear, gain)
        self._note("product", name, result)
        return result

    def most(self, kind: str) -> tuple[float, int]:
        """The largest magnitude of a kind, and the layer that it is in."""
        return max((most, layer) for (its, layer), most in self.largest.items() if its == kind)

    def check(self) -> None:
        """Raises CheckpointError where numbers leave the machine's formats."""
        for (kind, layer), most in self.largest.items():
            if not most <= (held := HELD[kind]):
                where = "behind the last layer" if layer == OUTPUT else f"layer {layer}"
                raise CheckpointError(f"{where}: {kind}s of the calibration text reach {most:.3g}; {WHY[held]} {held:.3g}")
