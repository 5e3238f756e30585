"""Thresholds from end to end: texts read, ratios and thresholds chosen, losses measured, a file written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compiler.follow import Follow, unseen
from compiler.frontend.checkpoint import Checkpoint, load
from compiler.frontend.masks import MASKS_FILE, Masks, write
from compiler.pipeline import KV_POLICIES
from sim.calibrate.budget import GRID, allocate, curves, sizes
from sim.calibrate.observe import SEEN_BY, Place
from sim.calibrate.place import How, Subject, choose, subject_of, weight_bytes
from sim.calibrate.rules import RULES, WINA
from sim.evaluation import Evaluation, windows_of
from sim.quantise.text import calibration_text, drawn, seen
from sim.result import share_of
from skipopu.accept import one_of, whole
from skipopu.errors import ProgramError
from skipopu.model_config import ModelConfig
from skipopu.policy import KvPolicy
from skipopu.shipped import HELD_OUT, MODELS
from skipopu.text import Passage

GREEDY, UNIFORM = "greedy", "uniform"
RATIOS = {
    GREEDY: "each input of each layer its own, so that the share of the weights is left out where that changes the model least",
    UNIFORM: "the same for all inputs",
}
TRIED, JUDGED = 8, 16  # windows that masks of single inputs are tried on, and that say how often products execute
MOST = GRID[-1]  # share of the weights
LIBRARY = "the standard library's source"


@dataclass(frozen=True)
class Request:
    """What is asked for; see :func:`sim.api.calibrate`."""

    model: Path
    mask: float
    output: Path | None = None
    rule: str = WINA
    ratios: str = GREEDY
    text: Path | None = None
    held_out: Path | None = None
    samples: int = 64
    window: int = 256
    seed: int = 0
    kv: str = "reuse"
    always: bool = False
    routers: Path | None = None
    lora: Path | None = None
    force: bool = False


@dataclass(frozen=True)
class Measured:
    """What the held-out text says: its loss, bytes of weights that a token reads, and channels, active and all of them."""

    loss: Evaluation
    bytes: float
    channels: tuple[int, int]

    @property
    def active_channels_share(self) -> float:
        return share_of(self.channels) or 0.0


@dataclass(frozen=True)
class Calibration:
    """What was done.

    Attributes:
        file: that was written; ``masks``: what it holds.
        ratios: of each layer's inputs, that were asked for; ``active``: shares of the channels that are left on the held-out text.
        before, after: without masks, and with them applied to all tokens.
    """

    file: Path
    config: ModelConfig
    masks: Masks
    ratios: Mapping[Place, float]
    active: Mapping[Place, float]
    before: Measured
    after: Measured


def measured(subject: Subject, passage: Passage, window: int, follow: Follow, what: str) -> Measured:
    """Of the subject under its present thresholds; ``follow`` sees tokens go by."""
    parts = windows_of(passage, window)
    tokens, seen = iter(follow(what, range(sum(part.stop - part.start + len(passage.head) for part in parts)))), 0

    def say(done: int) -> None:
        nonlocal seen
        for _ in range(done - seen):
            next(tokens, None)
        seen = done

    loss = subject.loss(passage, window, say)
    active, read, _ = np.array(list(subject.model.counts.values())).sum(0)
    return Measured(loss, weight_bytes(subject)[1], (int(active), int(read)))


def carried_out(request: Request, follow: Follow = unseen, say: Callable[[str], None] = lambda sentence: None) -> Calibration:
    """Does what is asked for; ``follow`` sees inputs and layers go by, ``say`` gets remarks.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        ProgramError: texts or options do not fit the model, or the file is there already.
    """
    file, checkpoint = _checked(request)
    config, window = checkpoint.config, min(request.window, checkpoint.config.max_positions)
    held_out = calibration_text(request.held_out or HELD_OUT, config, request.model)
    calibration = calibration_text(request.text, config, request.model)
    windows = drawn(calibration, request.samples, window, request.seed, request.text or LIBRARY)
    if request.text is None:
        say("Calibrating on the source of Python's standard library; --text FILE gives another text.")
    how = How(request.rule, KvPolicy(request.kv), request.always or checkpoint.routers is None)
    subject = subject_of(checkpoint, how)
    before = measured(subject, held_out, window, follow, "loss without masks")
    ratios = dict.fromkeys(subject.places, request.mask)
    if request.ratios == GREEDY:
        tried = curves(subject, windows[:TRIED], follow)
        ratios = allocate(tried, sizes(subject, seen(windows[:JUDGED], calibration), window), request.mask)
    choose(subject, windows, ratios, follow)
    after = measured(subject, held_out, window, follow, "loss with them")
    counts, active = subject.model.counts, {}
    for layer, own in subject.places:
        left, read, _ = counts[layer, SEEN_BY[own]]
        active[layer, own] = left / read if read else 1.0
    about = {"rule": request.rule, "mask": f"{request.mask:g}", "ratios": request.ratios, "kv": request.kv}
    about |= {"text": request.text.name if request.text else LIBRARY, "seed": str(request.seed)}
    masks = subject.masks()
    write(
        file, masks, {"calibrated": ", ".join(f"{name} {value}" for name, value in about.items())}
    )  # several come in any order
    return Calibration(file, config, masks, ratios, active, before, after)


def _checked(request: Request) -> tuple[Path, Checkpoint]:
    """The file to write, and the checkpoint."""
    one_of(list(RULES)).check(request.rule, "rule", ProgramError)
    one_of(list(RATIOS)).check(request.ratios, "ratios", ProgramError)
    one_of(list(KV_POLICIES)).check(request.kv, "kv", ProgramError)
    whole(1, 1 << 30).check(request.samples, "samples", ProgramError)
    whole(2, 1 << 30).check(request.window, "window", ProgramError)
    if not 0 < request.mask <= MOST:
        raise ProgramError(f"--mask is {request.mask}; accepted: more than 0, up to {MOST}")
    ModelConfig.load(request.model)  # tells a directory without a model
    file = request.output or request.model / MASKS_FILE
    if request.output is None and MODELS in request.model.resolve().parents:
        raise ProgramError(
            f"{request.model.name} comes with the package; -o FILE is needed, which --masks of other commands takes"
        )
    if file.exists() and not request.force:
        raise ProgramError(f"{file} is there already; --force writes it anew")
    text, held_out = request.text, request.held_out or HELD_OUT
    if text is not None and text.resolve() == held_out.resolve():
        raise ProgramError(f"--text is {text}, the held-out text; losses on it would say nothing: give another text")
    return file, load(request.model, request.routers, request.lora, mask_file=False)
