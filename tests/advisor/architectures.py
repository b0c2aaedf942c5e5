"""Tiny random models of every architecture this project has met, made from configurations without a download.

As a script it scores each and compares with a plain pass over each whole prompt:

    python -m tests.advisor.architectures [NAME ...]
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from src.advisor.models import LoadedModel, load_model
from src.advisor.prompts import load_prompts
from src.advisor.scoring import LLMScorer
from src.errors import UserError

FIGURES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 256, "max_position_embeddings": 2048, "head_dim": 8,
    "bos_token_id": None, "eos_token_id": None, "pad_token_id": None, "initializer_range": 0.2,
}  # fmt: skip
SITUATIONS = np.array([5, 6, 1237, 2004])

# Configuration class, and its own names for the figures; ... leaves one out.
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "gpt2": ("GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 2048}),
    "gpt_neox": ("GPTNeoXConfig", {}),
    "gptj": ("GPTJConfig", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 2048, "rotary_dim": 4}),
    "opt": ("OPTConfig", {"ffn_dim": 48, "word_embed_proj_dim": 32, "pad_token_id": 1}),
    "bloom": ("BloomConfig", {"n_layer": 2, "n_head": 4}),
    "mpt": ("MptConfig", {"d_model": 32, "n_heads": 4, "n_layers": 2}),
    "falcon": ("FalconConfig", {"head_dim": ...}),
    "mistral": ("MistralConfig", {"sliding_window": None}),
    "mistral, narrow window": ("MistralConfig", {"sliding_window": 32}),
    "mistral, wide window": ("MistralConfig", {"sliding_window": 2048}),
    "mixtral": ("MixtralConfig", {"num_local_experts": 2}),
    "qwen2": ("Qwen2Config", {}),
    "qwen3": ("Qwen3Config", {}),
    "qwen2_moe": ("Qwen2MoeConfig", {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}),
    "phi": ("PhiConfig", {}),
    "phi3": ("Phi3Config", {}),
    "gemma": ("GemmaConfig", {}),
    "gemma2": ("Gemma2Config", {}),
    "gemma2, narrow window": ("Gemma2Config", {"sliding_window": 32}),
    "gemma3": ("Gemma3TextConfig", {}),
    "stablelm": ("StableLmConfig", {}),
    "starcoder2": ("Starcoder2Config", {}),
    "smollm3": ("SmolLM3Config", {}),
    "olmo2": ("Olmo2Config", {}),
    "cohere": ("CohereConfig", {}),
    "granite": ("GraniteConfig", {}),
    "persimmon": ("PersimmonConfig", {}),
    "gpt_oss": ("GptOssConfig", {"num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 32}),
    "mamba": ("MambaConfig", {"state_size": 8}),
    "mamba2": ("Mamba2Config", {"num_heads": 4, "head_dim": 16, "n_groups": 1, "state_size": 8}),
    "falcon_mamba": ("FalconMambaConfig", {"state_size": 8}),
    "jamba": ("JambaConfig", {"num_experts": 2, "num_experts_per_tok": 1, "mamba_d_state": 8}),
    "bamba": ("BambaConfig", {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "attn_layer_indices": [1]}),
    "recurrent_gemma": ("RecurrentGemmaConfig", {"lru_width": 32}),
    "rwkv": ("RwkvConfig", {"attention_hidden_size": 32, "context_length": 2048}),
    "xlstm": ("xLSTMConfig", {"num_heads": 4}),
    "bart's decoder": (
        "BartConfig", {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 48},
    ),
    "bert": ("BertConfig", {}),
    "roberta": ("RobertaConfig", {"pad_token_id": 1}),
    "electra": ("ElectraConfig", {"embedding_size": 32}),
}  # fmt: skip
WITHOUT_PREFIX = (
    "mistral, narrow window", "gemma2, narrow window", "gpt_oss", "mamba", "mamba2", "falcon_mamba", "jamba", "bamba",
    "recurrent_gemma", "rwkv", "xlstm",
)  # fmt: skip
ENCODERS = ("bert", "roberta", "electra")


def random_model(name: str) -> Any:
    """The architecture with random weights, the same every time."""
    import transformers

    kind, figures = ARCHITECTURES[name]
    every = {name: value for name, value in {**FIGURES, **figures}.items() if value is not ...}
    config = getattr(transformers, kind)(**every)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


def loaded(name: str, tiny: LoadedModel) -> LoadedModel:
    """The architecture with the tiny model's tokenizer, as if it had been loaded."""
    return LoadedModel(
        random_model(name), tiny.tokenizer, name, name, "none", torch.device("cpu"), torch.float32, 1, 0.0
    )


def saved(name: str, tiny: LoadedModel, folder: Path) -> Path:
    """The architecture as a folder that a user may have."""
    random_model(name).save_pretrained(folder)
    tiny.tokenizer.save_pretrained(folder)
    return folder


def largest_difference(scorer: LLMScorer, model: Any, situations: Any = SITUATIONS) -> float:
    """Between the scores and a plain pass over each whole prompt."""
    scores, worst = scorer.score(situations), 0.0
    for row, situation in zip(scores, situations.tolist(), strict=True):
        tokens = torch.tensor([scorer._encoder.tokens(situation)])
        with torch.inference_mode():
            plain = model(input_ids=tokens, use_cache=False).logits[0, -1].double().log_softmax(-1)
        answers = scorer._encoder.answer_tokens[situation % 5]
        worst = max(worst, *(abs(float(plain[token]) - float(row[action])) for action, token in answers.items()))
    return worst


def main(names: list[str]) -> int:
    tiny, prompts, wrong = load_model("tiny", device="cpu", threads=1), load_prompts(), 0
    for name in names or ARCHITECTURES:
        began = time.perf_counter()
        try:
            subject = loaded(name, tiny)
            scorer = LLMScorer(subject, prompts)
            difference = largest_difference(scorer, subject.model)
            said = f"differs by {difference:.1e}, shared prefix: {scorer.stats.shared_prefix}"
            wrong += difference > 1e-4
        except UserError as error:
            said = f"refused: {error}"
        sys.stdout.write(f"{name:24s} {said} ({time.perf_counter() - began:.1f} s)\n")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
