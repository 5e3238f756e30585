"""Tokens that a checkpoint adds to its vocabulary, in the order in which transformers 5.24 adds them, which gives them ids."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from skipopu.accept import INTEGER, MAPPING, NULL, Accepted, shown
from skipopu.errors import ProgramError
from skipopu.text_files import ADDED, CONFIG, SPECIAL, TOKENIZER, contents

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
DECODER, EXTRA, OLD_EXTRA, SPECIFIC = (
    "added_tokens_decoder",
    "extra_special_tokens",
    "additional_special_tokens",
    "model_specific_special_tokens",
)
_LIST = Accepted("a list of tokens", lambda value: isinstance(value, list))
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
# Halves of a pair of UTF-16 are no text of their own.
_CONTENT = Accepted("a token's text", lambda value: isinstance(value, str) and not re.search("[\ud800-\udfff]", value))
_SEVERAL = _LIST | MAPPING | NULL
_NUMBERED = Accepted("a mapping of ids to tokens", lambda value: MAPPING.holds(value) and all(k.isdecimal() for k in value))


class SpecialTokens(NamedTuple):
    """``named`` by their keys, as templates know them, ``extra`` ones without, and ``added`` by the id that is declared for them."""

    named: dict[str, str | AddedToken]
    extra: list[str | AddedToken]
    added: dict[int, AddedToken]

    @property
    def texts(self) -> dict[str, str]:
        return {name: str(token) for name, token in self.named.items()}

    def add_to(self, tokenizer: Tokenizer) -> None:
        """Ids of tokens that are there stay as they are, flags become those declared here."""
        from tokenizers import AddedToken

        known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
        tokens: list[str | AddedToken] = [self.added[number] for number in sorted(self.added)]
        known |= {str(token) for token in tokens}
        for token in (*self.named.values(), *self.extra):
            if str(token) not in known and token not in tokens:
                tokens.append(token)
        names, made = set(self.texts.values()), []
        for token in tokens:
            given = AddedToken(token, special=True) if isinstance(token, str) else token
            given.special = given.special or given.content in names
            made.append(given)
        tokenizer.add_tokens(made)


def _added_token(value: Any, what: str, **more: bool) -> AddedToken:
    """A token of its description, ``what`` in errors."""
    from tokenizers import AddedToken

    try:
        flags: dict[str, Any] = {key: value[key] for key in _FLAGS if key in value} | more
        return AddedToken(_CONTENT.check(value.get("content"), what, ProgramError), **flags)
    except (AttributeError, TypeError):
        raise ProgramError(f"{what} is {shown(value)}; accepted: a token's text, or its content and flags") from None


def _is_token(value: Any) -> bool:
    from tokenizers import AddedToken

    return isinstance(value, str | AddedToken)


def _token(value: Any, what: str) -> str | AddedToken:
    if isinstance(value, str):
        return _CONTENT.check(value, what, ProgramError)
    return value if _is_token(value) else _added_token(value, what)


def _described(value: Any) -> bool:
    return isinstance(value, dict) and value.get("__type") == "AddedToken"


def special_tokens(
    files: Mapping[str, str], tokenizer: Mapping[str, Any], defaults: Mapping[str, str | None], model: str
) -> tuple[dict[str, Any], SpecialTokens]:
    """What tokenizer_config.json sets, with what older files set beside it, and the tokens.

    Args:
        tokenizer: content of tokenizer.json.
        defaults: names of tokens that its class has.

    Raises:
        ProgramError: naming the file and the key that says no token.
    """
    where = f"{model}/{CONFIG}"
    settings = contents(files, CONFIG, model)
    _check_several(settings, where)
    if OLD_EXTRA in settings and not settings.get(EXTRA):
        settings[EXTRA] = settings.pop(OLD_EXTRA)
    own = [key for key, value in settings.items() if key.endswith("_token") and key not in NAMES and isinstance(value, str)]
    specific = {key: settings.pop(key) for key in own}
    specific |= settings.pop(EXTRA) if isinstance(settings.get(EXTRA), dict) else {}
    settings |= {SPECIFIC: specific} if specific else {}
    if DECODER in settings:
        declared = _NUMBERED.check(settings[DECODER], f"{where}: {DECODER}", ProgramError)
        added = {int(key): _added_token(value, f"{where}: {DECODER}: {key}") for key, value in declared.items()}
    else:
        _older(files, settings, model)
        added = _added(files, settings, tokenizer, model)
    for key in ("add_bos_token", "add_eos_token"):
        settings.pop(key, None)
    padding = tokenizer.get("padding") or {}
    settings = {**defaults, **settings}
    settings.setdefault("pad_token", padding.get("pad_token"))
    if OLD_EXTRA in settings and EXTRA not in settings:
        settings[EXTRA] = settings.pop(OLD_EXTRA)
    named = {key: settings[key] for key in NAMES if settings.get(key) is not None}
    named |= {k: v for k, v in settings.items() if k.endswith("_token") and k not in NAMES and (_is_token(v) or _described(v))}
    named |= MAPPING.check(settings.get(SPECIFIC) or {}, f"{where}: {SPECIFIC}", ProgramError)
    extra = _LIST.check(settings.get(EXTRA) or [], f"{where}: {EXTRA}", ProgramError)
    return settings, SpecialTokens(
        {key: _token(value, f"{where}: {key}") for key, value in named.items()},
        [_token(value, f"{where}: {EXTRA}") for value in extra],
        added,
    )


def _check_several(settings: Mapping[str, Any], where: str) -> None:
    for key, kind in ((EXTRA, _SEVERAL), (OLD_EXTRA, _SEVERAL), (SPECIFIC, MAPPING | NULL)):
        kind.check(settings.get(key), f"{where}: {key}", ProgramError)


def _older(files: Mapping[str, str], settings: dict[str, Any], model: str) -> None:
    """What special_tokens_map.json says goes before tokenizer_config.json, where that declares no added tokens."""
    where = f"{model}/{SPECIAL}"
    given = contents(files, SPECIAL, model)
    _check_several(given, where)
    for key, value in given.items():
        if key in ("add_bos_token", "add_eos_token", SPECIFIC):
            raise ProgramError(f"{where}: {key} is {shown(value)}; accepted: names of tokens")
        if key == EXTRA and isinstance(value, list):
            before = list(settings.get(EXTRA) or [])
            items = [item if _is_token(item) else _added_token(item, f"{where}: {key}", special=True) for item in value]
            settings[key] = before + [item for item in items if item not in before]
        else:
            described = isinstance(value, dict) and key != EXTRA
            settings[key] = _added_token(value, f"{where}: {key}", special=True) if described else value
    if isinstance(settings.get(EXTRA), dict):
        settings[SPECIFIC] = {**(settings.get(SPECIFIC) or {}), **settings.pop(EXTRA)}


def _added(
    files: Mapping[str, str], settings: Mapping[str, Any], tokenizer: Mapping[str, Any], model: str
) -> dict[int, AddedToken]:
    """Added tokens where tokenizer_config.json declares none: those of added_tokens.json, and of tokenizer.json."""
    from tokenizers import AddedToken

    special = {str(settings[key]) for key in NAMES if settings.get(key)} | {str(token) for token in settings.get(EXTRA) or ()}
    added: dict[int, AddedToken] = {}
    for text, number in contents(files, ADDED, model).items():
        INTEGER.check(number, f"{model}/{ADDED}: {text!r}", ProgramError)
        added[number] = AddedToken(text, normalized=text not in special, special=text in special)
    for given in tokenizer.get("added_tokens", ()):
        flags = {key: value for key, value in given.items() if key != "id"}
        added[given["id"]] = _added_token(flags, f"{model}/{TOKENIZER}: added_tokens")
    return added
