"""How a command ends: its exit code, and what it says."""

from __future__ import annotations

import argparse

import pytest

from src import shell
from src.command_line import overrides_of, run_parser
from src.errors import InterruptedRun, StopSignal, UserError
from src.shell import run_command


def test_quick_can_be_given_taken_back_or_left_open() -> None:
    parsed = [overrides_of(run_parser("").parse_args(options)) for options in ([], ["--quick"], ["--no-quick"])]
    assert parsed == [{}, {"quick": True}, {"quick": False}]


def stopped_early(args: argparse.Namespace) -> int:
    raise KeyboardInterrupt


def stopped_while_it_stops(args: argparse.Namespace) -> int:
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        raise KeyboardInterrupt from None


def stopped_in_a_library(args: argparse.Namespace) -> int:
    try:
        raise StopSignal
    except StopSignal:
        raise RuntimeError("no compiled object yet")  # noqa: B904


def stopped_and_kept(args: argparse.Namespace) -> int:
    raise InterruptedRun("Stopped: all of it is kept.")


def cannot_be_used(args: argparse.Namespace) -> int:
    raise UserError("the bars are upside down")


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (lambda args: 0, 0, ""),
        (lambda args: 1, 1, ""),
        (cannot_be_used, 2, "error: the bars are upside down\n"),
        (stopped_early, 3, "Stopped before anything was written.\n"),
        (stopped_while_it_stops, 3, "Stopped at once: what was written is kept.\n"),
        (stopped_in_a_library, 3, "Stopped: what was written is kept.\n"),
        (stopped_and_kept, 3, "Stopped: all of it is kept.\n"),
    ],
)
def test_a_command_ends_with_its_code_and_one_paragraph(
    command: object, code: int, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shell.signal, "signal", lambda *_: None)
    monkeypatch.setattr(shell.gc, "freeze", lambda: None)
    monkeypatch.setattr(shell, "_log_to", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        run_command(command, argparse.Namespace(debug=False))  # type: ignore[arg-type]
    assert ended.value.code == code
    assert capsys.readouterr().err.replace("\u00a0", " ") == said
