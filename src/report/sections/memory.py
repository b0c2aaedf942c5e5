"""Part of the hardware section: the memory that was predicted, and what was measured."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from src.report.model.run import Memory, MemoryPart
from src.report.page.blocks import Column, Folded, Table, Text, given, term
from src.wording import percent, plain


def blocks(memory: Memory | None) -> list[Any]:
    """A paragraph, and the parts of the predicted peak."""
    if memory is None:
        return []
    columns: list[Column[MemoryPart]] = [
        Column("part", lambda part: given(part.what), numeric=False),
        Column("GB", lambda part: plain(part.gb, 3)),
    ]
    caption = f"Parts of the predicted peak ({memory.stage})"
    words = Markup("{}: {}").format(term("peak_memory", "Peak memory"), memory_words(memory))
    return [Text(words), Folded(caption, [Table(caption, columns, memory.parts)])]


def memory_words(memory: Memory) -> str:
    """Predicted and measured, and whether memory decided the number of workers."""
    words = f"{plain(memory.predicted_gb, 2)} GB predicted before the run began"
    if memory.measured_gb:
        off = memory.predicted_gb / memory.measured_gb - 1.0
        side = "above" if off >= 0.0 else "below"
        words += f", {plain(memory.measured_gb, 2)} GB measured: the prediction was {percent(abs(off))} {side}"
    words += f"; {plain(memory.available_gb, 1)} GB were available."
    if memory.gpu_predicted_gb is not None:
        words += f" GPU: {plain(memory.gpu_predicted_gb, 2)} GB predicted"
        words += (
            ", not measured."
            if memory.gpu_measured_gb is None
            else f", {plain(memory.gpu_measured_gb, 2)} GB measured."
        )
    if memory.workers < memory.workers_wanted:
        words += f" {memory.workers} of {memory.workers_wanted} workers: more would not have fit into {memory.limit}."
    if memory.group is not None:
        together = "one by one" if memory.group == 1 else f"up to {plain(memory.group)} at a time, together"
        words += f" Members trained {together}."
    return words
