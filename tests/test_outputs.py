"""One folder a run, files that are whole or absent, and a log that begins before the folder does."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.errors import UserError
from src.files import write_json
from src.monitoring.run_log import RunLog
from src.outputs import OutputError, check_writable, output_errors_in_words, why_unwritable
from src.runs import run_folder
from src.runs.run_folder import make_run_folder


def test_runs_of_one_second_get_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Still(run_folder.datetime):
        @classmethod
        def now(cls):
            return cls(2026, 3, 4, 5, 6, 7)

    monkeypatch.setattr(run_folder, "datetime", Still)
    names = [make_run_folder(tmp_path / "logs", "pipeline", "NQ").name for _ in range(3)]
    first = "pipeline_NQ_20260304-050607"
    assert names == [first, f"{first}-2", f"{first}-3"]


def test_checking_leaves_nothing_behind(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_why_a_folder_cannot_be_written_is_said_in_the_systems_words_and_none_is_made_unasked(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    assert why_unwritable(tmp_path) == ""
    assert why_unwritable(tmp_path / "taken" / "below") == "Not a directory"
    assert why_unwritable(tmp_path / "absent", make=False) == "No such file or directory"
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_folder_that_cannot_be_written_is_an_error_naming_it_and_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    for bad in (tmp_path / "taken", tmp_path / "taken" / "below", Path("/proc/nowhere")):
        with pytest.raises(OutputError, match=r"cannot be written.*--output-dir") as error:
            make_run_folder(bad, "pipeline", "NQ")
        assert str(bad) in str(error.value)
        assert isinstance(error.value, UserError)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


def _without_nan(value):
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@given(st.dictionaries(st.text(max_size=5), json_values, max_size=4))
def test_what_is_written_is_json_with_null_for_what_json_does_not_have(
    tmp_path_factory: pytest.TempPathFactory, content: dict
) -> None:
    path = tmp_path_factory.mktemp("json") / "report.json"
    write_json(path, content)
    assert json.loads(path.read_text(encoding="utf-8")) == _without_nan(content)


def test_numpy_values_become_plain_ones(tmp_path: Path) -> None:
    content = {
        "count": np.int64(3),
        "share": np.float32(0.5),
        "flag": np.bool_(True),
        "rows": np.arange(4).reshape(2, 2),
        "nan": np.float64("nan"),
        "holes": np.array([1.0, np.inf]),
        "pair": (1, 2),
        3: "a number as key",
    }
    write_json(tmp_path / "r.json", content)
    assert json.loads((tmp_path / "r.json").read_text()) == {
        "count": 3, "share": 0.5, "flag": True, "rows": [[0, 1], [2, 3]], "nan": None, "holes": [1.0, None],
        "pair": [1, 2], "3": "a number as key",
    }  # fmt: skip


def test_the_log_holds_what_was_said_before_there_was_a_file(tmp_path: Path) -> None:
    logger = logging.getLogger("src.market.load")
    path = tmp_path / "run.log"
    with RunLog() as log:
        logger.warning("before the folder")
        log.write_to(path)
        logger.info("after it")
        assert [line.split(" ", 2)[2] for line in path.read_text().splitlines()] == [
            "WARNING src.market.load: before the folder",
            "INFO src.market.load: after it",
        ], "a message waits in memory that a kill would lose"
    logger.warning("after the run")
    assert "after the run" not in path.read_text()


def test_the_log_says_how_a_run_ended_that_did_not_reach_its_end(tmp_path: Path) -> None:
    def fail(path: Path, error: BaseException) -> None:
        with RunLog() as log:
            log.write_to(path)
            raise error

    for error, words in ((KeyboardInterrupt(), "KeyboardInterrupt"), (UserError("bad bars"), "UserError bad bars")):
        path = tmp_path / f"{words}.log"
        with pytest.raises(type(error)):
            fail(path, error)
        assert path.read_text().rstrip().endswith(f"the run ended early: {words}")


def test_the_logger_is_left_as_it_was() -> None:
    logger = logging.getLogger("src")
    before = logger.level, list(logger.handlers)
    with RunLog():
        assert logger.handlers != before[1]
    assert (logger.level, logger.handlers) == before


def test_a_log_on_a_full_disk_ends_the_run_where_the_message_came_from_and_once(tmp_path: Path) -> None:
    logger = logging.getLogger("src.somewhere")
    with RunLog() as log:
        log.write_to(tmp_path / "run.log")
        logger.info("written")
        handler = log._held.target
        assert isinstance(handler, logging.FileHandler)
        with open("/dev/full", "w") as full:
            whole, handler.stream = handler.stream, full
            with pytest.raises(OSError, match="No space left on device") as error:
                logger.info("lost")
            logger.info("no second error: what ended the run is being dealt with")
            handler.stream = whole
            with suppress(OSError):
                full.close()
    assert error.value.filename == str(tmp_path / "run.log")
    assert (tmp_path / "run.log").read_text().count("\n") == 1


def test_an_error_of_the_system_within_a_run_is_one_paragraph_naming_the_file(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"cannot write or read its files below .*\(/x/y: No space left on device\)"),
        output_errors_in_words(tmp_path, "what was written before is kept."),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/x/y")
