"""A matplotlib figure that needs no display, and that notebooks show by themselves."""

from __future__ import annotations

import io

from matplotlib.figure import Figure


class Picture(Figure):
    """Belongs to no window; ``savefig`` writes it to a file."""

    def png(self) -> bytes:
        """The same figure gives the same bytes."""
        data = io.BytesIO()
        self.savefig(data, format="png", dpi=110, metadata={"Software": None})
        return data.getvalue()

    _repr_png_ = png  # what notebooks ask for
