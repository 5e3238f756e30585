"""The reference model, watched: what its products read, of the tokens that execute them, and how large numbers become."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compiler.quantise.products import READ
from sim.reference.model import SkipLlama, Stream, execute_when_positive
from skipopu.errors import CheckpointError
from skipopu.model_config import ModelConfig
from skipopu.numerics import fp16
from skipopu.numerics.fp32 import F64
from skipopu.policy import KvPolicy, Module

LARGEST = {"key": float(fp16.LARGEST), "value": float(fp16.LARGEST)}
# A norm sums squares in FP32: of all other numbers the root of its largest is safe.
SQUARE = float(np.sqrt(np.finfo(np.float32).max))


class Observed(SkipLlama):
    """Sums X^T X of what products read.

    Attributes:
        wanted: inputs (values of :data:`compiler.quantise.products.READ`) whose moments are summed.
        moments: (n, n) float64 of each of them; norms in front of products are part of what they read.
        largest: magnitude of each kind of number, and of keys and values, by layer; -1 for behind the last one.
    """

    def __init__(self, config: ModelConfig, kv: KvPolicy) -> None:
        super().__init__(config)
        self.kv = kv
        self.wanted: set[str] = set()
        self.moments: dict[str, F64] = {}
        self.largest: dict[tuple[str, int], float] = {}
        self.executing: dict[int, Tensor] = {}
        self.disturb = self._see

    def advance(self, *args: Any, **options: Any) -> tuple[Stream, list[Tensor], list[Tensor]]:
        self.executing.clear()  # a module that nobody decides about executes
        return super().advance(*args, **options)

    def decide(self, difference: Tensor, layer: int, module: int) -> Tensor:
        """The machine's rule; what it decides is what counts."""
        gate = execute_when_positive(difference, layer, module)
        self.executing[module] = gate.bool()
        return gate

    def _see(self, name: str, x: Tensor) -> Tensor:
        _, _, place = name.rpartition(".")
        if place != "query" and x.numel():
            kind = place if place in LARGEST else "activation"
            layer = -1 if place == "lm_head" else int(name.split(".")[1])
            most = max(self.largest.get((kind, layer), 0.0), float(x.abs().max()))
            self.largest[kind, layer] = most if np.isfinite(float(x.sum())) else np.inf
        return x

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
        return super()._product(name, x, linear, gain)

    def check(self) -> None:
        """Raises CheckpointError where numbers leave the machine's formats."""
        for (kind, layer), most in self.largest.items():
            held = LARGEST.get(kind, SQUARE)
            if not most <= held:
                where = "behind the last layer" if layer < 0 else f"layer {layer}"
                why = f"FP16 {kind}s reach" if kind in LARGEST else "FP32 sums of squares hold"
                raise CheckpointError(f"{where}: {kind}s of the calibration text reach {most:.3g}; {why} {held:.3g}")
