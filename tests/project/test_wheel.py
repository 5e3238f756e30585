"""The wheel holds every file that its code reads, and works in a folder with blanks, from an empty directory."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest
from setuptools import Distribution
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parents[2]
ROOMS = ("skipopu", "hw", "compiler", "sim", "boards", "models")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# What runs on a board alone, and comes with its system.
OF_BOARDS = {"pynq", "pyxrt"}


def packaged() -> set[Path]:
    """The files that setuptools would put into the wheel, relative to the root."""
    distribution = Distribution({"script_name": "setup.py"})
    distribution.parse_config_files([str(ROOT / "pyproject.toml")])
    distribution.include_package_data = False  # files of packages are named in pyproject.toml
    command = build_py(distribution)
    command.ensure_finalized()
    sources = {Path(path) for _, _, path in command.find_all_modules()}
    return sources | {Path(folder) / name for _, folder, _, names in command.data_files for name in names}


def test_every_file_of_the_rooms_is_in_the_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    here = {path.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("*") if path.is_file()}
    here = {path for path in here if "__pycache__" not in path.parts}
    assert packaged() == here


@pytest.mark.slow
def test_every_import_is_a_declared_dependency() -> None:
    """Imports at a module's top that no extra brings must be dependencies of the package; those inside functions may be extras."""
    names = importlib.metadata.packages_distributions()

    def normal(requirement: str) -> str:
        return re.split(r"[^\w.-]", requirement)[0].lower().replace("_", "-")

    extras = {normal(text) for name, texts in PROJECT["optional-dependencies"].items() if name != "test" for text in texts}
    declared = {normal(text) for text in PROJECT["dependencies"]} | extras
    for room in ROOMS[:-1]:
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    modules = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    modules = [node.module or ""]
                else:
                    continue
                for module in {name.split(".")[0] for name in modules} - {*sys.stdlib_module_names, *ROOMS, *OF_BOARDS}:
                    brought = {name.lower().replace("_", "-") for name in names.get(module, [module])}
                    assert brought & declared, f"{path.relative_to(ROOT)} imports {module}, which is no dependency"


def installed(folder: Path) -> Path:
    """The wheel in an environment of its own that sees this one's packages, but not the repository; its command."""
    subprocess.run([sys.executable, "-c", BUILD, str(folder)], cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    assert wheel.stat().st_size < 14_000_000
    environment = folder / "an environment"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    subprocess.run([python, "-I", "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel], check=True)
    purelib = sysconfig.get_path("purelib", vars={"base": str(environment), "platbase": str(environment)})
    # A path in a .pth file brings packages, but not the finder of an editable installation.
    (Path(purelib) / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return environment / "bin" / "skipopu"


# Without what only tests need.
FRONT_DOOR = """
import sys
sys.modules["transformers"] = sys.modules["pytest"] = None
import skipopu as sk
program = sk.Program.load("program")
spans = []
assert sk.run(program, "def", max_new=4, engine="timing", spans=spans).counters["CYCLES"] > 0
sk.timeline({"a token": spans}, position=4).savefig("timeline.png")
assert sk.check(sk.compile("pybyte-300k", target="ulx3s"), "def", max_new=2, rtl=False).ok
assert "module overlay(" in sk.verilog("mono")
"""
BUILD = """
import os, shutil, sys, tempfile
from setuptools import build_meta
with tempfile.TemporaryDirectory() as copy:
    for name in ("pyproject.toml", "README.md", "LICENSE", "skipopu", "hw", "compiler", "sim", "boards", "models"):
        (shutil.copytree if os.path.isdir(name) else shutil.copy)(name, os.path.join(copy, name))
    os.chdir(copy)
    build_meta.build_wheel(sys.argv[1])
"""


@pytest.mark.slow
def test_an_installed_wheel_works_from_an_empty_folder(tmp_path: Path) -> None:
    skipopu = installed(tmp_path)
    empty = tmp_path / "an empty folder"
    empty.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*arguments: str) -> str:
        done = subprocess.run([skipopu, *arguments], cwd=empty, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done.stdout + done.stderr

    python = skipopu.with_name("python")
    place = subprocess.run(
        [python, "-c", "import sim; print(sim.__path__[0])"], cwd=empty, env=environment, capture_output=True
    )
    assert str(tmp_path) in place.stdout.decode(), "the wheel's own code must be what runs"
    assert "All engines agree" in run("demo")
    run("compile", "pybyte-300k", "--target", "ulx3s", "-o", "program")
    run("run", "program", "--max-new", "2")
    done = subprocess.run([python, "-c", FRONT_DOOR], cwd=empty, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "bits per byte over 295 bytes" in run("eval", "pybyte-1m", "--text", small_text(empty), "--window", "64")
    assert "yes" in run("boards", "ulx3s", "--shape", "pybyte-300k")
    run("doctor")
    run("hdl", "--target", "mono", "-o", "hdl")


def small_text(folder: Path) -> str:
    (folder / "text").write_bytes(bytes(range(32, 122)) * 3 + bytes(30))
    return "text"
