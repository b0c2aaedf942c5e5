"""The house keeps its plan: imports run one way, workers start without torch, files stay readable, the map is true."""

from __future__ import annotations

import ast
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SRC = ROOT / "src"

# A module may import those of the rows above it. In a row, single files may import each other, rooms may not:
# statistics and monitoring thus rest on the ground floor alone.
LAYERS = (
    {
        "errors",
        "files",
        "clean_up",
        "settings",
        "splitmix",
        "shares",
        "suggestions",
        "numba_cache",
        "machine_limits",
        "plain_text",
        "console",
        "shell",
        "outputs",
        "run_names",
        "wording",
        "yaml_files",
    },
    {"statistics", "monitoring"},
    {"market"},
    {"trading"},
    {"advisor"},
    {"agent"},
    {"evaluation"},
    {"canaries"},
    {"report"},
    {"configuration", "configuration_errors", "configuration_file", "configuration_layers"},
    {"runs"},
    {"testing_framework"},
    {"sweeps"},
    {"benchmarks", "checks"},
    {"command_line", "menu"},
)
RANK = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}

# Imported where they are used and nowhere else: each costs seconds, and a run may need none of them.
ONLY_WHEN_USED = {"transformers", "accelerate", "gguf", "bitsandbytes", "databento_dbn", "mlflow", "optuna", "ray"}

MAX_LINES, MAX_MEDIAN, MAX_FUNCTION_LINES = 500, 150, 80
LONGER_FOR_A_REASON = {
    "src.testing_framework": 620,  # it defines the seven public classes, in one file by contract
    "src.trading.kernel": 620,  # functions compiled together must share a file: numba would serve a stale callee
}

BY_NAME = {"import_module", "resolve_name", "__import__", "run_module"}
NAMED_BY_THE_USER = {"src.trading.workers"}
"""Files that import what a setting names: environment.env_class."""

FILES = sorted(SRC.rglob("*.py"))


def name_of(path: Path) -> str:
    """Dotted name of a source file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported(node: ast.AST, importer: str) -> list[str]:
    """Dotted names an import statement may load; nothing for any other node. `importer` is the package of the file."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            package = importer.split(".")
            base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
        return [base, *(f"{base}.{alias.name}" for alias in node.names)] if base == "src" else [base]
    return []


def imports_of(path: Path) -> Iterator[str]:
    name = name_of(path)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree_of(path)):
        yield from imported(node, package)


def imports_at_load(path: Path) -> Iterator[str]:
    """The imports that run when the file is loaded: those outside functions and not for the type checker alone."""
    pending: list[ast.AST] = [tree_of(path)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            pending.extend(node.orelse)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imported(node, "")
            pending.extend(ast.iter_child_nodes(node))


def imports_by_name(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of each import by a string; the name is what is written of it, "" where all of it is computed."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if function in BY_NAME:
            arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
            written = [part for argument in arguments[:1] for part in ast.walk(argument)]
            yield node.lineno, "".join(part.value for part in written if isinstance(getattr(part, "value", 0), str))


def room_of(name: str) -> str | None:
    """`src.market.bars` is in room `market`; `src` itself is in none."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else None


def loaded_after(statement: str) -> set[str]:
    """Top names in sys.modules of a fresh interpreter after a statement."""
    code = f"import json, sys\n{statement}\nprint(json.dumps(sorted({{m.partition('.')[0] for m in sys.modules}})))"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert answer.returncode == 0, answer.stderr
    return set(json.loads(answer.stdout))


def test_every_room_has_its_place_in_the_order() -> None:
    rooms = {room for path in FILES if (room := room_of(name_of(path)))}
    assert rooms <= RANK.keys(), f"give {sorted(rooms - RANK.keys())} a place in LAYERS"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_run_one_way(path: Path) -> None:
    room = room_of(name_of(path))
    rank = 0 if room is None else RANK[room]
    for name in imports_of(path):
        target = room_of(name) if name.partition(".")[0] == "src" else None
        if target in RANK and target != room:
            assert RANK[target] <= rank, f"{name_of(path)} imports {name}, which stands above it"
            single_file = room is None or not (SRC / room).is_dir()
            assert single_file or RANK[target] < rank, f"{name_of(path)} imports {name}, a room of its own row"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_of_ours_is_imported_by_a_string(path: Path) -> None:
    ours = {"src", *(script.stem for script in ROOT.glob("*.py"))}
    for line, name in imports_by_name(tree_of(path)):
        assert name.partition(".")[0].partition(":")[0] not in ours, f"line {line} imports {name} by a string"
        assert name or name_of(path) in NAMED_BY_THE_USER, f"line {line} imports what a computed string names"


def test_nothing_in_src_imports_a_script() -> None:
    scripts = {path.stem for path in ROOT.glob("*.py")}
    wrong = [(name_of(path), name) for path in FILES for name in imports_of(path) if name.partition(".")[0] in scripts]
    assert not wrong


def test_src_uses_only_what_the_requirements_install() -> None:
    files = [f"requirements{part}.txt" for part in ("", "-dbn", "-mlflow", "-sweep", "-ray")]
    lines = [line for name in files for line in (ROOT / name).read_text().splitlines()]
    named = [line.partition("==")[0] for line in lines if "==" in line]
    wanted = {name.lower().replace("-", "_") for name in named}
    roots = {
        root
        for root, distributions in packages_distributions().items()
        if any(name.lower().replace("-", "_") in wanted for name in distributions)
    }
    known = roots | wanted | set(sys.stdlib_module_names) | {"src"}
    wrong = [
        (name_of(path), name) for path in FILES for name in imports_of(path) if name.partition(".")[0] not in known
    ]
    assert not wrong, "add it to requirements.txt (or to an optional one), or do without"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_model_library_is_imported_only_when_a_model_is_used(path: Path) -> None:
    assert not {name.partition(".")[0] for name in imports_at_load(path)} & ONLY_WHEN_USED


def test_loading_all_of_src_loads_no_model_library() -> None:
    everything = "; ".join(f"import {name_of(path)}" for path in FILES)
    assert not loaded_after(everything) & ONLY_WHEN_USED


@pytest.mark.parametrize("module", ["", ".kernel", ".tape", ".rules", ".gym_env", ".session_batch"])
def test_a_worker_of_the_trading_room_starts_without_torch_and_calendars(module: str) -> None:
    loaded = loaded_after(f"import src.trading{module}")
    assert not loaded & {"torch", "stable_baselines3", "sb3_contrib", "pandas_market_calendars", "exchange_calendars"}


@pytest.mark.parametrize("script", ["compare_benchmarks", "benchmark_framework"])
def test_a_benchmark_script_answers_before_torch_is_loaded(script: str) -> None:
    loaded = loaded_after(f"import {script}")
    assert not loaded & {"torch", "stable_baselines3", "numba", "pandas", "scipy", "pydantic"}


def lines_of(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_and_its_functions_stay_readable(path: Path) -> None:
    limit = LONGER_FOR_A_REASON.get(name_of(path), MAX_LINES)
    assert lines_of(path) <= limit, f"{path.relative_to(ROOT)} has more than {limit} lines: split it by what it does"
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= MAX_FUNCTION_LINES, f"{node.name} has {lines} lines, more than {MAX_FUNCTION_LINES}"


def test_most_files_are_short() -> None:
    assert statistics.median(map(lines_of, FILES)) <= MAX_MEDIAN


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_src_prints_nothing(path: Path) -> None:
    calls = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)]
    lines = [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
    assert not lines, "the console is rich's, the log is logging's"


def test_the_check_of_imports_sees_every_way_to_write_one() -> None:
    def seen(code: str) -> list[str]:
        return [name for node in ast.walk(ast.parse(code)) for name in imported(node, "src.trading")]

    assert seen("import src.agent.training as t") == ["src.agent.training"]
    assert "src.agent" in seen("from src import agent")
    assert seen("from src.agent import training") == ["src.agent"]
    assert seen("from ..agent import training") == ["src.agent"]
    assert seen("from .kernel import step_account") == ["src.trading.kernel"]
    assert "src.agent" in seen("from .. import agent")
    assert seen("def f():\n    import src.agent.training") == ["src.agent.training"]


def test_the_check_of_imports_by_name_sees_every_way_to_write_one() -> None:
    def seen(code: str) -> list[str]:
        return [name for _, name in imports_by_name(ast.parse(code))]

    assert seen("importlib.import_module('src.agent.training')") == ["src.agent.training"]
    assert seen("import_module(f'src.checks.{name}')") == ["src.checks."]
    assert seen("pkgutil.resolve_name('src.testing_framework:TestConfig')") == ["src.testing_framework:TestConfig"]
    assert seen("__import__('run_pipeline')") == ["run_pipeline"]
    assert seen("import_module(name='src.agent')") == ["src.agent"]
    assert seen("import_module('src.' + room)") == ["src."]
    assert seen("import_module(name)") == [""]


PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def named_files(page: str) -> set[str]:
    """The paths in back quotes or at the start of a line of the tree."""
    quoted = re.findall(r"`([\w./-]+\.(?:py|md|yaml|json|txt|j2)|(?:[\w-]+/)+)`", page)
    return set(quoted) | set(re.findall(r"^((?:[\w-]+/)*[\w-]+(?:\.\w+|/))\s{2,}", page, re.MULTILINE))


def test_the_map_of_the_house_names_every_room_and_only_what_exists() -> None:
    named = named_files(PAGE)
    rooms = {f"src/{path.name}/" for path in SRC.iterdir() if (path / "__init__.py").is_file()}
    assert len(named) > 80
    assert rooms <= named
    assert {path.name for path in ROOT.glob("*.py")} <= named
    assert not [name for name in sorted(named) if not (ROOT / name).exists()]


def test_the_readme_shows_the_way_to_the_map() -> None:
    assert "docs/architecture.md" in (ROOT / "README.md").read_text(encoding="utf-8")
