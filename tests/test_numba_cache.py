"""Compiled code is never stale: the cache's folder changes with everything that is compiled in."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from src import numba_cache

ROOT = Path(__file__).resolve().parents[1]

CALLEE = "from numba import njit\n\n\n@njit(cache=True)\ndef callee(x):\n    return x + 1\n"
CALLER = (
    "from numba import njit\nfrom tiny.callee import callee\nfrom tiny import level\n\nLEVEL = level.LEVEL\n\n\n"
    "@njit(cache=True)\ndef caller(x):\n    return 10 * callee(x) + LEVEL\n"
)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package whose compiled caller, compiled callee and constant stand in three files."""
    root = tmp_path / "project" / "tiny"
    root.mkdir(parents=True)
    (root / "numba_cache.py").write_text((ROOT / "src" / "numba_cache.py").read_text())
    (root / "__init__.py").write_text(
        "from pathlib import Path\nfrom tiny.numba_cache import configure\nconfigure(Path(__file__).parent)\n"
    )
    (root / "callee.py").write_text(CALLEE)
    (root / "caller.py").write_text(CALLER)
    (root / "level.py").write_text("LEVEL = 3\n")
    (root / "apart.py").write_text("TEXT = 'numba is not imported here'\n")
    return root


def environment(home: Path, **extra: str) -> dict[str, str]:
    plain = {k: v for k, v in os.environ.items() if k not in {"NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "PYTHONPATH"}}
    # No .pyc files: they are told apart by the second, and these tests edit faster.
    return {**plain, "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1", **extra}


CALL = """
import tiny, os
from tiny.caller import caller
value = caller(1)
hits = sum(caller.stats.cache_hits.values())
print(value, os.environ["NUMBA_CACHE_DIR"], hits)
"""


def call(package: Path, home: Path, **extra: str) -> tuple[int, Path, bool]:
    """What the compiled caller answers in a fresh process, the cache's folder, and whether it came out of it."""
    answer = subprocess.run(
        [sys.executable, "-c", CALL],
        cwd=package.parent,
        env=environment(home, **extra),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert answer.returncode == 0, answer.stderr
    value, folder, hits = answer.stdout.split()
    return int(value), Path(folder), bool(int(hits))


@pytest.mark.slow
def test_an_edited_callee_or_constant_of_another_file_is_seen(package: Path, tmp_path: Path) -> None:
    value, first, hit = call(package, tmp_path)
    assert (value, hit) == (23, False)
    assert first.is_relative_to(tmp_path / ".cache" / numba_cache.PROJECT_CACHE / "numba")
    assert call(package, tmp_path) == (23, first, True)

    (package / "callee.py").write_text(CALLEE.replace("x + 1", "x + 2"))
    value, second, hit = call(package, tmp_path)
    assert (value, hit) == (33, False)
    assert second != first

    # level.py says nothing of numba, but its number is compiled into the caller.
    (package / "level.py").write_text("LEVEL = 4\n")
    value, third, hit = call(package, tmp_path)
    assert (value, hit) == (34, False)
    assert third not in {first, second}

    (package / "apart.py").write_text("TEXT = 'numba is not compiled here'\n")
    assert call(package, tmp_path) == (34, third, True)


@pytest.mark.slow
def test_numba_alone_would_serve_the_old_callee(package: Path, tmp_path: Path) -> None:
    fixed = str(tmp_path / "fixed")
    assert call(package, tmp_path, NUMBA_CACHE_DIR=fixed)[0] == 23
    (package / "callee.py").write_text(CALLEE.replace("x + 1", "x + 2"))
    stale, folder, hit = call(package, tmp_path, NUMBA_CACHE_DIR=fixed)
    assert (stale, folder, hit) == (23, Path(fixed), True), "numba has learned to see it: the folder's hash may go"


@pytest.mark.slow
def test_two_processes_may_compile_at_once(package: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda _: call(package, tmp_path), range(2)))
    assert {(value, folder) for value, folder, _ in answers} == {(23, answers[0][1])}
    assert call(package, tmp_path) == (23, answers[0][1], True)


def test_the_folder_is_set_before_numba_is_imported() -> None:
    code = """
import os, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "numba":
            print("dir", os.environ.get("NUMBA_CACHE_DIR"))
        return None
sys.meta_path.insert(0, Watch())
import src.trading.kernel
import numba
print("used", numba.config.CACHE_DIR)
"""
    environ = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=120
    )
    assert answer.returncode == 0, answer.stderr
    lines = dict(line.split(" ", 1) for line in answer.stdout.splitlines())
    assert lines["dir"] == lines["used"] != "None"


def source_files(package: Path) -> set[str]:
    """Names of the files on which the hash depends."""
    before = numba_cache.source_hash(package)
    found = set()
    for path in package.rglob("*.py"):
        text = path.read_text()
        path.write_text(text + "\n# edited\n")
        if numba_cache.source_hash(package) != before:
            found.add(path.name)
        path.write_text(text)
    assert numba_cache.source_hash(package) == before
    return found


def test_the_hash_depends_on_what_compiled_code_depends_on(package: Path) -> None:
    assert source_files(package) == {"callee.py", "caller.py", "level.py"}
    (package / "level.py").write_text("from .deeper import LEVEL\n")
    (package / "deeper.py").write_text("def f():\n    from tiny.deepest import x\n\n\nLEVEL = 3\n")
    (package / "deepest.py").write_text("import tiny.apart\nx = 1\n")
    assert source_files(package) == {"callee.py", "caller.py", "level.py", "deeper.py", "deepest.py", "apart.py"}


def test_the_hash_depends_on_names_and_on_numbas_version(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = numba_cache.source_hash(package)
    (package / "callee.py").rename(package / "another.py")
    assert numba_cache.source_hash(package) != before
    (package / "another.py").rename(package / "callee.py")
    assert numba_cache.source_hash(package) == before
    monkeypatch.setattr(numba_cache, "version", lambda name: f"{name} of tomorrow")
    assert numba_cache.source_hash(package) != before


def test_a_file_that_is_being_edited_stops_nothing(package: Path) -> None:
    (package / "caller.py").write_text(CALLER + "def half(:\n")
    assert len(numba_cache.source_hash(package)) == 16


def test_the_kernels_constants_are_among_the_sources() -> None:
    found = set()
    for path in numba_cache._imported_files(ROOT / "src/trading/kernel.py", ROOT / "src"):
        found.add(path.relative_to(ROOT / "src").as_posix())
    assert {"trading/layout.py", "market/flags.py"} <= found


@pytest.fixture
def _no_folder_set(monkeypatch: pytest.MonkeyPatch) -> None:
    # Set first, so that what configure() writes is undone, too.
    monkeypatch.setenv("NUMBA_CACHE_DIR", "x")
    monkeypatch.delenv("NUMBA_CACHE_DIR")


@pytest.mark.usefixtures("_no_folder_set")
def test_the_users_cache_folder_is_used(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    folder = numba_cache.configure(package)
    assert folder == tmp_path / "xdg" / numba_cache.PROJECT_CACHE / "numba" / numba_cache.source_hash(package)
    assert folder.is_dir()
    assert os.environ["NUMBA_CACHE_DIR"] == str(folder)


def test_a_folder_of_the_users_own_is_left_alone(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "mine"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert numba_cache.configure(package) == tmp_path / "mine"
    assert os.environ["NUMBA_CACHE_DIR"] == str(tmp_path / "mine")
    assert not (tmp_path / "xdg").exists()


@pytest.mark.usefixtures("_no_folder_set")
@pytest.mark.parametrize("reason", ["cannot be made", "cannot be written", "no home"])
def test_without_a_writable_home_the_temporary_folder_serves(
    reason: str, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    if reason == "cannot be made":
        # Also for root, whom no permission stops.
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "below"))
    elif reason == "cannot be written":
        monkeypatch.setattr(numba_cache.os, "access", lambda path, mode: False)
    else:
        monkeypatch.delenv("XDG_CACHE_HOME")

        def homeless() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "home", homeless)
    folder = numba_cache.configure(package)
    assert folder.is_relative_to(temporary)
    assert folder.name == numba_cache.source_hash(package)
    assert folder.is_dir()
    assert os.environ["NUMBA_CACHE_DIR"] == str(folder)
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    assert numba_cache.configure(package) == folder


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="folders have no owners here")
@pytest.mark.usefixtures("_no_folder_set")
def test_a_temporary_folder_that_others_may_write_is_not_trusted(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(package / "level.py" / "below"))
    planted = tmp_path / f"{numba_cache.PROJECT_CACHE}-{os.getuid()}"
    planted.mkdir()
    planted.chmod(0o777)
    folder = numba_cache.configure(package)
    assert not folder.is_relative_to(planted)
    assert folder.is_relative_to(tmp_path)
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
