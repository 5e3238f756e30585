"""The tokenizer that transformers 5.24 makes of a checkpoint's files.

Its class decides: ``TokenizersBackend`` is what tokenizer.json says; others keep the vocabulary, the merges and what surrounds a text,
and put parts of their own in the place of all the rest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from skipopu.accept import BOOLEAN, NULL, TEXT, Accepted, one_of, shown
from skipopu.errors import ProgramError
from skipopu.special_tokens import DECODER, SpecialTokens, special_tokens
from skipopu.text_files import CONFIG, MODEL, TOKENIZER, contents

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

BACKEND, LLAMA, CODE_LLAMA, GPT2, NEOX, QWEN2, GEMMA = (
    "TokenizersBackend",
    "LlamaTokenizer",
    "CodeLlamaTokenizer",
    "GPT2Tokenizer",
    "GPTNeoXTokenizer",
    "Qwen2Tokenizer",
    "GemmaTokenizer",
)
# Families whose tokenizers are of one class, whatever is named (transformers' TOKENIZER_MAPPING_NAMES,
# MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS), and what those have where no class is named; others have BACKEND there.
ALWAYS = {**dict.fromkeys(("granite", "mistral", "olmo2", "phi3", "stablelm"), BACKEND), "qwen2": QWEN2}
UNNAMED = {"qwen3": QWEN2, "gpt_neox": NEOX, "olmo": NEOX, **dict.fromkeys(("gemma", "gemma2", "gemma3_text"), GEMMA)}
SAME = (BACKEND, "PreTrainedTokenizer", "BloomTokenizer")  # as tokenizer.json says
_END = "<|endoftext|>"
_PIECES = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
# Classes that replace parts, with the special tokens that they have where none is named.
DEFAULTS: dict[str, dict[str, str | None]] = {
    LLAMA: {**_PIECES},
    CODE_LLAMA: {
        **_PIECES,
        "prefix_token": "▁<PRE>",
        "middle_token": "▁<MID>",
        "suffix_token": "▁<SUF>",
        "eot_token": "▁<EOT>",
        "fill_token": "<FILL_ME>",
    },
    GPT2: {"unk_token": _END, "bos_token": _END, "eos_token": _END, "pad_token": None},
    NEOX: {"unk_token": _END, "bos_token": _END, "eos_token": _END, "pad_token": "<|padding|>"},
    QWEN2: {"unk_token": _END, "bos_token": None, "eos_token": _END, "pad_token": _END},
    GEMMA: {"unk_token": "<unk>", "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "mask_token": "<mask>"},
}
QWEN2_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PATCHED = 100_000  # a larger vocabulary of Mistral's is cut otherwise where fix_mistral_regex asks for it
_NONE = Accepted("none", lambda value: not value)


def class_of(files: Mapping[str, str], model: str) -> str:
    """Which class: of the model's family, or else the one that tokenizer_config.json names, or config.json.

    Raises:
        ProgramError: that is none whose parts are known.
    """
    config, described = contents(files, CONFIG, model), contents(files, MODEL, model)
    code = config.get("auto_map")
    NULL.check(code.get("AutoTokenizer") if isinstance(code, dict) else code, f"{model}/{CONFIG}: auto_map", ProgramError)
    family = str(described.get("model_type"))
    if family in ALWAYS:
        return ALWAYS[family]
    where, named = CONFIG, config.get("tokenizer_class")
    if named is None:
        where, named = MODEL, described.get("tokenizer_class")
    if named is None:
        return UNNAMED.get(family, BACKEND)
    name = str(named).removesuffix("Fast")
    if name in SAME or (name == LLAMA and '"ByteLevel"' in files[TOKENIZER]):
        return BACKEND
    if name not in DEFAULTS:
        known = ", ".join((*SAME, *DEFAULTS))
        raise ProgramError(f"{model}/{where}: tokenizer_class is {shown(named)}; accepted: {known}, each with or without Fast")
    return name


def tokenizer_of(files: Mapping[str, str], model: str) -> tuple[Tokenizer, dict[str, Any], dict[str, str]]:
    """The tokenizer, what is set of it, and its special tokens by their names.

    Raises:
        ProgramError: naming the file, and the key, that does not fit.
    """
    from tokenizers import Tokenizer

    where, kind = f"{model}/{CONFIG}", class_of(files, model)
    try:
        tokenizer: Tokenizer = Tokenizer.from_str(files[TOKENIZER])
    except Exception as error:  # the package raises nothing more precise
        raise ProgramError(f"{model}/{TOKENIZER}: not a tokenizer ({' '.join(str(error).split())})") from None
    data = json.loads(files[TOKENIZER])
    settings, special = special_tokens(files, data, DEFAULTS.get(kind, {}), model)
    _refuse(settings, tokenizer, files, model)
    if kind != BACKEND:
        tokenizer = _replaced(kind, tokenizer, data["model"], settings, special, model)
    tokenizer.encode_special_tokens = _flag(settings, "split_special_tokens", False, where)
    special.add_to(tokenizer)
    if kind == QWEN2:
        from tokenizers import AddedToken

        tokens = (*special.texts.values(), *map(str, special.extra))
        tokenizer.add_tokens([AddedToken(token, special=True) for token in dict.fromkeys(tokens)])
    if kind == CODE_LLAMA:
        from tokenizers.processors import TemplateProcessing

        first = TEXT.check(special.texts.get("bos_token"), f"{where}: bos_token", ProgramError)
        tokenizer.post_processor = TemplateProcessing(
            single=[first, "$A"], special_tokens=[(first, tokenizer.token_to_id(first))]
        )
    _compare(special.added if DECODER in settings else {}, tokenizer, where)
    return tokenizer, settings, special.texts


def _flag(settings: Mapping[str, Any], key: str, default: bool, where: str) -> bool:
    value = (BOOLEAN | NULL).check(settings.get(key), f"{where}: {key}", ProgramError)
    return default if value is None else value


def _refuse(settings: Mapping[str, Any], tokenizer: Tokenizer, files: Mapping[str, str], model: str) -> None:
    """What transformers does otherwise, and nothing here does."""
    where, described = f"{model}/{CONFIG}", contents(files, MODEL, model)
    _NONE.check(settings.get("init_inputs"), f"{where}: init_inputs", ProgramError)
    one_of([None, [TOKENIZER]]).check(settings.get("fast_tokenizer_files"), f"{where}: fast_tokenizer_files", ProgramError)
    clean, even = "clean_up_tokenization_spaces", "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
    if settings.get(clean) and (settings.get(even) or type(tokenizer.model).__name__ != "BPE"):
        raise ProgramError(f"{where}: {clean} is {shown(settings[clean])}; accepted: false, as text is shown while it comes")
    old = not re.match(r"[5-9]|[1-9]\d", str(described.get("transformers_version")))
    if described.get("model_type") == "mistral" and old and tokenizer.get_vocab_size() > PATCHED:
        _NONE.check(settings.get("fix_mistral_regex"), f"{where}: fix_mistral_regex", ProgramError)


def _replaced(
    kind: str, loaded: Tokenizer, data: Mapping[str, Any], settings: Mapping[str, Any], special: SpecialTokens, model: str
) -> Tokenizer:
    """A tokenizer of class ``kind`` with the vocabulary of ``loaded``, whose model is described by ``data``."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    where = f"{model}/{CONFIG}"
    if not isinstance(data.get("vocab"), dict) or "merges" not in data:
        raise ProgramError(f"{model}/{TOKENIZER}: model.type is {shown(data.get('type'))}; accepted: 'BPE' for class {kind}")
    merges: list[Any] = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in data["merges"]]
    prefix = _flag(settings, "add_prefix_space", kind in (LLAMA, CODE_LLAMA), where)
    byte_level = kind in (GPT2, NEOX, QWEN2)
    unknown = special.texts.get("unk_token", "None") if kind in (CODE_LLAMA, GEMMA) else None
    options: dict[str, Any] = (
        {"continuing_subword_prefix": "", "end_of_word_suffix": "", "fuse_unk": False}
        if byte_level
        else {"unk_token": unknown, "fuse_unk": True, "byte_fallback": True}
    )
    tokenizer = Tokenizer(models.BPE(vocab=data["vocab"], merges=merges, **options))
    if byte_level:
        bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=kind != QWEN2)
        words = pre_tokenizers.Split(Regex(QWEN2_WORDS), behavior="isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, bytes_]) if kind == QWEN2 else bytes_
        tokenizer.decoder = decoders.ByteLevel()
        if kind != GPT2:
            tokenizer.normalizer = normalizers.NFC()
    else:
        pieces = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        if kind == GEMMA:
            tokenizer.normalizer = normalizers.Replace(" ", "▁")
            tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
        else:
            always = kind == LLAMA and _flag(settings, "legacy", False, where)
            scheme = "never" if not prefix else "always" if always else "first"
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme, split=False)
            pieces += [decoders.Strip(content=" ", left=1)] if prefix or kind == CODE_LLAMA else []
        tokenizer.decoder = decoders.Sequence(pieces)
    if kind != NEOX and loaded.post_processor is not None:
        tokenizer.post_processor = loaded.post_processor
    return tokenizer


def _compare(declared: Mapping[int, AddedToken], tokenizer: Tokenizer, where: str) -> None:
    """Raises ProgramError where a token does not have the id that is declared for it."""
    for number, token in declared.items():
        if (known := tokenizer.token_to_id(token.content)) != number:
            raise ProgramError(f"{where}: {DECODER} gives {token.content!r} id {number}; {TOKENIZER} gives it {known}")
