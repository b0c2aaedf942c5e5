"""`compare_benchmarks.py` as it is typed: what it prints, how it ends, and what it loads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import compare_benchmarks
from src.benchmarks.file import write_run
from src.benchmarks.output import BEGIN, END
from src.errors import UserError
from tests.benchmark_makers import story

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = Path(__file__).parent / "golden" / "comparison_table.txt"
HEAVY = {
    "torch",
    "stable_baselines3",
    "sb3_contrib",
    "gymnasium",
    "numba",
    "pandas",
    "scipy",
    "pydantic",
    "transformers",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """baseline.json, optimized.json, and the second from another machine."""
    made = tmp_path_factory.mktemp("runs")
    first, second = story()
    write_run(made / "baseline.json", first)
    write_run(made / "optimized.json", second)
    second.machine["identity"]["cores"] = 64
    write_run(made / "elsewhere.json", second)
    return made


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "compare_benchmarks.py"), *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)


def in_process(folder: Path, *options: str) -> int:
    files = [str(folder / name) for name in ("baseline.json", "optimized.json")]
    return compare_benchmarks.compare(compare_benchmarks.parser().parse_args([*files, *options]))


def test_it_prints_the_table_and_ends_with_1_when_a_row_falls_below(folder: Path) -> None:
    ended = run(folder, "baseline.json", "optimized.json", "--fail-below", "0.9")
    assert ended.stdout == GOLDEN.read_text(encoding="utf-8")
    assert (ended.returncode, ended.stderr) == (1, "")


def test_the_bound_decides_the_exit_code(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert in_process(folder) == 0
    assert in_process(folder, "--fail-below", "0.03") == 0
    assert "No row is below 0.03." in capsys.readouterr().out
    assert in_process(folder, "--fail-below", "0.05") == 1
    assert "Below 0.05: cache, 1,000 rows (0.0400x); cache, 10,000 rows (0.0350x)." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("format_", "begins"), [("table", "     "), ("json", "{"), ("markdown", "| what"), ("html", "<!DOCTYPE html>")]
)
def test_each_format_says_the_same(folder: Path, capsys: pytest.CaptureFixture[str], format_: str, begins: str) -> None:
    assert in_process(folder, "--format", format_) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(begins)
    for said in ("gymnasium environment", "0.04", "no difference", "less than promised"):
        assert said in printed
    if format_ == "json":
        assert len(json.loads(printed)["rows"]) == 10


def test_another_machine_ends_with_2_and_is_compared_when_told_to(folder: Path) -> None:
    refused = run(folder, "baseline.json", "elsewhere.json")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "cores 2 and 64" in " ".join(refused.stderr.split())
    assert "Traceback" not in refused.stderr
    assert max(map(len, refused.stderr.splitlines())) <= 80
    told = run(folder, "baseline.json", "elsewhere.json", "--anyway")
    assert told.returncode == 0
    assert "Compared although they differ: cores 2 and 64." in " ".join(told.stdout.split())


def test_a_damaged_file_ends_with_2_and_the_remedy(folder: Path) -> None:
    (folder / "empty.json").write_text("")
    ended = run(folder, "baseline.json", "empty.json")
    assert ended.returncode == 2
    assert "error: empty.json is empty" in ended.stderr
    assert "python benchmark_framework.py --pair" in " ".join(ended.stderr.split())


def test_a_readme_is_brought_up_to_date(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\n{END}\nafter\n")
    assert in_process(folder, "--update-readme", str(readme)) == 0
    text = readme.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{BEGIN}\n| what | promised |")
    assert text.endswith(f"{END}\nafter\n")
    assert "| fusion | batch 32 | 20.0 us | 4.00 us | 5.00x | 5.00-5.00 | faster |" in text
    with pytest.raises(UserError, match="cannot be read"):
        in_process(folder, "--update-readme", str(tmp_path / "none.md"))


def test_a_readme_does_not_take_what_anyway_let_through(folder: Path, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"{BEGIN}\n{END}\n")
    ended = run(folder, "baseline.json", "elsewhere.json", "--anyway", "--update-readme", str(readme))
    assert ended.returncode == 2
    assert "(cores 2 and 64)" in " ".join(ended.stderr.split())
    assert readme.read_text() == f"{BEGIN}\n{END}\n"


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "much"])
def test_a_bound_that_is_no_ratio_ends_with_2(folder: Path, capsys: pytest.CaptureFixture[str], value: str) -> None:
    with pytest.raises(SystemExit) as ended:
        in_process(folder, "--fail-below", value)
    assert ended.value.code == 2
    assert "--fail-below" in capsys.readouterr().err


def test_comparing_loads_no_heavy_library(folder: Path) -> None:
    readme = folder / "README.md"
    readme.write_text(f"{BEGIN}\n{END}\n")
    code = (
        "import sys, compare_benchmarks as c\n"
        "for name in ('table', 'json', 'markdown', 'html'):\n"
        f"    c.compare(c.parser().parse_args([*sys.argv[1:], '--format', name, '--update-readme', {str(readme)!r}]))\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    files = [str(folder / name) for name in ("baseline.json", "optimized.json")]
    answer = subprocess.run([sys.executable, "-c", code, *files], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 0, answer.stderr
    loaded = set(answer.stderr.split("'"))
    assert "compare_benchmarks" in loaded
    assert not loaded & HEAVY
