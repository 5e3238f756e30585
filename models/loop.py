"""What is in the training loop beside the model: rounded weights, hard gates and their budget, masks of input channels."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from sim.calibrate.budget import Curve, allocate
from sim.calibrate.observe import SEEN_BY, Place
from sim.reference.model import GateRule
from skipopu.masks import ATTENTION, ATTENTION_OUTPUT, INPUT_OF
from skipopu.policy import Module


class RoundToInt4(torch.autograd.Function):
    """Rounds (rows, n) weights as the compiler does (symmetric INT4, ``group`` per scale); the gradient passes through."""

    @staticmethod
    def forward(ctx: object, weight: Tensor, group: int) -> Tensor:
        rows, n = weight.shape
        groups = F.pad(weight, (0, -n % group)).view(rows, -1, group)
        scale = (groups.abs().amax(-1, keepdim=True) / 7).half().float()
        q = torch.where(scale > 0, (groups / scale.clamp_min(1e-20)).round().clamp(-8, 7), 0.0)
        return (q * scale).view(rows, -1)[:, :n]

    @staticmethod
    def backward(ctx: object, *grad: Tensor) -> tuple[Tensor, None]:
        return grad[0], None


def quantiser(group: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Weights times the norm's gain, rounded."""

    def quantised(weight: Tensor, gain: Tensor) -> Tensor:
        rounded = RoundToInt4.apply(weight * gain, group)
        assert isinstance(rounded, Tensor)
        return rounded

    return quantised


def straight_through(noise: torch.Generator | None, temperature: float) -> GateRule:
    """Hard gates forward, a sigmoid's gradient backward; logistic noise explores while ``noise`` is given."""

    def rule(difference: Tensor, layer: int, module: int) -> Tensor:
        del layer, module
        if noise is not None:
            u = torch.rand(difference.shape, generator=noise).clamp(1e-6, 1 - 1e-6)
            difference = difference + temperature * (u.log() - (-u).log1p())
        soft = torch.sigmoid(difference / temperature)
        return (difference >= 0).float() + soft - soft.detach()

    return rule


def sparsity_penalty(gates: Tensor, skip: float) -> Tensor:
    """Holds the mean skip ratio at ``skip`` and each module of each layer inside a band.

    Bands of the skip ratio: 0.12 to 0.5 for attention (layer 0's is forced and left out), 0.08 to 0.6 for the FFN. They keep
    routing token-dependent: with a free budget whole layers collapse to always-run or never-run. gates (batch, layers, 2,
    tokens), layer 0's forced attention counted as executed.
    """
    skipped = 1 - gates.mean((0, 3))  # (layers, 2)
    free = torch.ones_like(skipped)
    free[0, Module.ATTENTION] = 0
    outside = (skipped - torch.tensor([0.5, 0.6])).clamp_min(0) + (torch.tensor([0.12, 0.08]) - skipped).clamp_min(0)
    return 8 * (skipped.mean() - skip).square() + (outside * free).sum()


class RunningMasks:
    """Masks of input channels while a model is trained, as :attr:`sim.reference.model.SkipLlama.mask` is asked for them.

    One threshold for each input of a layer, on magnitudes times 1/rms: a running quantile of those of the tokens that execute, of a
    sample of each batch. Masked channels are zeros forward and get no gradient; all others get theirs.

    Attributes:
        ratios: of the channels, that are left out; none where an input has none.
        learning: whether quantiles follow what is seen.
    """

    RATIOS = torch.linspace(0, 1, 41)
    SAMPLE, KEPT = 8192, 0.95  # numbers of a batch, and the part of the old quantiles that each batch leaves

    def __init__(self, curves: Mapping[Place, Curve], sizes: Mapping[Place, float], seed: int) -> None:
        """``curves`` and ``sizes`` are what ratios are allocated by (:mod:`sim.calibrate.budget`)."""
        self.curves, self.sizes = curves, sizes
        self.generator = torch.Generator().manual_seed(seed)
        self.quantiles: dict[Place, Tensor] = {}
        self.ratios: dict[Place, float] = {}
        self.executing: dict[tuple[int, int], Tensor] = {}
        self.learning = True

    def begin(self, share: float) -> None:
        """The next passes leave out a share of the bytes of weights."""
        self.executing.clear()
        self.ratios = allocate(self.curves, self.sizes, share)

    def noting(self, rule: GateRule) -> GateRule:
        """``rule``, its gates noted."""

        def noted(difference: Tensor, layer: int, module: int) -> Tensor:
            gate = rule(difference, layer, module)
            self.executing[layer, module] = gate.detach() > 0.5
            return gate

        return noted

    def __call__(self, name: str, x: Tensor, scale: Tensor | None) -> Tensor | None:
        product = name.rpartition(".")[2]
        if (own := INPUT_OF.get(product)) is None:
            return None
        place = int(name.split(".")[1]), own
        with torch.no_grad():
            sizes = x.abs() if scale is None else x.abs() * scale
            # Q's product comes before K's; either sees the same.
            if self.learning and product == ("q" if own == ATTENTION else SEEN_BY[own]):
                self._learn(place, sizes)
            ratio = self.ratios.get(place, 0.0)
            if ratio <= 0 or place not in self.quantiles:
                return None
            at = ratio * (len(self.RATIOS) - 1)
            low, between = int(at), at - int(at)
            below, above = self.quantiles[place][low], self.quantiles[place][min(low + 1, len(self.RATIOS) - 1)]
            return sizes >= below + between * (above - below)

    def _learn(self, place: Place, sizes: Tensor) -> None:
        module = Module.ATTENTION if place[1] in (ATTENTION, ATTENTION_OUTPUT) else Module.FFN
        executing = self.executing.get((place[0], module))
        rows = (sizes.flatten(0, -2) if executing is None else sizes[executing]).flatten()
        if not len(rows):
            return
        found = rows[torch.randint(len(rows), (self.SAMPLE,), generator=self.generator)].quantile(self.RATIOS)
        before = self.quantiles.get(place)
        self.quantiles[place] = found if before is None else self.KEPT * before + (1 - self.KEPT) * found
