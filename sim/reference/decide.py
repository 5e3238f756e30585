"""Skip policies on the reference's own numbers, and on numbers as far off as the machine's may be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from skipopu.policy import WINDOW, Decision, Module, Phase, SkipPolicy, Weighs, ranks
from skipopu.program.program import Program
from skipopu.program.run import Run

RSQRT_ERROR = 2.0**-21.9  # of skipopu.numerics.tables.reciprocal_sqrt, relative


class Deciding:
    """The rules of a run over one pass of the reference, layer by layer.

    Attributes:
        policies: of each layer.
        norms: 1/rms of the residual in front of each layer so far, (batch, tokens).
        gates: of each module what its rule said last, (batch, tokens).
        norm_error: of 1/rms on the machine, relative, beside what its aligned numbers cause: the table's of the root, and half of a
            rounding of FP32 for each group's sum, each sum of those and the mean.
    """

    def __init__(self, program: Program, run: Run, tokens: int) -> None:
        self.policies, self.kv, self.dial = run.policies(program), program.kv, run.dial
        self.epsilon = program.model.rms_norm_eps
        groups = -(-program.model.hidden_size // program.matrices["router"]["group"])
        self.norm_error = RSQRT_ERROR + (groups + 3) * 2.0**-25
        self.position = torch.arange(tokens)
        self.decoding = self.position >= len(run.prompt)
        self.windows = torch.where(self.decoding, -1, self.position // WINDOW)
        self.norms: list[Tensor] = []
        self.gates: dict[int, Tensor] = {}

    def see(self, layer: int, read: Tensor) -> None:
        """Keeps what is needed of a layer's input, as its routers read it; the last time counts."""
        mean = read.double().square().mean(-1)
        self.norms[layer:] = [torch.rsqrt(mean + self.epsilon).to(read.dtype)]

    def rule(self, difference: Tensor, layer: int, module: int) -> Tensor:
        """Gates of a module, as :data:`sim.reference.model.GateRule`; every layer is asked but for what is forced."""
        forced = layer == 0 or self.kv.forced(layer - 1, module)
        before = torch.ones_like(difference) if forced else self.gates[module]
        self.gates[module] = self.bits(difference, layer, module, before.bool()).to(difference.dtype)
        return self.gates[module]

    def bits(self, difference: Tensor, layer: int, module: int, before: Tensor, more: Tensor | float = 0.0) -> Tensor:
        """Bits of a module, bool (batch, tokens), were what is weighed larger by ``more``, of each against all others where they are
        compared; a trace's are not known here."""
        traced = torch.zeros(difference.shape, dtype=torch.bool)

        def bits(policy: SkipPolicy) -> Any:
            weighed, dial = self._weighed(policy, difference, layer)
            own, others = weighed + more, weighed - more
            place = ranks(own, others, self.position, self.windows) if policy.keep else (None, None)
            return policy.rule(Decision(own, dial, self.position, traced, before, *place))

        return self._by_phase(layer, module, bits).expand(difference.shape)

    def margin(self, difference: Tensor, layer: int, module: int) -> Tensor:
        """How far what is weighed is beyond the dial, (batch, tokens)."""

        def margin(policy: SkipPolicy) -> Tensor:
            weighed, dial = self._weighed(policy, difference, layer)
            return weighed - dial

        return self._by_phase(layer, module, margin)

    def rounding(self, layer: int, module: int) -> Tensor:
        """By how much a margin may be off because the machine rounds norms, (batch, tokens), or (tokens,) of zeros."""
        norms = [*self.norms[max(0, layer - 1) : layer + 1], abs(self.dial) * self.norms[layer]]
        most = self.norm_error * torch.stack(norms).sum(0)
        return self._by_phase(layer, module, lambda policy: most if policy.weighs is Weighs.NORM else 0.0)

    def weighs(self, layer: int, module: int) -> Tensor:
        """bool (tokens,): a rule weighs something."""
        return self._by_phase(layer, module, lambda policy: bool(policy.weighs))

    def decisions(self, differences: Tensor, before: Tensor, more: Tensor) -> Tensor:
        """:meth:`bits` of every layer and module; all are (batch, layers, 2, tokens)."""
        return self.every(lambda a, b: self.bits(differences[:, a, b], a, b, before[:, a, b], more[:, a, b]))

    def margins(self, differences: Tensor) -> Tensor:
        """:meth:`margin` of every layer and module, (batch, layers, 2, tokens)."""
        return self.every(lambda a, b: self.margin(differences[:, a, b], a, b))

    def every(self, of: Callable[[int, int], Tensor]) -> Tensor:
        """``of`` every layer and module, (batch or 1, layers, 2, tokens)."""
        layers = [
            torch.stack([torch.atleast_2d(of(layer, module)) for module in Module], 1) for layer in range(len(self.norms))
        ]
        return torch.stack(layers, 1)

    def _weighed(self, policy: SkipPolicy, difference: Tensor, layer: int) -> tuple[Tensor, Tensor | float]:
        """What a policy holds against the dial, and the dial; of one that weighs nothing what the router says."""
        if policy.weighs is not Weighs.NORM:
            return difference, self.dial
        norm, before = self.norms[layer], self.norms[layer - 1] if layer else 0.0
        return (before - norm).abs(), self.dial * norm

    def _by_phase(self, layer: int, module: int, value: Callable[[SkipPolicy], Any]) -> Tensor:
        prefill, decode = (torch.as_tensor(value(self.policies[layer][phase][module])) for phase in Phase)
        return torch.where(self.decoding, decode, prefill)
