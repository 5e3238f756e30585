"""Program files: a header, a description in JSON, the memory images; neither written nor read with a copy of these."""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipopu.accept import BOOLEAN, MAPPING, TEXT, Accepted, list_of, one_of, whole
from skipopu.errors import ProgramError
from skipopu.masks import INPUT_OF
from skipopu.numerics import formats
from skipopu.policy import KvPolicy
from skipopu.row_order import ORDERS

FILE_NAME = "program.skpu"
MAGIC = b"SKIPOPU\n"
VERSION = 7
HEADER = struct.Struct("<8sIIQ32s")  # magic, version, description bytes, image bytes, SHA-256 of both

_COUNT = whole(0, (1 << 40) - 1)
_PAIR = Accepted("a list of two counts", lambda value: list_of(_COUNT).holds(value) and len(value) == 2)
_WORD = Accepted(
    "a word of 32 hexadecimal digits", lambda value: isinstance(value, str) and bool(re.fullmatch("[0-9a-f]{32}", value))
)
# Keys of a program file's description, of a matrix, an adjust record and thresholds in it, and of its source.
_KEYS = {
    "machine": MAPPING,
    "machine_fingerprint": TEXT,
    "numerics": TEXT,
    "numerics_fingerprint": TEXT,
    "model": MAPPING,
    "kv": one_of([policy.value for policy in KvPolicy]),
    "context": whole(1, 1 << 32),
    "logits": BOOLEAN,
    "instructions": list_of(_WORD),
    "notes": list_of(TEXT),
    "regions": MAPPING,
    "matrices": MAPPING,
    "adjusts": MAPPING,
    "masks": MAPPING,
    "router_record": _PAIR,
    "port_bytes": whole(1, 1 << 40),
    "source": MAPPING,
}
_MATRIX = {
    "address": _COUNT,
    "layer_stride": _COUNT,
    "rows": whole(1, 1 << 24),
    "n": whole(1, 1 << 24),
    "groups": whole(1, 1 << 24),
    "group": whole(1, 1 << 16),
    "format": one_of(list(formats.BY_NAME)),
    "order": one_of(ORDERS),
}
_ADJUST = {
    "address": _COUNT,
    "layer_stride": _COUNT,
    "elements": whole(1, 1 << 24),
    "order": one_of(ORDERS),
}
_MASK = {"address": _COUNT, "layer_stride": _COUNT, "channels": whole(1, 1 << 24)}
_SOURCE = {"checkpoint": Accepted("text", lambda value: isinstance(value, str)), "routers": BOOLEAN, "warnings": list_of(TEXT)}
_REGIONS = ("program", "tokens", "trace", "ring", "rope", "embedding", "layers", "head", "kv", "predicted")
_MATRICES = ("router", "kv", "q", "o", "down", "head")  # and up or gate_up


def _require(data: dict[str, Any], kinds: dict[str, Accepted], where: str) -> None:
    """Raises ProgramError unless ``data`` has all keys of ``kinds``, each of its kind."""
    for key, kind in kinds.items():
        if key not in data:
            raise ProgramError(f"{where}: {key} is missing; accepted: {kind.text}")
        kind.check(data[key], f"{where}: {key}", ProgramError)


def _described(text: bytes, where: str) -> dict[str, Any]:
    """A program file's description, every value of its type; raises ProgramError naming ``where`` and the key."""
    try:
        d = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProgramError(f"{where}: not valid JSON ({error})") from None
    MAPPING.check(d, f"{where}: the content", ProgramError)
    d.setdefault("masks", {})  # of files from before there were any
    _require(d, _KEYS, where)
    _require(d["source"], _SOURCE, f"{where}: source")
    _require(d["regions"], dict.fromkeys(_REGIONS, _PAIR), f"{where}: regions")
    _require(d["regions"], dict.fromkeys(d["regions"], _PAIR), f"{where}: regions")
    inner = "up" if "up" in d["matrices"] else "gate_up"
    _require(d["matrices"], dict.fromkeys((*_MATRICES, inner), MAPPING), f"{where}: matrices")
    for name, matrix in d["matrices"].items():
        MAPPING.check(matrix, f"{where}: matrices: {name}", ProgramError)
        _require(matrix, _MATRIX, f"{where}: matrices: {name}")
    for name, adjust in d["adjusts"].items():
        MAPPING.check(adjust, f"{where}: adjusts: {name}", ProgramError)
        _require(adjust, _ADJUST, f"{where}: adjusts: {name}")
    for name, mask in d["masks"].items():
        one_of(list(dict.fromkeys(INPUT_OF.values()))).check(name, f"{where}: masks: a key", ProgramError)
        MAPPING.check(mask, f"{where}: masks: {name}", ProgramError)
        _require(mask, _MASK, f"{where}: masks: {name}")
    if len(d["notes"]) != len(d["instructions"]):
        raise ProgramError(
            f"{where}: notes are {len(d['notes'])}; accepted: one for each of {len(d['instructions'])} instructions"
        )
    return d


def write(directory: Path, description: dict[str, Any], images: list[NDArray[np.uint8]]) -> Path:
    """Writes ``directory/program.skpu`` and returns its path.

    Raises:
        ProgramError: it cannot be written, as on a full disk.
    """
    text = json.dumps(description, sort_keys=True).encode()
    digest = hashlib.sha256(text)
    for image in images:
        digest.update(image.data)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / FILE_NAME
    header = HEADER.pack(MAGIC, VERSION, len(text), sum(image.nbytes for image in images), digest.digest())
    try:
        with path.open("wb") as file:
            for piece in (header, text, *(image.data for image in images)):
                file.write(piece)
    except OSError as error:
        raise ProgramError(f"{path}: cannot be written ({error.strerror})") from None
    return path


def read(path: Path) -> tuple[Path, dict[str, Any], NDArray[np.uint8]]:
    """(the file, its description, its images) of a file or its directory; the description has every key, each of its type.

    Raises:
        ProgramError: missing, truncated, foreign, corrupt, or of another version.
    """
    path = Path(path)
    if path.is_dir():
        path = path / FILE_NAME
    try:
        with path.open("rb") as file:
            size = os.stat(file.fileno()).st_size
            head = file.read(HEADER.size)
            if len(head) < HEADER.size or head[: len(MAGIC)] != MAGIC:
                raise ProgramError(f"{path}: not a skipopu program (its first bytes are {head[:8]!r}, not {MAGIC!r})")
            _, version, described, imaged, digest = HEADER.unpack(head)
            if version != VERSION:
                raise ProgramError(f"{path}: version {version}; this installation reads version {VERSION}")
            if size != HEADER.size + described + imaged:
                raise ProgramError(f"{path}: truncated, {size} bytes instead of {HEADER.size + described + imaged}")
            text = file.read(described)
            images = np.fromfile(file, np.uint8)
    except FileNotFoundError:
        raise ProgramError(f"{path}: no such file; `skipopu compile` writes one") from None
    except OSError as error:
        raise ProgramError(f"{path}: cannot be read ({error.strerror})") from None
    known = hashlib.sha256(text)
    known.update(images.data)
    if known.digest() != digest:
        raise ProgramError(f"{path}: checksum mismatch; the file was altered after it was written")
    return path, _described(text, f"{path}: description"), images
