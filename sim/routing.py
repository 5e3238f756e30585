"""Routing traces that no model made, or that a file holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from skipopu.errors import ProgramError

Ratios = float | NDArray[np.float64]


def independent(layers: int, tokens: int, attention: Ratios, ffn: Ratios, seed: int) -> NDArray[np.bool_]:
    """bool (layers, 2, tokens), 1 = execute: each module skipped with its ratio, one for all layers or (layers,) of them.

    Drawn token by token: the same seed routes the start of a text alike, however long the text. Layer 0's attention executes.
    """
    draws = np.random.default_rng(seed).random((tokens, layers, 2)).transpose(1, 2, 0)
    ratios = np.stack([np.broadcast_to(ratio, layers) for ratio in (attention, ffn)], 1)
    executed = draws >= ratios[:, :, None]
    executed[0, 0] = True
    return executed


def ratios(text: str, layers: int, what: str = "--skip") -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(attention's, feed-forward's) skip ratios of ``text``: R, or attn=R,ffn=R, or a YAML file of them.

    In the file, ``attn`` and ``ffn`` are each a ratio or a list of one per layer. ``what`` is the option's name in errors.

    Raises:
        ProgramError: not a ratio in 0..1, or not one per layer.
    """
    accepted = "a ratio in 0..1, attn=R,ffn=R, or a .yaml file with attn and ffn, each a ratio or a list of one per layer"
    values: Any
    try:
        if Path(text).suffix in (".yaml", ".yml"):
            values = yaml.safe_load(Path(text).read_text())
        elif "=" in text:
            values = dict(part.split("=") for part in text.split(","))
        else:
            values = {"attn": text, "ffn": text}
        if not isinstance(values, dict) or set(values) != {"attn", "ffn"}:
            raise ValueError
        both = [np.asarray(values[name], np.float64) for name in ("attn", "ffn")]
    except OSError as error:
        raise ProgramError(f"{what} {text}: cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, yaml.YAMLError):  # not UTF-8 is a ValueError too
        raise ProgramError(f"{what} is {text!r}; accepted: {accepted}") from None
    for name, ratio in zip(("attn", "ffn"), both, strict=True):
        if ratio.shape not in ((), (layers,)):
            raise ProgramError(f"{what} {text}: {name} has shape {ratio.shape}; accepted: one ratio, or {layers} of them")
        if not ((ratio >= 0) & (ratio <= 1)).all():
            raise ProgramError(f"{what} is {text!r}; accepted: {accepted}")
    return both[0], both[1]


def load_trace(path: Path) -> NDArray[np.bool_]:
    """A recorded trace: bool (layers, 2, tokens), 1 = execute, as ``skipopu run --save-trace`` writes it.

    Raises:
        ProgramError: not such a file, or an array of anything but true and false, 1 and 0.
    """
    try:
        trace = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise ProgramError(f"{path}: no such file; `skipopu run --save-trace` writes one") from None
    except OSError as error:
        raise ProgramError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, EOFError):
        raise ProgramError(f"{path}: not a NumPy array, as `skipopu run --save-trace` writes one (.npy)") from None
    if not isinstance(trace, np.ndarray):
        raise ProgramError(f"{path}: an archive of arrays; one array of bool (.npy) is needed")
    if trace.ndim != 3 or trace.shape[1] != 2:
        raise ProgramError(f"{path}: a trace has shape (layers, 2, tokens); this array has {trace.shape}")
    if trace.dtype.kind not in "biu" or not ((trace == 0) | (trace == 1)).all():
        largest = f" up to {trace.max()}" if trace.dtype.kind in "iu" and trace.size else ""
        raise ProgramError(
            f"{path}: a trace holds bool, or integers 0 and 1, 1 = execute; this array holds {trace.dtype}{largest}"
        )
    return trace.astype(bool)


def save_trace(path: Path, trace: NDArray[np.bool_]) -> None:
    """Writes what :func:`load_trace` reads, under exactly this name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.save(file, trace)
