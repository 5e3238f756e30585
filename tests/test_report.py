"""Result records."""

from __future__ import annotations

import pytest

from skipopu.report import Record


def test_records_know_their_kind() -> None:
    with pytest.raises(ValueError, match="kind 'guessed'"):
        Record("cycles", 1, "cycle", "guessed", "nowhere")
