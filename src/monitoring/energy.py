"""Electrical power of the processor packages, from the kernel's energy counters (RAPL through powercap)."""

from __future__ import annotations

import re
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
_PACKAGE = re.compile(r"intel-rapl:\d+", re.ASCII)
"""AMD's counters have the same names. Parts of a package (`intel-rapl:0:1`) are in its counter already."""


class PackageEnergy:
    """Energy counters of all processor packages; `reason` says why there are none, else it is empty.

    Counters are of whole packages: what other programs draw is in them. Most systems let only root read them.
    """

    def __init__(self, root: Path = POWERCAP) -> None:
        self._ranges_uj: dict[Path, int] = {}
        self._last: tuple[float, dict[Path, int]] | None = None
        self.reason = self._find(root)

    def _find(self, root: Path) -> str:
        try:
            folders = sorted(path for path in root.iterdir() if _PACKAGE.fullmatch(path.name))
            for folder in folders:
                if _text(folder / "name").startswith("package"):  # psys counts the packages again
                    _ = int(_text(folder / "energy_uj"))
                    self._ranges_uj[folder] = int(_text(folder / "max_energy_range_uj"))
        except (OSError, ValueError) as error:
            self._ranges_uj = {}
            return f"the energy counters in {root} cannot be read ({getattr(error, 'strerror', None) or error})"
        return "" if self._ranges_uj else f"{root} has no energy counter of a processor"

    def power_w(self, now: float) -> float | None:
        """Mean power since the last call, `now` in seconds of any steady clock; None at the first call and without
        counters. Raises OSError or ValueError for a counter that cannot be read any more."""
        if not self._ranges_uj:
            return None
        counted = {folder: int(_text(folder / "energy_uj")) for folder in self._ranges_uj}
        before, self._last = self._last, (now, counted)
        if before is None or now <= before[0]:
            return None
        used_uj = sum((counted[at] - was) % (self._ranges_uj[at] + 1) for at, was in before[1].items())
        return used_uj / 1e6 / (now - before[0])


def _text(path: Path) -> str:
    return path.read_text(encoding="ascii").strip()
