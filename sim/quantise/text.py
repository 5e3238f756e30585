"""Texts to quantise by: files, or the source of Python's library."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sim.asked import read_ids
from skipopu.errors import ProgramError
from skipopu.model_config import ModelConfig
from skipopu.text import NoText, Passage, carried, text_of


def calibration_text(path: Path | None, config: ModelConfig, model: Path) -> Passage:
    """A text, or ids of a .npy; without a path the source of Python's library, but for the files of the shipped held-out sample."""
    if path is not None and path.suffix == ".npy":
        return Passage(read_ids(path, config.vocab_size), None)
    try:
        text = text_of(config, carried(model), model.name)
    except NoText as error:
        raise NoText(f"{error}; give token ids instead, files of them (.npy) in the place of each text") from None
    if path is None:
        from models.train import corpus

        data = corpus()[0]  # zeros end files for models of bytes
        return text.passage(data if config.byte_level else data.replace(b"\0", b"\n"))
    try:
        return text.passage(path.read_bytes())
    except OSError as error:
        raise ProgramError(f"{path}: cannot be read ({error.strerror})") from None


def drawn(passage: Passage, samples: int, window: int, seed: int, what: object) -> NDArray[np.int64]:
    """(samples, window) ids from random places of a text, behind what comes before any.

    Raises:
        ProgramError: it is shorter than one window.
    """
    own = window - len(passage.head)
    if len(passage.ids) < own or own < 1:
        raise ProgramError(f"{what}: it has {len(passage.ids)} tokens; a window of {window} is needed, or a smaller --window")
    places = np.random.default_rng(seed).integers(0, len(passage.ids) - own + 1, samples)
    head = np.broadcast_to(np.array(passage.head, np.int64), (samples, len(passage.head)))
    return np.concatenate([head, passage.ids[places[:, None] + np.arange(own)]], 1)


def seen(windows: NDArray[np.int64], calibration: Passage) -> Passage:
    """The windows as a text to predict."""
    return Passage(windows[:, len(calibration.head) :].reshape(-1), None, calibration.head)
