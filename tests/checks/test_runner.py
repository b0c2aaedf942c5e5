"""The runner: an outcome for every check whatever it does, a line of 80 columns, a file written whole, an exit code."""

from __future__ import annotations

import inspect
import json
import logging
import re
import warnings
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from src.checks import runner
from src.checks.catalogue import CHECKS, NAMES, Check, UnknownCheck, chosen
from src.checks.outcome import STATUSES, Outcome, failed, not_applicable, passed, skipped
from src.checks.runner import Result, lines_of, listing, validate
from src.checks.setting import Setting
from src.errors import BarDataError, ConfigError, InterruptedRun, UserError

CONFIG = CHECKS[1]
HERE = Path(__file__).parent


def stand_in(monkeypatch: pytest.MonkeyPatch, **checks: Callable[[Setting], Outcome]) -> list[Check]:
    """Checks of these names that do this; `config` first, which passes unless it is given."""
    does = {"config": lambda setting: passed("sound"), **checks}
    monkeypatch.setattr(Check, "load", lambda self: does[self.name])
    return [Check(name, f"guards {name}", "nowhere") for name in does]


def run(checks: list[Check], tmp_path: Path, **options: Any) -> tuple[int, str, dict[str, Any]]:
    console = Console(file=StringIO(), width=80)
    output = tmp_path / "validation.json"
    code = validate(Setting(quick=options.pop("quick", False)), checks, console, output, **options)
    return code, console.file.getvalue(), json.loads(output.read_text(encoding="utf-8"))  # type: ignore[attr-defined]


def raising(error: BaseException) -> Callable[[Setting], Outcome]:
    def check(setting: Setting) -> Outcome:
        raise error

    return check


# ---------------------------------------------------------------- the catalogue


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_every_check_is_a_function_of_its_name_that_says_what_it_does(check: Check) -> None:
    function = check.load()
    assert function.__name__ == check.name
    assert list(inspect.signature(function).parameters) == ["setting"]
    assert inspect.getdoc(function)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_every_check_is_seen_to_fail_by_a_test_of_its_own(check: Check) -> None:
    tests = (HERE / f"test_{check.module}.py").read_text(encoding="utf-8")
    bodies = re.findall(r"^def test_.*?(?=^def |^@|^class |\Z)", tests, re.MULTILINE | re.DOTALL)
    failing = [body for body in bodies if "assert_failed(" in body and re.search(rf"\b(\w+\.)?{check.name}\(", body)]
    assert failing, f"nothing shows that {check.name} can fail"


def test_names_are_distinct_and_a_choice_keeps_their_order() -> None:
    assert len(set(NAMES)) == len(CHECKS)
    assert [check.name for check in chosen(["planted", "versions"])] == ["versions", "planted"]
    assert chosen(None) == chosen([]) == CHECKS


@pytest.mark.parametrize(
    ("name", "nearest"), [("thread", "threads"), ("look-ahead", "look_ahead"), ("kernal", "kernel")]
)
def test_an_unknown_name_is_refused_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(UnknownCheck, match=f"did you mean '{nearest}'") as refused:
        chosen([name])
    assert refused.value.exit_code == 2


def test_the_listing_names_every_check_in_eighty_columns() -> None:
    lines = listing()
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines if line[0] != " "] == list(NAMES)


# ---------------------------------------------------------------- outcomes and exit codes


def test_nothing_failed_is_exit_code_0_though_not_all_was_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    checks = stand_in(
        monkeypatch, gpu=lambda s: not_applicable("no GPU"), advisor=lambda s: skipped("not installed: pip install x")
    )
    code, printed, written = run(checks, tmp_path)
    assert code == written["exit_code"] == 0
    assert written["counts"] == {"passed": 1, "failed": 0, "skipped": 1, "not_applicable": 1}
    assert "3 checks in" in printed
    assert "1 passed, 1 skipped, 1 not applicable." in printed


def test_one_failure_is_exit_code_1_with_its_remedy_and_the_others_still_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    checks = stand_in(
        monkeypatch, cpu=lambda s: failed("too slow", "Take a faster one.", mhz=1), gpu=lambda s: passed("on")
    )
    code, printed, written = run(checks, tmp_path)
    assert code == written["exit_code"] == 1
    assert "    Remedy: Take a faster one." in printed.splitlines()
    assert "Failed: cpu." in printed
    assert [check["status"] for check in written["checks"]] == ["passed", "failed", "passed"]
    assert written["checks"][1]["figures"] == {"mhz": 1}


@pytest.mark.parametrize(
    ("error", "measured", "remedy"),
    [
        (ZeroDivisionError("by zero"), "ZeroDivisionError: by zero", "--only cpu --debug"),
        (AssertionError(), "AssertionError", "--only cpu --debug"),
        (ModuleNotFoundError("No module named 'torch'"), "No module named 'torch'", "pip install -r requirements.txt"),
        (BarDataError("bars.csv: row 3 is wrong. Mend it."), "cannot be checked", "row 3 is wrong. Mend it."),
    ],
)
def test_a_check_that_raises_has_failed_and_never_ends_the_validation(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception, measured: str, remedy: str
) -> None:
    checks = stand_in(monkeypatch, cpu=raising(error), gpu=lambda s: passed("on"))
    code, printed, written = run(checks, tmp_path)
    assert code == 1
    entry = written["checks"][1]
    assert entry["status"] == "failed"
    assert measured in entry["measured"]
    assert remedy in entry["remedy"]
    assert type(error).__name__ in entry["error"]
    assert written["checks"][2]["status"] == "passed"
    assert "Traceback" not in printed


def test_with_debug_the_traceback_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    checks = stand_in(monkeypatch, cpu=raising(ZeroDivisionError("by zero")))
    _, printed, _ = run(checks, tmp_path, debug=True)
    assert "Traceback" in printed


def test_a_module_that_cannot_be_imported_fails_its_check_alone(tmp_path: Path) -> None:
    checks = [Check("gone", "guards nothing", "no_such_module"), CONFIG]
    code, _, written = run(checks, tmp_path)
    assert code == 1
    assert [check["status"] for check in written["checks"]] == ["failed", "passed"]
    assert "pip install -r requirements.txt" in written["checks"][0]["remedy"]


def test_what_needs_a_configuration_that_failed_is_skipped_not_failed_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def needs_it(setting: Setting) -> Outcome:
        _ = setting.config
        return passed("reached")

    checks = stand_in(monkeypatch, config=lambda s: failed("a key is unknown", "Mend it."), cpu=needs_it)
    code, _, written = run(checks, tmp_path)
    assert code == 1
    assert written["checks"][1]["status"] == "skipped"
    assert written["checks"][1]["reason"] == "needs the check config, which failed"


def test_a_bad_configuration_is_bad_usage_where_the_check_config_is_not_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    checks = stand_in(monkeypatch, cpu=lambda s: passed("on"))[1:]
    (tmp_path / "mine.yaml").write_text("hardwear: {}")
    with pytest.raises(ConfigError, match="did you mean 'hardware'"):
        validate(Setting(config_file=tmp_path / "mine.yaml"), checks, Console(quiet=True))


def test_a_check_too_long_for_quick_is_skipped_there_and_run_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    checks = stand_in(monkeypatch, cpu=lambda s: passed("ran"))
    checks[1] = Check("cpu", "guards cpu", "nowhere", full_only=True)
    assert run(checks, tmp_path, quick=True)[2]["checks"][1]["status"] == "skipped"
    assert run(checks, tmp_path)[2]["checks"][1]["status"] == "passed"


@pytest.mark.parametrize(("quick", "took_s", "over"), [(True, 61.0, True), (True, 59.0, False), (False, 61.0, False)])
def test_a_quick_validation_that_was_not_quick_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quick: bool, took_s: float, over: bool
) -> None:
    now = [100.0]

    def slow(setting: Setting) -> Outcome:
        now[0] += took_s
        return passed("at last")

    checks = stand_in(monkeypatch, cpu=slow)
    console = Console(file=StringIO(), width=80)
    output = tmp_path / "validation.json"
    assert validate(Setting(quick=quick, clock=lambda: now[0]), checks, console, output) == 0
    written = json.loads(output.read_text(encoding="utf-8"))
    assert (written["seconds"], written["over_quick_limit"]) == (took_s, over)
    last = console.file.getvalue().splitlines()[-1]  # type: ignore[attr-defined]
    assert last.startswith(f"2 checks in {took_s} s{' (over the 60 s of --quick)' if over else ''}: 2 passed.")


def test_the_lines_stand_in_the_order_of_the_checks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    checks = stand_in(monkeypatch, gpu=lambda s: passed("b"), cpu=lambda s: passed("a"))
    _, printed, _ = run(checks, tmp_path)
    assert [line.split()[1] for line in printed.splitlines()[:3]] == ["config", "gpu", "cpu"]


# ---------------------------------------------------------------- stopped


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), InterruptedRun("Stopped. What was logged is kept.")])
def test_a_stop_writes_what_is_known_and_is_exit_code_3(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stop: BaseException
) -> None:
    checks = stand_in(monkeypatch, cpu=raising(stop), gpu=lambda s: passed("never reached"))
    with pytest.raises(InterruptedRun, match="1 of 3 checks were done") as stopped:
        run(checks, tmp_path)
    assert stopped.value.exit_code == 3
    written = json.loads((tmp_path / "validation.json").read_text())
    assert (written["interrupted"], written["exit_code"]) == (True, 3)
    assert [check["status"] for check in written["checks"]] == ["passed", "skipped", "skipped"]


# ---------------------------------------------------------------- what is written


def test_the_file_holds_every_field_of_every_check_and_the_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def warns(setting: Setting) -> Outcome:
        logging.getLogger("src.market").warning("left %d out", 3)
        logging.getLogger("src.market").info("nothing of note")
        warnings.warn("a library says so", stacklevel=1)
        warnings.warn("a library is old", DeprecationWarning, stacklevel=1)
        return passed("warned", ratio=float("nan"))

    checks = stand_in(monkeypatch, cpu=warns)
    _, printed, written = run(checks, tmp_path)
    assert written["schema_version"] == 1
    assert written["machine"].keys() == {"python", "platform", "machine", "cores"}
    assert written["checks"][1] == {
        "name": "cpu", "guards": "guards cpu", "status": "passed", "seconds": written["checks"][1]["seconds"],
        "measured": "warned", "details": [], "figures": {"ratio": None}, "reason": None, "remedy": None, "error": None,
        "warnings": ["left 3 out", "a library says so"],
    }  # fmt: skip
    assert "left 3 out" not in printed
    assert written["began"].endswith("+00:00")


def test_the_file_is_there_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    output = tmp_path / "validation.json"
    output.write_text("of before")
    written: list[Path] = []
    real = runner.write_json

    def died(path: Path, content: Any) -> None:
        written.append(path)
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "write_json", died)
    checks = stand_in(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        validate(Setting(), checks, Console(quiet=True), output)
    assert output.read_text() == "of before"
    monkeypatch.setattr(runner, "write_json", real)
    validate(Setting(), checks, Console(quiet=True), output)
    assert [path.name for path in tmp_path.iterdir()] == ["validation.json"]
    assert json.loads(output.read_text())["exit_code"] == 0


@pytest.mark.parametrize("where", ["file/validation.json", "."])
def test_an_output_that_cannot_be_written_is_refused_before_anything_is_checked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, where: str
) -> None:
    checks = stand_in(monkeypatch, cpu=raising(SystemExit("a check was run")))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--output"):
        validate(Setting(), checks, Console(quiet=True), tmp_path / where)


def test_the_folder_of_an_output_is_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    output = tmp_path / "new" / "folder" / "validation.json"
    assert validate(Setting(), stand_in(monkeypatch), Console(quiet=True), output) == 0
    assert json.loads(output.read_text(encoding="utf-8"))["exit_code"] == 0


def test_an_output_in_a_folder_without_permission_is_told_by_its_own_option(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def denied(**_: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", denied)
    with pytest.raises(UserError, match=r"--output .*Permission denied.*name a file elsewhere") as told:
        validate(Setting(), stand_in(monkeypatch), Console(quiet=True), tmp_path / "validation.json")
    assert "--output-dir" not in str(told.value)


# ---------------------------------------------------------------- lines


words = st.lists(st.text("abcdefgh,.:;%-", min_size=1, max_size=30), max_size=40).map(" ".join)


@given(
    st.sampled_from(CHECKS), st.sampled_from(STATUSES), words, words, words, st.lists(words, max_size=3),
    st.floats(0, 9_999), st.sampled_from([40, 80]),
)  # fmt: skip
def test_a_result_fits_its_columns_and_nothing_of_it_is_cut(
    check: Check, status: str, measured: str, reason: str, remedy: str, details: list[str], seconds: float, width: int
) -> None:
    lines = lines_of(Result(check, Outcome(status, measured, remedy, reason, details=details), seconds), width)
    assert all(len(line) <= width or len(line.split()) == 1 for line in lines), "only a word as long as that is longer"
    assert lines[0].split()[:2] == [status, check.name]
    assert all(line.startswith("    ") for line in lines[1:])
    said = [measured or reason, *details, *([f"Remedy: {remedy}"] if remedy else [])]
    assert "".join(" ".join(lines).split()[4:]) == "".join(" ".join(said).split())


@pytest.mark.parametrize("width", [40, 80])
def test_the_console_shows_every_word_at_its_width(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    said = "62 of 62 sessions usable, 62 rows left out, and more that no console of this width has room for on a line"
    checks = stand_in(monkeypatch, cpu=lambda s: passed(said), gpu=lambda s: failed(said, f"Do {said}."))
    console = Console(file=StringIO(), width=width)
    validate(Setting(), checks, console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, printed.splitlines())) <= width
    assert " ".join(printed.split()).count(said) == 3


def test_a_path_in_a_remedy_can_be_copied_whole() -> None:
    path = "/home/somebody/" + "a-folder-with-a-long-name/" * 4 + "bars.csv"
    lines = lines_of(Result(CONFIG, failed("a row is wrong", f"Mend row 3 of {path} and try again."), 1.0))
    assert [line.strip() for line in lines[1:]] == ["Remedy: Mend row 3 of", path, "and try again."]
