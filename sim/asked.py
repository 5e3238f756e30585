"""What a run is asked for, as users say it: text to token ids, skip ratios or a trace to routing. Commands and front door alike."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim import engines
from sim.result import Routed
from sim.routing import independent, load_trace, ratios
from skipopu.accept import INTEGER, shown
from skipopu.errors import ProgramError, not_known
from skipopu.program.program import Program
from skipopu.program.run import COMPILED, Run
from skipopu.text import NoText

Prompt = str | bytes | Sequence[int]
Skip = float | str | Path | None
Trace = NDArray[np.bool_] | Path | str | None
IDS = "one or more token ids: a .npy of integers (n,), or text, a JSON list or numbers with spaces or commas between them"


def text_ids(
    program: Program, text: str | bytes, instead: str = "give token ids instead, with --tokens", chat: bool = False
) -> tuple[int, ...]:
    """Token ids of a model's text, by its tokenizer or byte by byte; ``chat`` puts it into the checkpoint's template.

    Raises:
        ProgramError: the model takes no text, or not this one.
    """
    try:
        return program.text.chat(text) if chat and isinstance(text, str) else program.text.encode(text)
    except NoText as error:
        raise NoText(f"{error}; {instead}") from None


def read_ids(path: Path, vocabulary: int) -> NDArray[np.int64]:
    """Token ids (n,) of a file, int64.

    Raises:
        ProgramError: it holds something else, or an id that is not below ``vocabulary``.
    """
    try:
        data = path.read_bytes()
        if path.suffix == ".npy":
            ids = np.load(path, allow_pickle=False)
        elif (text := data.decode()).lstrip().startswith("["):
            ids = np.array(json.loads(text))
        else:
            ids = np.array([int(part) for part in re.split(r"[\s,]+", text) if part])
    except OSError as error:
        raise ProgramError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, OverflowError, EOFError, RecursionError) as error:
        raise ProgramError(f"{path}: cannot be read ({' '.join(str(error).split())}); accepted: {IDS}") from None
    if ids.ndim != 1 or not ids.size or ids.dtype.kind not in "iu":
        raise ProgramError(f"{path}: it holds {ids.dtype} of shape {ids.shape}; accepted: {IDS}")
    if (beyond := ids[(ids < 0) | (ids >= vocabulary)]).size:
        raise ProgramError(
            f"{path}: it holds {shown(int(beyond[0]))}; accepted: ids below the model's vocab_size, {vocabulary}"
        )
    return ids.astype(np.int64)


def token_ids(program: Program, prompt: Prompt | int) -> tuple[int, ...]:
    """Token ids of a prompt: of text or bytes, or the ids themselves.

    Raises:
        ProgramError: the program has no weights, the model takes no text, or ``prompt`` is only a number of tokens.
    """
    if not isinstance(program, Program):
        raise ProgramError(f"program is {program!r}; accepted: what compile returns")
    if not program.memory:
        raise ProgramError(
            f"the program of shape {program.source['checkpoint']} has no weights: the timing engine runs it, on a number of tokens"
        )
    if isinstance(prompt, int):
        raise ProgramError(f"prompt is {prompt}; a number of tokens is enough for the program of a shape only")
    if isinstance(prompt, str | bytes):
        return text_ids(program, prompt, "give token ids instead")
    if not isinstance(prompt, Iterable) or not all(isinstance(token, int | np.integer) for token in prompt):
        raise ProgramError(f"prompt is {prompt!r}; accepted: text, or token ids")
    return tuple(int(token) for token in prompt)


def routing_of(layers: int, tokens: int, skip: Skip, trace: Trace, seed: int, what: str) -> NDArray[np.bool_] | None:
    """bool (layers, 2, tokens), 1 = execute, of skip ratios (see :func:`sim.routing.ratios`) or of a trace; None of neither.

    Raises:
        ProgramError: not such ratios (``what`` was given them) or no such trace.
    """
    if skip is not None:
        return independent(layers, tokens, *ratios(str(skip), layers, what), seed)
    if trace is not None and not isinstance(trace, str | Path | np.ndarray):
        raise ProgramError(f"trace is {type(trace).__name__}; accepted: an array of bool (layers, 2, tokens), or its file")
    return load_trace(Path(trace)) if isinstance(trace, str | Path) else trace


def only_one(done: str = "skipped", /, **given: object) -> None:
    """Raises ProgramError when more than one says what is skipped, or ``done`` otherwise."""
    said = [name for name, value in given.items() if value is not None]
    if len(said) > 1:
        raise ProgramError(f"what is {done} is said twice, by {' and '.join(said)}; accepted: one of {', '.join(given)}")


def run_of(
    program: Program,
    prompt: Sequence[int],
    max_new: int,
    *,
    skip: Skip = None,
    trace: Trace = None,
    policy: str | None = None,
    seed: int = 0,
    dial: float = 0.0,
    check: bool = False,
    what: str = "skip",
) -> Run:
    """A run of ``program``, validated; see :func:`sim.api_runs.run` for what it takes.

    Raises:
        ProgramError: it does not fit the program, or ``dial`` would change nothing.
    """
    only_one(skip=skip, trace=trace, policy=policy)
    INTEGER.check(max_new, "max_new", ProgramError)
    routing = routing_of(program.model.num_layers, len(prompt) + max_new, skip, trace, seed, what) if max_new >= 0 else None
    if dial and routing is not None:
        raise ProgramError(f"dial is {dial}, the routers' threshold; skip ratios and traces replace the routers")
    run = Run(tuple(prompt), max_new, dial, check, (policy or COMPILED) if routing is None else routing)
    run.validate(program)
    refuse_idle_dial(program, run)
    return run


def refuse_idle_dial(program: Program, run: Run) -> None:
    """Raises ProgramError for a dial that no policy of the run looks at."""
    if run.dial and not any(policy.weighs for layer in run.policies(program) for pair in layer for policy in pair):
        lacking = f"model {program.source['checkpoint']} has no routers"
        why = "no policy of this run looks at it" if program.source["routers"] else lacking
        raise ProgramError(f"dial is {run.dial}; it has no effect: {why}")


def run_without_weights(
    program: Program, length: int, max_new: int, *, skip: Skip = None, trace: Trace = None, seed: int = 0, what: str = "skip"
) -> tuple[Run, Routed]:
    """A run of a shape's program, whose tokens are only counted, and what the timing engine is to take as executed.

    ``length`` is the prompt's; without ``skip`` and ``trace`` everything executes.

    Raises:
        ProgramError: it does not fit the program.
    """
    only_one(skip=skip, trace=trace)
    layers, total = program.model.num_layers, length + max_new
    run = Run((0,) * length, max_new)
    run.validate(program)
    asked: Any = "0" if skip is None and trace is None else skip
    routing = routing_of(layers, total, asked, trace, seed, what)
    assert routing is not None
    if routing.dtype != bool or routing.ndim != 3 or routing.shape[:2] != (layers, 2) or routing.shape[2] < total - 1:
        raise ProgramError(
            f"the routing trace is {routing.dtype} of shape {routing.shape}; this run needs bool ({layers}, 2, {total - 1})"
        )
    executed = routing.copy()
    for layer, module in program.kv.forces(layers):
        executed[layer, module] = True
    return run, Routed(tokens=[0] * max_new, routing=executed)


def options_of(engine: str, options: Mapping[str, Any]) -> Any:
    """An engine's options by name; raises ProgramError for one that it does not have."""
    kind = engines.options(engine)
    accepted = [field.name for field in dataclasses.fields(kind)]
    for name in options:
        if name not in accepted:
            raise ProgramError(not_known(f"option of the {engine} engine", name, accepted))
    return kind(**options)
