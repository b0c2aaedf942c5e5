"""A model behind a server: whatever the server does, an answer is right, missing, or asked for again."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.advisor import endpoint_http
from src.advisor.endpoint import PROBES, EndpointModel, endpoint_model
from src.advisor.endpoint_answers import echoed, first_tokens, label_logprobs
from src.advisor.endpoint_http import Pace, ServerLost
from src.advisor.endpoint_url import checked_url
from src.advisor.settings import LLMSettings
from src.advisor.single_asking import ModelChanged
from src.advisor.store import AdviceStore
from src.advisor.table import LABEL_SETS
from src.advisor.tabulation import TabulationRecord, tabulate_stored
from src.configuration import build_config
from src.errors import EXIT_BAD_INPUT, EXIT_TARGET_MISSED, ConfigError
from tests.advisor.fake_model import AMPLE_S, ORDER
from tests.advisor.odd_server import NAME, OddServer
from tests.tiny_runs import bar_files, quick_calendar, tiny_config, whole_run

ROOT = Path(__file__).resolve().parents[2]
KEY = "sk-very-secret-0123456789"
FEW = ORDER[:30]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_http, "FIRST_PAUSE_S", 0.01)


@pytest.fixture
def odd() -> Iterator[OddServer]:
    with OddServer() as server:
        yield server


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "advice.sqlite3"


def settings_of(odd: OddServer, path: Path, **changes: Any) -> LLMSettings:
    return LLMSettings(
        **{"model": NAME, "endpoint": odd.url, "store_path": path, "endpoint_timeout_s": 20.0, **changes}
    )


def tabulated(
    model: EndpointModel, path: Path, order: np.ndarray = FEW, **options: Any
) -> tuple[Any, TabulationRecord]:
    with AdviceStore(path) as store:
        return tabulate_stored(model, store, order, AMPLE_S, **{"calibrate": False, **options})


def expected(odd: OddServer, situations: np.ndarray) -> np.ndarray:
    weights = np.exp(odd.scores[situations].astype(float))
    return weights / weights.sum(axis=1, keepdims=True)


# What is asked and what comes back


@pytest.mark.parametrize("style", ["chat", "vllm"])
def test_the_labels_log_probabilities_arrive_and_each_situation_is_asked_once(path: Path, style: str) -> None:
    with OddServer(style) as odd:
        model = endpoint_model(settings_of(odd, path))
        assert model.fingerprint.route.kind == {"chat": "chat", "vllm": "prompt"}[style]
        odd.asked.clear()
        table, record = tabulated(model, path)
        np.testing.assert_allclose(table.probabilities[FEW], expected(odd, FEW), atol=2e-3)
        assert odd.asked == Counter(FEW.tolist()) + Counter(PROBES), "and the fingerprint once more at the end"
        assert (record.asked_now, record.abstained, record.scoring["route"]) == (30, 0, model.fingerprint.route.kind)
        again, record = tabulated(endpoint_model(settings_of(odd, path)), path)
        assert (record.asked_now, again.sha256) == (0, table.sha256)


@pytest.mark.parametrize("fault", ["500", "429", "cut", "text", "empty", "null", "slow"])
def test_a_fault_that_passes_is_asked_through(odd: OddServer, path: Path, fault: str) -> None:
    model = endpoint_model(settings_of(odd, path, endpoint_timeout_s=2.0))
    odd.slow_s = 2.5
    odd.faults = [fault]
    table, record = tabulated(model, path, FEW[:5])
    np.testing.assert_allclose(table.probabilities[FEW[:5]], expected(odd, FEW[:5]), atol=2e-3)
    assert record.scoring["retries"] == 1
    assert record.scoring["limited"] == (fault == "429")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("redirect", "HTTP 307, a redirect, which is not followed"),
        ("401", "Name the environment variable that holds the key in llm.endpoint_key_env"),
        ("huge", "more than 0 MiB"),
    ],
)
def test_what_no_retry_would_change_is_refused_at_once(
    odd: OddServer, path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, words: str
) -> None:
    monkeypatch.setattr(endpoint_http, "MAX_BODY_BYTES", 100_000)
    model = endpoint_model(settings_of(odd, path, endpoint_concurrency=1))
    before = len(odd.seen)
    odd.always = fault
    with pytest.raises(ConfigError, match=re.escape(words)) as caught:
        model.load().score(FEW[:1])
    assert len(odd.seen) == before + 1, "neither tried again nor followed"
    assert caught.value.exit_code == EXIT_BAD_INPUT


def test_a_pause_that_the_server_asks_for_holds_every_request(odd: OddServer, path: Path) -> None:
    scorer = endpoint_model(settings_of(odd, path)).load()
    odd.faults, odd.retry_after = ["429"], "1"
    began = len(odd.seen)
    scorer.score(FEW[:8])
    times = [seen[2] for seen in odd.seen[began:]]
    assert len(times) == 9
    late = [each for each in times if each - times[0] >= 0.95]
    assert len(late) >= 9 - 4, "at most what was under way on four connections left before"


def test_a_pause_that_is_too_long_ends_the_asking(odd: OddServer, path: Path) -> None:
    scorer = endpoint_model(settings_of(odd, path)).load()
    odd.always, odd.retry_after = "429", "3600"
    with pytest.raises(ServerLost, match="asked once without a usable answer: HTTP 429"):
        scorer.score(FEW[:1])


def test_retry_after_may_be_seconds_or_a_date() -> None:
    assert endpoint_http._pause_of("7") == 7.0
    assert endpoint_http._pause_of(None) is endpoint_http._pause_of("soon") is None
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 27.0 < (endpoint_http._pause_of(later) or 0.0) <= 30.0


@given(st.integers(1, 600), st.lists(st.floats(0.0, 3.0), min_size=2, max_size=30))
def test_no_minute_has_more_requests_than_allowed(per_min: int, waits: list[float]) -> None:
    now = [0.0]

    class Passing(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            now[0] += timeout or 0.0
            return False

    pace, left = Pace(per_min, Passing(), lambda: now[0]), []
    for pause in waits:
        now[0] += pause
        pace.wait()
        left.append(now[0])
    assert (np.diff(left) >= 60.0 / per_min - 1e-9).all()


# Missing labels


def test_a_label_outside_the_likeliest_is_missing_and_the_advice_abstains(path: Path) -> None:
    with OddServer(top_k=4) as odd:
        model = endpoint_model(settings_of(odd, path))
        table, record = tabulated(model, path, calibrate=True)
        whole = FEW[FEW % 5 == 0]  # three labels and a filler: all told
        assert record.abstained == 24 == record.scoring["situations_incomplete"]
        assert not table.probabilities[FEW[FEW % 5 != 0]].any(), "abstains: never a zero beside known shares"
        assert table.covered[FEW].all()
        np.testing.assert_allclose(table.probabilities[whole].sum(axis=1), 1.0, atol=1e-6)
        with AdviceStore(path) as store:
            kept = store.answers(model.identity)
        for situation in FEW.tolist():
            told, labels = np.isfinite(kept[situation]), LABEL_SETS[situation % 5]
            np.testing.assert_allclose(kept[situation][told], odd.scores[situation][told], atol=1e-6)
            assert (np.isnan(kept[situation]) == (labels & ~told)).all()


def test_a_thought_is_counted_and_never_an_answer(odd: OddServer, path: Path) -> None:
    model = endpoint_model(settings_of(odd, path))
    odd.thinks = set(FEW[:4].tolist())
    table, record = tabulated(model, path)
    assert (record.scoring["thoughts"], record.abstained) == (4, 4)
    assert not table.probabilities[FEW[:4]].any()
    assert table.probabilities[FEW[4:]].any(axis=1).all()


def test_a_model_that_always_thinks_first_is_refused(odd: OddServer, path: Path) -> None:
    odd.thinks = set(PROBES)
    with pytest.raises(ConfigError, match=r"begins every answer with a thought \('<think>'\)"):
        endpoint_model(settings_of(odd, path))


leaves = st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=3)
strange = leaves | st.lists(leaves, max_size=2) | st.dictionaries(st.text(max_size=3), leaves, max_size=2)
tokens = strange | st.fixed_dictionaries({"token": strange, "logprob": strange, "id": strange})
places = strange | st.fixed_dictionaries(
    {"token": strange, "logprob": strange, "top_logprobs": strange | st.lists(tokens, max_size=3)}
)
told = strange | st.fixed_dictionaries(
    {},
    optional={
        "content": st.lists(places, max_size=2), "tokens": strange | st.lists(st.text(max_size=3), max_size=3),
        "token_logprobs": strange | st.lists(leaves, max_size=3),
        "top_logprobs": strange | st.lists(strange, max_size=2),
    },
)  # fmt: skip
choices = strange | st.fixed_dictionaries({"index": strange, "logprobs": told}, optional={"message": strange})
json_values = strange | st.fixed_dictionaries({"choices": strange | st.lists(choices, max_size=2)})


@given(json_values)
def test_a_strange_answer_is_an_error_that_is_asked_again_or_finite(answer: Any) -> None:
    for read in (first_tokens, lambda value: label_logprobs(echoed(value, 1), ["x"])):
        try:
            found = read(answer)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            continue
        values = found if isinstance(found, list) else [token.logprob for token in found.likeliest]
        assert np.isfinite(values).all()


# The fingerprint


def test_another_model_under_the_known_name_is_refused_until_the_user_agrees(odd: OddServer, path: Path) -> None:
    settings = settings_of(odd, path)
    first = endpoint_model(settings)
    table, _record = tabulated(first, path, FEW[:5])
    odd.use_model(seed=1)
    with pytest.raises(ModelChanged, match="another model than before under the name odd: log-probabilities") as caught:
        endpoint_model(settings)
    assert "llm.endpoint_changed to ask_again" in str(caught.value)
    agreeing = settings.model_copy(update={"endpoint_changed": "ask_again"})
    second = endpoint_model(agreeing)
    assert second.identity != first.identity
    other, record = tabulated(second, path, FEW[:5])
    assert (record.asked_now, other.sha256 == table.sha256) == (5, False)
    assert endpoint_model(settings).identity == second.identity, "the new one is the known one now"
    odd.use_model(seed=0)
    assert endpoint_model(agreeing).identity == first.identity, "the earlier answers are there still"


def test_answers_of_a_model_that_changed_meanwhile_are_dropped(odd: OddServer, path: Path) -> None:
    model = endpoint_model(settings_of(odd, path))
    tabulated(model, path, FEW[:3])
    odd.use_model(seed=1)
    with pytest.raises(ModelChanged):
        tabulated(model, path, FEW[:9])
    with AdviceStore(path) as store:
        assert sorted(store.answers(model.identity)) == sorted(FEW[:3].tolist())


def test_a_server_that_stops_with_its_last_answer_is_no_failure(odd: OddServer, path: Path) -> None:
    model = endpoint_model(settings_of(odd, path, endpoint_retries=0, endpoint_concurrency=1))
    odd.dies_after = sum(odd.asked.values()) + 5
    lines: list[str] = []
    table, _record = tabulated(model, path, FEW[:5], say=lines.append)
    assert table.covered[FEW[:5]].all()
    assert "could not be compared with its fingerprint after the asking" in lines[-1]


def test_a_server_that_is_gone_is_not_missed_where_all_is_answered(path: Path, caplog: Any) -> None:
    with OddServer() as odd:
        settings = settings_of(odd, path, endpoint_retries=0)
        table, _record = tabulated(endpoint_model(settings), path)
    again, record = tabulated(endpoint_model(settings), path)
    assert (again.sha256, record.asked_now) == (table.sha256, 0)
    assert "What odd has answered before is used" in caplog.text
    with pytest.raises(ConfigError, match="Start the server, or fix the address"):
        endpoint_model(settings.model_copy(update={"store_path": path.with_name("other.sqlite3")}))


def test_a_model_that_the_server_does_not_list_is_refused_with_those_it_does(odd: OddServer, path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'ood', which llm.endpoint .* does not have. It lists: odd"):
        endpoint_model(settings_of(odd, path, model="ood"))
    with pytest.raises(ConfigError, match=r"llm.quantization is int8, but the weights are those of the server"):
        endpoint_model(settings_of(odd, path, quantization="int8"))


# Interruptions and neighbours


def test_a_server_that_dies_amid_the_asking_loses_nothing_and_nothing_is_asked_twice(
    odd: OddServer, path: Path
) -> None:
    settings = settings_of(odd, path, endpoint_retries=1)
    model = endpoint_model(settings)
    odd.asked.clear()
    odd.dies_after = 20
    with pytest.raises(ServerLost) as caught:
        tabulated(model, path)
    with AdviceStore(path) as store:
        kept = set(store.answers(model.identity))
    assert kept == set(odd.asked), "what was answered is kept"
    assert 20 <= len(kept) < 30
    said = str(caught.value)
    assert f"{len(kept)} answers of odd are kept in {path}" in said
    assert "Start the same command again" in said
    assert caught.value.exit_code == EXIT_TARGET_MISSED
    odd.dies_after, odd.always = None, ""
    table, record = tabulated(endpoint_model(settings), path)
    assert record.asked_now == 30 - len(kept)
    np.testing.assert_allclose(table.probabilities[FEW], expected(odd, FEW), atol=2e-3)
    assert {odd.asked[situation] for situation in FEW.tolist()} == {1}


def test_processes_share_the_situations_out_and_a_killed_ones_are_taken_over(odd: OddServer, path: Path) -> None:
    odd.work_s = 0.05
    model = endpoint_model(settings_of(odd, path))
    odd.asked.clear()
    code = (
        "import sys\nfrom pathlib import Path\nfrom src.advisor.endpoint import endpoint_model\n"
        "from src.advisor.settings import LLMSettings\nfrom src.advisor.store import AdviceStore\n"
        "from src.advisor.tabulation import tabulate_stored\nfrom tests.advisor.fake_model import ORDER\n"
        f"settings = LLMSettings(model='odd', endpoint={odd.url!r}, store_path=Path({str(path)!r}))\n"
        "model = endpoint_model(settings)\nprint('ready', flush=True)\nsys.stdin.read(1)\n"
        "with AdviceStore(settings.store_path) as store:\n"
        "    table, _ = tabulate_stored(model, store, ORDER[:60], 1e6, calibrate=False)\n"
        "print(table.sha256, flush=True)\n"
    )
    others = [
        subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for other in others:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
    odd.asked.clear()
    for other in others:
        assert other.stdin is not None
        other.stdin.write("x")
        other.stdin.flush()
    while sum(odd.asked.values()) < 20:
        time.sleep(0.01)
    others[0].kill()
    ends = [other.communicate(timeout=250)[0] for other in others]
    table, record = tabulated(model, path, ORDER[:60])
    assert (ends[0], ends[1]) == ("", f"{table.sha256}\n")
    assert record.asked_now == 0
    asked = Counter({s: n for s, n in odd.asked.items() if s not in PROBES})
    twice = sum(n - 1 for n in asked.values())
    assert set(asked) == set(ORDER[:60].tolist()) - set(PROBES)
    assert twice <= 4, "at most what the killed process had under way on its four connections"


# The key, the address, the configuration


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080/v1"),
        ("https://Host.example/api/v1/", "https://host.example/api/v1"),
        ("http://[::1]:11434/v1", "http://[::1]:11434/v1"),
    ],
)
def test_an_address_is_kept_in_one_form(text: str, kept: str) -> None:
    assert checked_url(text) == kept
    assert checked_url(kept) == kept


@pytest.mark.parametrize(
    "text",
    ["ftp://x", "file:///etc/passwd", "127.0.0.1:80", "http://", "http://u:hunter2@h/v1", "http://h:99999", "http://h/?k=hunter2",
     "http://h/#hunter2", "http://h/a b", "http://h:0", "http://[::1", ""],
)  # fmt: skip
def test_an_address_that_cannot_be_used_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ConfigError, match=r"llm\.endpoint: it ") as caught:
        build_config(None, {"llm": {"endpoint": text}}, {})
    assert "hunter2" not in str(caught.value)


def test_a_key_in_place_of_its_variables_name_is_refused_without_repeating_it() -> None:
    for value in (KEY, 12345678, [KEY]):
        with pytest.raises(ConfigError, match=r"llm\.endpoint_key_env") as caught:
            build_config(None, {"llm": {"endpoint_key_env": value}}, {})
        assert KEY not in str(caught.value)
        assert "12345678" not in str(caught.value)


@pytest.mark.parametrize("value", [None, "", "two words", "line\nbreak", "schlüssel"])
def test_a_variable_without_a_usable_key_is_named(
    odd: OddServer, path: Path, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    if value is not None:
        monkeypatch.setenv("ODD_KEY", value)
    with pytest.raises(ConfigError, match="ODD_KEY") as caught:
        endpoint_model(settings_of(odd, path, endpoint_key_env="ODD_KEY"))
    assert not value or value not in str(caught.value)


def test_the_key_is_sent_and_appears_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A whole run at log level DEBUG, with a server that repeats the key in headers and error texts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ODD_KEY", KEY)
    for name in ("src", "httpx2", "httpcore2"):
        caplog.set_level(logging.DEBUG, logger=name)
    with OddServer(key=KEY) as odd, quick_calendar():
        odd.faults = ["500"]
        llm = {
            "llm.model": NAME, "llm.endpoint": odd.url, "llm.endpoint_key_env": "ODD_KEY",
            "llm.tabulation_budget_s": 0.01, "llm.store_path": "store/advice.sqlite3",
            "data.path": str(bar_files(tmp_path)["plain"]),
        }  # fmt: skip
        seen = whole_run(tiny_config(llm))
        assert seen["outcome"] == ""
        assert seen["report"]["advice"]["tabulation"]["scoring"]["route"] == "chat"
        posts = [headers for place, headers, _ in odd.seen if place == "/v1/chat/completions"]
        assert {headers["Authorization"] for headers in posts} == {f"Bearer {KEY}"}
        odd.always = "500"
        failed = whole_run(tiny_config({**llm, "llm.endpoint_retries": 0, "llm.extend_advice": True}))
        odd.always = "401"
        refused = whole_run(tiny_config({**llm, "llm.store_path": "other.sqlite3"}))
    assert "HTTP 500: so said Bearer [key]" in caplog.text
    assert "so said Bearer [key]" in refused["outcome"]
    assert KEY not in caplog.text + json.dumps([failed["outcome"], refused["outcome"]])
    files = [each for each in tmp_path.rglob("*") if each.is_file()]
    assert any(each.name == "run.log" for each in files)
    assert any(each.name == "advice.sqlite3" for each in files)
    for each in files:
        assert KEY.encode() not in each.read_bytes(), each
