"""Routing that no model made, or that a file holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sim.routing import independent, load_trace, ratios
from skipopu.errors import ProgramError


def test_skip_ratios(tmp_path: Path) -> None:
    attention, ffn = ratios("attn=0.5,ffn=0", 4)
    assert (attention, ffn) == (0.5, 0)
    file = tmp_path / "ratios.yaml"
    file.write_text("attn: [0, 1, 0.5]\nffn: 1\n")
    trace = independent(3, 4000, *ratios(str(file), 3), 0)
    assert trace[0, 0].all()
    assert not trace[1, 0].any()
    assert not trace[:, 1].any()
    assert abs(trace[2, 0].mean() - 0.5) < 0.05
    for text in ("x", "attn=0.5", "1.5", "attn=0.1,ffn=-1"):
        with pytest.raises(ProgramError, match=r"accepted: a ratio in 0\.\.1"):
            ratios(text, 3)
    with pytest.raises(ProgramError, match="attn has shape \\(3,\\); accepted: one ratio, or 4 of them"):
        ratios(str(file), 4)
    np.save(tmp_path / "flat.npy", np.ones(5))
    with pytest.raises(ProgramError, match=r"a trace has shape \(layers, 2, tokens\); this array has \(5,\)"):
        load_trace(tmp_path / "flat.npy")
