"""Energy counters as the kernel shows them: packages once each, counters that wrap, and none to read."""

from __future__ import annotations

from pathlib import Path

import pytest

from src.monitoring.energy import PackageEnergy


def counter(root: Path, folder: str, name: str, energy_uj: int, most: int = 1_000_000) -> Path:
    path = root / folder
    path.mkdir()
    for file, value in (("name", name), ("energy_uj", energy_uj), ("max_energy_range_uj", most)):
        (path / file).write_text(f"{value}\n")
    return path / "energy_uj"


def test_power_is_of_all_packages_and_of_nothing_twice(tmp_path: Path) -> None:
    first = counter(tmp_path, "intel-rapl:0", "package-0", 100_000)
    second = counter(tmp_path, "intel-rapl:1", "package-1", 900_000)
    counter(tmp_path, "intel-rapl:0:0", "core", 0)
    psys = counter(tmp_path, "intel-rapl:2", "psys", 0)
    energy = PackageEnergy(tmp_path)
    assert energy.reason == ""
    assert energy.power_w(10.0) is None
    first.write_text("300000")
    second.write_text("99999")  # past its largest value, 1,000,000, and on from 0
    psys.write_text("777")
    assert energy.power_w(12.0) == pytest.approx((200_000 + 200_000) / 1e6 / 2.0)
    assert energy.power_w(14.0) == 0.0


def test_a_machine_without_counters_says_so(tmp_path: Path) -> None:
    empty = PackageEnergy(tmp_path)
    assert (empty.power_w(1.0), empty.power_w(2.0)) == (None, None)
    assert empty.reason == f"{tmp_path} has no energy counter of a processor"
    absent = PackageEnergy(tmp_path / "absent")
    assert absent.reason == f"the energy counters in {tmp_path / 'absent'} cannot be read (No such file or directory)"
    (tmp_path / "intel-rapl:0").mkdir()
    assert "cannot be read" in PackageEnergy(tmp_path).reason


def test_a_counter_that_vanishes_is_an_error_for_the_sampler_to_count(tmp_path: Path) -> None:
    file = counter(tmp_path, "intel-rapl:0", "package-0", 1)
    energy = PackageEnergy(tmp_path)
    file.unlink()
    with pytest.raises(OSError, match="energy_uj"):
        energy.power_w(1.0)
