"""CUDA graphs: a fixed sequence of kernels that one launch replays."""

from __future__ import annotations

from collections.abc import Callable

import torch

from src.errors import UserError


class Replayed:
    """A function without arguments that does the same operations on the same memory at every call.

    Without graphs it is simply called. With them the first call runs it, which lets libraries set themselves up; the
    second records it, and from then on it is replayed. UserError where it cannot be recorded.
    """

    def __init__(self, function: Callable[[], None], what: str, *, graphs: bool) -> None:
        self._function, self._what, self._graphs = function, what, graphs
        self._ran = False
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        if not self._graphs:
            self._function()
        elif not self._ran:
            self._ran = True
            _run_aside(self._function)
        else:
            if self._graph is None:
                self._graph = _recorded(self._function, self._what)
            self._graph.replay()


def _run_aside(function: Callable[[], None]) -> None:
    """Call a function on a stream of its own, as a recording will be."""
    current, aside = torch.cuda.current_stream(), torch.cuda.Stream()
    aside.wait_stream(current)
    with torch.cuda.stream(aside):
        function()
    current.wait_stream(aside)


def _recorded(function: Callable[[], None], what: str) -> torch.cuda.CUDAGraph:
    try:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            function()
    except RuntimeError as error:
        raise UserError(
            f"{what.capitalize()} of the population cannot be recorded as a CUDA graph: {error}. Train without graphs "
            "(Population(graphs=False)), which is slower, or with hardware.learner stock."
        ) from error
    return graph
