"""The phases of attention."""

from __future__ import annotations

from hw.component import Bundle, gives


class Phase(Bundle):
    """What attention is at; between instructions, and while it changes, neither."""

    def __init__(self) -> None:
        self.keys = gives(1, "keys meet the queries, level")
        self.values = gives(1, "values meet the probabilities, level")
        super().__init__()
