"""Samples of the machine taken in a background thread."""

from __future__ import annotations

import logging
import threading
import time
from typing import Self

from src.monitoring import hardware

logger = logging.getLogger(__name__)

STOP_WAIT_S = 10.0
"""How long a monitor that stops waits for its last sample: one takes milliseconds, on a busy machine up to seconds."""


class BackgroundSampling:
    """The thread of a hardware monitor: starts, samples into `metrics_history`, stops.

    `phase` labels the samples and may be set at any time. ValueError for an interval that is not above 0.
    """

    def __init__(self, log_interval: float = 1, *, monitor_gpu: bool = True, nvml: hardware.Nvml | None = None) -> None:
        if not log_interval > 0:
            raise ValueError(f"log_interval is {log_interval}; it must be above 0 seconds")
        self.log_interval = log_interval
        self.phase = ""
        self.metrics_history: list[hardware.Reading] = []
        self._monitor_gpu = monitor_gpu
        self._nvml = nvml
        self._lock = threading.Lock()  # of starting and stopping
        self._sampler: hardware.Sampler | None = None
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._late_samples = 0
        self._thread_error = ""

    @property
    def monitoring(self) -> bool:
        """Whether it is sampling now."""
        thread = self._thread
        return thread is not None and thread.is_alive()

    @property
    def gpu_available(self) -> bool:
        """Whether a GPU is read; before the first start NVML is asked once."""
        with self._lock:
            if self._sampler is None:
                self._sampler = hardware.Sampler(use_gpu=self._monitor_gpu, nvml=self._nvml)
                self._sampler.close()
            return self._sampler.gpu_available

    def start_monitoring(self) -> None:
        """Start sampling; does nothing while it already runs. Started again after a stop, it continues the same
        history."""
        with self._lock:
            if self._thread is not None:
                return
            self._sampler = hardware.Sampler(use_gpu=self._monitor_gpu, nvml=self._nvml)
            self._stop = threading.Event()
            thread = threading.Thread(
                target=self._run, args=(self._sampler, self._stop), name="hardware-monitor", daemon=True
            )
            thread.start()
            self._thread = thread

    def stop_monitoring(self) -> None:
        """Take a last sample and stop; does nothing when not running.

        A sample that hangs in a driver is waited for `STOP_WAIT_S` seconds; then the thread is abandoned, with a
        warning and `thread_error` in the summary.
        """
        # The lock is held until the thread has ended, so that no second one can start meanwhile.
        with self._lock:
            thread, self._thread = self._thread, None
            if thread is not None:
                self._stop.set()
                thread.join(STOP_WAIT_S)
                if thread.is_alive():
                    self._thread_error = f"a sample did not return within {STOP_WAIT_S:g} s of the stop"
                    logger.warning(
                        "the hardware monitor was abandoned: %s, which a hanging GPU driver can cause",
                        self._thread_error,
                    )

    def _run(self, sampler: hardware.Sampler, stop: threading.Event) -> None:
        try:
            due = time.monotonic()
            while True:
                self.metrics_history.append(sampler.sample(self.phase))
                # The grid of due times is fixed, so a slow sample delays itself and not all that follow.
                due += self.log_interval
                behind = time.monotonic() - due
                if behind > 0:
                    skipped = int(behind // self.log_interval) + 1
                    self._late_samples += skipped
                    due += skipped * self.log_interval
                if stop.wait(max(0.0, due - time.monotonic())):
                    break
            self.metrics_history.append(sampler.sample(self.phase))
        except Exception as error:
            self._thread_error = f"{type(error).__name__}: {error}"
            raise  # to threading.excepthook: a run ends for it (src.runs.threads)
        finally:
            sampler.close()

    def __enter__(self) -> Self:
        self.start_monitoring()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop_monitoring()
