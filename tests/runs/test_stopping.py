"""Signals and timeouts: at once, at the next clean instant, or where a phase is stuck."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

import pytest

from src.errors import EXIT_TARGET_MISSED
from src.runs import stopping
from src.runs.executors import Stopped, _WatchThere
from src.runs.stopping import Deadline, PhaseTimeout, StopRequest
from src.runs.watch import WatchHere

SIGNALS = [signal.SIGINT, signal.SIGTERM]


class Leaked(Exception):
    """A signal reached the handler that was there before."""


@pytest.fixture(autouse=True)
def _own_handlers() -> Iterator[None]:
    """Whatever a test leaves behind, the next one has pytest's handlers."""

    def leaked(signum: int, frame: FrameType | None) -> None:
        raise Leaked

    before = {signum: signal.signal(signum, leaked) for signum in (*SIGNALS, signal.SIGALRM)}
    yield
    signal.setitimer(signal.ITIMER_REAL, 0.0)
    for signum, handler in before.items():
        signal.signal(signum, handler)


def send(signum: int) -> None:
    os.kill(os.getpid(), signum)


@pytest.mark.parametrize("signum", SIGNALS)
def test_a_signal_interrupts_at_once(signum: int) -> None:
    with StopRequest() as stop, pytest.raises(KeyboardInterrupt):
        send(signum)
    assert not stop.requested


@pytest.mark.parametrize("signum", SIGNALS)
def test_deferred_it_waits_for_the_next_clean_instant(signum: int) -> None:
    reached = []

    def work(stop: StopRequest) -> None:
        with stop.deferred():
            stop.check()
            send(signum)
            reached.append(f"behind the signal: {stop.requested}")
            stop.check()
            reached.append("behind the clean instant")

    with StopRequest() as stop, pytest.raises(KeyboardInterrupt):
        work(stop)
    assert reached == ["behind the signal: True"]


def test_without_a_check_it_interrupts_at_the_end_of_what_was_deferred() -> None:
    reached = []

    def work(stop: StopRequest) -> None:
        with stop.deferred():
            send(signal.SIGTERM)
            reached.append("within")
        reached.append("after")

    with StopRequest() as stop, pytest.raises(KeyboardInterrupt):
        work(stop)
    assert reached == ["within"]


@pytest.mark.parametrize("second", SIGNALS)
def test_a_second_signal_is_never_deferred(second: int) -> None:
    reached = []

    def work(stop: StopRequest) -> None:
        with stop.deferred():
            send(signal.SIGINT)
            reached.append("behind the first")
            send(second)
            reached.append("behind the second")

    with StopRequest() as stop, pytest.raises(KeyboardInterrupt):
        work(stop)
    assert reached == ["behind the first"]


def test_after_what_was_deferred_signals_interrupt_at_once_again() -> None:
    with StopRequest() as stop:
        with stop.deferred():
            pass
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGTERM)


def test_an_error_within_what_was_deferred_stays_what_it_is() -> None:
    def work(stop: StopRequest) -> None:
        with stop.deferred():
            send(signal.SIGTERM)
            raise ZeroDivisionError

    with StopRequest() as stop, pytest.raises(ZeroDivisionError):
        work(stop)
    assert stop.requested, "so that whoever handles the error knows"


@pytest.mark.parametrize("raising", [False, True])
def test_the_handlers_of_before_are_put_back(raising: bool) -> None:
    before = [signal.getsignal(signum) for signum in SIGNALS]
    try:
        with StopRequest():
            assert all(signal.getsignal(signum) != handler for signum, handler in zip(SIGNALS, before, strict=True))
            if raising:
                send(signal.SIGINT)
    except KeyboardInterrupt:
        assert raising
    assert [signal.getsignal(signum) for signum in SIGNALS] == before
    with pytest.raises(Leaked):
        send(signal.SIGTERM)


def test_in_another_thread_it_does_nothing() -> None:
    found: list[object] = []

    def work() -> None:
        with StopRequest() as stop, stop.deferred(), Deadline("phase2", 10.0, 0.0).alarm():
            stop.check()
            found.append(signal.getsignal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]


def test_stopped_at_a_clean_instant_it_always_saves_first() -> None:
    """Also where the run tells a worker to stop while the worker tells of that very instant."""
    saved: list[int] = []

    def save() -> None:
        saved.append(1)

    stop, deadline = StopRequest(), Deadline("phase2", 60.0, 0.0)
    here = WatchHere(stop, deadline, say=print, record=print, saved=print)
    with stop:
        here.check(save)
        assert saved == []
        stop.requested = True
        with pytest.raises(KeyboardInterrupt):
            here.check(save)
    assert saved == [1]

    ours, theirs = multiprocessing.Pipe()

    class StopComes:
        poll, recv = theirs.poll, theirs.recv

        def send(self, told: object) -> None:
            ours.send("stop")

    with pytest.raises(Stopped):
        _WatchThere(StopComes()).check(save)  # type: ignore[arg-type]
    assert saved == [1, 1]


# Timeouts


def test_a_deadline_counts_what_earlier_tries_took() -> None:
    assert not Deadline("phase2", 10.0, 0.0).passed
    assert not Deadline("phase2", 10.0, 9.0).passed
    assert Deadline("phase2", 10.0, 10.0).passed
    assert Deadline("phase2", 10.0, 99.0).passed
    Deadline("phase2", 10.0, 9.0).check()


def test_a_deadline_passes_with_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now)
    deadline = Deadline("phase2", 10.0, 4.0)
    now = 105.9
    assert not deadline.passed
    now = 106.0
    assert deadline.passed


def test_its_error_says_which_phase_and_how_to_go_on() -> None:
    with pytest.raises(PhaseTimeout) as error:
        Deadline("phase3", 7200.0, 7200.0).check()
    text = str(error.value)
    assert "phase3 took longer than its timeout of 7,200 s" in text
    assert "Raise phase3.timeout" in text
    assert "--auto-resume" in text
    assert error.value.exit_code == EXIT_TARGET_MISSED


@pytest.mark.parametrize("spent_s", [0.0, 50.0])
def test_what_is_stuck_is_stopped_some_time_past_its_timeout(monkeypatch: pytest.MonkeyPatch, spent_s: float) -> None:
    monkeypatch.setattr(stopping, "STUCK_S", 0.1)
    began = time.monotonic()
    with pytest.raises(PhaseTimeout), Deadline("phase2", 0.1, spent_s).alarm():
        time.sleep(30.0)
    least_s = 0.2 if spent_s == 0.0 else 0.1
    assert least_s <= time.monotonic() - began < 10.0


@pytest.mark.parametrize("raising", [False, True])
def test_the_alarm_is_off_afterwards(monkeypatch: pytest.MonkeyPatch, raising: bool) -> None:
    monkeypatch.setattr(stopping, "STUCK_S", 0.05)
    before = signal.getsignal(signal.SIGALRM)
    try:
        with Deadline("phase2", 0.05, 0.0).alarm():
            assert 0.0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 0.1
            if raising:
                raise ZeroDivisionError
    except ZeroDivisionError:
        assert raising
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) == before
    time.sleep(0.15)  # it would have come by now, and be `Leaked`
