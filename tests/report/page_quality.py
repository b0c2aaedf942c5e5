"""The quality section of a made report: invented figures in the form of a file with Tuesdays that stop early."""

from __future__ import annotations

from typing import Any

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")


def made_quality(dates: list[str]) -> dict[str, Any]:
    """The section `data.quality` of bars with a session on each of these dates."""
    hours = [f"{(18 + k) % 24:02d}:00" for k in range(23)]
    weeks = dates[::5]
    left_out = [{"date": day, "reason": "a hole of 78 bars in the trading hours (at most 6)"} for day in dates[::5]]
    chosen = {"zone": "America/Chicago", "stamp": "open", "bars": 5_688, "closed": 0, "cash_step": 3.4}
    hole = {"bars": 158, "place": "to the session's end"}
    return {
        "reading": {
            "files": ["ES.csv"],
            "dialects": ["Sierra Chart export, by its header Date, Time, Open, High, Low, Last"],
            "clocks": [
                {
                    "zone": "America/Chicago",
                    "stamp": "open",
                    "decided_by": "bars",
                    "chosen": chosen,
                    "others": [{**chosen, "zone": "America/Regina", "closed": 155, "cash_step": None}],
                    "words": "read as America/Chicago, stamps at the bar's open: 0 of 5,688 bars in closed hours",
                }
            ],
            "market": {
                "root": "MES",
                "decided_by": "rows",
                "dropped": [{"name": "NQZ5", "rows": 60}],
                "words": "bars of MES serve ES: the same index and tick; 60 rows of NQZ5 were left out",
            },
            "notes": ["volume is the sum of Up and Down"],
        },
        "sessions": {
            "found": len(dates),
            "usable": len(dates) - len(left_out),
            "first": dates[0],
            "last": dates[-1],
            "left_out": left_out,
        },
        "absent_dates": ["2024-02-19"],
        "coverage": {
            "present": 89_000,
            "scheduled": 100_000,
            "frac": 0.89,
            "hours": hours,
            "unit": "week",
            "periods": weeks,
            "by_period": [
                [None if k % 17 == 3 and row > 18 else 0.8 if row > 9 else 1.0 for k in range(len(weeks))]
                for row in range(23)
            ],
            "weekdays": list(WEEKDAYS),
            "by_weekday": [[0.05 if day == 1 and row > 9 else 1.0 for day in range(5)] for row in range(23)],
        },
        "holes": {
            "count": len(left_out),
            "bars": 158 * len(left_out),
            "sessions": len(left_out),
            "listed": [{"trade_date": entry["date"], "start": f"{entry['date']} 03:50", **hole} for entry in left_out],
            "recurring": [
                {
                    "weekday": "Tuesday",
                    "start": "03:50",
                    "last_bar": "03:45",
                    "next_bar": "17:00",
                    "sessions": len(left_out),
                    "of_sessions": len(left_out),
                    "bars": 158,
                    "place": "to the session's end",
                    "first": dates[0],
                    "last": left_out[-1]["date"],
                }
            ],
        },
        "zero_volume": {
            "bars": 9,
            "stretches": 1,
            "sessions": 1,
            "listed": [{"trade_date": dates[2], "start": "2024-01-03 22:10", "bars": 7}],
        },
        "outliers": {
            "count": 1,
            "sessions": 1,
            "listed": [
                {
                    "trade_date": dates[2],
                    "start": "2024-01-04 08:30",
                    "kind": "range",
                    "points": 31.75,
                    "usual_points": 1.0,
                    "ratio": 31.8,
                }
            ],
        },
        "rolls": [
            {"trade_date": dates[3], "before": "ESH4", "after": "ESM4", "gap_points": 63.5, "source": "contracts"},
            {"trade_date": dates[-1], "before": "", "after": "", "gap_points": -12.25, "source": "found"},
        ],
        "findings": [
            {
                "kind": "off-tick price",
                "verdict": "repaired",
                "count": 2,
                "where": "row 41 (2024-01-03 21:25), row 97 (2024-01-04 02:05)",
                "done": "rounded to multiples of 0.25",
            },
            {
                "kind": "absent trade date",
                "verdict": "tolerated",
                "count": 1,
                "where": "2024-02-19",
                "done": "no feature and no position crosses it",
            },
        ],
    }
