"""Shared by all charts: the style of each arm, colours by role, arrays stored once, escaped text.

Colour is never the only cue: each arm also has its own dash and marker. page.css defines the colours of the roles.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from src.report.page.blocks import Figure

TEXT_MOST = 40
"""Longest name in a chart; tables show it in full."""


class Style(NamedTuple):
    """Colour role, line dash, marker."""

    role: str
    dash: str
    symbol: str


ARM_STYLES: Mapping[str, Style] = {
    "hybrid": Style("blue", "solid", "circle"),
    "hybrid_placebo": Style("purple", "dot", "diamond"),
    "rl_only": Style("vermillion", "dash", "square"),
    "fused": Style("green", "dashdot", "triangle-up"),
    "advisor_only": Style("orange", "longdash", "triangle-down"),
    "random_legal": Style("grey", "longdashdot", "x"),
    "base": Style("ink", "5px,2px", "cross"),
    "flat": Style("grey", "solid", "circle-open"),
}
MAIN_ARMS = ("hybrid", "hybrid_placebo", "rl_only", "fused")
"""Visible from the start. The controls can be switched on in the legend; some would dominate the scale."""
SPARE = (
    Style("ink", "2px,2px", "star"),
    Style("orange", "8px,3px,2px,3px", "pentagon"),
    Style("green", "3px,3px,9px,3px", "hexagon"),
    Style("purple", "12px,4px", "hourglass"),
)


def style_of(arm: str, arms: Sequence[str] = ()) -> Style:
    """The style of an arm; an unknown arm gets a spare style by its position in `arms`."""
    if arm in ARM_STYLES:
        return ARM_STYLES[arm]
    others = [name for name in arms if name not in ARM_STYLES]
    return SPARE[others.index(arm) % len(SPARE) if arm in others else 0]


def role(name: str, alpha: float = 1.0) -> dict[str, Any]:
    """A colour that the page's script takes from the style sheet, so that light, dark and print each have their own."""
    return {"role": name, "alpha": alpha}


def label_text(text: str, most: int = TEXT_MOST) -> str:
    """Text escaped for plotly, which interprets tags; long text is cut."""
    cut = text if len(text) <= most else f"{text[: most - 1]}…"
    return html.escape(cut, quote=False)


def line(style: Style, width: float = 2.0, alpha: float = 1.0) -> dict[str, Any]:
    """Plotly's line properties for an arm."""
    return {"color": role(style.role, alpha), "dash": style.dash, "width": width}


def legend_entry(label: str, style: Style, *, group: str = "", off: bool = False, kind: str = "line") -> dict[str, Any]:
    """One legend entry; `kind` is line, points (a line with markers), marker or band."""
    return {"group": group or label, "label": label[:200], **style._asdict(), "off": off, "kind": kind}


class Arrays:
    """Arrays used by several charts, stored once; `ref` gives the placeholder used in a figure."""

    def __init__(self) -> None:
        self.kept: list[list[Any]] = []
        self._place: dict[str, int] = {}

    def ref(self, values: Sequence[Any], digits: int | None = None) -> dict[str, int]:
        """A reference to these values, numbers rounded to `digits`."""
        rounded = [round(v, digits) if isinstance(v, float) and digits is not None else v for v in values]
        key = json.dumps(rounded)
        if key not in self._place:
            self._place[key] = len(self.kept)
            self.kept.append(rounded)
        return {"ref": self._place[key]}


def zero_line(axis: str = "y", at: float = 0.0, color: str = "ink", dash: str = "solid") -> dict[str, Any]:
    """A thin line across the panel of a y axis (`y`, `y2`), or down all panels (`x`)."""
    look = {"color": role(color, 0.7), "width": 1, "dash": dash}
    if axis == "x":
        return {"type": "line", "x0": at, "x1": at, "yref": "paper", "y0": 0, "y1": 1, "line": look, "layer": "below"}
    return {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "yref": axis,
        "y0": at,
        "y1": at,
        "line": look,
        "layer": "below",
    }


def stacked(shares: Sequence[float], labels: Sequence[str], gap: float = 0.13) -> tuple[dict[str, Any], list[Any]]:
    """Layout of stacked panels that share the x axis, top first, and their (axis, label) pairs."""
    layout: dict[str, Any] = {}
    room = 1.0 - gap * (len(shares) - 1)
    top, total = 1.0, sum(shares)
    panels = []
    for i, (share, label) in enumerate(zip(shares, labels, strict=True)):
        bottom = top - room * share / total
        suffix = "" if i == 0 else str(i + 1)
        layout[f"yaxis{suffix}"] = {"domain": [max(0.0, bottom), top]}
        panels.append((f"y{suffix}", label))
        top = bottom - gap
    layout["xaxis"] = {"anchor": panels[-1][0]}
    return layout, panels


def bars_across(
    names: Sequence[str], values: Sequence[float], texts: Sequence[str], colors: Sequence[str], label: str
) -> Figure:
    """One horizontal bar per name, the first on top, with its text next to it."""
    most = max([*values, 1e-9])
    return Figure(
        traces=[
            {
                "type": "bar",
                "orientation": "h",
                "x": list(values),
                "y": [label_text(name) for name in names],
                "text": list(texts),
                "textposition": "outside",
                "cliponaxis": False,
                "marker": {"color": [role(color) for color in colors]},
                "hovertemplate": "%{y}: %{text}<extra></extra>",
            }
        ],
        layout={
            "yaxis": {"autorange": "reversed", "type": "category", "showgrid": False, "ticks": ""},
            "xaxis": {"showgrid": True, "range": [0, 1.2 * most]},
            "bargap": 0.35,
            "hovermode": "closest",
        },
        panels=[("y", label)],
        narrow={"xaxis": {"showgrid": True, "range": [0, 1.8 * most], "nticks": 4}},
    )
