"""The files of a run: which there are, with their SHA-256, and what became of them.

    python -m src.runs.run_files logs/RUN

names every file that is not as `manifest.json` has it. `manifest.json` is written when a run ends. A pipeline keeps the
same list in `ledger.json`, so that a resumed one can make again what was lost.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.console import Console
from rich.text import Text

from src import run_names
from src.errors import EXIT_BAD_INPUT, EXIT_OK, EXIT_TARGET_MISSED, UserError
from src.files import keep_aside, kind_of, read_regular, regular_only, sha256_of, write_atomically

FORMAT = "hybrid-trading-run-files"
APPENDED = ("run.log", "tensorboard/")
"""A resumed process appends to these, so only their recorded length is checked."""


class FilesDamaged(UserError):
    """Files of a run were damaged and could not be made again; the text names them."""

    exit_code = EXIT_TARGET_MISSED


class FileFacts(BaseModel):
    """Size and content of a file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class _Manifest(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    format: str
    version: int
    files: dict[str, FileFacts]


def files_in(run: Path) -> list[str]:
    """Paths of the regular files below a run's folder, "/" between their parts, but for the manifest and temporary
    files. Links are not followed."""
    found = (name for name, kind in _walk(run) if not kind and name != run_names.MANIFEST)
    return sorted(name for name in found if not any(part.startswith(".") for part in name.split("/")))


def facts_of(run: Path, names: Sequence[str]) -> dict[str, FileFacts]:
    """Size and SHA-256 of files. Raises OSError."""
    found = {}
    for name in names:
        size, sha256 = sha256_of(run / name)
        found[name] = FileFacts(size=size, sha256=sha256)
    return found


def damage(run: Path, name: str, facts: FileFacts) -> str:
    """Why a file is not as recorded ("missing", "changed", ...); "" where it is."""
    path = run / name
    try:
        with open(path, "rb", opener=regular_only) as file:
            size = os.fstat(file.fileno()).st_size
            if size < facts.size:
                return f"truncated: {size:,} of {facts.size:,} bytes"
            if size > facts.size and not name.startswith(APPENDED):
                return f"changed: {size:,} bytes, recorded are {facts.size:,}"
            return "" if _digest_of(file.read(facts.size)) == facts.sha256 else "changed: another SHA-256 than recorded"
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return error.strerror or str(error)


def set_odd_aside(run: Path, say: Callable[[str], None]) -> None:
    """Rename every symlink, pipe, socket and device below a run's folder: none is waited for, followed or written
    through. `run.log` and similar files are then created again."""
    for name, kind in list(_walk(run)):
        if kind:
            aside = keep_aside(run / name)
            say(f"{run / name} is {kind}, which no run makes: it is kept as {aside.name}")


def write_manifest(run: Path, files: Mapping[str, FileFacts]) -> None:
    """Write manifest.json with these files. Raises OSError."""
    write_atomically(run / run_names.MANIFEST, _manifest_text(files))


def manifest_is(run: Path, files: Mapping[str, FileFacts]) -> bool:
    """Whether manifest.json says exactly this."""
    try:
        return read_regular(run / run_names.MANIFEST) == _manifest_text(files).encode()
    except OSError:
        return False


def _manifest_text(files: Mapping[str, FileFacts]) -> str:
    content = {
        "format": FORMAT,
        "version": 1,
        "files": {name: facts.model_dump() for name, facts in sorted(files.items())},
    }
    return json.dumps(content, indent=1) + "\n"


def _walk(folder: Path, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Everything below a folder but its folders, as (path, kind): "" for a file, else what it is instead."""
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        name = f"{prefix}{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path), f"{name}/")
        elif ".damaged-" not in entry.name:
            yield name, kind_of(Path(entry.path))


def _digest_of(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def main(argv: Sequence[str] | None = None) -> int:
    """Name what differs from the manifest; the exit code: 0 nothing, 1 something, 2 no manifest that can be read."""
    parser = argparse.ArgumentParser(description="Name every file of a run that is not as its manifest.json has it.")
    parser.add_argument("run", type=Path, help="the run's folder, such as logs/RUN")
    run = parser.parse_args(argv).run
    console = Console(soft_wrap=True)
    try:
        manifest = _Manifest.model_validate_json(read_regular(run / run_names.MANIFEST))
        if (manifest.format, manifest.version) != (FORMAT, 1):
            raise ValueError(f"its format is {manifest.format} {manifest.version}, not {FORMAT} 1")
    except (OSError, ValueError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        Console(stderr=True, soft_wrap=True).print(
            Text(f"error: {run / run_names.MANIFEST} cannot be read ({reason}).")
        )
        return EXIT_BAD_INPUT
    wrong = {name: why for name, facts in manifest.files.items() if (why := damage(run, name, facts))}
    for name, why in wrong.items():
        console.print(Text(f"{name}: {why}"))
    console.print(f"{len(manifest.files)} files, {len(wrong)} not as recorded")
    return EXIT_TARGET_MISSED if wrong else EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
