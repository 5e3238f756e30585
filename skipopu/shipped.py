"""The models that come with the package: beside its rooms, in the repository and in an installation alike."""

from __future__ import annotations

from pathlib import Path

MODELS = Path(__file__).parents[1] / "models"
NAMES = ("pybyte-300k", "pybyte-1m", "pybyte-1m-masked")
MASKED = MODELS / NAMES[-1]  # trained with masks of input channels, which lie beside it
HELD_OUT = MODELS / "pybyte-1m" / "heldout.txt"  # Python source that none of them was trained on


def path_or_shipped(text: str) -> Path:
    """The path of a command's option; where nothing lies there, a shipped model of that name or a file of it.

    ``pybyte-1m`` and ``models/pybyte-1m/heldout.txt`` are found from everywhere.
    """
    path = Path(text)
    parts = path.parts[1:] if path.parts[:1] == (MODELS.name,) else path.parts
    return MODELS.joinpath(*parts) if parts and parts[0] in NAMES and not path.exists() else path
