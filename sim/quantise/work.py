"""A checkpoint quantised from end to end: texts read, codes chosen, losses measured, a directory written."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from compiler.follow import Follow, unseen
from compiler.frontend import routers as router_files
from compiler.frontend.canonical import EMBEDDING
from compiler.frontend.checkpoint import Checkpoint, load
from compiler.frontend.tensors import rows_of
from compiler.pipeline import KV_POLICIES
from compiler.quantise.budget import parts
from compiler.quantise.choose import METHODS
from compiler.quantise.nearest import bytes_of
from compiler.quantise.products import folded, in_layer, products, tensor_of
from compiler.quantise.ranges import rescale
from compiler.quantise.write import Writer
from sim.evaluation import Evaluation
from sim.quantise.budget import Gain, by_budget
from sim.quantise.calibrate import Asked, Quantised, quantise, router_tensors
from sim.quantise.loss import loss_of, model_of, to_nearest
from sim.quantise.text import calibration_text, drawn, seen
from skipopu.accept import one_of, whole
from skipopu.errors import ProgramError
from skipopu.numerics.formats import INT4, INT4Z, INT8, Format
from skipopu.policy import KvPolicy
from skipopu.text import Passage

BEST, BEST_METHOD, NEAREST = "best", "gptq", "rtn"
JUDGED = 32  # windows that say what 8 bits gain
PRODUCTS = ("q", "k", "v", "o", "gate", "up", "down", "head")


@dataclass(frozen=True)
class Request:
    """What is asked for; see :func:`sim.api.quantise`."""

    model: Path
    output: Path
    method: str = BEST
    calibration: Path | None = None
    text: Path | None = None
    samples: int = 128
    window: int = 256
    seed: int = 0
    group: int | None = None
    zero_points: bool = False
    int8: Sequence[str] = ()
    bytes: int | None = None
    budget: float | None = None
    plain: bool = False
    kv: str = "reuse"
    always: bool = False
    routers: Path | None = None
    lora: Path | None = None


@dataclass(frozen=True)
class Quantisation:
    """What was done.

    Attributes:
        directory: where the checkpoint was written; ``bytes`` of codes and scales.
        asked: with the ``method`` and the formats that were taken.
        found: tensors, each one's error, how large numbers became.
        losses: of the text, or of the calibration text, by weights: "as it is", "to nearest", and the method's.
        gains: what 8 bits would gain for each part, where there was a budget.
    """

    directory: Path
    bytes: int
    asked: Asked
    found: Quantised
    losses: dict[str, Evaluation]
    gains: list[Gain] = field(default_factory=list)

    @property
    def method(self) -> str:
        return self.asked.method

    @property
    def rounding_is_better(self) -> bool:
        return rounding_is_better(self.losses, self.asked)


def losses(checkpoint: Checkpoint, found: Quantised, asked: Asked, passage: Passage, window: int) -> dict[str, Evaluation]:
    """Of the checkpoint as it is, rounded to nearest, and quantised."""
    config, routers = checkpoint.config.untied, router_tensors(checkpoint)
    original = folded(config, checkpoint.tensors)
    dense = asked.dense or checkpoint.routers is None

    def rounded() -> dict:
        held = dict(original)
        for kind, done in found.rescaled.items():
            rescale(config, held, kind, done.power)
        return to_nearest(config, held, asked)

    models = {
        "as it is": lambda: model_of(config, original, routers),
        "to nearest": lambda: model_of(config, rounded(), routers, asked.group),
    }
    if asked.method != NEAREST:
        models[asked.method] = lambda: model_of(config, found.tensors, routers, asked.group)
    return {name: loss_of(model(), passage, window, asked.kv, dense) for name, model in models.items()}


def rounding_is_better(results: dict[str, Evaluation], asked: Asked) -> bool:
    return asked.method != NEAREST and asked.method in results and results[asked.method].nats > results["to nearest"].nats


def carried_out(request: Request, follow: Follow = unseen, say: Callable[[str], None] = lambda sentence: None) -> Quantisation:
    """Does what is asked for; ``follow`` sees layers go by, ``say`` gets remarks.

    Raises:
        CheckpointError: the checkpoint cannot be read, or quantised, or written in the format.
        ProgramError: texts or options do not fit the model.
    """
    checkpoint, asked = _checked(request)
    config = checkpoint.config
    window = min(request.window, config.max_positions)
    # What cannot be written is refused before anything is done.
    most = _most(request, checkpoint, asked)
    Writer(checkpoint, config.untied, asked.group, asked.format, request.plain)
    calibration = calibration_text(request.calibration, config, request.model)
    windows = drawn(calibration, request.samples, window, request.seed, request.calibration or "the standard library's source")
    measured = calibration_text(request.text, config, request.model) if request.text else None
    if request.calibration is None:
        say("Calibrating on the source of Python's standard library; --calibration FILE gives another text.")
    found, own = quantise(checkpoint, windows, asked, follow), seen(windows, calibration)
    best = request.method == BEST
    results = losses(checkpoint, found, asked, own, window) if best or measured is None else {}
    if best and rounding_is_better(results, asked):
        say("Rounding to nearest loses less on the calibration text, as where training rounded too: it is taken.")
        asked = dataclasses.replace(asked, method=NEAREST)
        found = quantise(checkpoint, windows, asked, follow)
        results.pop(BEST_METHOD)
    gains: list[Gain] = []
    if most is not None:
        names = Writer(checkpoint, config.untied, asked.group, asked.format, request.plain)
        together = parts(config, lambda product: names.name(tensor_of(product, 0)))
        before, judged = asked, seen(windows[:JUDGED], calibration)
        asked, gains = by_budget(checkpoint, windows, asked, together, judged, most, follow)
        if asked.formats != before.formats:
            found, results = quantise(checkpoint, windows, asked, follow), {}
    if measured is not None or not results:
        results = losses(checkpoint, found, asked, own if measured is None else measured, window)
    routers = request.routers or router_files.beside(request.model)
    writer = Writer(checkpoint, config.untied, asked.group, asked.format, request.plain)
    size = writer.write(request.output, found.tensors, found.rounded, routers)
    return Quantisation(request.output, size, asked, found, results, gains)


def _most(request: Request, checkpoint: Checkpoint, asked: Asked) -> int | None:
    """Bytes of codes and scales that there may be; None where nobody asked.

    Raises:
        ProgramError: they are fewer than what is asked for takes without any choice.
    """
    if request.bytes is None and request.budget is None:
        return None

    def size(format: Callable[[str], Format]) -> int:
        tensors, total = checkpoint.tensors, 0
        for product, layer in products(checkpoint.config):
            name = tensor_of(product, layer)
            shape = rows_of(tensors, name if name in tensors else EMBEDDING).shape
            total += bytes_of(shape, asked.group, format(product))
        return total

    least, narrow = size(asked.format), size(lambda product: asked.usual)
    most, given, accepted = request.bytes, f"--bytes is {request.bytes}", f"{least}"
    if most is None:
        most, given = int((request.budget or 1) * narrow), f"--budget is {request.budget}"
        accepted = f"{math.ceil(1000 * least / narrow) / 1000:g}"
    if most < least:
        raise ProgramError(
            f"{given}; accepted: {accepted} or more, which codes and scales take in {asked.usual.name}"
            + (f", {', '.join(asked.formats)} in {INT8.name}" if asked.formats else "")
        )
    return most


def _checked(request: Request) -> tuple[Checkpoint, Asked]:
    """The checkpoint, and how its weights are to be chosen at first."""
    one_of([BEST, *METHODS]).check(request.method, "method", ProgramError)
    one_of(list(KV_POLICIES)).check(request.kv, "kv", ProgramError)
    whole(1, 1 << 30).check(request.samples, "samples", ProgramError)
    whole(2, 1 << 30).check(request.window, "window", ProgramError)
    if request.group is not None:
        whole(1, 1 << 20).check(request.group, "group", ProgramError)
    if request.bytes is not None and request.budget is not None:
        raise ProgramError(f"--bytes is {request.bytes} and --budget {request.budget}; accepted: one of them")
    if request.plain and request.zero_points:
        raise ProgramError(
            "--plain and --zero-points are both given; accepted: one of them, as numbers rounded again get other zero points"
        )
    if request.output.resolve() == request.model.resolve():
        raise ProgramError(f"--output is {request.output}, the checkpoint itself; another directory is needed")
    text, calibration = request.text, request.calibration
    if text is not None and calibration is not None and text.resolve() == calibration.resolve():
        raise ProgramError(f"--text is {text}, the calibration text; losses on it say nothing: give another text")
    if request.budget is not None and not 1 <= request.budget <= 2:
        raise ProgramError(f"--budget is {request.budget}; accepted: 1 to 2, times the bytes of 4 bits")
    checkpoint = load(request.model, request.routers, request.lora, mask_file=False)
    config = checkpoint.config
    there = (*in_layer(config), "head")
    if wrong := [product for product in request.int8 if product not in there]:
        raise ProgramError(
            f"--int8 names {wrong[0]}, which {request.model} has not; accepted: some of {','.join(p for p in PRODUCTS if p in there)}"
        )
    group = config.weight_group if request.group is None else request.group
    method = BEST_METHOD if request.method == BEST else request.method
    usual, wider = INT4Z if request.zero_points else INT4, dict.fromkeys(request.int8, INT8)
    return checkpoint, Asked(group, method, wider, usual, KvPolicy(request.kv), request.always)
