"""Tiny Llama models whose next token is a table over the last one: what they say is known beforehand.

Their one layer adds nothing to the embeddings, which are unit vectors; the output head is the table.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from src.advisor.chat_format import ChatSource
from src.advisor.models import LoadedModel, load_model

CHAT = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}<assistant>"
"""Ends in `>`, so what such a model says first is what follows a `>`; a closed thought ends in a line break."""


def bigram_model(follows: Mapping[str, Mapping[str, float]], *added: str, template: str | None = CHAT) -> LoadedModel:
    """A model over single bytes and the tokens `added`. After a token of `follows` come its entries with the given
    probabilities, the rest spread evenly over all others; after any other token all are alike."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tiny = load_model("tiny", device="cpu", threads=1)
    tokenizer: Any = tiny.tokenizer
    tokenizer.add_tokens(list(added))
    tokenizer.chat_template = template
    n = len(tokenizer)
    width = 8 * math.ceil(n / 8)
    config = LlamaConfig(
        hidden_size=width, intermediate_size=8, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=n, max_position_embeddings=4096, bos_token_id=None, eos_token_id=None,
        attn_implementation="eager",
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval()
    table = torch.zeros(n, width)
    for last, entries in follows.items():
        (column,) = tokenizer(last, add_special_tokens=False)["input_ids"]
        rest = (1.0 - sum(entries.values())) / (n - len(entries))
        table[:, column] = math.log(rest)
        for text, share in entries.items():
            (row,) = tokenizer(text, add_special_tokens=False)["input_ids"]
            table[row, column] = math.log(share)
    state = model.state_dict()
    with torch.no_grad():
        for name, value in state.items():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                value.zero_()
        state["model.embed_tokens.weight"].copy_(torch.eye(n, width))
        state["lm_head.weight"].copy_(table / math.sqrt(width))  # the norm makes of a unit vector one of sqrt(width)
    chat = ChatSource(template)
    return dataclasses.replace(tiny, model=model, name="bigram", identity="bigram", chat=chat)


def save(loaded: LoadedModel, folder: Path) -> Path:
    """As a folder that a user may have."""
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    return folder
