"""Models made in memory: the tests' tiny random model, and weights quantized while loading."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Mapping
from typing import Any, Final

import torch


def quantized(quantization: str, dtype: torch.dtype) -> Any:
    """transformers' settings for weights in int8 or int4."""
    _import_bitsandbytes()
    from transformers import BitsAndBytesConfig

    if quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)


def _import_bitsandbytes() -> None:
    """Import bitsandbytes without a download: where the package `kernels` is installed, its import would fetch compiled
    code from the hub. It also warns at every product of an int8 layer."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if "bitsandbytes" in sys.modules:
        return
    missing = object()
    before: Any = sys.modules.get("kernels", missing)
    sys.modules["kernels"] = None  # type: ignore[assignment]
    try:
        importlib.import_module("bitsandbytes")
    finally:
        if before is missing:
            del sys.modules["kernels"]
        else:
            sys.modules["kernels"] = before


TINY_SHAPE: Final[Mapping[str, Any]] = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}


def build_tiny(attention: Mapping[str, str]) -> tuple[Any, Any]:
    """A Llama of 0.9 million random parameters over single bytes, the same every time; torch's generator is left as
    it was. Its weights are drawn wide, so that its answers differ clearly from situation to situation."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={byte: code for code, byte in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    shape: dict[str, Any] = {**TINY_SHAPE, **attention}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(**shape, vocab_size=len(alphabet), initializer_range=0.2, bos_token_id=None, eos_token_id=None)
        )
    return model, tokenizer
