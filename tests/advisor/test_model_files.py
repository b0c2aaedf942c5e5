"""A model's folder is a stranger's: nothing in it is run, asked about or fetched, and what is wrong with it is said in
one paragraph before memory is spent."""

from __future__ import annotations

import json
import pickle
import resource
import shutil
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src.advisor import model_files
from src.advisor.gguf_header import HeaderError, read_gguf_header
from src.advisor.models import load_model, model_chat, model_identity
from src.advisor.prompts import load_prompts
from src.advisor.scoring import LLMScorer, identity_of
from src.errors import ConfigError
from tests.forked_command import CommandServer

Spoil = Callable[[Path], None]
MARK = "the folder's code ran"
EXCLAMATION = {
    "__type": "AddedToken", "content": "!", "lstrip": False, "normalized": False, "rstrip": False,
    "single_word": False, "special": True,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("something was about to be fetched")

    def asked(*_: object) -> str:
        raise AssertionError("something was asked on the terminal")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("builtins.input", asked)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    loaded = load_model("tiny", device="cpu")
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "model")
    return tmp_path / "model"


def change(file: str, **values: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / file
        content = json.loads(path.read_text())
        path.write_text(json.dumps(content | values))

    return spoil


def write(file: str, content: bytes) -> Spoil:
    return lambda folder: (folder / file).write_bytes(content) and None


def own_code(folder: Path) -> None:
    """A configuration, a model and a tokenizer of its own, of a kind that transformers does not have."""
    code = f"import pathlib\npathlib.Path({str(folder.parent / 'ran')!r}).write_text({MARK!r})\n"
    for name in ("configuration_own", "modeling_own", "tokenization_own"):
        (folder / f"{name}.py").write_text(code)
    auto = {"AutoConfig": "configuration_own.C", "AutoModelForCausalLM": "modeling_own.M"}
    change("config.json", model_type="own", auto_map=auto)(folder)


def own_tokenizer(folder: Path) -> None:
    own_code(folder)
    change("config.json", model_type="llama")(folder)
    auto = {"AutoTokenizer": ["tokenization_own.T", None]}
    change("tokenizer_config.json", tokenizer_class="Own", auto_map=auto)(folder)
    (folder / "tokenizer.json").unlink()


def remote_code(folder: Path) -> None:
    change("config.json", model_type="own", auto_map={"AutoConfig": "somebody/elsewhere--configuration_own.C"})(folder)


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path("ran").write_text, (MARK,))


def index_of_pickles(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "pytorch_model.bin"}}))


def index_of_elsewhere(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
    (folder / "other.safetensors").write_bytes(b"")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../model.safetensors"}}))


def cut(file: str, keep: int) -> Spoil:
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:keep]) and None


def without_head(folder: Path) -> None:
    """The weights of a model without its output layer: transformers would fill it with random numbers."""
    from safetensors.numpy import load_file, save_file

    path = folder / "model.safetensors"
    weights = {name: value for name, value in load_file(path).items() if name != "lm_head.weight"}
    save_file({**weights, "unused": np.zeros((256, 128), np.float32)}, path, {"format": "pt"})


SPOILS: dict[str, tuple[Spoil, str]] = {
    "own code": (own_code, "names code of its own .* never run"),
    "own tokenizer code": (own_tokenizer, "cannot be loaded"),
    "code from the hub": (remote_code, "names code of its own .* never run"),
    "adapter": (write("adapter_config.json", b'{"base_model_name_or_path": "somebody/base"}'), "adapter"),
    "pickle as safetensors": (write("model.safetensors", pickle.dumps([1] * 99)), "safetensors weights"),
    "zip as safetensors": (write("model.safetensors", b"PK\x03\x04" + bytes(99)), "safetensors weights"),
    "index of pickles": (index_of_pickles, "'pytorch_model.bin', which is not a safetensors file"),
    "index of elsewhere": (index_of_elsewhere, "not a safetensors file of its folder"),
    "cut weights": (cut("model.safetensors", 100_000), "it should have"),
    "cut header": (cut("model.safetensors", 100), "header is cut short"),
    "empty weights": (cut("model.safetensors", 0), "header is cut short"),
    "claims a huge header": (write("model.safetensors", b"\xff" * 64), "header is cut short"),
    "missing weights": (without_head, "1 weights of a LlamaForCausalLM are not in its files"),
    "million layers": (change("config.json", num_hidden_layers=10**6), "num_hidden_layers is 1000000"),
    "more layers than weights": (change("config.json", num_hidden_layers=1000), "of different models"),
    "float layers": (change("config.json", num_hidden_layers=4.5), "num_hidden_layers is 4.5"),
    "null layers": (change("config.json", num_hidden_layers=None), "num_hidden_layers is None"),
    "zero heads": (change("config.json", num_attention_heads=0), "num_attention_heads is 0"),
    "negative heads": (change("config.json", num_attention_heads=-4), "num_attention_heads is -4"),
    "odd heads": (change("config.json", num_attention_heads=7, head_dim=None), "cannot be loaded|describes"),
    "text": (change("config.json", hidden_size="128"), "hidden_size is '128'"),
    "true": (change("config.json", num_hidden_layers=True), "num_hidden_layers is True"),
    "huge layers": (change("config.json", hidden_size=1 << 17, intermediate_size=1 << 20), "describes a model of"),
    "huge vocabulary": (change("config.json", vocab_size=1 << 25), "describes a model of"),
    "encoder-decoder": (change("config.json", is_encoder_decoder=True, model_type="t5"), "encoder-decoder model"),
    "t5 that does not say so": (change("config.json", model_type="t5"), "not a causal language model"),
    "unknown kind": (change("config.json", model_type="nothing"), "not a model that transformers knows"),
    "kind that is none": (change("config.json", model_type={}), "model_type"),
    "no JSON": (write("config.json", b"{"), "cannot be read as JSON"),
    "not text": (write("config.json", b"\xff\xfe\x00"), "cannot be read as JSON"),
    "deep JSON": (write("config.json", b'{"a":' * 100_000), "cannot be read as JSON"),
    "a list": (write("config.json", b"[]"), "must hold a JSON object"),
    "tokenizer that is none": (write("tokenizer.json", b"[1, 2"), "cannot be loaded"),
    "forbidden template": (write("chat_template.jinja", b"{{ ''.__class__.__base__ }}"), "must not touch"),
    "template of numbers": (change("tokenizer_config.json", chat_template=5), "needs a text"),
}  # fmt: skip


@pytest.mark.parametrize("kind", SPOILS)
def test_a_spoilt_folder_is_refused_in_one_paragraph(folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    spoil, reason = SPOILS[kind]
    spoil(folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ConfigError, match=reason) as caught:
        LLMScorer(load_model(str(folder), device="cpu"), load_prompts())
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert not (folder.parent / "ran").exists()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000, "kB: before memory is spent"


def test_code_of_a_kind_that_transformers_has_is_left_alone(folder: Path) -> None:
    own_code(folder)
    change("config.json", model_type="llama")(folder)
    assert load_model(str(folder), device="cpu").model.config.model_type == "llama"
    assert not (folder.parent / "ran").exists()


def test_a_model_that_memory_cannot_hold_is_refused_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_files, "available_memory_gb", lambda: 0.002)
    with pytest.raises(ConfigError, match=r"parameters, which take 0\.0 GB here, and 0\.0 GB of memory are left"):
        load_model(str(folder), device="cpu")


def test_a_template_is_read_from_the_files_as_transformers_reads_it(folder: Path) -> None:
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{{ eos_token }}"
    change("tokenizer_config.json", chat_template=template, eos_token=EXCLAMATION)(folder)
    assert model_chat(str(folder)).template == template
    assert model_chat(str(folder)).tokens["eos_token"] == "!"
    (folder / "chat_template.jinja").write_text("<file>" + template)
    assert model_chat(str(folder)).template == load_model(str(folder), device="cpu").tokenizer.chat_template
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": template}]
    (folder / "chat_template.jinja").unlink()
    change("tokenizer_config.json", chat_template=named)(folder)
    assert load_model(str(folder), device="cpu").tokenizer.chat_template == template


def test_the_key_of_answers_covers_the_rendered_prompt(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only the files: a template rendered in another way must not find the answers to the old prompt."""
    template = "{% for m in messages %}<{{ m.role }}>{{ strftime_now('%Y') }}{{ m.content }}{% endfor %}"
    (folder / "chat_template.jinja").write_text(template)
    name, prompts = str(folder), load_prompts()
    files, key = model_identity(name, device="cpu"), identity_of(name, prompts, device="cpu")
    assert key == identity_of(name, prompts, device="cpu")
    assert LLMScorer(load_model(name, device="cpu"), prompts).identity == key
    from src.advisor import chat_format

    answering = chat_format.answering
    monkeypatch.setattr(chat_format, "answering", lambda found, *rest: answering(found, *rest).__class__("", "", "?"))
    assert model_identity(name, device="cpu") == files
    assert identity_of(name, prompts, device="cpu") != key


def gguf(keys: dict[str, Any], tensors: int = 1) -> bytes:
    """A small file, written by hand from the format's description."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    def value_of(value: Any) -> bytes:
        if isinstance(value, str):
            return struct.pack("<I", 8) + text(value)
        if isinstance(value, list):
            return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
        return struct.pack("<II", 4, value)

    head = b"GGUF" + struct.pack("<IQQ", 3, tensors, len(keys))
    head += b"".join(text(key) + value_of(value) for key, value in keys.items())
    head += b"".join(text(f"t{i}") + struct.pack("<IQQIQ", 2, 4, 8, 0, 128 * i) for i in range(tensors))
    return head + bytes(128 * tensors)


def test_a_gguf_header_is_read(tmp_path: Path) -> None:
    tokenizer = {"tokens": ["<s>", "a", "é"], "bos_token_id": 0}
    keys = {"tokenizer.chat_template": "{{ x }}", **{f"tokenizer.ggml.{key}": of for key, of in tokenizer.items()}}
    path = tmp_path / "small.gguf"
    path.write_bytes(gguf(keys, tensors=3))
    header = read_gguf_header(path)
    assert (header.metadata, header.elements, header.types) == (keys, 96, {0})
    source = model_files.chat_source(path)
    assert (source.template, source.tokens) == ("{{ x }}", {"bos_token": "<s>"})


def test_a_gguf_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    content = gguf({"tokenizer.ggml.tokens": ["<s>", "a"], "general.alignment": 32}, tensors=2)
    path = tmp_path / "cut.gguf"
    for keep in range(len(content) - 128):
        path.write_bytes(content[:keep])
        with pytest.raises(HeaderError, match=r"cut short|does not begin"):
            read_gguf_header(path)


@pytest.mark.parametrize(
    ("at", "code", "value", "message"),
    [
        (4, "<I", 99, "GGUF version is 99"),
        (8, "<Q", 2**60, "claims 1,152,921,504,606,846,976 tensors"),
        (16, "<Q", 2**60, "keys"),
        (24, "<Q", 2**60, "header is cut short"),
    ],
)
def test_a_gguf_file_that_claims_too_much_is_refused_at_once(
    tmp_path: Path, at: int, code: str, value: int, message: str
) -> None:
    content = bytearray(gguf({"a": "b"}))
    struct.pack_into(code, content, at, value)
    path = tmp_path / "claims.gguf"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        load_model(str(path), device="cpu", cache_folder=tmp_path / "cache")
    assert "\n" not in str(caught.value)


def test_a_gguf_file_that_memory_cannot_hold_is_refused_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "small.gguf"
    path.write_bytes(gguf({"a": "b"}, tensors=3))
    monkeypatch.setattr(model_files, "available_memory_gb", lambda: 1e-9)
    with pytest.raises(ConfigError, match="parameters, which take"):
        load_model(str(path), device="cpu", cache_folder=tmp_path / "cache")


@pytest.mark.parametrize("script", ["run_hardware_maximized.py", "run_pipeline.py"])
def test_a_run_finds_out_before_it_trains(server: CommandServer, folder: Path, tmp_path: Path, script: str) -> None:
    """A fault that only asking shows: the tokenizer has a word that the model has no weights for."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<one more>"])
    tokenizer.save_pretrained(folder)
    config = tmp_path / "small.yaml"
    store = tmp_path / "advice.sqlite3"
    config.write_text(f"data: {{synthetic_interval_min: 15, synthetic_sessions: 60}}\nllm: {{store_path: {store}}}\n")
    options = ["--llm-model", str(folder), "--quick", "--output-dir", str(tmp_path / "runs"), "--config", str(config)]
    answer = server.run(script, *options, cwd=tmp_path)
    assert answer.code == 2, answer
    assert "knows 256 tokens, but its tokenizer counts to 257" in " ".join(answer.err.split())
    assert "Traceback" not in answer.err
    assert "base:" not in answer.out
    assert not list((tmp_path / "runs").glob("*/report.json"))
