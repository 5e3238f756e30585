"""The weights of a product with thresholds: what is left out is known when the product begins, and what is left is fetched in runs."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.timing.flow import Flow, ended
from sim.timing.multiplying import Multiplying
from sim.timing.reader import FIRST, READABLE, Pending, Reader, Windows
from sim.timing.stationary import Tile, Tiles
from skipopu.machine import pipeline
from skipopu.machine.config import Machine
from skipopu.masks import ThresholdTable

KNOWN = 3  # cycles behind a group's last comparison until what is needed of it is known
GROUP = 5  # cycles of the fetch's walk over a group, besides its pieces
TILE = 3  # from a tile's last run to the next one's first group
QUEUE, ROOM = 5, 3  # runs that are found before the first of them is accepted, at most; from then until the next one is found
FOUND = 2  # a run found, where no queue is, to the address of its first burst
LOOK = 4  # a part's end to the next part's first run of beats being found
OVER = 1  # bubble behind a part whose last words have no beat
TURN = 1  # bubble behind a tile, while the next one's shape is worked out


@dataclass(frozen=True, eq=False)
class Masked:
    """A product's weights less the channels that no token needs.

    Attributes:
        tiles: all of its weights. active: bool (groups, group).
        thresholds: beats of the first port that holds them. pieces: cycles in which a group's keys are compared.
        word: channels that are looked at in a cycle. again: the product before has the same mask, which is known.
        leading: groups of the first tile that are fetched whole, before anything is compared.
    """

    tiles: Tiles
    active: NDArray[np.bool_]
    thresholds: int
    pieces: int
    word: int
    again: bool = False
    leading: int = 0

    @property
    def alike(self) -> Iterator[tuple[Tile, int]]:
        """Tiles, those that are fetched alike together, and how many of their groups are fetched whole."""
        first, *others = self.tiles.tiles
        if self.leading:
            yield first._replace(times=1), self.leading
            first = first._replace(times=first.times - 1)
        for tile in (first, *others):
            if tile.times:
                yield tile, 0

    def codes(self, tile: Tile, whole: int) -> NDArray[np.bool_]:
        """bool (groups, beats of a group): which beats are fetched: those with an active channel, of the first ``whole`` groups all."""
        beats = np.asarray(self.active.reshape(len(self.active), sum(tile.group.parts), -1).any(-1))
        beats[:whole] = True
        return beats

    def tile_beats(self, tile: Tile, whole: int) -> int:
        """Beats of a tile that are fetched."""
        return len(self.active) * tile.group.head + int(self.codes(tile, whole).sum())

    @property
    def beats(self) -> int:
        """Of all tiles, in a port with a block in every round."""
        return sum(tile.times * self.tile_beats(tile, whole) for tile, whole in self.alike)

    @property
    def steps(self) -> int:
        """Of the array: a part without a beat is a step too."""
        steps = (tile.times * int(np.maximum(1, self.counts(tile, whole)).sum()) for tile, whole in self.alike)
        return self.tiles.passes * sum(steps)

    def word_beats(self, tile: Tile) -> int:
        """Beats of a word of channels."""
        return self.word * sum(tile.group.parts) // self.active.shape[1]

    def skipped(self, tile: Tile, whole: int) -> Iterator[Iterator[list[int]]]:
        """Of each group's parts: words without a beat in front of each beat, and behind the last."""
        codes, ends, word = self.codes(tile, whole), np.cumsum((0, *tile.group.parts)), self.word_beats(tile)

        def of_part(part: NDArray[np.bool_]) -> list[int]:
            words = np.concatenate([[-1], np.flatnonzero(part) // word, [len(part) // word]])
            return np.maximum(0, np.diff(words) - 1).tolist()

        for group in codes:
            yield (of_part(group[a:b]) for a, b in itertools.pairwise(ends))

    def counts(self, tile: Tile, whole: int) -> NDArray[np.int64]:
        """(groups, parts) beats."""
        codes, ends = self.codes(tile, whole), np.cumsum((0, *tile.group.parts))
        return np.stack([codes[:, a:b].sum(1) for a, b in itertools.pairwise(ends)], 1)


def masked(machine: Machine, group: int, tiles: Tiles, active: NDArray[np.bool_], slots: int, again: bool = False) -> Masked:
    """A product with ``active`` channels, bool (groups, group), of any of ``slots`` tokens; see :class:`Masked` for ``again``."""
    beats = first_thresholds(machine, len(active), group)
    word = max(machine.channel_slots, machine.vector_lanes)
    leading = 0 if again else machine.leading_groups(len(active), group)
    return Masked(tiles, active, beats, group // machine.vector_lanes * slots, word, again, leading)


def first_thresholds(machine: Machine, groups: int, group: int) -> int:
    """Beats of thresholds in the first port, which holds most of them."""
    table = ThresholdTable(groups, group, machine.mask_ports, machine.beat_bytes)
    return -(-groups // machine.mask_ports) * table.group_bytes // machine.beat_bytes


def threshold_beats(machine: Machine, groups: int, group: int) -> int:
    """Of all ports."""
    table = ThresholdTable(groups, group, machine.mask_ports, machine.beat_bytes)
    return groups * table.group_bytes // machine.beat_bytes


class Piece(NamedTuple):
    """What the fetch finds in a cycle: beats of a word of channels that follow one another, or a group's scales (``head``).

    beat: the first one in its tile. empty: words without a beat that were looked at before.
    """

    beat: int
    beats: int
    group: int
    head: bool
    empty: int


def pieces_of(product: Masked, tile: Tile, whole: int) -> list[Piece]:
    """Of a tile behind its first ``whole`` groups, in their order."""
    codes, head, word = product.codes(tile, whole), tile.group.head, product.word_beats(tile)
    apart = np.zeros((len(codes), codes.shape[1] // word, word + 1), bool)  # words with a gap behind each
    apart[..., :word] = codes.reshape(len(codes), -1, word)
    flat = np.concatenate([[False], apart.reshape(-1)])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    first, behind = edges[0::2], edges[1::2]
    words = first // (word + 1)
    group, within = np.divmod(words, codes.shape[1] // word)
    beat = group * (head + codes.shape[1]) + head + within * word + first % (word + 1)
    new = np.diff(words, prepend=-1)
    pieces: list[Piece] = []
    at = int(np.searchsorted(group, whole))
    for number in range(whole, len(codes)):
        pieces.append(Piece(number * (head + codes.shape[1]), head, number, True, 0))
        while at < len(first) and group[at] == number:
            pieces.append(Piece(int(beat[at]), int(behind[at] - first[at]), number, False, max(0, int(new[at]) - 1)))
            at += 1
    return pieces


class Segment(NamedTuple):
    """Beats that the array takes one behind the other. part: they are a part's codes, else a group's scales; first: of its tile.

    ends: the tile, if they are its last ones. skipped: words of channels without a beat, in front of each beat and behind the last.
    """

    beats: int
    part: bool
    first: bool
    sums: int
    ends: Tile | None = None
    skipped: Sequence[int] = ()


def segments(product: Masked) -> Iterator[Segment]:
    """Of all tiles."""
    for tile, whole in product.alike:
        for _ in range(tile.times):
            for number, parts in enumerate(product.skipped(tile, whole)):
                yield Segment(tile.group.head, False, False, 0)
                for k, skipped in enumerate(parts):
                    last = number == len(product.active) - 1 and k == len(tile.group.parts) - 1
                    yield Segment(len(skipped) - 1, True, number == k == 0, tile.sums, tile if last else None, skipped)


class MaskedWalk(Multiplying):
    """As :class:`sim.timing.stationary.Walk`, with parts of any number of beats; ``over``: when the part before ended."""

    def __init__(self, machine: Machine, product: Masked, begin: int, takes: list[int]) -> None:
        super().__init__(machine, product.tiles, begin, takes)
        self.segments, self.over = segments(product), self.take
        self.next()

    def next(self) -> None:
        """The next segment that has beats."""
        for segment in self.segments:
            self.segment, self.left = segment, segment.beats
            if segment.part:
                found = self.over + LOOK + (segment.skipped[0] if segment.beats else 0)
                self.take = max(self.take, found, self.free[self.half])
                self.opened = self.take + 1
            if segment.beats:
                return
            self.complete()

    def feed(self, arrivals: list[int]) -> None:
        """Beats that come at ``arrivals``."""
        for at in arrivals:
            self.take += 1
            if self.segment.part and self.left < self.segment.beats:
                self.take += self.segment.skipped[-1 - self.left]
            if at + READABLE > self.take:
                self.take = at + READABLE
            self.takes.append(self.take)
            self.left -= 1
            if not self.left:
                if self.segment.part:
                    self.complete()
                self.next()

    def complete(self) -> None:
        """A part has all its beats; one without any is a step too."""
        segment = self.segment
        if segment.skipped[-1] or not segment.beats:
            self.take += OVER + segment.skipped[-1]
        self.multiply(max(1, segment.beats), segment.first, segment.sums)
        if segment.ends is not None:
            self.take += TURN
            self.drain(segment.ends)
        self.over = self.take


def compare(machine: Machine, product: Masked, bring: Callable[[int], list[int]], takes: list[int], begin: int) -> list[int]:
    """Fetches thresholds, which are taken group by group, one from each port that has some in turn; when each group is compared."""
    groups, ports = len(product.active), machine.mask_ports
    each = product.thresholds // -(-groups // ports)  # beats of a group in its port
    now, known, done = begin + 1 + pipeline.told(machine), list[int](), 0  # it hears of the product a cycle later
    for first in range(0, product.thresholds, machine.burst):
        for arrival in bring(min(machine.burst, product.thresholds - first)):
            now, done = max(now, arrival + READABLE) + product.pieces // each, done + 1
            takes.append(now)
            if done % each == 0:  # the other ports' groups are there too
                turn = min(ports, groups - len(known))
                known += [now + product.pieces * number for number in range(turn)]
                now = known[-1]
    return known


def flow(
    machine: Machine, product: Masked, readers: list[Reader], pending: Pending, due: int, begin: int, blocked: Windows
) -> Flow:
    """Walks a product whose thresholds, or weights where its mask is known, are asked for from ``due`` on; it begins at ``begin``."""
    page, whole = product.tiles.page, 4096 // machine.beat_bytes
    takes = [*pending.takes]

    def bring(size: int, since: list[int]) -> list[int]:
        ready = [reader.bring(size, at, takes, windows) for reader, at, windows in zip(readers, since, blocked, strict=True)]
        return ready[0] if len(ready) == 1 else list(map(max, zip(*ready, strict=True)))

    queued = pipeline.queued(machine)
    if product.again:
        now, known, first = due - FOUND - queued, [FIRST] * len(product.active), begin
    else:
        known = compare(machine, product, lambda size: bring(size, [due] * len(readers)), takes, begin)
        now, first = begin, known[-1] + KNOWN
    walk = MaskedWalk(machine, product, first, takes)
    runs = deque([now], QUEUE)  # when the latest were accepted
    compared = True

    def send(beat: int, beats: int) -> None:
        """A run goes out."""
        nonlocal now
        if len(runs) == QUEUE:
            now = max(now, runs[0] + ROOM)
        accepted = [max(now + 1 + queued, reader.asked + 1) for reader in readers]
        runs.append(max(accepted))
        here = (page - beat - 1) % whole + 1
        while beats:
            size = min(beats, machine.burst, here)
            walk.feed(bring(size, [since + 1 for since in accepted]))
            beats, here = beats - size, here - size or whole

    for tile, leading in product.alike:
        pieces = pieces_of(product, tile, leading)
        if leading:
            now = due
            send(0, leading * tile.group.beats)
            now = max(now, begin)
        for _ in range(tile.times):
            beat = beats = 0
            for piece in pieces:
                now += 1 + piece.empty + GROUP * piece.head
                if piece.head and compared:
                    now = max(now, known[piece.group] + KNOWN)
                if beats and beat + beats == piece.beat and beats < machine.burst:
                    beats += piece.beats
                    continue
                if beats:
                    send(beat, beats)
                beat, beats = piece.beat, piece.beats
            send(beat, beats)
            page = (page - tile.beats - 1) % whole + 1
            now, compared = now + TILE, False
    return ended(machine, readers, runs[-1], takes, begin, (walk.last, walk.drained + 1, walk.stalled), walk.held)
