"""What ``import skipopu as sk`` offers for masks of input channels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from skipopu.shipped import path_or_shipped

if TYPE_CHECKING:
    from sim.calibrate.work import Calibration


def calibrate(
    model: str | Path,
    mask: float,
    output: str | Path | None = None,
    *,
    rule: str = "wina",
    ratios: str = "greedy",
    text: str | Path | None = None,
    held_out: str | Path | None = None,
    samples: int = 64,
    window: int = 256,
    seed: int = 0,
    kv: str = "reuse",
    always: bool = False,
    routers: str | Path | None = None,
    lora: str | Path | None = None,
    force: bool = False,
) -> Calibration:
    """Finds thresholds for a checkpoint's directory, or a shipped model, that mask input channels of products (docs/masks.md).

    Args:
        mask: share of the weights behind masked inputs that a token leaves out.
        output: file for them, default ``masks.safetensors`` beside the checkpoint; with ``force`` one that is there is written anew.
        rule: "teal", "wina" or "chess"; ``ratios``: "greedy", each input's own, or "uniform".
        text: a text to calibrate on, or token ids (.npy); default the source of Python's library. ``samples`` windows of ``window`` tokens
            of it are read, from places drawn with ``seed``.
        held_out: measure losses on this one, default the shipped sample.
        kv: keys and values of tokens that skip attention, as of :func:`compile`; ``always``: every module is executed.
        routers, lora: a file and an adapter's directory, as of :func:`checkpoint`.

    Returns:
        Its ``file``, the ``masks`` in it, the ``ratios`` asked for and the ``active`` shares left by layer and input, and losses and bytes of
        weights per token ``before`` and ``after``.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        ProgramError: texts or options that do not fit the model, a file that is there already.

    >>> import tempfile
    >>> file = tempfile.mkdtemp() + "/masks.safetensors"
    >>> done = sk.calibrate("pybyte-300k", 0.3, file, samples=4, ratios="uniform")
    >>> round(1 - done.after.active_channels_share, 1)
    0.3
    """
    from sim.calibrate.work import Request, carried_out

    def path(given: str | Path | None) -> Path | None:
        return None if given is None else path_or_shipped(str(given))

    request = Request(
        model=path_or_shipped(str(model)),
        mask=mask,
        output=path(output),
        rule=rule,
        ratios=ratios,
        text=path(text),
        held_out=path(held_out),
        samples=samples,
        window=window,
        seed=seed,
        kv=kv,
        always=always,
        routers=path(routers),
        lora=path(lora),
        force=force,
    )
    return carried_out(request)
