"""What of the machine a process may use."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from src import machine_limits


@pytest.mark.parametrize(
    ("limit", "busy_percent", "expected"),
    [
        ("max", 0.0, 16),
        ("400000", 0.0, 4),
        ("400000", 50.0, 4),
        ("400000", 90.0, 2),
        ("150000", 0.0, 1),
        ("50000", 0.0, 1),
    ],
)
def test_free_cores_are_no_more_than_the_container_may_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: str, busy_percent: float, expected: int
) -> None:
    (tmp_path / "cpu.max").write_text(f"{limit} 100000\n")
    monkeypatch.setattr(machine_limits, "CGROUP", tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setattr(psutil, "cpu_count", lambda: 16)
    monkeypatch.setattr(psutil, "cpu_percent", lambda **_: busy_percent)
    assert machine_limits.free_cores() == expected
