"""A working folder as a reader of the specification has it, with small bars in data/ so that its commands are short."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest

from src.checks.report import write_bars
from src.market.synthetic import synthetic_bars
from tests.forked_command import ROOT, CommandServer, Finished

SHORT_RUN = ("--mock-llm", "--quick", "--timesteps", "64", "--seeds", "1")


class Reader:
    """Types commands of the specification in its own folder."""

    def __init__(self, server: CommandServer, folder: Path) -> None:
        self._server = server
        self.folder = folder

    def types(self, line: str, *more: str) -> Finished:
        """Run a command line as it stands, and `more` options behind it that only make it shorter."""
        python, script, *options = shlex.split(line)
        assert python == "python"
        return self._server.run(script, *options, *more, cwd=self.folder)


@pytest.fixture(scope="module")
def reader(server: CommandServer, tmp_path_factory: pytest.TempPathFactory) -> Reader:
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(ROOT / "config", folder / "config")
    (folder / "data").mkdir()
    (folder / "logs").mkdir()
    for market in ("NQ", "ES", "YM", "RTY"):
        write_bars(synthetic_bars(market, 12, 15, seed=1), folder / "data" / f"{market}_2024.csv")
    return Reader(server, folder)
