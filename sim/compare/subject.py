"""What is compared: a shape under random routing, or a checkpoint with what its routers decide on a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compiler.frontend.checkpoint import load
from compiler.frontend.shapes import outline
from compiler.passes.heads import widen
from compiler.pipeline import compile_checkpoint
from sim.asked import Skip, Trace, only_one
from sim.compare.comparison import Comparison, compare
from sim.estimate import Workload
from sim.functional import engine as functional
from sim.mask_traces import TO_LEAVE_OUT, load_mask_trace, masked_share
from sim.masks import Active, Masks
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
    masks: Path | None,
    remark: Callable[[str], None],
) -> tuple[NDArray[np.bool_], Active | None]:
    """bool (layers, 2, prompt + new): what a checkpoint does on the first tokens of a text, by the functional engine.

    With thresholds from the file ``masks`` also what these leave out.
    """
    try:
        data = text.read_bytes()
    except OSError as error:
        raise ProgramError(
            f"{text}: cannot be read ({error.strerror}); give a prompt with --text, or routing with --skip"
        ) from None
    checkpoint = load(model, routers, lora, masks or False)
    try:
        ids = text_of(checkpoint.config, carried(model), model.name).encode(data)
    except NoText as error:
        raise NoText(f"{error}; use --skip or --skip-trace") from None
    if len(ids) < prompt:
        raise ProgramError(f"{text} has {len(ids)} tokens; --context {prompt}+{new} needs a prompt of {prompt}")
    group = min(128, max(machine.weight_lanes, 32))
    program = compile_checkpoint(checkpoint, machine, kv, context=prompt + new, group=group)
    remark("The checkpoint's routers decide (functional engine).")
    seen = Masks(program, prompt + new)
    result = functional.run(program, Run(ids[:prompt], new), functional.Options(masks=seen.see))
    if masks is not None and result.routing.shape[2] <= prompt:
        raise ProgramError(f"masks is {str(masks)!r}; the model ends the text behind its prompt, so that no token is masked")
    if len(result.tokens) < new:
        remark(
            f"The model ended its text after {len(result.tokens)} tokens; the rest is routed and masked like its last token."
        )
    processed = np.minimum(np.arange(prompt + new), result.routing.shape[2] - 1)
    active = {name: rows[:, processed] for name, rows in seen.active.items()}
    return result.routing[..., processed], active or None


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
    mask: float | None = None,
    mask_trace: Path | str | None = None,
    masks: Path | str | None = None,
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
    a quarter. Channels are masked by a share that is drawn (``mask``), by the file ``mask_trace``, or by thresholds of the file ``masks``
    while routers decide. ``remark`` receives sentences.

    Raises:
        SkipopuError: the machine cannot do it, a file is wrong, or what is masked is said twice or by thresholds without a text.
    """
    config = ModelConfig.load(model) if isinstance(model, Path) else None
    name = model.absolute().name if isinstance(model, Path) else model
    only_one("masked", mask=mask, mask_trace=mask_trace, masks=masks)
    decided = isinstance(model, Path) and trace is None and skip is None
    if masks is not None and not decided:
        raise ProgramError(f"masks is {str(masks)!r}; it has no effect where no checkpoint's routers decide on a text")
    if mask is not None and not 0 <= mask <= 1:
        raise ProgramError(f"mask is {mask}; accepted: a share in 0..1")
    if (mask, mask_trace, masks) != (None, None, None):
        machine.require_masks(TO_LEAVE_OUT)
    shape, active = widen(outline(name, config=config), machine).config, None
    if mask_trace is not None:
        active = load_mask_trace(Path(mask_trace), shape, prompt + new - 1)
    routing = load_trace(Path(trace)) if isinstance(trace, str | Path) else trace
    if isinstance(model, Path) and decided:
        read = text or model / "heldout.txt"
        thresholds = None if masks is None else Path(masks)
        routing, seen = routers_decide(model, read, machine, kv, prompt, new, routers, lora, thresholds, remark)
        active = active or seen
    asked = "trace" if routing is not None else SHAPE_SKIP if skip is None else str(skip)
    workload = Workload(name, prompt, new, asked, kv, seed)
    if active is not None:
        executed = workload.routing(shape.num_layers) if routing is None else routing
        mask = masked_share(shape, active, executed[..., : prompt + new - 1], prompt)
    return compare(machine, replace(workload, masked=mask), config, routing, measured, workers, say, active)
