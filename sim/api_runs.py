"""What ``import skipopu as sk`` offers to programs that :mod:`sim.api` compiled: run, check, compare, draw.

Where a command has a function's name, both do the same, by the same code. Examples run as tests, with ``import skipopu as sk``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from sim import engines
from sim.asked import Prompt, Skip, Trace, only_one, options_of, run_of, run_without_weights, token_ids
from sim.engine import QUIET, Watch
from sim.mask_traces import load_mask_trace
from sim.result import Computed, Counted, Result, Routed, Timed
from sim.timeline import Span, figure
from sim.timing.masks import channels
from skipopu.errors import ProgramError
from skipopu.program.program import Program
from skipopu.shapes import SHAPES
from skipopu.shipped import path_or_shipped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sim.check import Check
    from sim.compare.comparison import Comparison

from sim.api import Target
from sim.api import target as _machine


@overload
def run(
    program: Program, prompt: Prompt | int, max_new: int = ..., engine: Literal["functional"] = ..., **asked: Any
) -> Computed: ...
@overload
def run(
    program: Program, prompt: Prompt | int, max_new: int = ..., *, engine: Literal["reference"], **asked: Any
) -> Routed: ...
@overload
def run(program: Program, prompt: Prompt | int, max_new: int = ..., *, engine: Literal["timing"], **asked: Any) -> Timed: ...
@overload
def run(program: Program, prompt: Prompt | int, max_new: int = ..., *, engine: Literal["rtl"], **asked: Any) -> Counted: ...
@overload
def run(program: Program, prompt: Prompt | int, max_new: int = ..., engine: str = ..., **asked: Any) -> Result: ...
def run(
    program: Program,
    prompt: Prompt | int,
    max_new: int = 64,
    engine: str = "functional",
    *,
    skip: Skip = None,
    trace: Trace = None,
    policy: str | None = None,
    seed: int = 0,
    dial: float = 0.0,
    mask: float | None = None,
    mask_trace: str | Path | None = None,
    check: bool = False,
    watch: Watch = QUIET,
    **options: Any,
) -> Result:
    """Runs a program on one engine, greedily, batch 1.

    Args:
        prompt: text or bytes (see ``program.text``), or token ids; for the program of a shape, how many tokens.
        max_new: tokens to generate; 0 evaluates the prompt only.
        engine: "functional" (every bit of the machine), "reference" (PyTorch), "timing" (cycles) or "rtl" (Verilator).
        skip: random routing instead of the routers: the share of modules to skip, 0 (everything executes) to 1, or
            "attn=R,ffn=R", or a YAML file with ratios per layer; drawn with ``seed``.
        trace: replays a routing, bool (layers, 2, positions), 1 = execute, as a result's ``routing`` is, or a .npy file of it.
        policy: one of :data:`skipopu.policy.WHOLE_RUN` for every module, as "always", "never" and "exit".
        dial: the threshold of what decides; of routers in the logits' unit; larger skips more.
        mask: of a shape with thresholds, the share of input channels that generated tokens leave out, drawn with ``seed``; ``mask_trace``:
            a file of masks that were recorded (docs/masks.md).
        check: the machine records a signature of each instruction.
        watch: is told of tokens and progress.
        options: of the engine, the fields of its ``Options`` in ``sim/NAME/options.py``: ``spans`` of the timing engine,
            ``memory`` and ``waves`` of the RTL.

    Returns:
        ``tokens`` and what the engine knows: ``routing``, ``counters`` (cycles and beats), the memory's bytes at the end.

    Raises:
        ProgramError: prompt, lengths or routing do not fit the program, or an option is not the engine's.
        MachineHalt: the machine stopped with an error code, or would.

    >>> program = sk.compile("pybyte-300k", target="ulx3s")
    >>> bytes(sk.run(program, "def read(self", max_new=4).tokens)
    b'):\\n '
    """
    own = options_of(engine, options)
    asked = {"skip": skip, "trace": trace, "seed": seed}
    if isinstance(prompt, int) and not program.memory and engine == "timing":
        if policy or dial or check:
            raise ProgramError(
                f"policy, dial and check have no effect on shape {program.source['checkpoint']}, which is only timed"
            )
        only_one("masked", mask=mask, mask_trace=mask_trace)
        request, routed = run_without_weights(program, prompt, max_new, **asked)
        active = None if mask_trace is None else load_mask_trace(Path(mask_trace), program.model, prompt + max_new - 1)
        left = channels(program, mask, active, seed)
        own = dataclasses.replace(own, routed=routed, **({} if left is None else {"channels": left}))
        return engines.engine(engine).run(program, request, own, watch)
    if mask is not None or mask_trace is not None:
        raise ProgramError(
            "mask and mask_trace have no effect but on a shape that is timed; thresholds of a checkpoint are its own"
        )
    request = run_of(program, token_ids(program, prompt), max_new, **asked, policy=policy, dial=dial, check=check)
    return engines.engine(engine).run(program, request, own, watch)


def check(
    program: Program,
    prompt: Prompt,
    max_new: int = 16,
    *,
    skip: Skip = None,
    trace: Trace = None,
    policy: str | None = None,
    seed: int = 0,
    dial: float = 0.0,
    rtl: bool = True,
    watch: Watch = QUIET,
) -> Check:
    """Runs all engines on the same input (see :func:`run`) and compares them: bits, tokens, routing, cycles.

    Without ``rtl`` no simulation is built, which takes a minute where none is kept.

    Returns:
        ``ok``, ``problems`` in sentences, ``differing_bits`` and ``cycle_error`` of the RTL, every engine's result.

    Raises:
        ProgramError: as of :func:`run`.

    >>> program = sk.compile("pybyte-300k", target="ulx3s")
    >>> sk.check(program, "def read(self", max_new=2, rtl=False).ok
    True
    """
    from sim import check as checking

    asked = {"skip": skip, "trace": trace, "policy": policy, "seed": seed, "dial": dial}
    return checking.check(program, run_of(program, token_ids(program, prompt), max_new, **asked), watch, with_rtl=rtl)


def compare(
    model: str | Path,
    target: Target = "u280",
    prompt: int = 128,
    max_new: int = 1024,
    *,
    kv: str = "reuse",
    skip: Skip = None,
    trace: Trace = None,
    seed: int = 0,
    mask: float | None = None,
    mask_trace: str | Path | None = None,
    masks: str | Path | None = None,
    routers: Path | None = None,
    lora: Path | None = None,
    text: Path | None = None,
    measured: Sequence[Path] = (),
    workers: int | None = None,
) -> Comparison:
    """A known shape, or a checkpoint's directory, on a machine against published GPUs and FPGAs doing the same work.

    ``prompt`` and ``max_new`` are numbers of tokens. A checkpoint's routers decide on ``text`` unless ``skip`` or ``trace`` says
    otherwise; a shape skips a quarter. ``mask`` is a share of input channels to leave out, ``mask_trace`` a file of recorded masks,
    ``masks`` one of thresholds for the text (docs/masks.md). ``measured`` are files of records from GPUs of your own; ``workers`` processes, default
    one per core. A minute for Llama-2-7B on two cores.

    Returns:
        ``dense`` and ``skipping`` (``tokens_per_s``, ``time_to_first_token`` in s, bytes), both again in ``masked``, the same around
        them, and ``gpu_rows``; :func:`sim.compare.render.write` makes pages of it.

    Raises:
        SkipopuError: the work does not fit the machine, or a file of measured records is wrong.

    >>> sk.compare("llama-2-7b", "u280").skipping.tokens_per_s  # doctest: +SKIP
    147.0
    """
    from sim.compare.subject import compare_model

    subject = str(model) if str(model) in SHAPES else path_or_shipped(str(model))
    if lora is not None and str(model) in SHAPES:
        raise ProgramError(f"lora is {str(lora)!r}; it has no effect on shape {model}, which has no weights")
    asked: dict[str, Any] = {"skip": skip, "trace": trace, "seed": seed, "routers": routers, "lora": lora, "text": text}
    asked |= {"mask": mask, "mask_trace": mask_trace, "masks": masks}
    return compare_model(subject, _machine(target), prompt, max_new, kv=kv, **asked, measured=measured, workers=workers)


def timeline(panels: Mapping[str, Sequence[Span]], position: int | None = None) -> Figure:
    """Draws what each unit did when: a panel for every title, all on one scale of cycles.

    ``panels`` holds what the timing engine's option ``spans`` received; ``position`` picks a token (the first of a prompt's chunk).

    Raises:
        ProgramError: a panel has no spans.

    >>> program, spans = sk.compile("pybyte-300k", target="ulx3s"), []
    >>> timed = sk.run(program, "def", max_new=2, engine="timing", spans=spans)
    >>> len(sk.timeline({"the token after the prompt": spans}, position=3).axes)
    1
    """
    chosen = {title: [s for s in spans if position in (None, s.position)] for title, spans in panels.items()}
    return figure(list(chosen.items()))
