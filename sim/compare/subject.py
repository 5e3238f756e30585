"""What is compared: a shape under random routing, or a checkpoint with what its routers decide on a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compiler.frontend.checkpoint import load
from compiler.pipeline import compile_checkpoint
from sim.asked import Skip, Trace
from sim.compare.comparison import Comparison, compare
from sim.estimate import Workload
from sim.functional import engine as functional
from sim.routing import load_trace
from skipopu.errors import ProgramError
from skipopu.machine.config import Machine
from skipopu.model_config import ModelConfig
from skipopu.program.run import Run
from skipopu.text import NoText, carried, text_of

SHAPE_SKIP = "0.25"  # of a shape for which nothing else is asked


def routers_decide(
    model: Path,
    text: Path,
    machine: Machine,
    kv: str,
    prompt: int,
    new: int,
    routers: Path | None,
    lora: Path | None,
    remark: Callable[[str], None],
) -> NDArray[np.bool_]:
    """bool (layers, 2, prompt + new): what a checkpoint does on the first tokens of a text, by the functional engine."""
    try:
        data = text.read_bytes()
    except OSError as error:
        raise ProgramError(
            f"{text}: cannot be read ({error.strerror}); give a prompt with --text, or routing with --skip"
        ) from None
    checkpoint = load(model, routers, lora, mask_file=False)
    try:
        ids = text_of(checkpoint.config, carried(model), model.name).encode(data)
    except NoText as error:
        raise NoText(f"{error}; use --skip or --skip-trace") from None
    if len(ids) < prompt:
        raise ProgramError(f"{text} has {len(ids)} tokens; --context {prompt}+{new} needs a prompt of {prompt}")
    group = min(128, max(machine.weight_lanes, 32))
    program = compile_checkpoint(checkpoint, machine, kv, context=prompt + new, group=group)
    remark("The checkpoint's routers decide (functional engine).")
    result = functional.run(program, Run(ids[:prompt], new))
    if len(result.tokens) < new:
        remark(f"The model ended its text after {len(result.tokens)} tokens; the rest is routed like its last token.")
    missing = prompt + new - result.routing.shape[2]
    return np.concatenate([result.routing, np.repeat(result.routing[..., -1:], missing, -1)], -1)


def compare_model(
    model: Path | str,
    machine: Machine,
    prompt: int,
    new: int,
    *,
    kv: str = "reuse",
    skip: Skip = None,
    trace: Trace = None,
    seed: int = 0,
    routers: Path | None = None,
    lora: Path | None = None,
    text: Path | None = None,
    measured: Sequence[Path] = (),
    workers: int | None = None,
    say: Callable[[int, int], None] = lambda done, of: None,
    remark: Callable[[str], None] = lambda sentence: None,
) -> Comparison:
    """:func:`sim.compare.comparison.compare` of a checkpoint's directory (a path) or of a shape (a string).

    Without ``skip`` and ``trace``, a checkpoint's routers decide on ``text`` (its ``heldout.txt`` unless given); a shape skips
    a quarter. ``remark`` receives sentences.
    """
    config: ModelConfig | None = None
    routing = load_trace(Path(trace)) if isinstance(trace, str | Path) else trace
    if isinstance(model, Path):
        config = ModelConfig.load(model)
        if routing is None and skip is None:
            routing = routers_decide(model, text or model / "heldout.txt", machine, kv, prompt, new, routers, lora, remark)
    name = model.absolute().name if isinstance(model, Path) else model
    asked = "trace" if routing is not None else SHAPE_SKIP if skip is None else str(skip)
    workload = Workload(name, prompt, new, asked, kv, seed)
    return compare(machine, workload, config, routing, measured, workers, say)
