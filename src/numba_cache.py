"""Where numba keeps compiled code: decided before numba is imported.

numba notices an edited function only by its own file, so an edited callee in another file would be served stale. The
folder is therefore named by a hash of every source file that mentions numba, and of numba's version.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PROJECT_CACHE = "hybrid-trading-validation"


def source_hash(root: Path) -> str:
    """A hex digest over numba's version and the Python files below `root` that mention numba."""
    digest = hashlib.sha256()
    try:
        digest.update(version("numba").encode())
    except PackageNotFoundError:
        digest.update(b"no numba")
    for path in sorted(root.rglob("*.py")):
        text = path.read_bytes()
        if b"numba" in text:
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + text + b"\0")
    return digest.hexdigest()[:16]


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
    folder = user_cache_folder() / "numba" / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        folder = Path(tempfile.gettempdir()) / f"{PROJECT_CACHE}-{os.getuid() if hasattr(os, 'getuid') else 0}" / name
        folder.mkdir(parents=True, exist_ok=True)
    os.environ["NUMBA_CACHE_DIR"] = str(folder)
    return folder
