"""The zone study: a slice of it, and that it would say so if a file were misread."""

from __future__ import annotations

from src.market.files import zone_study
from src.market.files.clock import measure_clock
from src.market.files.reading import ClockReading


def test_a_slice_of_the_study_reads_every_file_right(capsys):
    assert zone_study.main(["--quick"]) == 0
    said = capsys.readouterr().out
    assert "84 files, 0 misread; of 42 of a month or more" in said
    assert "100.0% read right without an option" in said


def test_a_misread_file_fails_the_study(monkeypatch, capsys):
    def everything_is_utc(rows: list, **options: str) -> ClockReading:
        reading = measure_clock(rows, **options)  # type: ignore[arg-type]
        return ClockReading("UTC", "open", "bars", reading.chosen, (), "read as UTC")

    monkeypatch.setattr(zone_study, "measure_clock", everything_is_utc)
    monkeypatch.setattr(zone_study, "INTERVALS", (15,))
    monkeypatch.setattr(zone_study, "DAYS", (14,))
    assert zone_study.main(["--quick"]) == 1
    said = capsys.readouterr().out
    assert "14 files, 12 misread" in said  # London is UTC then
    assert "misread: Case(source='synthetic 2025-02'" in said


def test_the_right_reading_is_looked_for_among_those_a_refusal_names():
    source = zone_study.synthetic_source(5, zone_study.STARTS[2])
    bars = zone_study.shaped(source, 1, int(source.open_ns[0]), "no volume", seed=0)
    result, words = zone_study.outcome(bars, "America/Chicago", "open")
    assert result == "named"
    assert "--timezone America/Chicago --stamp open" in words
