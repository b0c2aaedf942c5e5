"""CUDA graphs: a fixed sequence of kernels that one launch replays."""

from __future__ import annotations

from collections.abc import Callable

import torch

from src.errors import UserError, is_out_of_memory


class Replayed:
    """A function without arguments that does the same operations on the same memory at every call.

    Without graphs it is simply called. With them the first call runs it, which lets libraries set themselves up; the
    second records it, and from then on it is replayed. UserError where it cannot be recorded.
    """

    def __init__(self, function: Callable[[], None], what: str, *, graphs: bool) -> None:
        self._function: Callable[[], None] | None = function
        self._what, self._graphs = what, graphs
        self._ran = False
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        assert self._function is not None
        if not self._graphs:
            self._function()
        elif not self._ran:
            self._ran = True
            _run_aside(self._function)
        else:
            if self._graph is None:
                self._graph = _recorded(self._function, self._what)
            self._graph.replay()

    def forget(self) -> None:
        """Drop function and graph: they hold each other's memory, and Python would free it at some later time."""
        self._function = self._graph = None


def _run_aside(function: Callable[[], None]) -> None:
    """Call a function on a stream of its own, as a recording will be."""
    current, aside = torch.cuda.current_stream(), torch.cuda.Stream()
    aside.wait_stream(current)
    with torch.cuda.stream(aside):
        function()
    current.wait_stream(aside)


def _recorded(function: Callable[[], None], what: str) -> torch.cuda.CUDAGraph:
    current = torch.cuda.current_stream()
    try:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            function()
    except RuntimeError as error:
        torch.cuda.set_stream(current)  # a recording that fails at its end leaves its own
        if is_out_of_memory(error):
            raise  # a smaller group may fit
        raise UserError(
            f"{what.capitalize()} of the population cannot be recorded as a CUDA graph: {error}. Train with "
            "--learner stock, one member at a time, which is slower."
        ) from error
    return graph
