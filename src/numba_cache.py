"""Where numba keeps compiled code: decided before numba is imported.

numba notices an edited function only by its own file, so an edited callee or constant in another file would be served
stale. The folder is therefore named by a hash of every source file that imports numba, of what these import from the
same package, and of numba's version.
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PROJECT_CACHE = "hybrid-trading-validation"
_IMPORTS_NUMBA = re.compile(rb"^\s*(?:from|import)\s+numba\b", re.MULTILINE)


def source_hash(root: Path) -> str:
    """A hex digest over numba's version and the Python files below `root` on which compiled code may depend.

    These are the files that import numba and all that they import, directly or not, from the package `root`: numba
    compiles imported constants in.
    """
    digest = hashlib.sha256()
    try:
        digest.update(version("numba").encode())
    except PackageNotFoundError:
        digest.update(b"no numba")
    pending = {path for path in root.rglob("*.py") if _IMPORTS_NUMBA.search(path.read_bytes())}
    found: set[Path] = set()
    while pending:
        path = pending.pop()
        found.add(path)
        pending |= set(_imported_files(path, root)) - found
    for path in sorted(found):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _imported_files(path: Path, root: Path) -> Iterator[Path]:
    """Files below `root` that a file imports, by absolute or relative name."""
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError:  # somebody is in the middle of an edit: importing it will say so
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = _from_names(node, path, root)
        else:
            continue
        for name in names:
            first, *rest = name.split(".")
            if first == root.name and rest:
                module = root.joinpath(*rest)
                yield from (p for p in (module.with_suffix(".py"), module / "__init__.py") if p.is_file())


def _from_names(node: ast.ImportFrom, path: Path, root: Path) -> list[str]:
    """Dotted names a `from` statement may load: the module, and each name in case it is a module itself."""
    base = node.module or ""
    if node.level:
        package = path.relative_to(root.parent).parent.parts
        base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
    return [base, *(f"{base}.{alias.name}" for alias in node.names)]


def user_cache_folder() -> Path:
    """The user's cache folder for this project (XDG_CACHE_HOME or ~/.cache); not created here."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / PROJECT_CACHE


def configure(root: Path) -> Path:
    """Set NUMBA_CACHE_DIR unless the user has set it; fall back on the temporary folder where the home is read-only.

    Returns the folder in force. Worker processes inherit it through the environment.
    """
    if "NUMBA_CACHE_DIR" in os.environ:
        return Path(os.environ["NUMBA_CACHE_DIR"])
    name = source_hash(root)
    try:
        folder = user_cache_folder() / "numba" / name
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except (OSError, RuntimeError):  # RuntimeError: a user without a home at all
        writable = False
    if not writable:
        folder = _own_temporary_folder() / name
        folder.mkdir(exist_ok=True)
    os.environ["NUMBA_CACHE_DIR"] = str(folder)
    return folder


def _own_temporary_folder() -> Path:
    """A folder private to this user: numba unpickles its files, and other users may write to the temporary folder."""
    uid = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir()) / f"{PROJECT_CACHE}-{uid}"
    folder.mkdir(mode=0o700, exist_ok=True)
    facts = folder.lstat()
    if hasattr(os, "getuid") and (facts.st_uid != uid or facts.st_mode & 0o022):
        return Path(tempfile.mkdtemp(prefix=f"{PROJECT_CACHE}-"))
    return folder
