"""Ratios for each input of each layer, so that a share of the weights is left out where it changes the model least.

As TEAL allocates block by block (arXiv 2408.14690, its greedy optimisation), but for all layers together: what masks alone do to the
model's output is measured for each input, and what several do is taken to be their sum.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compiler.follow import Follow, unseen
from sim.calibrate.observe import Place
from sim.calibrate.place import Subject
from sim.calibrate.rules import thresholds
from sim.evaluation import BATCH
from sim.reference.model import Stream
from skipopu.text import Passage

# Ratios that are tried, and no more.
GRID = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)

Curve = Sequence[float]  # nats per token at each ratio of the grid, 0 at the first


def divergence(plain: Tensor, logits: Tensor) -> float:
    """Mean of KL(plain, logits) in nats over tokens (..., vocabulary) of logarithms of probabilities, and logits."""
    own = torch.log_softmax(logits, -1)
    return float((plain.exp() * (plain - own)).sum(-1).double().mean())


def curves(subject: Subject, windows: NDArray[np.int64], follow: Follow = unseen) -> dict[Place, Curve]:
    """What masks of one input alone do to what the model predicts on ``windows`` (samples, tokens), for every input and ratio.

    Layers in front of an input are read once, those behind it once for each ratio.
    """
    model, layers = subject.model, subject.config.num_layers
    model.thresholds.clear()
    entering: list[list[Stream]] = []  # by layer
    streams = [model.begin(batch) for batch in torch.from_numpy(windows).split(BATCH)]
    model.wanted = set(subject.places)
    for layer in range(layers):
        entering.append(streams)
        streams = [subject.step(layer, stream) for stream in streams]
    seen, model.wanted = model.seen(), set()
    plain = [torch.log_softmax(model.finish(stream), -1) for stream in streams]
    found: dict[Place, Curve] = {}
    for place in follow("what masks change", subject.places):
        curve = [0.0]
        for ratio in GRID[1:] if place in seen else ():
            model.put(place, thresholds(subject.how.rule, seen[place], ratio, subject.norms(place)))
            nats = []
            for stream, expected in zip(entering[place[0]], plain, strict=True):
                last = functools.reduce(lambda s, layer: subject.step(layer, s), range(place[0], layers), stream)
                nats.append(divergence(expected, model.finish(last)) * len(expected))
            curve.append(sum(nats) / len(windows))
        model.thresholds.clear()
        found[place] = curve
    model.counts.clear()
    return found


def allocate(curves: Mapping[Place, Curve], sizes: Mapping[Place, float], share: float) -> dict[Place, float]:
    """Ratios of the inputs in ``curves`` that leave out ``share`` of all ``sizes``, in bytes per token, for the least sum of nats.

    Greedy along each curve's lower hull, whose slopes rise: the part that costs least for its bytes is left out first, the last one as
    far as the bytes ask for.
    """
    parts = []
    for place, curve in curves.items():
        for first, last in _hull(curve):
            slope = (curve[last] - curve[first]) / (GRID[last] - GRID[first]) / sizes[place] if sizes[place] else np.inf
            parts.append((slope, GRID[first], place, GRID[last]))
    ratios, left = dict.fromkeys(curves, 0.0), share * sum(sizes.values())
    for _, first, place, last in sorted(parts):
        taken = min(left, (last - first) * sizes[place])
        if taken > 0:
            ratios[place] = first + taken / sizes[place]
            left -= taken
    return ratios


def _hull(curve: Curve) -> list[tuple[int, int]]:
    """Edges of the lower convex hull of a curve over the grid, as pairs of its points."""
    corners: list[int] = []
    for at in range(len(curve)):
        while len(corners) > 1:
            first, middle = corners[-2:]
            straight = curve[first] + (curve[at] - curve[first]) * (GRID[middle] - GRID[first]) / (GRID[at] - GRID[first])
            if curve[middle] < straight:
                break
            corners.pop()
        corners.append(at)
    return list(itertools.pairwise(corners))


def sizes(subject: Subject, passage: Passage, window: int) -> dict[Place, float]:
    """Bytes of codes that a token of a text reads of each input's channels, nothing masked."""
    subject.loss(passage, window)
    return {place: sum(subject.read(product, place[0])[0] for product in subject.readers(place)) for place in subject.places}
