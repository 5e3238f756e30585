"""Loss of a text, by the functional engine or the reference."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sim.engine import Watch
from sim.functional import engine as functional
from sim.functional.weights import WeightCache
from sim.reference import engine as reference
from sim.reference.model import Output
from sim.result import Computed, capped
from skipopu.errors import ProgramError
from skipopu.isa.spec import TokenList, instruction_of
from skipopu.numerics.profile import EXACT18, PROFILES, Profile
from skipopu.policy import ALWAYS
from skipopu.program.program import Program
from skipopu.program.run import COMPILED, Run
from skipopu.text import Passage

# No result depends on the chunk (tested), so a checkpoint is evaluated in larger ones than the target's.
CHUNK = 64
BATCH, LOGITS = 16, 1 << 26  # windows that the reference reads at a time, and numbers that it may give for them


class Loss:
    """-log p in nats of each position's target, whose logits come in parts of the vocabulary: none is kept.

    Attributes:
        targets: ids (n,) of positions 0 to n - 1.
        cap: of logits, which are added without it; 0 for none.
    """

    def __init__(self, targets: NDArray[np.int64], vocabulary: int, cap: float = 0.0) -> None:
        self.targets, self.vocabulary, self.cap = targets, vocabulary, cap
        self.top = np.full(len(targets), -np.inf)
        self.total, self.own = np.zeros(len(targets)), np.full(len(targets), np.nan)

    def add(self, positions: NDArray[np.int64], first: int, logits: NDArray[np.float32]) -> None:
        """Logits (positions, ids) of the ids from ``first`` on; positions without a target do not count."""
        kept = positions < len(self.targets)
        where, part = positions[kept], capped(logits[kept, : self.vocabulary - first], self.cap).astype(np.float64)
        if not part.size:
            return
        top = np.maximum(self.top[where], part.max(-1))
        with np.errstate(invalid="ignore"):  # a NaN stays one
            self.total[where] *= np.exp(self.top[where] - top)
            self.total[where] += np.exp(part - top[:, None]).sum(-1)
        self.top[where] = top
        target = self.targets[where] - first
        here = (target >= 0) & (target < part.shape[1])
        self.own[where[here]] = part[here, target[here]]

    def nats(self, first: int = 0) -> float:
        """Sum over the positions from ``first`` on."""
        return float((self.top + np.log(self.total) - self.own)[first:].sum())


@dataclass(frozen=True)
class Evaluation:
    """``nats`` is the loss over ``tokens`` predicted ones, behind which are ``bytes`` of text, None of bare ids; see :func:`measured`.

    ``channels`` is as of :class:`sim.result.Result`.
    """

    nats: float
    tokens: int
    bytes: int | None
    executed_share: float
    channels: tuple[int, int] = (0, 0)

    @property
    def nats_per_token(self) -> float:
        return self.nats / self.tokens

    @property
    def bits_per_byte(self) -> float | None:
        return self.nats / math.log(2) / self.bytes if self.bytes else None


def scored(program: Program) -> Program:
    """``program`` with what it does for the last token of a prompt only done for every one: for the functional engine, which holds logits
    that no machine's buffer would."""
    words = []
    for word in program.instructions:
        instruction = instruction_of(word)
        if instruction is not None and (fields := instruction.decode(word)).get("list") == TokenList.LAST:
            word = instruction.encode({**fields, "list": TokenList.ALL})
        words.append(word)
    return dataclasses.replace(program, instructions=words)


class Progress(Watch):
    """Tells how many tokens were read, those of ``before`` among them."""

    def __init__(self, say: Callable[[int], None], before: int) -> None:
        self.say_read, self.before = say, before

    def positions(self, done: int) -> None:
        self.say_read(self.before + done)


def windows_of(passage: Passage, window: int) -> list[slice]:
    """Parts of a passage's ids that are evaluated, each with the passage's head before it; raises ProgramError when there are none."""
    step = max(1, window - len(passage.head))
    parts = [slice(i, min(i + step, len(passage.ids))) for i in range(0, len(passage.ids), step)]
    parts = [part for part in parts if part.stop - part.start + len(passage.head) > 1]
    if not parts:
        raise ProgramError(
            f"there are {len(passage.ids)} tokens to predict; at least two are needed, or one behind a first token"
        )
    return parts


# Reads windows of one length, (windows, tokens) ids; adds the logits to the windows' losses, says the executed share of each.
Forward = Callable[[NDArray[np.int64], list[Loss]], Sequence[float]]


def measured(
    passage: Passage,
    window: int,
    forward: Forward,
    vocabulary: int,
    cap: float = 0.0,
    together: int = 1,
    say: Callable[[int], None] = lambda done: None,
) -> Evaluation:
    """Loss over windows of so many tokens, each of which starts cold: its first token is not predicted.

    ``forward`` gets up to ``together`` windows at once; ``cap`` is of logits that come without it; ``say`` gets the tokens read.

    Raises:
        ProgramError: there is nothing to predict.
    """
    head, sizes = np.array(passage.head, np.int64), passage.sizes
    given = max(len(head) - 1, 0)  # what the head predicts of itself is no text
    nats, share, counted, size, read = 0.0, 0.0, 0, 0, 0
    for parts in _side_by_side(windows_of(passage, window), together):
        ids = np.stack([np.concatenate([head, passage.ids[part]]) for part in parts])
        losses = [Loss(row[1:], vocabulary, cap) for row in ids]
        share += sum(forward(ids, losses)) * ids.shape[1]
        nats += sum(loss.nats(given) for loss in losses)
        counted += ids.size - len(ids) * (1 + given)
        size += sum(int(sizes[part][0 if len(head) else 1 :].sum()) for part in parts) if sizes is not None else 0
        read += ids.size
        say(read)
    return Evaluation(nats, counted, None if sizes is None else size, share / read)


def _side_by_side(parts: list[slice], most: int) -> Iterator[list[slice]]:
    """Windows of one length, up to ``most`` at a time."""
    for _, same in itertools.groupby(parts, lambda part: part.stop - part.start):
        alike = list(same)
        yield from (alike[first : first + most] for first in range(0, len(alike), most))


def measured_by_reference(
    passage: Passage,
    window: int,
    read: Callable[[Tensor], Output],
    vocabulary: int,
    say: Callable[[int], None] = lambda done: None,
) -> Evaluation:
    """:func:`measured` by a reference model, which has ``read`` (windows, tokens) ids."""

    def forward(ids: NDArray[np.int64], losses: list[Loss]) -> list[float]:
        out = read(torch.from_numpy(ids))
        for loss, logits in zip(losses, out.logits.numpy(), strict=True):
            loss.add(np.arange(len(logits)), 0, logits)
        return out.gates.mean((1, 2, 3)).tolist()

    together = max(1, min(BATCH, LOGITS // (window * vocabulary)))
    return measured(passage, window, forward, vocabulary, together=together, say=say)


def evaluate(
    program: Program,
    passage: Passage,
    engine: str,
    window: int,
    always: bool,
    profile: Profile = PROFILES[EXACT18],
    on_result: Callable[[Computed], None] = lambda result: None,
    say: Callable[[int], None] = lambda done: None,
    policy: str = COMPILED,
    dial: float = 0.0,
) -> Evaluation:
    """Loss of a program over windows, see :func:`measured`.

    ``always`` executes every module, else ``policy`` and ``dial`` are those of a run (:class:`skipopu.program.run.Run`), whose prompt a
    window is. ``profile`` is the functional engine's arithmetic; ``on_result`` gets every window's result of that engine, ``say`` the
    tokens read.

    Raises:
        ProgramError: there is nothing to predict, or an id is none of the program's.
    """
    routing, vocabulary = ALWAYS.name if always else policy, program.model.vocab_size
    channels: list[tuple[int, int]] = []

    def told(found: Evaluation) -> Evaluation:
        active, every = zip(*channels, strict=True)
        return dataclasses.replace(found, channels=(sum(active), sum(every)))

    if engine == "reference":
        model = reference.model_of(program)

        def read(ids: Tensor) -> Output:
            runs = [Run(tuple(row), 0, dial, routing=routing) for row in ids.tolist()]
            for run in runs:
                run.validate(program)
            out = reference.forward(program, model, ids, runs[0])
            channels.append(out.channels)
            return out

        return told(measured_by_reference(passage, window, read, vocabulary, say))
    weights, every, before = WeightCache(program.memory, program.machine), scored(program), 0

    def forward(ids: NDArray[np.int64], losses: list[Loss]) -> list[float]:
        nonlocal before
        run, options = (
            Run(tuple(ids[0].tolist()), 0, dial, routing=routing),
            functional.Options(weights, profile, losses[0].add),
        )
        result = functional.run(every, run, options, Progress(say, before))
        before += ids.size
        channels.append(result.channels)
        on_result(result)
        return [result.executed_share]

    return told(measured(passage, window, forward, vocabulary, program.model.logit_cap, say=say))
