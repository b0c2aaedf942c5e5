"""What a model's files say about it, read before any library loads them: a folder is a stranger's.

Nothing here runs or unpickles anything, and nothing is allocated that a file merely claims: headers are checked against
the files' sizes first. What is checked: the configuration's figures, that weights are safetensors and whole, that no
adapter points to a model elsewhere, and that the machine has the memory.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from src.advisor.chat_format import ChatSource
from src.advisor.gguf_header import GgufHeader, HeaderError, read_gguf_header
from src.errors import ConfigError
from src.machine_limits import GB, available_memory_gb
from src.plain_text import beginning, one_line

MAX_JSON_BYTES: Final = 64 << 20
MAX_HEADER_BYTES: Final = 100_000_000
"""The format's own limit for the header of a safetensors file."""
_DTYPE_BYTES: Final = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1.0),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2.0),
    **dict.fromkeys(("I32", "U32", "F32"), 4.0),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 8.0),
    "F4": 0.5,
}
_LIMITS: Final = {
    "num_hidden_layers": 2_000, "n_layer": 2_000, "n_layers": 2_000, "num_layers": 2_000,
    "hidden_size": 1 << 18, "d_model": 1 << 18, "n_embd": 1 << 18,
    "intermediate_size": 1 << 22, "num_attention_heads": 1 << 14, "n_head": 1 << 14, "n_heads": 1 << 14,
    "num_key_value_heads": 1 << 14, "head_dim": 1 << 14, "vocab_size": 1 << 26, "max_position_embeddings": 1 << 28,
}  # fmt: skip
"""The largest value of a configuration's figure that is believed: several times that of any model there is."""
_OPTIONAL: Final = frozenset(("num_key_value_heads", "head_dim", "intermediate_size", "max_position_embeddings"))
"""Figures that may be null, and are then derived from the others."""
_TOKEN_NAMES: Final = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))


@dataclass(frozen=True)
class Weights:
    """elements: numbers in all tensors together; tensors: how many tensors there are."""

    elements: int
    tensors: int


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a model's folder. ConfigError for anything else."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"it has {path.stat().st_size:,} bytes, at most {MAX_JSON_BYTES:,} are read")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read as JSON: {_reason(error)}. Get the file again.") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a JSON object, but holds {type(content).__name__}. Get the file again.")
    return content


def check_folder(folder: Path) -> Weights:
    """Everything that can be known of a model's folder without its libraries. ConfigError for what cannot be used."""
    if (folder / "adapter_config.json").exists():
        raise ConfigError(
            f"{folder} holds an adapter (adapter_config.json), whose base model is somewhere else. Merge the two into "
            f"one model, and name that."
        )
    config = read_json(folder / "config.json")
    if config.get("is_encoder_decoder"):
        raise ConfigError(
            f"{folder} is an encoder-decoder model ({config.get('model_type')}); advice is scored by a causal language "
            f"model, which continues a prompt. Choose one of those."
        )
    weights = _weights_of(folder)
    _check_figures(folder, config, weights)
    return weights


def check_gguf(path: Path) -> Weights:
    """The same of a GGUF file."""
    return Weights(_gguf_header(path).elements, 0)


def _gguf_header(path: Path) -> GgufHeader:
    try:
        return read_gguf_header(path)
    except (HeaderError, OSError) as error:
        raise ConfigError(f"{path} cannot be loaded: {error}. Get the file again.") from error


def check_memory(name: str, elements: int, bytes_each: float, *, available_gb: float | None = None) -> None:
    """ConfigError where a model's weights alone do not fit into what memory is left."""
    needed_gb = elements * bytes_each / GB
    left_gb = available_memory_gb() if available_gb is None else available_gb
    if needed_gb > left_gb:
        raise ConfigError(
            f"llm.model {name} has {elements:,} parameters, which take {needed_gb:,.1f} GB here, and {left_gb:,.1f} GB "
            f"of memory are left. Choose a smaller model, llm.quantization int8 or int4, or a machine with more memory."
        )


def chat_source(source: Path) -> ChatSource:
    """Template and special tokens as a model's folder or GGUF file declares them."""
    if source.is_file():
        return _chat_of_gguf(source)
    path = source / "tokenizer_config.json"
    config = read_json(path) if path.is_file() else {}
    tokens = {}
    for name in _TOKEN_NAMES:
        value = config.get(name)
        value = value.get("content") if isinstance(value, dict) else value
        if isinstance(value, str):
            tokens[name] = value
    return ChatSource(_template_of(source, config), tokens)


def _template_of(folder: Path, config: Mapping[str, Any]) -> str | None:
    """As transformers looks for it: the file before the key, and of several the one named default."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        try:
            if file.stat().st_size > MAX_JSON_BYTES:
                raise ValueError(f"it has {file.stat().st_size:,} bytes")
            return file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ConfigError(f"{file} cannot be read: {error}. Get the file again.") from error
    found = config.get("chat_template")
    if isinstance(found, list):
        named = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}
        found = named.get("default")
    if found is not None and not isinstance(found, str):
        raise ConfigError(
            f"{folder / 'tokenizer_config.json'}: chat_template is {type(found).__name__}, needs a text. Fix the key."
        )
    return found


def _chat_of_gguf(path: Path) -> ChatSource:
    metadata = _gguf_header(path).metadata
    texts = metadata.get("tokenizer.ggml.tokens")
    tokens = {}
    for key, name in (("bos", "bos_token"), ("eos", "eos_token"), ("unknown", "unk_token"), ("padding", "pad_token")):
        at = metadata.get(f"tokenizer.ggml.{key}_token_id")
        if isinstance(texts, list) and isinstance(at, int) and 0 <= at < len(texts) and isinstance(texts[at], str):
            tokens[name] = texts[at]
    template = metadata.get("tokenizer.chat_template")
    return ChatSource(template if isinstance(template, str) else None, tokens)


def _weights_of(folder: Path) -> Weights:
    index = folder / "model.safetensors.index.json"
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    if index.is_file() and not (folder / "model.safetensors").is_file():
        parts = read_json(index).get("weight_map")
        if not isinstance(parts, dict) or not all(isinstance(part, str) for part in parts.values()):
            raise ConfigError(f"{index} has no weight_map of tensors to files. Get the file again.")
        names = sorted(set(parts.values()))
        for name in names:
            if not name.endswith(".safetensors") or Path(name).name != name or not (folder / name).is_file():
                raise ConfigError(
                    f"{index} names {name!r}, which is not a safetensors file of its folder; nothing else is read. Get "
                    f"the model again."
                )
    sizes = [size for name in names for size in _tensor_sizes(folder / name)]
    return Weights(sum(sizes), len(sizes))


def _tensor_sizes(path: Path) -> Iterator[int]:
    """Elements of each tensor of a safetensors file, whose header and length are checked."""
    try:
        yield from _checked_sizes(path)
    except (OSError, ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} cannot be loaded as safetensors weights: {_reason(error)}. Pickled weights are never read. Get "
            f"the file again."
        ) from error


def _checked_sizes(path: Path) -> list[int]:
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        length = int.from_bytes(head, "little")
        if len(head) < 8 or length > min(size - 8, MAX_HEADER_BYTES):
            raise ValueError(f"its header is cut short or damaged (it claims {length:,} of {size:,} bytes)")
        header = json.loads(file.read(length))
    sizes, end = [], 0
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        begin, end_of = tensor["data_offsets"]
        elements = math.prod(tensor["shape"])
        if not 0 <= begin <= end_of or elements * _DTYPE_BYTES[tensor["dtype"]] != end_of - begin:
            raise ValueError(f"the shape of tensor {name[:80]!r} does not fit its bytes")
        sizes.append(elements)
        end = max(end, end_of)
    if 8 + length + end != size:
        raise ValueError(f"it should have {8 + length + end:,} bytes and has {size:,}")
    return sizes


def _check_figures(folder: Path, config: Mapping[str, Any], weights: Weights) -> None:
    for where, section in _sections(config):
        for name, most in _LIMITS.items():
            if name not in section:
                continue
            value = section[name]
            if value is None and name in _OPTIONAL:
                continue
            values = value if isinstance(value, list) and value else [value]  # some give one figure a layer
            if any(isinstance(v, bool) or not isinstance(v, int) or not 1 <= v <= most for v in values):
                raise ConfigError(
                    f"{folder / 'config.json'}: {where}{name} is {beginning(repr(value), 60)}; needs a whole number "
                    f"from 1 to {most:,}. Get the file again."
                )
            if most == _LIMITS["num_hidden_layers"] and weights.tensors and max(values) > weights.tensors:
                raise ConfigError(
                    f"{folder / 'config.json'}: {where}{name} is {beginning(repr(value), 60)}, but its weights hold "
                    f"{weights.tensors:,} tensors. Configuration and weights are of different models: get both again."
                )


def _sections(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The configuration, and that of the text part of a model that also sees or hears."""
    yield "", config
    text = config.get("text_config")
    if isinstance(text, dict):
        yield "text_config.", text


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError | ValueError):
        return one_line(error)
    return f"its content is damaged ({type(error).__name__})"
