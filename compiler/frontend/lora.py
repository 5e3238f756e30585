"""A PEFT adapter (LoRA, DoRA) merged into the tensors that it was trained beside: W + scale * B A in FP32, some rows at a time.

What PEFT computes when it merges is what a key means; a key that would change the result and that nothing here does is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from compiler.frontend.lora_config import CONFIG, config_of
from compiler.frontend.routers import OF_ROUTER
from compiler.frontend.stored import FLOATS, Stored
from compiler.frontend.tensors import F32, FileTensors, Held, NoCodes, Shape, blocks
from skipopu.errors import CheckpointError

WEIGHTS = "adapter_model.safetensors"
ALL = "all-linear"
ADDED = "an adapter is added to them"


_BASE = "base_model.model."
_PREFIXES = re.compile(r"(?:module\.|_orig_mod\.|base_model\.model\.)*")  # DataParallel's, torch.compile's, PEFT's
# Modules around one: PEFT's, and that of SkipGPT around a layer.
_WRAPPERS = re.compile(r"\.(?:base_layer|modules_to_save(?:\.[^.]+)?(?=\.(?:weight|bias)$)|block)(?=\.)")
_PART = re.compile(
    r"(.+?)\.lora_(A|B|embedding_A|embedding_B|magnitude_vector)(?:\.(?!weight$|bias$)([^.]+))?(?:\.(weight|bias))?"
)


@dataclass
class Change:
    """What is added to a module's weight: ``module`` by its name in the adapter, the adapter's tensors by their part, their factor."""

    module: str
    scale: np.float32
    parts: dict[str, str] = field(default_factory=dict)

    @property
    def embedding(self) -> bool:
        return not self.parts.keys().isdisjoint(("embedding_A", "embedding_B"))


class Merged(FileTensors):
    """The tensors of a model with those of an adapter: some of its own are changed or replaced, routers may be more.

    ``own`` are the model's, ``aliases`` what its files call modules by transformers' names. ``merged`` names what is not as in its files.

    Raises:
        CheckpointError: naming the file and the key or tensor that does not fit the model, or asks for something unsupported.
    """

    def __init__(self, own: FileTensors, directory: Path, aliases: Mapping[str, str]) -> None:
        self.own, self.aliases, self.directory = own, aliases, directory
        self.config = config_of(directory)
        self.stored = Stored([directory / WEIGHTS])
        self.changes: dict[str, Change] = {}  # by the own name of a weight
        self.added: dict[str, tuple[str, np.float32]] = {}  # own biases: the adapter's, and its factor
        self.replaced: dict[str, str] = {}  # own names: the adapter's
        if not self.stored.files:
            raise CheckpointError(f"{directory / WEIGHTS}: it holds no tensor; accepted: those of an adapter")
        matches = {name: _PART.fullmatch(name) for name in self.stored.files}
        self._one_adapter(matches)
        for name, match in matches.items():
            self._examine(name)
            if match is None:
                self._replace(name)
            else:
                self._part(name, match)
        for name, change in self.changes.items():
            self._check(name, change)
        for name in own.shapes if self.config["target_modules"] != ALL else ():
            module = name.removesuffix(".weight")
            if len(own.shapes[name]) == 2 and name not in self.changes and self._targeted(module):
                raise CheckpointError(
                    f"{directory / WEIGHTS}: module {module} has no tensors; target_modules of {CONFIG} names it"
                )
        if not self.changes and self.config["target_modules"] != ALL:
            raise CheckpointError(f"{directory / WEIGHTS}: it changes no module; target_modules of {CONFIG} has to name some")
        for name in dict.fromkeys((*own.shapes, f"{aliases.get('lm_head', 'lm_head')}.weight")):
            self._check_saved(name)
        self.merged = frozenset((*self.changes, *self.added, *self.replaced))
        whole = {name: self.stored.shapes[there] for name, there in self.replaced.items()}
        super().__init__({**own.shapes, **whole}, self._tensor, self._codes)
        self.files = own.files | {name: self.stored.files[there] for name, there in self.replaced.items()}
        self.packed = {name: packed for name, packed in own.packed.items() if name not in whole}

    def _check_saved(self, name: str) -> None:
        """Raises CheckpointError where an own tensor's module is to be replaced and the adapter has not what by."""
        called = f"{_BASE}{name}", f"{_BASE}lm_head." if name == f"{self.aliases.get('lm_head', 'lm_head')}.weight" else ""
        for saved in self.config["modules_to_save"] or ():
            if name not in self.replaced and any(f"{saved}." in which for which in called):
                raise CheckpointError(
                    f"{self.directory / WEIGHTS}: tensor {name} is missing; modules_to_save of {CONFIG} names {saved!r}"
                )

    def _wrong(self, name: str, what: str) -> CheckpointError:
        return CheckpointError(f"{self.stored.files[name]}: tensor {name} {what}")

    def _one_adapter(self, matches: Mapping[str, re.Match[str] | None]) -> None:
        """Raises CheckpointError where tensors are of several adapters, by the names that they carry."""
        names = {match[3]: name for name, match in matches.items() if match and match[3]}
        if len(names) > 1:
            first, second = list(names)[:2]
            raise self._wrong(names[second], f"is of adapter {second!r}, others are of {first!r}; accepted: those of one")

    def _examine(self, name: str) -> None:
        """Raises CheckpointError unless the adapter's tensor holds numbers."""
        if self.stored.kinds[name] not in FLOATS:
            raise self._wrong(name, f"holds {self.stored.kinds[name]}; accepted: {', '.join(FLOATS)}")
        shape = self.stored.shapes[name]
        if not shape or 0 in shape:
            raise self._wrong(name, f"has shape {shape}; accepted: numbers, those of all processes that trained it")
        if not all(np.isfinite(self.stored.take(name, rows)).all() for rows in blocks(shape)):
            raise self._wrong(name, "holds NaN, infinity, or a number beyond FP32")

    def _own(self, name: str) -> str:
        """What the model calls a tensor, as far as it has it."""
        module, _, kind = _WRAPPERS.sub("", _PREFIXES.sub("", name, count=1)).rpartition(".")
        found = f"{self.aliases.get(module, module)}.{kind}"
        return f"model.{found}" if found not in self.own.shapes and f"model.{found}" in self.own.shapes else found

    def _replace(self, name: str) -> None:
        """A whole tensor of the model, or of a router."""
        own = self._own(name)
        shape = self.own.shapes.get(own)
        if shape is None and own != self.aliases.get("lm_head", "lm_head") + ".weight" and not OF_ROUTER.fullmatch(own):
            raise self._wrong(name, "is not known; accepted: parts of LoRA, and whole tensors of modules that the model has")
        if shape not in (None, self.stored.shapes[name]):
            raise self._wrong(name, f"has shape {self.stored.shapes[name]}; the model's {own} has {shape}")
        if own in self.replaced:
            raise self._wrong(name, f"and {self.replaced[own]} are the same module's; accepted: one of them")
        self.replaced[own] = name

    def _part(self, name: str, match: re.Match[str]) -> None:
        """One of the tensors that are multiplied and added."""
        module, part = _PREFIXES.sub("", match[1], count=1), "bias" if match[4] == "bias" else match[2]
        own = self._own(f"{match[1]}.weight")
        if len(self.own.shapes.get(own, ())) != 2:
            raise self._wrong(
                name, f"is of module {module}, which the model has not; accepted: its linear modules, its embedding"
            )
        if not self._targeted(module):
            raise self._wrong(name, f"is of module {module}, which target_modules of {CONFIG} leaves out, or a key beside it")
        change = self.changes.setdefault(own, Change(module, self._scale(module)))
        if part in change.parts:
            raise self._wrong(name, f"and {change.parts[part]} are the same module's; accepted: one of them")
        if part == "bias" and match[2] != "B":
            raise self._wrong(name, "is not known; accepted: a bias of lora_B")
        change.parts[part] = name

    def _targeted(self, module: str) -> bool:
        """Whether the configuration names the module, by PEFT's rules."""
        target, index = self.config["target_modules"], self.config["layers_to_transform"]
        saved = self.config["modules_to_save"] or ()
        if _names(self.config["exclude_modules"] or (), module):
            return False
        if any(re.match(rf"(?:^|.*\.){re.escape(name)}(?:$|\.)", module) for name in saved):
            return False
        if target == ALL:
            return True
        if isinstance(target, str) or module in target or not _names(target, module) or index in (None, []):
            return _names(target, module)
        patterns = self.config["layers_pattern"] or "[^.]*"
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            if match := re.match(rf"(?:^|.*?\.)(?:{pattern})\.(?P<layer>\d+)\.", module):
                return int(match["layer"]) in (index if isinstance(index, list) else [index])
        return False

    def _rank(self, module: str) -> int:
        return _pattern(self.config["rank_pattern"], module, self.config["r"])

    def _scale(self, module: str) -> np.float32:
        rank, alpha = self._rank(module), _pattern(self.config["alpha_pattern"], module, self.config["lora_alpha"])
        return np.float32(alpha / (math.sqrt(rank) if self.config["use_rslora"] else rank))

    def _check(self, own: str, change: Change) -> None:
        """Raises CheckpointError where a part of a module's is missing, misshapen, or one too many; finds its bias."""
        parts, (rows, columns), rank = change.parts, self.own.shapes[own], self._rank(change.module)
        there = next(iter(parts.values()))
        sizes: dict[str, Shape] = {"A": (rank, columns), "B": (rows, rank)}
        if change.embedding:
            sizes = {"embedding_A": (rank, rows), "embedding_B": (columns, rank)}
        if self.config["use_dora"]:
            if change.embedding:
                raise self._wrong(there, f"is of an embedding, and use_dora of {CONFIG} true; accepted: DoRA of linear modules")
            sizes["magnitude_vector"] = (rows,)
        if "bias" in parts:
            bias = own.removesuffix("weight") + "bias"
            if bias not in self.own.shapes:
                raise self._wrong(parts["bias"], f"is of a bias, which module {change.module} of the model has not")
            sizes["bias"] = (rows,)
            self.added[bias] = parts["bias"], change.scale
        for part, size in sizes.items():
            if part not in parts:
                raise self._wrong(
                    there, f"has no lora_{part} beside it; accepted: lora_{' and lora_'.join(sizes)} of each module"
                )
            if (found := self.stored.shapes[parts[part]]) != size:
                raise self._wrong(parts[part], f"has shape {found}; module {change.module} and rank {rank} ask for {size}")
        for part in parts.keys() - sizes.keys():
            raise self._wrong(parts[part], f"is not of module {change.module}; accepted: lora_{' and lora_'.join(sizes)}")

    def check_tied(self, embedding: str, head: str) -> None:
        """Raises CheckpointError where only one of two own tensors changes that are one."""
        changed = [name for name in (embedding, head) if name in self.merged]
        if not changed or {embedding, head} <= self.replaced.keys():  # which are compared with one another
            return
        if head in changed or not self.config["ensure_weight_tying"]:
            raise CheckpointError(
                f"{self.directory / WEIGHTS}: it changes tensor {changed[0]} alone, and config.json says tie_word_embeddings; accepted:"
                f" embedding and head whole, or the embedding and ensure_weight_tying true in {CONFIG}"
            )

    def remarks(self, model: Path, data: Mapping[str, Any]) -> tuple[str, ...]:
        """What may be wrong: the adapter was trained beside a model of another name."""
        base = self.config["base_model_name_or_path"]
        names = {model.resolve().name, Path(str(data.get("_name_or_path", ""))).name}
        if not base or Path(base).name in names:
            return ()
        return (f"{self.directory / CONFIG}: base_model_name_or_path is {base!r}; merged into {model}",)

    def _tensor(self, name: str, rows: slice) -> F32:
        tensor = self.stored.take(self.replaced[name], rows) if name in self.replaced else self.own.read(name, rows)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # found by the frontend, which names the tensor
            if name in self.added:
                part, scale = self.added[name]
                return tensor + scale * self.stored.take(part, rows)
            return self._changed(self.changes[name], tensor, rows) if name in self.changes else tensor

    def _changed(self, change: Change, tensor: F32, rows: slice) -> F32:
        """``rows`` of a weight as they are when the adapter is added."""
        take, parts = self.stored.take, change.parts
        if change.embedding:
            product = take(parts["embedding_A"], slice(None), rows).T @ take(parts["embedding_B"]).T
        else:
            product = take(parts["B"], rows) @ take(parts["A"])
        merged = tensor + change.scale * product
        if "magnitude_vector" in parts:
            length = np.linalg.norm(merged, axis=1, keepdims=True)
            merged = take(parts["magnitude_vector"], rows)[:, None] / length * merged
        return merged

    def _codes(self, name: str, rows: slice) -> Held:
        if name in self.replaced:
            return None
        if name in self.changes and (held := self.own.codes(name, slice(0, 1))) is not None:
            return NoCodes(ADDED, held.format)
        return self.own.codes(name, rows)


def _names(which: str | Sequence[str], module: str) -> bool:
    """Whether a regular expression, or one of some names' ends, is the module's."""
    if isinstance(which, str):
        return re.fullmatch(which, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in which)


def _pattern(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """The value of the first pattern that ends the module's name."""
    return next((value for key, value in patterns.items() if re.match(rf"(?:.*\.)?(?:{key})$", module)), default)
