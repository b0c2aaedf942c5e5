"""What only a GPU can run is named: every function with a line for CUDA is in the list of docs/gpu.md, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
MOST_LINES = 50
"""Of a function that no test here can run as it is."""


def is_cuda(node: ast.AST) -> bool:
    """Whether this node is one that only CUDA needs."""
    if isinstance(node, ast.Attribute):
        # torch.cuda.x, torch.backends.cuda.x; torch.version.cuda is only a string.
        return node.attr == "_on_cuda" or (
            node.attr == "cuda" and ast.unparse(node.value) in ("torch", "torch.backends", "numba")
        )
    if isinstance(node, ast.ImportFrom):
        named = node.module in ("numba", "torch") and any(alias.name == "cuda" for alias in node.names)
        return named or (node.module or "").startswith(("numba.cuda", "torch.cuda"))
    if isinstance(node, ast.Import):
        return any(alias.name.startswith(("numba.cuda", "torch.cuda")) for alias in node.names)
    parts: list[ast.expr] = []
    if isinstance(node, ast.Compare):
        parts = [node.left, *node.comparators]
    elif isinstance(node, ast.Call):
        parts = node.args
    elif isinstance(node, ast.Name):
        return node.id in ("on_cuda", "on_gpu")
    return any(isinstance(part, ast.Constant) and part.value == "cuda" for part in parts)


def cuda_functions(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Qualified name and lines of every function, or of a class or module outside functions, that names `torch.cuda`,
    `torch.backends.cuda` or `cuda` of numba, or asks whether the device is one of CUDA's."""
    found: dict[str, int] = {}
    of_numba = any(
        isinstance(node, ast.ImportFrom) and node.module == "numba" and is_cuda(node) for node in ast.walk(tree)
    )

    def visit(node: ast.AST, name: str, lines: int) -> None:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            inner = f"{name}.{node.name}" if name else node.name
            size = (node.end_lineno or 0) - node.lineno + 1 if isinstance(node, ast.FunctionDef) else 0
            for child in ast.iter_child_nodes(node):
                visit(child, inner, size or lines)
            return
        if is_cuda(node) or (of_numba and isinstance(node, ast.Name) and node.id == "cuda"):
            found[name or "(module)"] = lines
        for child in ast.iter_child_nodes(node):
            visit(child, name, lines)

    visit(tree, "", 0)
    yield from found.items()


@cache
def in_src() -> dict[tuple[str, str], int]:
    return {
        (path.relative_to(ROOT).as_posix(), name): lines
        for path in sorted((ROOT / "src").rglob("*.py"))
        if re.search("cuda|on_gpu", text := path.read_text(encoding="utf-8"))
        for name, lines in cuda_functions(ast.parse(text))
    }


def listed() -> set[tuple[str, str]]:
    """The table's rows: a file, and the functions in it."""
    rows = re.findall(r"^\| `(src/[\w/.]+)` \| (.+?) \|", PAGE, re.MULTILINE)
    return {(path, name) for path, names in rows for name in re.findall(r"`([\w.()]+)`", names)}


def test_every_function_with_a_line_for_cuda_is_listed_and_only_those() -> None:
    assert sorted(in_src()) == sorted(listed())


def test_what_only_a_gpu_runs_is_small() -> None:
    assert {key: lines for key, lines in in_src().items() if lines > MOST_LINES} == {}


def test_the_search_sees_every_way_to_name_cuda() -> None:
    def seen(code: str) -> list[str]:
        return [name for name, _ in cuda_functions(ast.parse(code))]

    assert seen("def f():\n    torch.cuda.synchronize()") == ["f"]
    assert seen("class A:\n    def f(self):\n        x = torch.backends.cuda.matmul.allow_tf32") == ["A.f"]
    assert seen("from numba import cuda") == ["(module)"]
    assert seen("def f():\n    from numba.cuda import jit\n    return jit") == ["f"]
    assert seen("class A:\n    graph: torch.cuda.CUDAGraph") == ["A"]
    assert seen("from numba import cuda\ndef f():\n    return cuda.grid(1)") == ["(module)", "f"]
    assert seen("def f(place):\n    return place.type == 'cuda'") == ["f"]
    assert seen("def f(self):\n    return self._on_cuda, torch.autocast('cuda')") == ["f"]
    assert seen("def f(cuda):\n    return cuda, torch.version.cuda, 'cuda'") == []
