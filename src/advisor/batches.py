"""How many prompts one forward pass may read: what a prompt takes, and what a device has left.

A prompt's memory is estimated from the model's configuration, so nothing is tried out on a device that is short of
memory. The estimate counts what a scoring pass holds at once: keys and values of every layer (the shared prefix is
copied when a layer appends to it), the widest layer's activations, and the logits of the last token in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import torch

FEW: Final = 16
"""Prompts of a pass on a CPU, and wherever a configuration does not say what the estimate needs."""
MOST: Final = 256
"""Prompts of a pass at most: answers are stored batch by batch, and 256 prompts fill a GPU."""
_SHARE: Final = 0.8
"""Of the free memory; the rest is for the allocator's fragments and the libraries' workspaces."""
_LOGIT_COPIES: Final = 3
"""Of the last token's logits in float64: pieces, joined, normalized."""


@dataclass(frozen=True)
class Shape:
    """The sizes of a causal language model that decide what a pass takes."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    inner: int
    vocabulary: int


def shape_of(config: Any) -> Shape | None:
    """The sizes in a model's configuration; None where it lacks one, as those of state space models do."""
    text = config.get_text_config()

    def read(*names: str) -> int | None:
        found = (getattr(text, name, None) for name in names)
        return next((value for value in found if isinstance(value, int) and value > 0), None)

    layers, heads, hidden = read("num_hidden_layers"), read("num_attention_heads"), read("hidden_size")
    vocabulary = read("vocab_size")
    if layers is None or heads is None or hidden is None or vocabulary is None:
        return None
    return Shape(
        layers,
        heads,
        read("num_key_value_heads") or heads,
        read("head_dim") or hidden // heads,
        hidden,
        read("intermediate_size", "ffn_dim", "n_inner") or 4 * hidden,
        vocabulary,
    )


def prompt_bytes(shape: Shape, own: int, prefix: int, itemsize: int, *, head_at_ends: bool = True) -> int:
    """Bytes a prompt takes in a pass: `own` tokens behind a shared prefix of `prefix` tokens.

    itemsize: bytes of a number in the model's dtype. `head_at_ends` False: logits are made for every token.
    """
    tokens = own + prefix
    per_head = shape.head_dim * itemsize
    cache = 2 * shape.layers * shape.kv_heads * per_head * tokens if prefix else 0
    # One layer at a time: keys and values repeated for all heads; scores, masked, in float32 and cast; the mask.
    attention = 2 * shape.heads * per_head * tokens + own * tokens * (shape.heads * (3 * itemsize + 4) + itemsize)
    inside = own * (4 * shape.inner * itemsize + shape.hidden * (6 * itemsize + 8))
    head = _LOGIT_COPIES * 8 * shape.vocabulary
    if not head_at_ends:
        head += own * shape.vocabulary * (itemsize + 4)
    return cache + attention + inside + head


def free_bytes(device: torch.device) -> int:
    """Bytes that this process can still allocate on a CUDA device, within the share of it that torch may take."""
    import torch  # tabulation, which needs only the sizes, is loaded without it

    free, total = torch.cuda.mem_get_info(device)
    allocated, reserved = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
    allowed = int(total * torch.cuda.get_per_process_memory_fraction(device)) - allocated
    return max(0, min(free + reserved - allocated, allowed))


def fitting(free: int, each: int) -> int:
    """Prompts of `each` bytes that fit into `free` bytes with some to spare: a power of two, 1 to `MOST`."""
    fit = min(MOST, max(1, int(free * _SHARE) // each))
    return 1 << (fit.bit_length() - 1)
