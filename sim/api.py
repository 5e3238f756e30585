"""What ``import skipopu as sk`` offers beside the contract's own types; :data:`skipopu.OFFERED` lists it.

Where a command has a function's name, both do the same, by the same code. Examples run as tests, with ``import skipopu as sk``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from compiler.frontend.checkpoint import Checkpoint, load
from compiler.frontend.shapes import outline
from compiler.pipeline import compile_checkpoint
from sim.mask_traces import with_masks
from skipopu.errors import ProgramError
from skipopu.machine.config import Machine
from skipopu.program.program import Program
from skipopu.shapes import SHAPES
from skipopu.shipped import path_or_shipped

if TYPE_CHECKING:
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


def checkpoint(
    path: str | Path,
    routers: str | Path | None = None,
    lora: str | Path | None = None,
    masks: str | Path | Literal[False] | None = None,
) -> Checkpoint:
    """Reads a Hugging Face directory (config.json, safetensors) and its SkipGPT routers, or a shipped model by name.

    ``tensors`` of the result are float32 under Llama's names, whatever the model's family (docs/families.md); ``routers`` is a file,
    by default they are among the model's tensors or in ``routers.safetensors`` (or ``.pth``) of the directory. ``lora`` is the directory
    of a PEFT adapter (LoRA, DoRA), which is merged into them. ``masks`` is a file of thresholds of input channels (docs/masks.md), by
    default ``masks.safetensors`` of the directory, False for none.

    Raises:
        CheckpointError: a file or tensor that is missing, misshapen or not supported.

    >>> model = sk.checkpoint("pybyte-300k")
    >>> model.tensors["model.embed_tokens.weight"].shape  # (vocabulary, hidden)
    (256, 96)
    """
    file, adapter = (None if given is None else Path(given) for given in (routers, lora))
    if masks is not None and masks is not False and not isinstance(masks, str | Path):
        raise ProgramError(f"masks is {masks!r}; accepted: a file of thresholds, which calibrate writes, or False")
    return load(path_or_shipped(str(path)), file, adapter, masks if masks is None or masks is False else Path(masks))


def shape(name: str | Path, routers: str = "linear", masks: bool | Iterable[str] = False) -> Checkpoint:
    """A known architecture, or that of a config.json, without weights: to compile and to time, not to run.

    ``routers`` are "linear", "two-layer" or "none". With ``masks`` all inputs of its layers have thresholds, or those named ("mlp.inner",
    see docs/masks.md); what they leave out is said to :func:`run`.

    Raises:
        CheckpointError: it is not known.
        ProgramError: nor is an input.

    >>> sk.shape("llama-2-7b").config.num_layers
    32
    >>> program = sk.compile(sk.shape("llama-3.2-1b", masks=True), "u280-masks", context=32)
    >>> few, many = (sk.run(program, 8, 4, "timing", mask=mask).counters["READ_BEATS"] for mask in (0.5, 0.1))
    >>> few < many
    True
    """
    known = outline(str(name), routers)
    return known if masks is False else with_masks(known, None if masks is True else masks)


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
    masks: str | Path | Literal[False] | None = None,
    mask_prompt: bool = False,
) -> Program:
    """Compiles a checkpoint (or its directory, or a shipped model or known shape by name) for a machine.

    Args:
        kv: keys and values of tokens that skip attention: "dense" computes them, "reuse" takes the layer before's.
        context: the largest number of tokens, prompt and generated; default what the machine's memory holds.
        weights: their format, one of the machine's ``formats``; default the file's, product by product: "int8" or "int4z" where it holds such
            integers and the machine has the format, else "int4". ``group``: how many share a scale, default what the model says.
        logits: the program stores the logits of every position, see :func:`sim.result.logits_of`.
        history: tokens whose entries the KV history buffer keeps, default what it holds; ``prefetch``: it is filled ahead.
        lora: an adapter for the model's directory, as of :func:`checkpoint`.
        policies: who decides what is skipped, a file or its content (docs/policies.md); default the routers.
        masks: thresholds of input channels for the model's directory, as of :func:`checkpoint`; ``mask_prompt``: they apply to tokens of the
            prompt too.

    Returns:
        The program; its ``save(directory)`` writes what ``Program.load`` reads. What the formats hold badly is a warning.

    Raises:
        CheckpointError, ConfigError: as of :func:`checkpoint` and :func:`target`, or tensors that the formats do not hold.
        ProgramError: the model does not fit the machine, with both numbers.

    >>> program = sk.compile("pybyte-300k", target="ulx3s")
    >>> program.memory[0].dtype, len(program.memory)  # a port's bytes, ports
    (dtype('uint8'), 1)
    """
    for name, value in (("lora", lora), ("masks", masks)):
        if value is not None and (isinstance(model, Checkpoint) or str(model) in SHAPES):
            raise ProgramError(
                f"{name} is {str(value)!r}, and the model no directory; accepted: sk.checkpoint(directory, {name}=...)"
            )
    if not isinstance(model, Checkpoint):
        model = shape(model) if str(model) in SHAPES else checkpoint(model, lora=lora, masks=masks)
    program = compile_checkpoint(
        model,
        _machine(target),
        kv,
        logits,
        context,
        group,
        weights,
        history=history,
        prefetch=prefetch,
        policies=policies,
        mask_prompt=mask_prompt,
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
    zero_points: bool = False,
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
    """Quantises a checkpoint's directory, or a shipped model, to 4 bits or 8 and writes one that loads anywhere (docs/quantise.md).

    Args:
        output: directory for it.
        method: "rtn", "gptq", "awq" or "gptq+awq"; "best": gptq, or rtn where that loses less on the calibration text.
        calibration: a text, or token ids (.npy); default the source of Python's library. ``samples`` windows of ``window`` tokens of it
            are read, from places drawn with ``seed``.
        group: weights per scale, default the model's own.
        zero_points: one for each group of 4 bits ("int4z"), for machines that have them.
        int8: products in 8 bits, some of "q", "k", "v", "o", "gate", "up", "down", "head".
        bytes: as many products in 8 bits as codes and scales of so many bytes hold, those that gain most; ``budget``: the same, 1 to 2 times
            what 4 bits take.
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
        zero_points=zero_points,
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


def verilog(machine: Target) -> str:
    """The processor as Verilog text, top module ``overlay``; the same machine gives the same text.

    Raises:
        ConfigError: as of :func:`target`.

    >>> sk.verilog("mono").count("module overlay(")
    1
    """
    from hw.emit import overlay_verilog

    return overlay_verilog(_machine(machine))
