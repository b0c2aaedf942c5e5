"""Files of one checkpoint: tensors as safetensors, the rest as strict JSON, and a manifest with their hashes.

Reading trusts nothing: it checks the list of files, then the manifest, then each file's size and SHA-256, and parses
only bytes that it hashed. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as format_safetensors

from src.files import sync_folder

MAGIC: Final = "hybrid-trading-checkpoint"
FORMAT_VERSION: Final = 1
LAST_STEP: Final = 10**12 - 1
"""Twelve digits in a folder's name."""
STATE: Final = "state.json"
MANIFEST: Final = "manifest.json"
DEEPEST: Final = 50
"""Deepest nesting of lists and mappings in a state; one that contains itself would never end."""
PART_NAME: Final = r"[a-z0-9_]{1,100}"
HASHED_NAME: Final = rf"{PART_NAME}\.safetensors|{re.escape(STATE)}"
FILE_NAME: Final = rf"{HASHED_NAME}|{re.escape(MANIFEST)}"
DTYPES: Final = (
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.bfloat16,
    torch.float16,
    torch.float32,
    torch.float64,
)
# Wider integers are written in base 16: Python refuses to parse more than 4300 decimal digits.
EXACT_INT_BITS: Final = 53


class Damage(Exception):
    """Why a folder is not a usable checkpoint: one line naming the file and the fault."""


@dataclass(frozen=True)
class Contents:
    """Content of a checkpoint's files; tensors are new torch memory, by part, in order of name."""

    step: int
    tensors: dict[str, dict[str, torch.Tensor]]
    state: dict[str, Any]
    inputs: dict[str, str]
    machine: dict[str, str]


class _FileFacts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class _Manifest(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    magic: str
    version: int
    step: int = Field(ge=0, le=LAST_STEP)
    inputs: dict[str, str]
    machine: dict[str, str]
    files: dict[Annotated[str, Field(pattern=rf"^({HASHED_NAME})$")], _FileFacts]


def encode(contents: Contents) -> dict[str, bytes]:
    """The files of a checkpoint by name, the manifest last.

    Raises TypeError for an unsupported kind of value or tensor, ValueError for an invalid step, name or text, before
    anything is written.
    """
    if type(contents.step) is not int or not 0 <= contents.step <= LAST_STEP:
        raise ValueError(f"step is {contents.step!r}; it must be a whole number from 0 to {LAST_STEP}")
    files = {}
    for part, tensors in contents.tensors.items():
        if not re.fullmatch(PART_NAME, part):
            raise ValueError(f"a part is named {part!r}; a file is named by 1 to 100 of a-z, 0-9, _")
        files[f"{part}.safetensors"] = _tensor_bytes(part, tensors)
    files[STATE] = _json_bytes(_encoded(dict(contents.state), "state", 0))
    facts = {name: {"size": len(raw), "sha256": hashlib.sha256(raw).hexdigest()} for name, raw in files.items()}
    files[MANIFEST] = _sealed(
        {
            "magic": MAGIC,
            "version": FORMAT_VERSION,
            "step": contents.step,
            "inputs": plain_facts(contents.inputs, "inputs"),
            "machine": plain_facts(contents.machine, "machine"),
            "files": facts,
        }
    )
    return files


def plain_facts(facts: Mapping[str, str], what: str) -> dict[str, str]:
    """A copy. Raises TypeError unless names and values are text, ValueError for text that UTF-8 cannot encode."""
    return {_text(key, what): _text(value, f"{what}.{key}") for key, value in facts.items()}


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Create `folder` with these files in order, fsyncing each before the next. Raises OSError."""
    os.mkdir(folder)
    for name, raw in files.items():
        with open(folder / name, "xb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
    sync_folder(folder)


def read_folder(folder: Path) -> Contents:
    """Read the checkpoint in `folder`, verifying every file first. Raises Damage."""
    try:
        found = _regular_files(folder)
        if MANIFEST not in found:
            raise Damage(f"{MANIFEST} is missing")
        manifest = _checked_manifest((folder / MANIFEST).read_bytes())
        raw = {name: _checked_bytes(folder / name, found, facts) for name, facts in manifest.files.items()}
        unknown = sorted(found - manifest.files.keys() - {MANIFEST})
    except OSError as error:
        raise Damage(f"{Path(error.filename or folder).name} cannot be read ({error.strerror or error})") from error
    if unknown:
        raise Damage(f"{unknown[0]} is an unknown file: the manifest does not name it")
    try:
        state = _decoded(_parsed_json(raw.pop(STATE)))
        if not isinstance(state, dict):
            raise ValueError("no mapping")
    except (ValueError, TypeError, RecursionError) as error:
        raise Damage(f"{STATE} is unreadable: {_one_line(error)}") from error
    tensors = {name.removesuffix(".safetensors"): _tensors(name, part) for name, part in sorted(raw.items())}
    return Contents(manifest.step, tensors, state, manifest.inputs, manifest.machine)


def _regular_files(folder: Path) -> set[str]:
    """Names in the folder, without opening any. Raises Damage for a name that is not a checkpoint's file."""
    if not stat.S_ISDIR(os.lstat(folder).st_mode):
        raise Damage("it is a link or a file, not a folder")
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        if not re.fullmatch(FILE_NAME, entry.name):
            raise Damage(f"{entry.name!r} is an unknown file: the checkpoint is refused unread")
        if not entry.is_file(follow_symlinks=False):
            raise Damage(f"{entry.name} is a link or a folder, not a file")
    return {entry.name for entry in found}


def _checked_manifest(raw: bytes) -> _Manifest:
    try:
        content = _parsed_json(raw)
        if not isinstance(content, dict) or content.get("magic") != MAGIC:
            raise Damage(f"{MANIFEST} is unreadable: it does not say {MAGIC}")
        version = content.get("version")
        if type(version) is not int or version < 1:
            raise Damage(f"{MANIFEST} is unreadable: its version is {version!r}")
        if version > FORMAT_VERSION:
            raise Damage(f"{MANIFEST} is from a future version: format {version}, this toolkit reads {FORMAT_VERSION}")
        content.pop("sha256", None)
        if _sealed(content) != raw:
            raise Damage(f"{MANIFEST} is changed: its content differs from its own SHA-256")
        manifest = _Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise Damage(f"{MANIFEST} is unreadable: {where!r}: {_one_line(first['msg'])}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise Damage(f"{MANIFEST} is unreadable: {_one_line(error)}") from error
    if STATE not in manifest.files:
        raise Damage(f"{MANIFEST} is unreadable: it names no {STATE}")
    return manifest


def _checked_bytes(path: Path, found: set[str], facts: _FileFacts) -> bytes:
    if path.name not in found:
        raise Damage(f"{path.name} is missing")
    size = os.lstat(path).st_size
    if size != facts.size:
        kind = "truncated" if size < facts.size else "changed"
        raise Damage(f"{path.name} is {kind}: {size} bytes, the manifest says {facts.size}")
    raw = path.read_bytes()
    if hashlib.sha256(raw).hexdigest() != facts.sha256:
        raise Damage(f"{path.name} is changed: its SHA-256 does not match the manifest")
    return raw


def _tensor_bytes(part: str, tensors: Mapping[str, torch.Tensor]) -> bytes:
    copies = {}
    for name, tensor in tensors.items():
        where = f"tensor {_text(name, f'a name in {part}')!r} of {part}"
        if name == "__metadata__":
            raise ValueError(f"{where} has the name that safetensors reserves")
        if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or tensor.dtype not in DTYPES:
            kind = f"{tensor.dtype}, {tensor.layout}" if isinstance(tensor, torch.Tensor) else type(tensor).__name__
            raise TypeError(f"{where} is {kind}; only dense tensors can be stored, of {', '.join(map(str, DTYPES))}")
        # Copied even if contiguous: safetensors refuses tensors that share memory.
        copies[name] = _owned(tensor.detach())
    return format_safetensors(copies)


def _tensors(file_name: str, raw: bytes) -> dict[str, torch.Tensor]:
    try:
        views = parse_safetensors(raw)
    except (SafetensorError, KeyError, ValueError) as error:
        raise Damage(f"{file_name} is unreadable: {_one_line(error)}") from error
    return {name: _owned(views[name]) for name in sorted(views)}


def _owned(tensor: torch.Tensor) -> torch.Tensor:
    """The same values in memory that torch allocated: alignment changes how a product rounds."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu").copy_(tensor)


def _encoded(value: Any, where: str, depth: int) -> Any:
    """Encode for JSON so that `_decoded` can restore it; a name that begins with $ marks a value, or is doubled."""
    if value is None or type(value) is bool:
        return value
    if type(value) is str:
        return _text(value, where)
    if type(value) is int:
        return value if value.bit_length() <= EXACT_INT_BITS else {"$int": hex(value)}
    if type(value) is float:
        return value if math.isfinite(value) else {"$float64": struct.pack(">d", value).hex()}
    if depth >= DEEPEST:
        raise ValueError(f"{where} is nested deeper than {DEEPEST} levels, or contains itself")
    if isinstance(value, list | tuple):
        return [_encoded(item, f"{where}[{i}]", depth + 1) for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        return {_escaped(key, where): _encoded(item, f"{where}.{key}", depth + 1) for key, item in value.items()}
    raise TypeError(
        f"{where} is a {type(value).__name__}; a state holds text, int, float, bool, None, lists and mappings only"
    )


def _escaped(key: Any, where: str) -> str:
    text = _text(key, f"a key of {where}")
    return f"${text}" if text.startswith("$") else text


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    match list(value.items()):
        case [("$int", str(digits))]:
            return int(digits, 16)
        case [("$float64", str(digits))] if len(digits) == 16:
            return float(struct.unpack(">d", bytes.fromhex(digits))[0])
    wrong = [key for key in value if key.startswith("$") and not key.startswith("$$")]
    if wrong:
        raise ValueError(f"{wrong[0]!r} is not a known encoding")
    return {key.removeprefix("$"): _decoded(item) for key, item in value.items()}


def _text(value: Any, where: str) -> str:
    if type(value) is not str:
        raise TypeError(f"{where} is a {type(value).__name__}, not text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where} is {value!r}, which UTF-8 cannot encode") from error
    return value


def _sealed(content: Mapping[str, Any]) -> bytes:
    """Canonical bytes of this manifest, including its own SHA-256; any other byte is damage."""
    seal = hashlib.sha256(_json_bytes(content, sort_keys=True)).hexdigest()
    return _json_bytes({**content, "sha256": seal}, sort_keys=True)


def _json_bytes(content: Any, *, sort_keys: bool = False) -> bytes:
    return (json.dumps(content, indent=1, allow_nan=False, sort_keys=sort_keys) + "\n").encode("ascii")


def _parsed_json(raw: bytes) -> Any:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is no JSON")

    return json.loads(raw.decode("ascii"), parse_constant=refuse)


def _one_line(error: object) -> str:
    """A library's message, shortened to one line."""
    return " ".join(str(error).split())[:200]
