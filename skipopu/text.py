"""Text to token ids and back: bytes, or a checkpoint's tokenizer.json through the package `tokenizers`, and its chat template.

A program carries what :func:`carried` read beside the checkpoint, so that it takes and gives text wherever it is run.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from skipopu.accept import MAPPING, shown
from skipopu.errors import CheckpointError, ProgramError
from skipopu.model_config import TOKENIZERS, ModelConfig

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER, CONFIG, SPECIAL, TEMPLATE = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
READ = (TOKENIZER, CONFIG, SPECIAL, TEMPLATE)


class NoText(ProgramError):
    """A model whose text nobody knows."""


def carried(directory: Path) -> dict[str, str]:
    """Contents of a checkpoint's text files by name, of files that are only known to be there empty; {} without a tokenizer.

    Raises:
        CheckpointError: one of them cannot be read as text.
    """
    found: dict[str, str] = {}
    for name in dict.fromkeys((*READ, *TOKENIZERS)):
        path = directory / name
        if path.exists():
            try:
                found[name] = path.read_text(encoding="utf-8-sig") if name in READ else ""
            except (OSError, UnicodeDecodeError) as error:
                raise CheckpointError(f"{path}: cannot be read as text ({error})") from None
    return found if found.keys() & set(TOKENIZERS) else {}


class Passage(NamedTuple):
    """Text as a model is evaluated on it: ``ids`` (n,), the UTF-8 bytes behind each of them, and ids that come before any text."""

    ids: NDArray[np.int64]
    sizes: NDArray[np.int64] | None
    head: tuple[int, ...] = ()


class Text(Protocol):
    """Text of one model."""

    def encode(self, text: str | bytes) -> tuple[int, ...]:
        """Token ids, with those that the checkpoint puts around a text; raises ProgramError for what is no text."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ``ids``, special tokens left out."""
        ...

    def chat(self, message: str) -> tuple[int, ...]:
        """Ids of one user's message in the checkpoint's chat template; raises ProgramError when there is none."""
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

    def chat(self, message: str) -> tuple[int, ...]:
        raise ProgramError(f"model {self.model} is byte-level: it has no chat template")

    def passage(self, data: bytes) -> Passage:
        return Passage(np.frombuffer(data, np.uint8).astype(np.int64), np.ones(len(data), np.int64))


def _json(files: Mapping[str, str], name: str, model: str) -> dict[str, Any]:
    try:
        return MAPPING.check(json.loads(files.get(name, "{}")), f"{model}/{name}: the content", ProgramError)
    except (ValueError, RecursionError) as error:
        raise ProgramError(f"{model}/{name}: not valid JSON ({error})") from None


def _name(token: Any) -> str | None:
    """A special token's text, which stands alone or in a description of it."""
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else None


class Vocabulary:
    """A checkpoint's tokenizer: tokenizer.json, with what tokenizer_config.json says beside it."""

    def __init__(self, files: Mapping[str, str], vocabulary: int, model: str) -> None:
        """``vocabulary``: ids of the model. Raises ProgramError naming the file that does not fit."""
        from tokenizers import Tokenizer

        self.model, self.size, self.where = model, vocabulary, f"{model}/{TOKENIZER}"
        try:
            self.tokenizer: Tokenizer = Tokenizer.from_str(files[TOKENIZER])
        except Exception as error:  # the package raises nothing more precise
            raise ProgramError(f"{self.where}: not a tokenizer ({' '.join(str(error).split())})") from None
        # Added tokens may lie beyond the embedding, as padding often does: they are refused where they occur.
        most = max(self.tokenizer.get_vocab(with_added_tokens=False).values(), default=-1)
        if most >= vocabulary:
            raise ProgramError(
                f"{self.where}: its vocabulary has id {most}; accepted: ids below config.json's vocab_size, {vocabulary}"
            )
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        config = _json(files, CONFIG, model)
        named = {**_json(files, SPECIAL, model), **config}
        self.special = {
            key: name for key, token in named.items() if key.endswith("_token") and (name := _name(token)) is not None
        }
        declared = config.get("added_tokens_decoder")
        for number, token in (declared if isinstance(declared, dict) else {}).items():
            content = _name(token) or ""
            if str(known := self.tokenizer.token_to_id(content)) != number:
                raise ProgramError(
                    f"{model}/{CONFIG}: added_tokens_decoder gives {content!r} id {number}; {TOKENIZER} gives it"
                    f" {'none' if known is None else known}"
                )
        self.template = files.get(TEMPLATE, self._default(config.get("chat_template")))
        # As transformers 5.24 has it: beside a tokenizer.json add_bos_token and add_eos_token are not read (PreTrainedTokenizerBase),
        # and one class takes away what that puts around a text.
        bare = str(config.get("tokenizer_class")).removesuffix("Fast") == "GPTNeoXTokenizer"
        self.around: list[list[int]] | None = [[], []] if bare else None

    @staticmethod
    def _default(template: Any) -> str | None:
        if isinstance(template, list):
            named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
            template = named.get("default")
        return template if isinstance(template, str) else None

    def _checked(self, ids: Sequence[int]) -> tuple[int, ...]:
        if beyond := [number for number in ids if number >= self.size]:
            raise ProgramError(
                f"{self.where}: token {self.tokenizer.id_to_token(beyond[0])!r} has id {beyond[0]}; accepted: ids below"
                f" config.json's vocab_size, {self.size}"
            )
        return tuple(ids)

    def _ends(self) -> list[list[int]]:
        """Ids that the checkpoint puts before and behind a text."""
        if self.around is None:
            encoding = self.tokenizer.encode("a")
            inner = [k for k, added in enumerate(encoding.special_tokens_mask) if not added] or [0]
            self.around = [list(encoding.ids[: inner[0]]), list(encoding.ids[inner[-1] + 1 :])]
        return self.around

    def encode(self, text: str | bytes) -> tuple[int, ...]:
        before, behind = self._ends()
        body = self.tokenizer.encode(_string(text, "the prompt"), add_special_tokens=False).ids
        return self._checked([*before, *body, *behind])

    def decode(self, ids: Iterable[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    def render(self, message: str) -> str:
        """One user's message in the checkpoint's chat template, ready to be answered."""
        if self.template is None:
            raise ProgramError(f"model {self.model} has no chat template: neither {TEMPLATE} nor chat_template in {CONFIG}")
        environment, messages = _environment(), [{"role": "user", "content": message}]
        given: dict[str, Any] = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": True}
        try:
            return environment.from_string(self.template).render(**given, **self.special)
        except Exception as error:  # a template runs code of its own
            raise ProgramError(f"{self.model}: its chat template fails ({' '.join(str(error).split())})") from None

    def chat(self, message: str) -> tuple[int, ...]:
        rendered = self.render(_string(message, "the prompt"))
        return self._checked(self.tokenizer.encode(rendered, add_special_tokens=False).ids)

    def passage(self, data: bytes) -> Passage:
        text = _string(data, "the text")
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
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


@functools.lru_cache(maxsize=1)
def _environment() -> Any:
    """Where chat templates run: sandboxed, with the names that transformers gives them."""
    import datetime

    from jinja2.exceptions import TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.nodes import Node
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """{% generation %} marks what a model said, for training: its body stands."""

        tags = {"generation"}  # noqa: RUF012 (as the class above has it)

        def parse(self, parser: Parser) -> list[Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation])
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    environment.filters["tojson"] = lambda value, **how: json.dumps(value, **{"ensure_ascii": False, **how})
    return environment
