"""llama.cpp as a real server of the `tiny` model, in a process of its own, against the same weights in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src.advisor import endpoint_http, endpoint_route
from src.advisor.endpoint import endpoint_model
from src.advisor.endpoint_http import ServerLost
from src.advisor.models import load_model
from src.advisor.prompts import load_prompts
from src.advisor.scoring import LLMScorer
from src.advisor.settings import LLMSettings
from src.advisor.single_asking import ModelChanged
from src.advisor.store import AdviceStore
from src.advisor.tabulation import tabulate_stored
from src.errors import EXIT_TARGET_MISSED, ConfigError
from tests.advisor.fake_model import AMPLE_S, ORDER
from tests.advisor.served import ServedModel, write_tiny

pytest.importorskip("xllamacpp", reason="the server is llama.cpp, of requirements-dev.txt")
pytestmark = pytest.mark.slow
KEY = "sk-real-0123456789"


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("served") / "tiny.gguf")


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVED_KEY", KEY)
    monkeypatch.setattr(endpoint_http, "FIRST_PAUSE_S", 0.05)


def settings_of(server: ServedModel, path: Path, **changes: Any) -> LLMSettings:
    fields = {"model": "served", "endpoint": server.url, "endpoint_chat": False, "store_path": path}
    return LLMSettings(**{**fields, "endpoint_key_env": "SERVED_KEY", "endpoint_retries": 1, **changes})


def test_a_served_model_answers_as_the_same_weights_in_process(
    gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    situations = ORDER[:30]
    own = LLMScorer(load_model("tiny", threads=1), load_prompts()).score(situations)
    labels = np.isfinite(own)
    with ServedModel(gguf, "--exact", "--key", KEY) as server:
        settings = settings_of(server, tmp_path / "all.sqlite3")
        with pytest.raises(ConfigError, match=r"HTTP 401: it wants a key, and llm\.endpoint_key_env is not set"):
            endpoint_model(settings.model_copy(update={"endpoint_key_env": None}))
        scorer = endpoint_model(settings).load()
        found = scorer.score(situations)
        assert (scorer.stats.route, scorer.stats.labels_asked_alone) == ("top", 0)
        monkeypatch.setattr(endpoint_route, "TOP_K", (3,))
        alone = endpoint_model(settings.model_copy(update={"store_path": tmp_path / "few.sqlite3"})).load()
        one_by_one = alone.score(situations[:10])
        assert alone.stats.labels_asked_alone > 20
        assert alone.stats.labels_missing == 0
    assert (np.isneginf(found) == ~labels).all()
    assert (found.argmax(axis=1) == own.argmax(axis=1)).mean() >= 0.99
    np.testing.assert_allclose(found[labels], own[labels], atol=5e-3)
    np.testing.assert_allclose(one_by_one[labels[:10]], own[:10][labels[:10]], atol=5e-3)


def test_a_server_killed_amid_the_asking_loses_nothing_and_another_one_goes_on(gguf: Path, tmp_path: Path) -> None:
    path, order = tmp_path / "advice.sqlite3", ORDER[:60]

    def tabulated(model: Any, **options: Any) -> Any:
        with AdviceStore(path) as store:
            return tabulate_stored(model, store, order, AMPLE_S, **options)

    with ServedModel(gguf, "--exact", "--key", KEY) as server:
        model, port = endpoint_model(settings_of(server, path)), server.port

        def kill(record: Any) -> None:
            server.kill()

        with pytest.raises(ServerLost, match="Start the same command again") as caught:
            tabulated(model, progress=kill)
    assert caught.value.exit_code == EXIT_TARGET_MISSED
    with AdviceStore(path) as store:
        kept = len(store.answers(model.identity))
    assert 48 <= kept < 60
    with (
        ServedModel(gguf, "--exact", "--key", KEY, "--port", port, "--rope-base", "300") as server,
        pytest.raises(ModelChanged, match="another model than before under the name served"),
    ):
        endpoint_model(settings_of(server, path))
    with ServedModel(gguf, "--exact", "--key", KEY) as server:
        _, record = tabulated(endpoint_model(settings_of(server, path)))
        assert (record.asked_now, record.from_store) == (60 - kept, kept)
