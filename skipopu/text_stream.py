"""Text of token ids as they come."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from skipopu.text import Text

BROKEN = "\ufffd"  # what decoders give for bytes that are no character, or not yet


class Stream:
    """Text of ids that come one by one: never half a character, and together what :meth:`Text.decode` gives of all of a valid text."""

    def __init__(self, text: Text) -> None:
        self.text = text
        self.ids: list[int] = []
        self.shown = ""

    def add(self, ids: Iterable[int]) -> str:
        """What ``ids`` complete."""
        new = list(ids)
        before, self.ids = self.shown, [*self.ids, *new]
        whole = self.text.decode(self.ids)
        if not whole.startswith(before):
            # Some decoders take a whole run of bytes back for one that does not fit in: what is shown stays.
            self.ids, before, whole = new, "", self.text.decode(new)
        self.shown = whole.rstrip(BROKEN)
        return self.shown[len(before) :]

    def end(self) -> str:
        """What was held back for bytes to come."""
        before, self.shown = self.shown, self.text.decode(self.ids)
        return self.shown[len(before) :]


def continuation(text: Text, prompt: Sequence[int], tokens: Sequence[int]) -> str:
    """Text of ``tokens`` behind ``prompt``, which may matter: decoders drop the space in front of a first word."""
    stream = Stream(text)
    stream.add(prompt)
    return stream.add(tokens) + stream.end()
