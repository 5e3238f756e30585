"""Masks of input channels by the reference's own numbers, and against those of the machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sim.masks import Masks
from skipopu.isa.registers import Config
from skipopu.masks import INPUT_OF
from skipopu.numerics import mask
from skipopu.policy import KvPolicy, Module, Phase
from skipopu.program.program import Program
from skipopu.program.run import Run

# Products that the machine counts channels of, each once, and the module that they are of; K's and V's tokens may be all.
COUNTED = {"k": Module.ATTENTION, "q": Module.ATTENTION, "o": Module.ATTENTION, "up": Module.FFN, "down": Module.FFN}


def key(x: Tensor) -> Tensor:
    """:func:`skipopu.numerics.mask.key`, int32."""
    return x.float().contiguous().view(torch.int32) >> 16 & (1 << mask.KEY_BITS) - 1


def thresholds_of(program: Program) -> dict[str, Tensor]:
    """Thresholds (layers, channels) int32 of a program's image, by input."""
    layers = range(program.model.num_layers)
    return {
        name: torch.stack([torch.from_numpy(program.thresholds(name, layer).astype("int32")) for layer in layers])
        for name in program.masks
    }


@dataclass(frozen=True)
class Read:
    """What a masked product read: x (batch, tokens, channels), and (batch, tokens, 1) 1/rms, None where nothing scales it."""

    x: Tensor
    scale: Tensor | None

    def active(self, thresholds: Tensor, x: Tensor | float = 0.0, scale: float = 0.0) -> Tensor:
        """Its active channels, were magnitudes larger by ``x`` and the scale by its share ``scale``."""
        keys = key((self.x.abs() + x).clamp_min(0))
        return keys + (mask.ONE if self.scale is None else key(self.scale * (1 + scale))) >= thresholds


def _largest(x: Tensor) -> float:
    """The largest magnitude, infinite where one is NaN."""
    return float(x.abs().nan_to_num(nan=math.inf, posinf=math.inf).max())


@dataclass(frozen=True)
class Replayed:
    """A machine's masks by input, :class:`sim.masks.Masks` of several sequences: active (batch, layers, tokens, channels), seen without
    channels."""

    active: dict[str, Tensor]
    seen: dict[str, Tensor]


def replayed(masks: Sequence[Masks]) -> Replayed:
    """Those of sequences of one length, one or more."""
    active, seen = (
        {name: torch.from_numpy(np.stack([getattr(one, part)[name] for one in masks])) for name in masks[0].seen}
        for part in ("active", "seen")
    )
    return Replayed(active, seen)


@dataclass(frozen=True)
class Compared:
    """Channels with a threshold, of masked tokens: all, those that the bounds leave open, and those of the others that differ."""

    positions: int = 0
    inside: int = 0
    differing: int = 0


class Masking:
    """The masks of one pass, as :attr:`sim.reference.model.SkipLlama.mask` is asked for them.

    Attributes:
        applies: bool (tokens,), which tokens are masked.
        counts: by layer and product, (batch, tokens) active channels; ``sizes`` of all of a product's.
        reads: by layer and input, where masks are replayed; ``off`` how far magnitudes and scales of other passes are, the latter by
            their share, at most.
    """

    def __init__(
        self, program: Program, thresholds: dict[str, Tensor], run: Run, tokens: int, replay: Replayed | None = None
    ) -> None:
        """``replay`` takes the place of the reference's own masks."""
        self.thresholds, self.replay = thresholds, replay
        masking = program.register(Config.MASKING)
        prefill, decode = (torch.tensor(bool(masking >> phase & 1)) for phase in Phase)
        self.applies = torch.where(torch.arange(tokens) >= len(run.prompt), decode, prefill)
        self.counts: dict[tuple[int, str], Tensor] = {}
        self.sizes: dict[str, int] = {}
        self.reads: dict[tuple[int, str], Read] = {}
        self.off: dict[tuple[int, str], tuple[float, float]] = {}

    def __call__(self, name: str, x: Tensor, scale: Tensor | None) -> Tensor | None:
        """bool (batch, tokens, channels), which channels of product ``layers.N.PRODUCT`` count; None where all do."""
        product = name.rpartition(".")[2]
        own = INPUT_OF.get(product)
        if own not in self.thresholds:
            return None
        layer, read = int(name.split(".")[1]), Read(x, scale)
        if self.replay is not None:
            self.reads[layer, own] = read
            found = self.replay.active[own][:, layer]
        else:
            found = read.active(self.thresholds[own][layer]) | ~self.applies[:, None]
        self.counts[layer, product], self.sizes[product] = found.sum(-1), x.shape[-1]
        return found

    def channels(self, gates: Tensor, kv: KvPolicy) -> tuple[int, int]:
        """Of masked tokens in products that compute them: active channels, and all; ``gates`` (batch, layers, 2, tokens)."""
        active = total = 0
        for (layer, product), found in self.counts.items():
            if product in COUNTED:
                executed = gates[:, layer, COUNTED[product]].bool()
                listed = self.applies & (executed | (product == "k" and kv is KvPolicy.DENSE))
                active += int(found[listed].sum())
                total += int(listed.sum()) * self.sizes[product]
        return active, total

    def spread(self, other: Masking) -> None:
        """Widens ``off`` by what another pass read."""
        for at, read in self.reads.items():
            theirs, (x, scale) = other.reads[at], self.off.get(at, (0.0, 0.0))
            x = max(x, _largest(theirs.x - read.x))
            if read.scale is not None and theirs.scale is not None:
                scale = max(scale, _largest(theirs.scale / read.scale - 1))
            self.off[at] = x, scale

    def compared(self, safety: float, norm_error: float, group: int) -> Compared:
        """The replayed masks against what this pass's own numbers say, were they off by up to ``safety`` times what they are.

        To a scale's error come its arithmetic's and that of its aligned elements, 2^-17 of their group's largest at most each: a share
        of sqrt(``group``) 2^-17 of the root of their squares.
        """
        positions = inside = differing = 0
        for (layer, own), read in self.reads.items():
            assert self.replay is not None
            thresholds, (x, scale) = self.thresholds[own][layer], self.off[layer, own]
            share = safety * scale + norm_error + math.sqrt(group) * 2.0**-17
            least, most = (read.active(thresholds, sign * safety * x, sign * share) for sign in (-1, 1))
            counted, sure = self.replay.seen[own][:, layer, :, None] & (thresholds > 0), least == most
            positions += int(counted.sum())
            inside += int((counted & ~sure).sum())
            differing += int((counted & sure & (least != self.replay.active[own][:, layer])).sum())
        return Compared(positions, inside, differing)
