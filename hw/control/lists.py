"""The token lists of a chunk."""

from __future__ import annotations

from hw.component import Bundle, gives
from skipopu.machine.config import Machine


class Routed(Bundle):
    """A routing decision: a bit per slot, 1 to execute."""

    def __init__(self, machine: Machine) -> None:
        self.attention = gives(machine.tokens, "slots whose attention executes")
        self.ffn = gives(machine.tokens, "slots whose feed-forward network executes")
        super().__init__()
