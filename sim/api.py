"""What ``import skipopu as sk`` offers beside the contract's own types; :data:`skipopu.OFFERED` lists it.

Where a command has a function's name, both do the same, by the same code. Examples run as tests, with ``import skipopu as sk``.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from compiler.frontend.checkpoint import Checkpoint, load
from compiler.frontend.shapes import outline
from compiler.pipeline import compile_checkpoint
from sim import engines
from sim.asked import Prompt, Skip, Trace, options_of, run_of, run_without_weights, token_ids
from sim.engine import QUIET, Watch
from sim.result import Computed, Counted, Result, Routed, Timed
from sim.timeline import Span, figure
from skipopu.errors import ProgramError
from skipopu.machine.config import Machine
from skipopu.program.program import Program
from skipopu.shapes import SHAPES
from skipopu.shipped import path_or_shipped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sim.check import Check
    from sim.compare.comparison import Comparison
    from sim.quantise.work import Quantisation

Target = Machine | str | Path


def target(name: Target) -> Machine:
    """The machine of a shipped target, by its name, or of a description in a YAML file.

    Raises:
        ConfigError: there is no such target, or a value is outside its range.

    >>> machine = sk.target("u280")
    >>> machine.ports, machine.clock_mhz  # MHz
    (32, 225)
    """
    return name if isinstance(name, Machine) else Machine.load(name)


_machine = target  # where a parameter has its name


def checkpoint(path: str | Path, routers: str | Path | None = None, lora: str | Path | None = None) -> Checkpoint:
    """Reads a Hugging Face directory (config.json, safetensors) and its SkipGPT routers, or a shipped model by name.

    ``tensors`` of the result are float32 under Llama's names, whatever the model's family (docs/families.md); ``routers`` is a file,
    by default they are among the model's tensors or in ``routers.safetensors`` (or ``.pth``) of the directory. ``lora`` is the directory
    of a PEFT adapter (LoRA, DoRA), which is merged into them.

    Raises:
        CheckpointError: a file or tensor that is missing, misshapen or not supported.

    >>> model = sk.checkpoint("pybyte-300k")
    >>> model.tensors["model.embed_tokens.weight"].shape  # (vocabulary, hidden)
    (256, 96)
    """
    return load(path_or_shipped(str(path)), *(None if given is None else Path(given) for given in (routers, lora)))


def shape(name: str | Path, routers: str = "linear") -> Checkpoint:
    """A known architecture, or that of a config.json, without weights: to compile and to time, not to run.

    ``routers`` are "linear" or "two-layer".

    Raises:
        CheckpointError: it is not known.

    >>> sk.shape("llama-2-7b").config.num_layers
    32
    """
    return outline(str(name), routers)


def compile(
    model: Checkpoint | str | Path,
    target: Target = "tiny",
    *,
    kv: str = "reuse",
    context: int | None = None,
    weights: str | None = None,
    group: int | None = None,
    logits: bool = False,
    history: int | None = None,
    prefetch: bool = True,
    lora: str | Path | None = None,
    policies: str | Path | Mapping[str, Any] | None = None,
) -> Program:
    """Compiles a checkpoint (or its directory, or a shipped model or known shape by name) for a machine.

    Args:
        kv: keys and values of tokens that skip attention: "dense" computes them, "reuse" takes the layer before's.
        context: the largest number of tokens, prompt and generated; default what the machine's memory holds.
        weights: their format, one of the machine's ``formats``; default "int8" for products that a file holds in 8 bits, "int4" for all
            others, or "int4z" of files with 4 bits and zero points where the machine has it. ``group``: how many share a scale, default what the model says.
        logits: the program stores the logits of every position, see :func:`sim.result.logits_of`.
        history: tokens whose entries the KV history buffer keeps, default what it holds; ``prefetch``: it is filled ahead.
        lora: an adapter for the model's directory, as of :func:`checkpoint`.
        policies: who decides what is skipped, a file or its content (docs/policies.md); default the routers.

    Returns:
        The program; its ``save(directory)`` writes what ``Program.load`` reads. What the formats hold badly is a warning.

    Raises:
        CheckpointError, ConfigError: as of :func:`checkpoint` and :func:`target`, or tensors that the formats do not hold.
        ProgramError: the model does not fit the machine, with both numbers.

    >>> program = sk.compile("pybyte-300k", target="ulx3s")
    >>> program.memory[0].dtype, len(program.memory)  # a port's bytes, ports
    (dtype('uint8'), 1)
    """
    if lora is not None and (isinstance(model, Checkpoint) or str(model) in SHAPES):
        raise ProgramError(f"lora is {str(lora)!r}, and the model no directory; accepted: sk.checkpoint(directory, lora=...)")
    if not isinstance(model, Checkpoint):
        model = shape(model) if str(model) in SHAPES else checkpoint(model, lora=lora)
    program = compile_checkpoint(
        model, _machine(target), kv, logits, context, group, weights, history=history, prefetch=prefetch, policies=policies
    )
    for sentence in program.source["warnings"]:
        warnings.warn(sentence, stacklevel=2)
    return program


def quantise(
    model: str | Path,
    output: str | Path,
    *,
    method: str = "best",
    calibration: str | Path | None = None,
    samples: int = 128,
    window: int = 256,
    seed: int = 0,
    group: int | None = None,
    int8: Sequence[str] = (),
    bytes: int | None = None,
    budget: float | None = None,
    plain: bool = False,
    kv: str = "reuse",
    always: bool = False,
    text: str | Path | None = None,
    routers: str | Path | None = None,
    lora: str | Path | None = None,
) -> Quantisation:
    """Quantises a checkpoint's directory, or a shipped model, to INT4 and writes one that loads anywhere (docs/quantise.md).

    Args:
        output: directory for it.
        method: "rtn", "gptq", "awq" or "gptq+awq"; "best": gptq, or rtn where that loses less on the calibration text.
        calibration: a text, or token ids (.npy); default the source of Python's library. ``samples`` windows of ``window`` tokens of it
            are read, from places drawn with ``seed``.
        group: weights per scale, default the model's own.
        int8: products in 8 bits, some of "q", "k", "v", "o", "gate", "up", "down", "head".
        bytes: as many products in 8 bits as codes and scales of so many bytes hold, those that gain most; ``budget``: the same, as a ratio of
            what INT4 takes.
        plain: write the values in FP32, not the integers.
        kv: keys and values of tokens that skip attention, as of :func:`compile`; ``always``: every module is executed.
        text: measure losses on this one, default the calibration's windows.
        routers, lora: a file and an adapter's directory, as of :func:`checkpoint`.

    Returns:
        ``losses`` by weights ("as it is", "to nearest", the method's), the ``method`` taken, ``bytes`` written, ``found`` with each tensor's
        error, and with ``largest`` magnitudes by kind and layer.

    Raises:
        CheckpointError: the checkpoint cannot be read, quantised or written so; numbers that a format does not hold, with their layer.
        ProgramError: texts or options that do not fit the model.

    >>> import tempfile
    >>> done = sk.quantise("pybyte-300k", tempfile.mkdtemp(), samples=2, window=32)
    >>> sk.compile(done.directory, target="ulx3s").source["warnings"]
    []
    """
    from sim.quantise.work import Request, carried_out

    def path(given: str | Path | None) -> Path | None:
        return None if given is None else path_or_shipped(str(given))

    request = Request(
        model=path_or_shipped(str(model)),
        output=Path(output),
        method=method,
        calibration=path(calibration),
        text=path(text),
        samples=samples,
        window=window,
        seed=seed,
        group=group,
        int8=int8,
        bytes=bytes,
        budget=budget,
        plain=plain,
        kv=kv,
        always=always,
        routers=path(routers),
        lora=path(lora),
    )
    return carried_out(request)


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
        request, routed = run_without_weights(program, prompt, max_new, **asked)
        return engines.engine(engine).run(program, request, dataclasses.replace(own, routed=routed), watch)
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
    routers: Path | None = None,
    lora: Path | None = None,
    text: Path | None = None,
    measured: Sequence[Path] = (),
    workers: int | None = None,
) -> Comparison:
    """A known shape, or a checkpoint's directory, on a machine against published GPUs and FPGAs doing the same work.

    ``prompt`` and ``max_new`` are numbers of tokens. A checkpoint's routers decide on ``text`` unless ``skip`` or ``trace`` says
    otherwise; a shape skips a quarter. ``measured`` are files of records from GPUs of your own; ``workers`` processes, default
    one per core. A minute for Llama-2-7B on two cores.

    Returns:
        ``dense`` and ``skipping`` (``tokens_per_s``, ``time_to_first_token`` in s, bytes), the same around them, and
        ``gpu_rows``; :func:`sim.compare.render.write` makes pages of it.

    Raises:
        SkipopuError: the work does not fit the machine, or a file of measured records is wrong.

    >>> sk.compare("llama-2-7b", "u280").skipping.tokens_per_s  # doctest: +SKIP
    147.2
    """
    from sim.compare.subject import compare_model

    subject = str(model) if str(model) in SHAPES else path_or_shipped(str(model))
    asked: dict[str, Any] = {"skip": skip, "trace": trace, "seed": seed, "routers": routers, "lora": lora, "text": text}
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


def verilog(machine: Target) -> str:
    """The processor as Verilog text, top module ``overlay``; the same machine gives the same text.

    Raises:
        ConfigError: as of :func:`target`.

    >>> sk.verilog("mono").count("module overlay(")
    1
    """
    from hw.emit import overlay_verilog

    return overlay_verilog(_machine(machine))
