"""Small random models of every family, as transformers makes and saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

# transformers' name and what differs from SIZES.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama-biases": ("Llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "llama-3": (
        "Llama",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            }
        },
    ),
    "llama-linear": ("Llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}}),
    "llama-dynamic": ("Llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}}),
    "llama-yarn": (
        "Llama",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 16,
            }
        },
    ),
    "mistral": ("Mistral", {"sliding_window": 8, "head_dim": 16}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2-windows": ("Qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),
    "qwen3": ("Qwen3", {"head_dim": 32}),
    "phi3": ("Phi3", {}),
    "phi4-mini": (
        "Phi3",
        {
            "max_position_embeddings": 256,
            "original_max_position_embeddings": 64,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "partial_rotary_factor": 0.75,
                "short_factor": [1.0, 1.1, 1.3, 1.6, 2.0, 2.5],
                "long_factor": [1.0, 2.0, 4.0, 8.0, 16.0, 32.0],
            },
            "tie_word_embeddings": True,
        },
    ),
    "granite": (
        "Granite",
        {
            "attention_multiplier": 0.1,
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.4,
            "logits_scaling": 2.0,
            "tie_word_embeddings": True,
        },
    ),
    "smollm3": ("SmolLM3", {"no_rope_layer_interval": 2}),
    "olmo": ("Olmo", {}),
    "olmo2": ("Olmo2", {}),
    "gemma": ("Gemma", {"head_dim": 16}),
    "gemma2": (
        "Gemma2",
        {
            "head_dim": 16,
            "sliding_window": 8,
            "query_pre_attn_scalar": 24,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 3.0,
        },
    ),
    "gemma3": ("Gemma3Text", {"head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 24, "sliding_window_pattern": 2}),
    "stablelm": ("StableLm", {}),
    "stablelm-parallel": ("StableLm", {"use_qkv_bias": True, "use_parallel_residual": True, "partial_rotary_factor": 0.5}),
    "pythia": ("GPTNeoX", {"num_key_value_heads": 4}),
    "neox-sequential": (
        "GPTNeoX",
        {"num_key_value_heads": 4, "use_parallel_residual": False, "attention_bias": False, "rotary_pct": 1.0},
    ),
}
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}


def model(name: str, seed: int = 0) -> nn.Module:
    """The model in FP32, with random gains and biases too, and logits of a few units."""
    import transformers

    kind, changes = MODELS[name]
    torch.manual_seed(seed)
    config = getattr(transformers, f"{kind}Config")(**SIZES | changes, attn_implementation="eager")
    prefix = {"Gemma3Text": "Gemma3"}.get(kind, kind)
    result = getattr(transformers, f"{prefix}ForCausalLM")(config).float().eval()
    for part, parameter in result.named_parameters():
        if part.endswith("bias"):
            parameter.data.normal_(0, 0.3)
        elif parameter.dim() == 1:
            parameter.data.add_(0.3 * torch.randn_like(parameter))
        elif "embed" in part:
            parameter.data.normal_(0, 1)
        else:
            parameter.data.normal_(0, 1.5 / parameter.shape[1] ** 0.5)
    return result.requires_grad_(False)


def save(name: str, directory: Path, seed: int = 0) -> nn.Module:
    """Writes config.json and model.safetensors; returns the model."""
    result = model(name, seed)
    result.save_pretrained(directory)  # pyright: ignore[reportCallIssue]
    return result


def logits(of: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """(batch, tokens, vocabulary) float32."""
    return of(tokens, use_cache=False).logits
