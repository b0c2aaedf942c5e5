"""The map of how many scheduled bars are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from src.report.page.blocks import Figure
from src.report.page.drawing import label_text, role

LABEL = "New York hour"
_GAP_PX_FROM = 70
"""Up to so many columns, cells are set apart by a pixel."""
_SCALE = {
    "len": 150,
    "lenmode": "pixels",
    "thickness": 9,
    "orientation": "h",
    "x": 1,
    "xanchor": "right",
    "y": 1,
    "yanchor": "bottom",
    "ypad": 6,
    "outlinewidth": 0,
    "tickformat": ".0%",
    "tickvals": [0, 0.5, 1],
    "ticks": "",
}


def coverage_figures(coverage: Mapping[str, Any]) -> list[Figure]:
    """Fractions of the scheduled bars by hour: one map by period, one by weekday."""
    return [
        _coverage_map(coverage["periods"], coverage["hours"], coverage["by_period"], f"{coverage['unit']} of "),
        _coverage_map(coverage["weekdays"], coverage["hours"], coverage["by_weekday"], ""),
    ]


def _coverage_map(
    columns: Sequence[str], hours: Sequence[str], rows: Sequence[Sequence[float | None]], of: str
) -> Figure:
    gap = 1 if len(columns) <= _GAP_PX_FROM else 0
    trace = {
        "type": "heatmap",
        "x": [label_text(name) for name in columns],
        "y": list(hours),
        "z": [list(row) for row in rows],
        "zmin": 0,
        "zmax": 1,
        # What is there is quiet; what is missing stands out.
        "colorscale": [[0, role("vermillion")], [0.9, role("orange", 0.55)], [1, role("blue", 0.2)]],
        "hoverongaps": False,
        "xgap": gap,
        "ygap": 1,
        "hovertemplate": f"{of}%{{x}}, %{{y}}: %{{z:.1%}}<extra></extra>",
        "colorbar": _SCALE,
    }
    layout: dict[str, Any] = {
        "xaxis": {"type": "category", "showgrid": False, "nticks": 12, "tickangle": 0},
        "yaxis": {"type": "category", "autorange": "reversed", "showgrid": False, "nticks": 12},
        "hovermode": "closest",
        "margin": {"l": 60, "r": 22, "t": 44, "b": 46},
    }
    narrow = {
        "xaxis": {**layout["xaxis"], "nticks": 5},
        "margin": {"l": 44, "r": 8, "t": 64, "b": 46},
    }
    return Figure([trace], layout, [("y", LABEL)], narrow=narrow)
