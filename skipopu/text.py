"""Text to token ids and back: bytes, or a checkpoint's tokenizer.json through the package `tokenizers`, and its chat template.

A program carries what :func:`carried` read beside the checkpoint, so that it takes and gives text wherever it is run.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from skipopu.accept import Accepted, read_json, shown
from skipopu.chat_template import environment, template_of
from skipopu.errors import CheckpointError, ProgramError
from skipopu.model_config import TOKENIZERS, ModelConfig
from skipopu.text_files import DECIDES, MODEL, READ, TEMPLATES, TOKENIZER
from skipopu.tokenizer_class import tokenizer_of

if TYPE_CHECKING:
    from tokenizers import Encoding


class NoText(ProgramError):
    """A model whose text nobody knows."""


def carried(directory: Path) -> dict[str, str]:
    """Contents of a checkpoint's text files by name, of files that are only known to be there empty; {} without a tokenizer.

    Raises:
        CheckpointError: one of them cannot be read as text.
    """
    found: dict[str, str] = {}
    templates = sorted(str(path.relative_to(directory)) for path in (directory / TEMPLATES).glob("*.jinja"))
    for name in dict.fromkeys((*READ, *templates, *TOKENIZERS)):
        path = directory / name
        if os.path.lexists(path):
            encoding = "utf-8" if path.suffix == ".jinja" else "utf-8-sig"  # a template's mark is text
            try:
                found[name] = path.read_text(encoding=encoding) if name in READ or name in templates else ""
            except (OSError, UnicodeDecodeError) as error:
                raise CheckpointError(f"{path}: cannot be read as text ({error})") from None
    if not found.keys() & set(TOKENIZERS):
        return {}
    described = read_json(path, CheckpointError) if os.path.lexists(path := directory / MODEL) else {}
    return {**found, MODEL: json.dumps({key: described[key] for key in DECIDES if key in described})}


class Passage(NamedTuple):
    """Text as a model is evaluated on it: ``ids`` (n,), the UTF-8 bytes behind each of them, and ids that come before any text."""

    ids: NDArray[np.int64]
    sizes: NDArray[np.int64] | None
    head: tuple[int, ...] = ()


Message = Mapping[str, str]  # "role" (user, assistant or system) and "content"
MESSAGE = Accepted(
    "a mapping with the text of its role and its content",
    lambda value: isinstance(value, Mapping) and all(isinstance(value.get(key), str) for key in ("role", "content")),
)


class Text(Protocol):
    """Text of one model."""

    def encode(self, text: str | bytes) -> tuple[int, ...]:
        """Token ids, with those that the checkpoint puts around a text; raises ProgramError for what is no text."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ``ids``, special tokens left out."""
        ...

    def inside(self, text: str) -> tuple[int, ...]:
        """Ids of a text that stands behind another one; raises ProgramError for what is no text."""
        ...

    def chat(self, messages: str | Sequence[Message]) -> tuple[int, ...]:
        """Ids of a conversation, or of a user's only message, in the checkpoint's chat template; raises ProgramError when there is none."""
        ...

    def passage(self, data: bytes) -> Passage:
        """``data`` to evaluate; raises ProgramError for what is no text."""
        ...


def text_of(config: ModelConfig, files: Mapping[str, str], model: str) -> Text:
    """Text of the model called ``model``, of which ``files`` are what :func:`carried` returned.

    Raises:
        NoText: its ids are not declared to be bytes and there is no tokenizer.json.
        ProgramError: its tokenizer is not usable, or of another vocabulary.
    """
    if config.byte_level:
        return Bytes(model)
    if not files:
        raise NoText(
            f"model {model} does not take text: no {TOKENIZER} lies beside its config.json, which does not declare"
            ' "byte_level": true either'
        )
    if TOKENIZER not in files:
        raise NoText(
            f"model {model} does not take text: of its tokenizer there is {next(iter(files))} and no {TOKENIZER}, which alone is"
            " read; AutoTokenizer.from_pretrained(DIRECTORY).save_pretrained(DIRECTORY) of the package transformers writes one"
        )
    if MODEL not in files:
        raise NoText(f"model {model} does not take text: its program does not say what family it is of; compile it again")
    return _vocabulary(tuple(files.items()), config.vocab_size, model)


def _string(text: str | bytes, what: str) -> str:
    """``text`` as Unicode; raises ProgramError, calling it ``what``, when it is not UTF-8."""
    try:
        data = text if isinstance(text, bytes) else text.encode(errors="surrogateescape")
        return data.decode()
    except UnicodeError as error:
        raise ProgramError(
            f"{what} {shown(text)} is not UTF-8 ({getattr(error, 'reason', error)}), which a tokenizer needs"
        ) from None


class Bytes:
    """A byte-level model: ids 0 to 255 are bytes, whatever they are."""

    def __init__(self, model: str) -> None:
        self.model = model

    def encode(self, text: str | bytes) -> tuple[int, ...]:
        try:
            return tuple(text if isinstance(text, bytes) else text.encode(errors="surrogateescape"))
        except UnicodeEncodeError as error:
            raise ProgramError(f"the prompt {text!r} is no text ({error.reason})") from None

    def decode(self, ids: Sequence[int]) -> str:
        """Ids that are no bytes are left out."""
        return bytes(i for i in ids if i < 256).decode(errors="replace")

    def inside(self, text: str) -> tuple[int, ...]:
        return self.encode(text)

    def chat(self, messages: str | Sequence[Message]) -> tuple[int, ...]:
        raise ProgramError(f"model {self.model} is byte-level: it has no chat template")

    def passage(self, data: bytes) -> Passage:
        return Passage(np.frombuffer(data, np.uint8).astype(np.int64), np.ones(len(data), np.int64))


class Vocabulary:
    """A checkpoint's tokenizer: tokenizer.json, with what tokenizer_config.json says beside it."""

    def __init__(self, files: Mapping[str, str], vocabulary: int, model: str) -> None:
        """``vocabulary``: ids of the model. Raises ProgramError naming the file that does not fit."""
        self.model, self.size, self.where, self.files = model, vocabulary, f"{model}/{TOKENIZER}", files
        self.tokenizer, self.settings, self.special = tokenizer_of(files, model)
        # Added tokens may lie beyond the embedding, as padding often does: they are refused where they occur.
        most = max(self.tokenizer.get_vocab(with_added_tokens=False).values(), default=-1)
        if most >= vocabulary:
            raise ProgramError(
                f"{self.where}: its vocabulary has id {most}; accepted: ids below config.json's vocab_size, {vocabulary}"
            )
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.around: list[list[int]] | None = None

    def _checked(self, ids: Sequence[int]) -> tuple[int, ...]:
        if beyond := [number for number in ids if number >= self.size]:
            raise ProgramError(
                f"{self.where}: token {self.tokenizer.id_to_token(beyond[0])!r} has id {beyond[0]}; accepted: ids below"
                f" config.json's vocab_size, {self.size}"
            )
        return tuple(ids)

    def _encoding(self, text: str, ends: bool = False) -> Encoding:
        try:
            return self.tokenizer.encode(text, add_special_tokens=ends)
        except Exception as error:  # the package raises nothing more precise
            raise ProgramError(f"{self.where}: cannot encode {shown(text)} ({' '.join(str(error).split())})") from None

    def _ends(self) -> list[list[int]]:
        """Ids that the checkpoint puts before and behind a text."""
        if self.around is None:
            encoding = self._encoding("a", ends=True)
            inner = [k for k, added in enumerate(encoding.special_tokens_mask) if not added] or [0]
            self.around = [list(encoding.ids[: inner[0]]), list(encoding.ids[inner[-1] + 1 :])]
        return self.around

    def encode(self, text: str | bytes) -> tuple[int, ...]:
        before, behind = self._ends()
        body = self._encoding(_string(text, "the prompt")).ids
        return self._checked([*before, *body, *behind])

    def decode(self, ids: Iterable[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    def render(self, messages: Sequence[Message]) -> str:
        """A conversation in the checkpoint's chat template, ready to be answered."""
        template = template_of(self.files, self.settings, self.model)
        given: dict[str, Any] = {"messages": list(messages), "tools": None, "documents": None, "add_generation_prompt": True}
        try:
            return environment().from_string(template).render(**given, **self.special)
        except Exception as error:  # a template runs code of its own
            raise ProgramError(f"{self.model}: its chat template fails ({' '.join(str(error).split())})") from None

    def inside(self, text: str) -> tuple[int, ...]:
        return self._checked(self._encoding(_string(text, "the prompt")).ids)

    def chat(self, messages: str | Sequence[Message]) -> tuple[int, ...]:
        if isinstance(messages, str | bytes):
            messages = [{"role": "user", "content": _string(messages, "the prompt")}]
        said = [{**MESSAGE.check(message, "a message", ProgramError)} for message in messages]
        return self.inside(self.render([{**each, "content": _string(each["content"], "the prompt")} for each in said]))

    def passage(self, data: bytes) -> Passage:
        text = _string(data, "the text")
        encoding = self._encoding(text)
        points = np.frombuffer(text.encode("utf-32-le"), "<u4")
        widths = 1 + (points >= 0x80).astype(np.int64) + (points >= 0x800) + (points >= 0x10000)
        places = np.concatenate([[0], widths.cumsum()])
        # A token counts the bytes up to where the next one starts: no byte twice, none left out.
        starts = places[[start for start, _ in encoding.offsets]] if encoding.ids else places[:0]
        sizes = np.diff(np.concatenate([places[:1], np.maximum.accumulate(starts)[1:], places[-1:]]))[: len(starts)]
        head = self._checked(self._ends()[0])
        return Passage(np.array(self._checked(encoding.ids), np.int64), sizes, head)


@functools.lru_cache(maxsize=4)
def _vocabulary(files: tuple[tuple[str, str], ...], size: int, model: str) -> Vocabulary:
    return Vocabulary(dict(files), size, model)
