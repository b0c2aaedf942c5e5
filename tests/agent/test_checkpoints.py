"""A checkpoint is whole or absent, comes back bit by bit, and nothing else is ever taken for one."""

from __future__ import annotations

import ast
import builtins
import contextlib
import errno
import hashlib
import itertools
import json
import math
import os
import pickle
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from src.agent import checkpoint_files, checkpoints
from src.agent.checkpoints import CheckpointError, CheckpointMismatch, CheckpointStore, Loaded, Snapshot
from src.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
INPUTS = {"market": "NQ", "data": "sha256:aa11", "training.gamma": "0.99"}
MACHINE = {"torch_threads": "2", "torch": "2.13.0"}
FILES = ["environment.safetensors", "manifest.json", "policy.safetensors", "state.json"]

# Saves on command, each in a process of its own forked from one that has imported torch. `die_at`: the process ends
# before that call which changes the disk, as a kill there would; `for_ever`: it saves step after step until killed.
WRITER = """
import json, os, sys
from pathlib import Path
import torch
from src.agent.checkpoints import CheckpointStore, Snapshot

torch.set_num_threads(1)

def snapshot(step, size, mark):
    return Snapshot(
        step,
        {"policy": {"w": torch.full((size,), float(step))}, "environment": {"position": torch.tensor(step)}},
        {"step": step, "mark": mark},
    )

def die_at(calls_left):
    left = calls_left

    def count():
        nonlocal left
        left -= 1
        if left < 0:
            os._exit(9)

    def hook(event, arguments):
        writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir"):
            count()

    sync = os.fsync
    def fsync(handle):
        count()
        sync(handle)

    os.fsync = fsync
    sys.addaudithook(hook)

def run(order):
    store = CheckpointStore(Path(order["folder"]), order["inputs"], keep_last=order["keep_last"], machine={})
    if order.get("for_ever"):
        step = order["step"]
        while True:
            store.save(snapshot(step, order["size"], "loop"))
            step += 1
    if order["die_at"] is not None:
        die_at(order["die_at"])
    store.save(snapshot(order["step"], order["size"], order["mark"]))

print("ready", flush=True)
for line in iter(sys.stdin.readline, ""):
    order = json.loads(line)
    if "wait" in order:
        print(os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1]), flush=True)
        continue
    pid = os.fork()
    if pid == 0:
        run(order)
        os._exit(0)
    print(pid, flush=True)
"""


def snapshot_of(step: int, mark: str = "first", size: int = 60) -> Snapshot:
    """A small snapshot whose every value tells its step; the writer process makes the same."""
    tensors = {"policy": {"w": torch.full((size,), float(step))}, "environment": {"position": torch.tensor(step)}}
    return Snapshot(step, tensors, {"step": step, "mark": mark})


def assert_written(loaded: Loaded | None, step: int, mark: str = "first", size: int = 60) -> None:
    """What was loaded is what `snapshot_of` made."""
    assert loaded is not None
    assert loaded.path.name == f"checkpoint-{step:012d}"
    assert loaded.snapshot.step == step
    assert loaded.snapshot.state == {"step": step, "mark": mark}
    assert loaded.snapshot.tensors["policy"]["w"].tolist() == [float(step)] * size
    assert loaded.snapshot.tensors["environment"]["position"].item() == step
    assert sorted(loaded.snapshot.tensors) == ["environment", "policy"]


def store_at(folder: Path, keep_last: int = 3, **changed: str) -> CheckpointStore:
    return CheckpointStore(folder, {**INPUTS, **changed}, keep_last=keep_last, machine=MACHINE)


def silent(line: str) -> None:
    raise AssertionError(f"nothing should be said: {line}")


def seal(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a manifest and give it the right checksum, as only a forger or another version would."""
    content = json.loads(path.read_text())
    del content["sha256"]
    change(content)
    body = json.dumps(content, indent=1, sort_keys=True) + "\n"
    content["sha256"] = hashlib.sha256(body.encode()).hexdigest()
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def facts_of(path: Path) -> dict[str, Any]:
    return {"size": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


@pytest.fixture
def two(tmp_path: Path) -> CheckpointStore:
    """Checkpoints of steps 100 and 200."""
    store = store_at(tmp_path / "phase2")
    store.save(snapshot_of(100))
    store.save(snapshot_of(200))
    return store_at(tmp_path / "phase2")


def newest_of(store: CheckpointStore) -> tuple[Loaded | None, list[str]]:
    said: list[str] = []
    return store.newest(said.append), said


def assert_older_taken(store: CheckpointStore, *words: str) -> None:
    """The checkpoint before is taken, and one line says why with all these words."""
    loaded, said = newest_of(store)
    assert_written(loaded, 100)
    assert len(said) == 1
    assert "\n" not in said[0]
    assert str(store.folder / "checkpoint-000000000200") in said[0]
    for word in words:
        assert word in said[0]


# What goes in comes out.

DTYPES = [torch.bool, torch.uint8, torch.int64, torch.bfloat16, torch.float16, torch.float32, torch.float64]


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """Any bits of any stored dtype, any shape from a scalar to empty, whole or every second row, turned or repeated."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
    raw = draw(st.binary(min_size=math.prod(shape) * dtype.itemsize, max_size=math.prod(shape) * dtype.itemsize))
    if dtype == torch.bool:
        raw = bytes(byte & 1 for byte in raw)
    tensor = torch.frombuffer(bytearray(raw), dtype=dtype).reshape(shape) if raw else torch.empty(shape, dtype=dtype)
    way = draw(st.sampled_from(["whole", "strided", "turned", "repeated"]))
    if way == "repeated":
        return tensor.unsqueeze(0).expand(3, *shape)
    if shape and way == "strided":
        return tensor[::2]
    return tensor.transpose(0, -1) if shape and way == "turned" else tensor


def bits(tensor: torch.Tensor) -> bytes:
    fresh = tensor.reshape(-1).clone(memory_format=torch.contiguous_format)
    return bytes(fresh.view(torch.uint8).tolist())


names = st.text(max_size=8).filter(lambda name: name != "__metadata__")
parts = st.dictionaries(
    st.text("abcz019_", min_size=1, max_size=8), st.dictionaries(names, tensors(), max_size=3), max_size=3
)
keys = st.text(max_size=4) | st.sampled_from(["$", "$int", "$float64", "$$int", "$none"])
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**20_000), 2**20_000)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([2**53, 2**53 + 1, -(2**64), 2**127 - 1, -0.0, 5e-324, 1e308, math.inf, -math.inf, math.nan])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=12,
)
states = st.dictionaries(keys, values, max_size=4)


def spelled(value: Any) -> Any:
    """A value in words that tell types, signs, NaN bits and the order of keys apart, and lists from tuples not."""
    if isinstance(value, dict):
        return ["mapping", *[[key, spelled(item)] for key, item in value.items()]]
    if isinstance(value, list | tuple):
        return ["list", *[spelled(item) for item in value]]
    return [type(value).__name__, struct.pack("<d", value) if isinstance(value, float) else value]


@settings(max_examples=60)
@given(parts, states, st.integers(0, 10**12 - 1))
def test_tensors_and_state_come_back_bit_by_bit(
    tmp_path_factory: pytest.TempPathFactory, parts: dict[str, dict[str, torch.Tensor]], state: Any, step: int
) -> None:
    store = store_at(tmp_path_factory.mktemp("any"))
    path = store.save(Snapshot(step, parts, state))
    loaded = store_at(store.folder).newest(silent)
    assert loaded is not None
    assert loaded.path == path == store.latest_path
    assert loaded.snapshot.step == step
    assert spelled(loaded.snapshot.state) == spelled(state)
    assert loaded.snapshot.tensors.keys() == parts.keys()
    for part, tensors in parts.items():
        found = loaded.snapshot.tensors[part]
        assert list(found) == sorted(tensors)
        for name, tensor in tensors.items():
            assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
            assert bits(found[name]) == bits(tensor)


def test_what_is_on_the_disk_is_strict_json(tmp_path: Path) -> None:
    state = {"best": -math.inf, "last": math.nan, "pcg": 2**127 + 1, "seen": (1, 2.5, None)}
    path = store_at(tmp_path).save(Snapshot(7, {}, state))

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    for file in path.iterdir():
        json.loads(file.read_text(encoding="ascii"), parse_constant=refuse)


def test_states_of_generators_go_on_where_they_were(tmp_path: Path) -> None:
    numpy_rng, python_rng, torch_rng = np.random.default_rng(3), random.Random(4), torch.Generator().manual_seed(5)
    state = {"numpy": numpy_rng.bit_generator.state, "python": python_rng.getstate()}
    store_at(tmp_path).save(Snapshot(1, {"generators": {"torch": torch_rng.get_state()}}, state))
    expected = (numpy_rng.random(), python_rng.random(), torch.rand(2, generator=torch_rng).tolist())

    loaded = store_at(tmp_path).newest(silent)
    assert loaded is not None
    numpy_rng.bit_generator.state = loaded.snapshot.state["numpy"]
    version, internal, gauss = loaded.snapshot.state["python"]
    python_rng.setstate((version, tuple(internal), gauss))
    torch_rng.set_state(loaded.snapshot.tensors["generators"]["torch"])
    assert (numpy_rng.random(), python_rng.random(), torch.rand(2, generator=torch_rng).tolist()) == expected


def test_loaded_tensors_are_memory_of_torch_and_apart_from_the_files(two: CheckpointStore) -> None:
    loaded = two.newest(silent)
    assert loaded is not None
    for file in loaded.path.iterdir():
        file.write_bytes(b"\xff" * file.stat().st_size)
    assert_written(loaded, 200)
    for tensors in loaded.snapshot.tensors.values():
        for tensor in tensors.values():
            assert tensor.data_ptr() % 64 == 0
            assert tensor.untyped_storage().nbytes() == tensor.nbytes
            tensor.add_(1)


def test_parameters_and_tensors_that_share_memory_are_stored(tmp_path: Path) -> None:
    layer = torch.nn.Linear(3, 2)
    tensors = {"weight": layer.weight, "again": layer.weight, "row": layer.weight[1]}
    store_at(tmp_path).save(Snapshot(1, {"policy": tensors}, {}))
    loaded = store_at(tmp_path).newest(silent)
    assert loaded is not None
    for name, tensor in tensors.items():
        assert torch.equal(loaded.snapshot.tensors["policy"][name], tensor)
        assert not loaded.snapshot.tensors["policy"][name].requires_grad


def test_the_files_say_what_they_hold(two: CheckpointStore) -> None:
    folder = two.folder / "checkpoint-000000000200"
    assert sorted(path.name for path in folder.iterdir()) == FILES
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["step"] == 200
    assert manifest["inputs"] == INPUTS
    assert manifest["machine"] == MACHINE
    assert manifest["files"] == {name: facts_of(folder / name) for name in FILES if name != "manifest.json"}


def own_state() -> list[Any]:
    """A list that holds itself."""
    endless: list[Any] = []
    endless.append(endless)
    return endless


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (object(), TypeError),
        (np.float64(1.0), TypeError),
        (np.int64(1), TypeError),
        (np.str_("a"), TypeError),
        (np.zeros(2), TypeError),
        (torch.zeros(2), TypeError),
        (b"raw", TypeError),
        ({1, 2}, TypeError),
        (1j, TypeError),
        ({1: "by number"}, TypeError),
        ([{"deep": [Path()]}], TypeError),
        (own_state(), ValueError),
        ("\ud800", ValueError),
        ({"\udfff": 1}, ValueError),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_state_that_json_cannot_hold_is_refused_and_leaves_nothing(
    tmp_path: Path, value: Any, error: type[Exception]
) -> None:
    store = store_at(tmp_path / "phase")
    with pytest.raises(error, match=r"state\.field"):
        store.save(Snapshot(1, {"policy": {"w": torch.zeros(3)}}, {"field": value}))
    assert not store.folder.exists()


@pytest.mark.parametrize(
    ("snapshot", "error"),
    [
        (Snapshot(-1, {}, {}), ValueError),
        (Snapshot(10**12, {}, {}), ValueError),
        (Snapshot(np.int64(3), {}, {}), ValueError),  # type: ignore[arg-type]
        (Snapshot(1, {"../policy": {}}, {}), ValueError),
        (Snapshot(1, {"": {}}, {}), ValueError),
        (Snapshot(1, {"policy": {"__metadata__": torch.zeros(1)}}, {}), ValueError),
        (Snapshot(1, {"policy": {"\ud800": torch.zeros(1)}}, {}), ValueError),
        (Snapshot(1, {"policy": {"w": np.zeros(1)}}, {}), TypeError),  # type: ignore[dict-item]
        (Snapshot(1, {"policy": {"w": torch.zeros(1, dtype=torch.complex64)}}, {}), TypeError),
        (Snapshot(1, {"policy": {"w": torch.eye(2).to_sparse()}}, {}), TypeError),
    ],
    ids=itertools.count(),
)
def test_a_step_name_or_tensor_that_cannot_be_stored_is_refused_and_leaves_nothing(
    tmp_path: Path, snapshot: Snapshot, error: type[Exception]
) -> None:
    store = store_at(tmp_path / "phase")
    with pytest.raises(error):
        store.save(snapshot)
    assert not store.folder.exists()


def test_inputs_and_machine_are_text_and_a_checkpoint_at_least_stays(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"inputs\.seed"):
        CheckpointStore(tmp_path, {"seed": 1}, machine={})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match=r"machine\.threads"):
        CheckpointStore(tmp_path, {}, machine={"threads": 2})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="keep_last is 0"):
        CheckpointStore(tmp_path, {}, keep_last=0, machine={})


# Damage.


def test_nothing_there_is_no_checkpoint(tmp_path: Path) -> None:
    store = store_at(tmp_path / "absent")
    assert store.newest(silent) is None
    assert store.steps() == []
    assert store.latest_path is None
    store.clear()
    assert not store.folder.exists()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kept", ["none", "half", "all but a byte"])
def test_a_truncated_file_is_said_and_the_checkpoint_before_is_taken(
    two: CheckpointStore, name: str, kept: str
) -> None:
    path = two.folder / "checkpoint-000000000200" / name
    size = path.stat().st_size
    os.truncate(path, {"none": 0, "half": size // 2, "all but a byte": size - 1}[kept])
    # The manifest knows the size of every file but its own.
    assert_older_taken(two, name, "" if name == "manifest.json" else "truncated")


@pytest.mark.parametrize("name", FILES)
def test_a_longer_file_is_said_and_the_checkpoint_before_is_taken(two: CheckpointStore, name: str) -> None:
    with (two.folder / "checkpoint-000000000200" / name).open("ab") as file:
        file.write(b"\n")
    assert_older_taken(two, name, "changed")


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_in_any_byte_is_said_and_the_checkpoint_before_is_taken(two: CheckpointStore, name: str) -> None:
    path = two.folder / "checkpoint-000000000200" / name
    raw = path.read_bytes()
    for place in range(len(raw)):
        flipped = bytearray(raw)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        if name == "manifest.json":
            assert_older_taken(two, name)
        else:
            assert_older_taken(two, f"{name} is changed", "SHA-256")
    path.write_bytes(raw)
    assert_written(two.newest(silent), 200)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_said_and_the_checkpoint_before_is_taken(two: CheckpointStore, name: str) -> None:
    (two.folder / "checkpoint-000000000200" / name).unlink()
    assert_older_taken(two, f"{name} is missing")


@pytest.mark.parametrize(
    "name", ["notes.txt", "policy.pkl", "model.pt", "base.zip", ".hidden", "Policy.safetensors", "manifest.json.bak"]
)
def test_a_file_of_another_kind_is_refused_unopened_with_the_whole_checkpoint(two: CheckpointStore, name: str) -> None:
    # Opening a pipe that nobody writes to would wait for ever.
    os.mkfifo(two.folder / "checkpoint-000000000200" / name)
    assert_older_taken(two, repr(name), "unknown file", "refused")


def test_a_file_that_the_manifest_does_not_name_is_said(two: CheckpointStore) -> None:
    folder = two.folder / "checkpoint-000000000200"
    shutil.copy(folder / "policy.safetensors", folder / "critic.safetensors")
    assert_older_taken(two, "critic.safetensors is an unknown file")


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
@pytest.mark.parametrize("name", FILES)
def test_a_folder_or_pipe_in_place_of_a_file_is_refused(
    two: CheckpointStore, name: str, make: Callable[[Path], None]
) -> None:
    path = two.folder / "checkpoint-000000000200" / name
    path.unlink()
    make(path)
    assert_older_taken(two, name, "not a file")


@pytest.mark.parametrize("name", FILES)
def test_a_link_in_place_of_a_file_is_refused(two: CheckpointStore, tmp_path: Path, name: str) -> None:
    path = two.folder / "checkpoint-000000000200" / name
    path.rename(tmp_path / name)
    path.symlink_to(tmp_path / name)
    assert_older_taken(two, name, "link")


def test_a_link_in_place_of_a_checkpoint_is_refused_and_its_target_outlives_it(tmp_path: Path) -> None:
    store, elsewhere = store_at(tmp_path / "phase", keep_last=1), tmp_path / "elsewhere"
    for step in (100, 200):
        store.save(snapshot_of(step))
        store._keep_last = 2
    (store.folder / "checkpoint-000000000200").rename(elsewhere)
    (store.folder / "checkpoint-000000000200").symlink_to(elsewhere)
    assert_older_taken(store, "link")
    assert store.steps() == [100]
    store.save(snapshot_of(200, "again"))
    assert_written(store.newest(silent), 200, "again")
    assert sorted(path.name for path in elsewhere.iterdir()) == FILES


def test_a_renamed_checkpoint_is_not_taken_for_another_step(two: CheckpointStore) -> None:
    (two.folder / "checkpoint-000000000200").rename(two.folder / "checkpoint-000000000900")
    loaded, said = newest_of(two)
    assert_written(loaded, 100)
    assert "manifest.json is of step 200" in said[0]


def test_all_damaged_is_none_and_each_is_said(two: CheckpointStore) -> None:
    for step in (100, 200):
        (two.folder / f"checkpoint-{step:012d}" / "state.json").unlink()
    loaded, said = newest_of(two)
    assert loaded is None
    assert [("0200" in line, "0100" in line) for line in said] == [(True, False), (False, True)]


def test_other_things_in_the_folder_are_left_alone(two: CheckpointStore) -> None:
    others = ["notes.txt", "checkpoint-5", ".checkpoint-5.partial", "checkpoint-000000000300.bak", ".partial"]
    for name in others:
        (two.folder / name).write_text("mine")
    assert two.steps() == [100, 200]
    assert_written(two.newest(silent), 200)
    two.save(snapshot_of(300))
    two.clear()
    assert sorted(path.name for path in two.folder.iterdir()) == sorted(others)


# Forged, or from another version: the checksums hold.


class Marker:
    """Unpickling one makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("name", ["policy.safetensors", "state.json", "model.pkl"])
def test_a_pickle_is_never_unpickled_even_where_the_manifest_vouches_for_it(
    two: CheckpointStore, tmp_path: Path, name: str
) -> None:
    marker, folder = tmp_path / "unpickled", two.folder / "checkpoint-000000000200"
    (folder / name).write_bytes(pickle.dumps(Marker(marker)))
    seal(folder / "manifest.json", lambda content: content["files"].update({name: facts_of(folder / name)}))
    assert_older_taken(two, name)
    assert not marker.exists()
    pickle.loads((folder / name).read_bytes())
    assert marker.exists()


def test_neither_module_can_unpickle() -> None:
    for module in (checkpoints, checkpoint_files):
        tree = ast.parse(Path(module.__file__).read_text())
        imported = {
            alias.name.partition(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in (node.names if isinstance(node, ast.Import) else [ast.alias(node.module or "")])
        }
        assert not imported & {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "importlib"}
        attributes = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert not attributes & {"torch.load", "np.load", "torch.serialization"}


@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "/etc/passwd", "sub/x.safetensors", "..", "", "x.safetensors\n", "manifest.json"]
)
def test_a_manifest_that_names_a_file_elsewhere_is_refused_unread(two: CheckpointStore, name: str) -> None:
    os.mkfifo(two.folder / "outside.safetensors")
    facts = {"size": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    manifest = two.folder / "checkpoint-000000000200" / "manifest.json"
    seal(manifest, lambda content: content["files"].update({name: facts}))
    assert_older_taken(two, "manifest.json is unreadable")


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(step="200"),
        lambda content: content.update(step=-1),
        lambda content: content.update(version=0),
        lambda content: content.update(version=True),
        lambda content: content.update(magic="other"),
        lambda content: content.update(inputs={"market": 1}),
        lambda content: content.update(later="unknown"),
        lambda content: content["files"].pop("state.json"),
        lambda content: content["files"]["state.json"].update(size="1"),
        lambda content: content["files"]["state.json"].update(sha256=[[1]]),
        lambda content: content.pop("machine"),
        lambda content: content.update(files=None),
    ],
    ids=itertools.count(),
)
def test_a_manifest_of_another_shape_is_refused(two: CheckpointStore, change: Callable[[dict[str, Any]], None]) -> None:
    seal(two.folder / "checkpoint-000000000200" / "manifest.json", change)
    assert_older_taken(two, "manifest.json")


@pytest.mark.parametrize("text", ["", "[]", "null", "NaN", "{}", "[" * 100_000, '{"a": ' * 100_000, "\xff\xfe"])
def test_anything_in_place_of_a_manifest_or_state_is_refused(two: CheckpointStore, text: str) -> None:
    folder = two.folder / "checkpoint-000000000200"
    manifest = (folder / "manifest.json").read_bytes()
    (folder / "manifest.json").write_text(text, encoding="latin-1")
    assert_older_taken(two, "manifest.json is unreadable")
    if text == "{}":  # an empty state is one
        return
    (folder / "manifest.json").write_bytes(manifest)
    (folder / "state.json").write_text(text, encoding="latin-1")
    facts = facts_of(folder / "state.json")
    seal(folder / "manifest.json", lambda content: content["files"].update({"state.json": facts}))
    assert_older_taken(two, "state.json is unreadable")


@pytest.mark.parametrize("value", ['{"$int": "x"}', '{"$int": 3}', '{"$float64": "00"}', '{"$tensor": 1}', "Infinity"])
def test_a_state_with_a_value_of_unknown_meaning_is_refused(two: CheckpointStore, value: str) -> None:
    folder = two.folder / "checkpoint-000000000200"
    (folder / "state.json").write_text(f'{{"field": {value}}}')
    facts = facts_of(folder / "state.json")
    seal(folder / "manifest.json", lambda content: content["files"].update({"state.json": facts}))
    assert_older_taken(two, "state.json is unreadable")


def test_a_future_format_is_passed_over_and_named(two: CheckpointStore) -> None:
    manifest = two.folder / "checkpoint-000000000200" / "manifest.json"
    content = {**json.loads(manifest.read_text()), "version": 2, "sealed": "in a way not known today"}
    manifest.write_text(json.dumps(content))
    assert_older_taken(two, "manifest.json", "future version", "format 2", "reads 1")


# Another training.


def test_another_market_configuration_or_data_is_named_with_both_values(two: CheckpointStore) -> None:
    changed = {"market": "ES", "data": "sha256:bb22", "training.gamma": "0.99", "new_key": "on"}
    with pytest.raises(CheckpointMismatch) as error:
        CheckpointStore(two.folder, changed, machine=MACHINE).newest(silent)
    text = str(error.value)
    assert isinstance(error.value, UserError)
    for words in ("market was NQ, is ES", "data was sha256:aa11, is sha256:bb22", "new_key was not set, is on"):
        assert words in text
    for words in ("original options", "--start-phase N", "checkpoint-000000000200"):
        assert words in text
    assert "gamma" not in text
    assert "\n" not in text


@settings(max_examples=40)
@given(st.dictionaries(st.text(max_size=3), st.text(max_size=3)), st.dictionaries(st.text(max_size=3), st.text()))
def test_inputs_match_exactly_or_not_at_all(
    tmp_path_factory: pytest.TempPathFactory, was: dict[str, str], is_now: dict[str, str]
) -> None:
    folder = tmp_path_factory.mktemp("inputs")
    CheckpointStore(folder, was, machine={}).save(snapshot_of(1))
    store = CheckpointStore(folder, is_now, machine={})
    if was == is_now:
        assert_written(store.newest(silent), 1)
    else:
        with pytest.raises(CheckpointMismatch):
            store.newest(silent)


def test_a_damaged_checkpoint_of_another_training_is_passed_over_not_a_mismatch(two: CheckpointStore) -> None:
    CheckpointStore(two.folder, {"market": "ES"}, machine={}).save(snapshot_of(300))
    with pytest.raises(CheckpointMismatch):
        two.newest(silent)
    (two.folder / "checkpoint-000000000300" / "state.json").unlink()
    loaded, said = newest_of(two)
    assert_written(loaded, 200)
    assert "state.json is missing" in said[0]


def test_another_machine_is_said_in_words_and_goes_on(two: CheckpointStore) -> None:
    same = two.newest(silent)
    other = CheckpointStore(two.folder, INPUTS, machine={"torch_threads": "1", "cpu": "AVX2\n"}).newest(silent)
    assert same is not None
    assert same.not_bitwise == []
    assert other is not None
    assert other.not_bitwise == [
        "cpu was not set, is 'AVX2\\n'",
        "torch was 2.13.0, is not set",
        "torch_threads was 2, is 1",
    ]
    assert_written(other, 200)


# Which stay.


# Every save waits for the disk.
@settings(max_examples=25)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.integers(1, 4))
def test_the_newest_few_stay_and_none_later_than_the_last_saved(
    tmp_path_factory: pytest.TempPathFactory, saved: list[int], keep_last: int
) -> None:
    store = store_at(tmp_path_factory.mktemp("keep"), keep_last)
    expected: set[int] = set()
    for step in saved:
        store.save(snapshot_of(step, size=3))
        expected = set(sorted({step} | {other for other in expected if other < step})[-keep_last:])
        assert store.steps() == sorted(expected)
        assert {path.name for path in store.folder.iterdir()} == {f"checkpoint-{kept:012d}" for kept in expected}
        assert store.latest_path == store.folder / f"checkpoint-{step:012d}"
    assert_written(store_at(store.folder).newest(silent), saved[-1], size=3)


def test_damaged_checkpoints_do_not_count_among_those_that_stay(tmp_path: Path) -> None:
    store = store_at(tmp_path, keep_last=3)
    for step in (100, 200, 300):
        store.save(snapshot_of(step))
    for step in (200, 300):
        os.truncate(tmp_path / f"checkpoint-{step:012d}" / "policy.safetensors", 10)
    again = store_at(tmp_path, keep_last=2)
    again.save(snapshot_of(400))
    assert again.steps() == [100, 200, 300, 400]
    again.save(snapshot_of(500))
    assert again.steps() == [400, 500]


def test_a_checkpoint_damaged_after_this_store_wrote_it_counts_no_longer(tmp_path: Path) -> None:
    store = store_at(tmp_path, keep_last=2)
    for step in (100, 200):
        store.save(snapshot_of(step))
    (tmp_path / "checkpoint-000000000200" / "state.json").unlink()
    assert_older_taken(store, "state.json is missing")
    store.save(snapshot_of(300))
    assert store.steps() == [100, 200, 300]


def test_going_on_from_an_older_one_leaves_the_damaged_later_ones_behind(two: CheckpointStore) -> None:
    (two.folder / "checkpoint-000000000200" / "state.json").unlink()
    assert_older_taken(two, "state.json is missing")
    two.save(snapshot_of(150))
    assert two.steps() == [100, 150]
    assert_written(two.newest(silent), 150)


def test_clear_leaves_an_empty_folder(two: CheckpointStore) -> None:
    (two.folder / "checkpoint-000000000100" / "state.json").unlink()
    (two.folder / "checkpoint-000000000200").rename(two.folder / ".checkpoint-000000000200.replaced")
    two.clear()
    assert list(two.folder.iterdir()) == []
    assert two.newest(silent) is None


# The disk refuses.


class FailingDisk:
    """Refuses the call of number `at` among those that change the disk (and with `full`, each after it that needs
    space); counts them all."""

    def __init__(self, at: int, *, full: bool, code: int = errno.ENOSPC) -> None:
        self.calls = 0
        self._at, self._full, self._code = at, full, code

    def ask(self, *, needs_space: bool) -> None:
        number, self.calls = self.calls, self.calls + 1
        if number == self._at or (self._full and needs_space and number > self._at):
            raise OSError(self._code, os.strerror(self._code))

    def install(self, patch: pytest.MonkeyPatch) -> None:
        for name, needs_space in (("mkdir", True), ("fsync", True), ("rename", False), ("rmdir", False)):
            patch.setattr(os, name, self._asking(getattr(os, name), needs_space))
        plain = builtins.open

        def ask_then_open(path: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
            if set(mode) & set("wxa+"):
                self.ask(needs_space=True)
            return plain(path, mode, *rest, **options)

        patch.setattr(builtins, "open", ask_then_open)

    def _asking(self, call: Callable[..., Any], needs_space: bool) -> Callable[..., Any]:
        def ask_then_call(*arguments: Any, **options: Any) -> Any:
            self.ask(needs_space=needs_space)
            return call(*arguments, **options)

        return ask_then_call


def refusals(store: CheckpointStore, snapshot: Snapshot, *, full: bool) -> Iterator[CheckpointError]:
    """Save with the first call refused, then the second, and so on until a save succeeds; the caller looks between."""
    for at in itertools.count():
        disk = FailingDisk(at, full=full)
        try:
            with pytest.MonkeyPatch.context() as patch:
                disk.install(patch)
                store.save(snapshot)
        except CheckpointError as error:
            yield error
            continue
        assert disk.calls == at
        assert at > 8
        return


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("step", [200, 300], ids=["replaces", "new"])
def test_a_disk_that_fills_at_any_call_leaves_what_was_and_says_what_to_do(
    tmp_path: Path, step: int, full: bool
) -> None:
    store = store_at(tmp_path / "phase")
    store.save(snapshot_of(100))
    store.save(snapshot_of(200))
    for error in refusals(store, snapshot_of(step, "second"), full=full):
        text = str(error)
        assert isinstance(error, UserError)
        for words in (str(store.folder), "No space left on device", "Free space on that disk", "--auto-resume"):
            assert words in text
        written = "was written" in text
        kept = step if written else 200
        assert f"checkpoint-{kept:012d} is kept" in text
        if not written:
            assert store.steps() == [100, 200]
            assert {path.name for path in store.folder.iterdir()} == {f"checkpoint-000000000{s}00" for s in (1, 2)}
        assert_written(store_at(store.folder).newest(silent), kept, "second" if written else "first")
        assert store.steps() == sorted({100, 200, kept})
        store.clear()
        store.save(snapshot_of(100))
        store.save(snapshot_of(200))
    assert_written(store.newest(silent), step, "second")


def test_a_disk_that_fails_while_the_oldest_goes_leaves_the_newest(tmp_path: Path) -> None:
    store = store_at(tmp_path / "phase", keep_last=1)
    store.save(snapshot_of(1))
    for _ in refusals(store, snapshot_of(2, "second"), full=False):
        loaded = store_at(store.folder, keep_last=1).newest(silent)
        assert loaded is not None
        assert_written(loaded, loaded.snapshot.step, {1: "first", 2: "second"}[loaded.snapshot.step])
        assert all(path.name.startswith("checkpoint-") for path in store.folder.iterdir())
        store.clear()
        store.save(snapshot_of(1))
    assert store.steps() == [2]


@contextlib.contextmanager
def largest_file(limit: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_that_the_system_cuts_short_leaves_what_was(two: CheckpointStore) -> None:
    large = Snapshot(300, {"policy": {"w": torch.zeros(100_000)}}, {})
    with pytest.raises(CheckpointError, match=r"Free space.*checkpoint-000000000200 is kept"), largest_file(50_000):
        two.save(large)
    assert {path.name for path in two.folder.iterdir()} == {"checkpoint-000000000100", "checkpoint-000000000200"}
    assert_written(two.newest(silent), 200)


def test_what_is_said_to_be_kept_was_looked_at_again(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    for step in (100, 200):
        store.save(snapshot_of(step))
    (tmp_path / "checkpoint-000000000200" / "state.json").unlink()
    large = Snapshot(300, {"policy": {"w": torch.zeros(100_000)}}, {})
    with pytest.raises(CheckpointError, match="checkpoint-000000000100 is kept"), largest_file(50_000):
        store.save(large)


def test_the_first_checkpoint_that_cannot_be_written_says_that_there_is_none(tmp_path: Path) -> None:
    store = store_at(tmp_path / "deep" / "phase")
    for error in refusals(store, snapshot_of(1), full=True):
        assert "no earlier checkpoint" in str(error) or "is written" in str(error)
        shutil.rmtree(tmp_path / "deep", ignore_errors=True)
    assert_written(store.newest(silent), 1)


def test_a_folder_that_is_a_file_is_an_error_naming_it(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    for store in (store_at(tmp_path / "taken"), store_at(tmp_path / "taken" / "below")):
        for ask in (
            lambda store=store: store.save(snapshot_of(1)),
            store.steps,
            lambda store=store: store.newest(silent),
        ):
            with pytest.raises(CheckpointError, match="taken"):
                ask()


def test_an_interrupt_while_writing_leaves_what_was(two: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(handle: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            two.save(snapshot_of(300))
    assert {path.name for path in two.folder.iterdir()} == {"checkpoint-000000000100", "checkpoint-000000000200"}


# Killed.


class Writer:
    """Processes that save as told."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", WRITER], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._read() == "ready"

    def start(self, folder: Path, step: int, **order: Any) -> int:
        """Start a process that saves; its id."""
        inputs = {"die_at": None, "mark": "second", "size": 60, "keep_last": 2, "inputs": INPUTS}
        return int(self._ask({**inputs, "folder": str(folder), "step": step, **order}))

    def end_of(self, pid: int) -> int:
        """Wait for its end: the exit code, or minus the signal."""
        return int(self._ask({"wait": pid}))

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=10)
        self._process.stdout.close()

    def _ask(self, order: dict[str, Any]) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@pytest.fixture(scope="module")
def writer() -> Iterator[Writer]:
    writer = Writer()
    yield writer
    writer.close()


@pytest.mark.parametrize("step", [200, 300], ids=["replaces", "new"])
def test_death_before_any_call_that_changes_the_disk_leaves_the_old_or_the_new_whole(
    writer: Writer, tmp_path: Path, step: int
) -> None:
    base = store_at(tmp_path / "base", keep_last=2)
    base.save(snapshot_of(100))
    base.save(snapshot_of(200))
    seen = set()
    for die_at in itertools.count():
        folder = tmp_path / "phase"
        shutil.copytree(base.folder, folder)
        code = writer.end_of(writer.start(folder, step, die_at=die_at))
        assert code in (0, 9)
        left = {path.name for path in folder.iterdir()}
        store = store_at(folder, keep_last=2)
        loaded = store.newest(silent)
        assert loaded is not None
        mark = loaded.snapshot.state["mark"]
        seen.add(mark)
        assert_written(loaded, step if mark == "second" else 200, mark)
        assert all(checkpoint_files.read_folder(path) for path in folder.iterdir())
        store.save(snapshot_of(400))
        assert len(store.steps()) == 2
        assert {path.name for path in folder.iterdir()} == {f"checkpoint-{kept:012d}" for kept in store.steps()}
        shutil.rmtree(folder)
        if code == 0:
            assert mark == "second"
            assert not any(name.startswith(".") for name in left)
            break
    assert seen == {"first", "second"}
    assert die_at > 15


def test_kill_at_a_random_instant_leaves_the_newest_whole(writer: Writer, tmp_path: Path) -> None:
    rng = random.Random(20)
    reached = 0
    for _ in range(10):
        store = CheckpointStore(tmp_path, INPUTS, keep_last=2, machine={})
        pid = writer.start(tmp_path, reached + 1, for_ever=True, size=100_000)
        time.sleep(0.03 + 0.2 * rng.random())
        os.kill(pid, signal.SIGKILL)
        assert writer.end_of(pid) == -signal.SIGKILL
        loaded = store.newest(silent)
        assert loaded is not None
        assert loaded.snapshot.step >= reached
        reached = loaded.snapshot.step
        assert_written(loaded, reached, "loop", 100_000)
        assert not any(path.name.startswith(".") for path in tmp_path.iterdir())
    assert reached > 10


# From another machine


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_another_machine_wrote_is_kept_as_if_it_had_been_written_here(tmp_path: Path) -> None:
    there, here = store_at(tmp_path / "there", keep_last=2), store_at(tmp_path / "here", keep_last=2)
    for step in (1, 2, 3):
        path = there.save(snapshot_of(step))
        here.receive(path.name, {each.name: each.read_bytes() for each in path.iterdir()})
    assert files_in(tmp_path / "here") == files_in(tmp_path / "there")
    assert here.steps() == [2, 3]
    assert_written(here.newest(silent), 3)


@pytest.mark.parametrize(
    ("name", "file"), [("../checkpoint-000000000001", "state.json"), ("checkpoint-000000000001", "../x")]
)
def test_a_name_that_no_checkpoint_has_is_not_received(tmp_path: Path, name: str, file: str) -> None:
    with pytest.raises(ValueError, match="is no checkpoint"):
        store_at(tmp_path / "here").receive(name, {file: b""})
    assert files_in(tmp_path) == {}
