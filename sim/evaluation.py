"""Loss of a text, by the functional engine or the reference."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sim.engine import Watch
from sim.functional import engine as functional
from sim.functional.weights import WeightCache
from sim.reference import engine as reference
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
    """``nats`` is the loss over ``tokens`` predicted ones, behind which are ``bytes`` of text, None of bare ids; see :func:`evaluate`."""

    nats: float
    tokens: int
    bytes: int | None
    executed_share: float

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
    """Loss over windows of so many tokens, each of which starts cold: its first token is not predicted.

    ``always`` executes every module, else ``policy`` and ``dial`` are those of a run (:class:`skipopu.program.run.Run`), whose prompt a
    window is. ``profile`` is the functional engine's arithmetic; ``on_result`` gets every window's result of that engine, ``say`` the
    tokens read.

    Raises:
        ProgramError: there is nothing to predict, or an id is none of the program's.
    """
    model = reference.model_of(program) if engine == "reference" else None
    weights = WeightCache(program.memory, program.machine.weight_lanes)
    head, every = np.array(passage.head, np.int64), scored(program)
    nats, share, counted, size, read = 0.0, 0.0, 0, 0, 0
    for part in windows_of(passage, window):
        ids = np.concatenate([head, passage.ids[part]])
        run = Run(tuple(ids.tolist()), 0, dial, routing=ALWAYS.name if always else policy)
        loss = Loss(ids[1:], program.model.vocab_size, 0.0 if model else program.model.logit_cap)
        if model is None:
            options = functional.Options(weights, profile, loss.add)
            result = functional.run(every, run, options, Progress(say, read))
            on_result(result)
            executed = result.executed_share
        else:
            run.validate(program)
            out = reference.forward(program, model, torch.from_numpy(ids)[None], run)
            loss.add(np.arange(len(ids)), 0, out.logits[0].numpy())
            executed = float(out.gates.mean())
        # What the head predicts of itself is no text.
        given = max(len(head) - 1, 0)
        nats += loss.nats(given)
        share += executed * len(ids)
        counted += len(ids) - 1 - given
        if passage.sizes is not None:
            size += int(passage.sizes[part][0 if len(head) else 1 :].sum())
        read += len(ids)
        say(read)
    return Evaluation(nats, counted, None if passage.sizes is None else size, share / read)
