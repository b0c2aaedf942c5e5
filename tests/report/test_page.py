"""report.html: made of report.json alone, whole, self-contained, and deaf to what a name or a note would have it do."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import math
import re
import time
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import Markup

from src import wording
from src.errors import UserError
from src.plain_text import LONGEST_LINE, foreign
from src.report.model.accounts import PassSimulation
from src.report.model.run import Curve
from src.report.page import rebuild, render, write_page
from src.report.page.__main__ import main
from src.report.page.blocks import given as marked
from src.report.page.blocks import glossary, term
from src.report.page.document import embedded_json
from src.report.page.drawing import ARM_STYLES, Arrays
from src.report.schema import ReportError, schema
from src.report.sections.attempts import fan_figure
from src.report.sections.equity import drawdowns, equity_figure
from src.report.sections.learning import learning_figure
from src.report.sections.trades import session_figure
from src.trading.layout import ACTIONS
from tests.report.page_reader import PageReader
from tests.report.page_report import ARMS, full_report, typed
from tests.small_runs import finished

OPTIONAL = [name for name in schema()["properties"] if name not in schema()["required"]]
HOSTILE = {
    "script": "<script>window.pwned = 1</script>",
    "attribute": '"><img src=x onerror="window.pwned=1">',
    "end of script": "</script><script>window.pwned = 1</script>",
    "comment": "<!--<script>",
    "template": "{{ 7 * 7 }}{% raw %}",
    "plotly": '%{y}<a href="javascript:window.pwned=1">x</a>',
    "right to left": "\u202eאבג txt.exe \u2028 \u2029",
    "long": "x" * 10_000,
}


@cache
def full() -> dict[str, Any]:
    return json.loads(json.dumps(full_report(30, 3, bars_a_session=40, n_charted=2)))


@cache
def read_full() -> PageReader:
    return PageReader(render(typed(full())))


def poisoned(text: str) -> dict[str, Any]:
    """A report with a text wherever a name, a path, a note or a reason may stand."""
    report = copy.deepcopy(full())
    report["run"]["name"] = report["run"]["why_vec_env"] = report["run"]["market"] = text
    report["run"]["versions"] = {text: text}
    report["data"] |= {"source": text, "sessions_left_out": {text: 1}, "repairs": {text: 2}}
    poison_quality(report["data"]["quality"], text)
    report["rules"] |= {"profile": text, "note": text}
    report["verdict"] = [text, f"Advice: {text}"]
    report["overall"] |= {"judgement": text, "reason": text}
    report["answers"][1] |= {"question": text, "answer": text}
    report["advice"] |= {"advisor": text, "note": text}
    report["hardware"] |= {"gpu_name": text, "gpu_reason": text}
    report["phases"][text] = {**report["phases"].pop("phase3"), "failures": [text], "not_bitwise": [text]}
    report["configuration"] = {text: {"path": text}}
    report["targets"][text] = {**report["targets"]["steps_per_s"], "reason": text}
    report["phase_times"][text] = 3.0
    report["hardware_timeline"]["phases"][2]["phase"] = text
    report["arms"][text] = report["arms"].pop("fused")
    report["learning"]["curves"][0]["phase"] = text
    report["pass_simulation"]["arms"][text] = report["pass_simulation"]["arms"].pop("rl_only")
    report["statistics"]["contrasts"][1] |= {"arm": text, "low_usd": None, "reason": text, "words": text}
    report["statistics"]["cost_stress"]["net_usd_per_session"][text] = [1.0, 0.0, -1.0, -2.0]
    report["sessions"][0]["why"] = text
    report["sessions"][0]["arms"][text] = report["sessions"][0]["arms"].pop("rl_only")
    report["sessions"][0]["arms"]["hybrid"]["trades"][0]["exit_reason"] = text
    return report


def poison_quality(quality: dict[str, Any], text: str) -> None:
    """The text wherever a file's own words may stand."""
    reading = quality["reading"]
    reading |= {"files": [text], "dialects": [text], "notes": [text]}
    reading["clocks"][0] |= {"words": text}
    reading["market"] |= {"words": text}
    quality["sessions"]["left_out"][0] |= {"reason": text}
    quality["rolls"][0] |= {"before": text, "after": text}
    quality["findings"][0] |= {"kind": text, "where": text, "done": text}


def sections_of(page: PageReader) -> list[str]:
    return [str(attributes["id"]) for attributes, _ in page.of("section")]


def test_the_sections_come_in_order_with_the_verdict_first() -> None:
    wanted = (
        "verdict equity contrast arms trades learning time machine advice pass survival reliance sweep quality "
        "provenance targets glossary"
    )
    assert sections_of(read_full()) == wanted.split()
    links = [attributes["href"] for attributes, _ in read_full().of("a") if "class" not in attributes]
    assert links == [f"#{name}" for name in wanted.split()]


def test_the_verdict_stands_word_for_word() -> None:
    ((_, verdict),) = read_full().of("section", id="verdict")
    for sentence in [*full()["verdict"], *full()["overall"].values()]:
        assert sentence in verdict or sentence == full()["overall"]["status"]


@pytest.mark.parametrize(
    ("sentence", "lead"),
    [
        ("LLM (bundled:smollm2): no evidence either way.", "<strong>LLM (bundled:smollm2):</strong> no evidence"),
        ("Evidence: 3 seeds.", "<strong>Evidence:</strong> 3 seeds."),
        ("Of 11 sessions: none.", "Of 11 sessions: none."),
        ("No colon here.", "No colon here."),
    ],
)
def test_a_sentence_begins_with_its_subject(sentence: str, lead: str) -> None:
    assert lead in re.sub(r"</?bdi[^>]*>", "", render(typed({**full(), "verdict": [sentence]})))


def test_every_element_is_closed() -> None:
    assert read_full().unclosed == []
    assert PageReader(render(typed(poisoned(HOSTILE["attribute"])))).unclosed == []


def test_the_page_asks_nobody_for_anything() -> None:
    page = read_full()
    for tag, attributes, _ in page.elements:
        assert tag not in {"link", "img", "iframe", "object", "embed", "base", "form"}
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert (attributes.get(name) or "#").startswith("#"), f"<{tag} {name}={attributes[name]}>"
    ((_, css),) = page.of("style")
    assert not re.search(r"url\(|@import|https?:", css)


def test_the_policy_allows_the_pages_own_scripts_by_hash_and_nothing_else() -> None:
    page = read_full()
    ((attributes, _),) = page.of("meta", **{"http-equiv": "Content-Security-Policy"})
    policy = dict(part.strip().split(" ", 1) for part in str(attributes["content"]).split(";"))
    assert policy["default-src"] == "'none'"
    own = [content for given, content in page.scripts if given.get("type") != "application/json"]
    hashes = [base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() for content in own]
    assert len(own) == 2
    assert policy["script-src"].split() == [f"'sha256-{value}'" for value in hashes]
    assert not any(name.startswith("on") for _, attributes, _ in page.elements for name in attributes)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_text_is_shown_and_does_nothing(text: str) -> None:
    page, clean = PageReader(render(typed(poisoned(text)))), read_full()
    text = foreign(text, LONGEST_LINE)
    assert page.text.count(text) >= 20
    assert page.text.replace("\n", "").isprintable()
    tags = {tag for tag, _, _ in page.elements}
    assert tags == {tag for tag, _, _ in clean.elements}
    assert len(page.scripts) == len(clean.scripts)
    assert not any(name.startswith("on") for _, attributes, _ in page.elements for name in attributes)
    # Plotly reads tags in what it shows: there are none but its own. A legend group is a key and never shown.
    for chart in page.charts["charts"].values():
        for figure in chart["figures"]:
            traces = [{key: value for key, value in t.items() if key != "legendgroup"} for t in figure["traces"]]
            drawn = json.dumps([traces, figure["layout"], figure["narrow"], figure["panels"]])
            assert set(re.findall(r"<[^>]*>?", drawn)) <= {"<br>", "<extra>", "</extra>"}
    ((_, title),) = page.of("title")
    assert text[:40] in title


@settings(max_examples=80)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_json_within_a_script_comes_out_as_it_went_in(content: Any) -> None:
    text = embedded_json(content)
    page = PageReader(f'<script id="chart-data">{text}</script><p>after</p>')
    assert page.text == "after"
    assert page.charts == content
    assert "\u2028" not in text


def test_lone_surrogates_and_numbers_json_has_not_do_no_harm(tmp_path: Path) -> None:
    report = copy.deepcopy(full())
    report["run"]["name"] = "half \ud800 a pair"
    report["statistics"]["arms"]["hybrid"]["sharpe"] = float("nan")
    report["statistics"]["arms"]["rl_only"]["sortino"] = math.inf
    report["arms"]["hybrid"]["net_usd_by_session"] = np.array(report["arms"]["hybrid"]["net_usd_by_session"])
    write_page(typed(report), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert r"half \ud800 a pair" in text
    assert not re.search(r">(nan|inf|None)<", text)
    assert "NaN" not in json.dumps(PageReader(text).charts)


@pytest.mark.parametrize("absent", OPTIONAL)
def test_without_an_optional_section_the_page_says_so_in_one_sentence(absent: str) -> None:
    report = {name: value for name, value in full().items() if name != absent}
    page = PageReader(render(typed(report)))
    # A run that is no sweep's winner says nothing of sweeps.
    assert sections_of(page) == [name for name in sections_of(read_full()) if name != "sweep" or absent != "sweep"]
    for attributes, text in page.of("section"):
        words = text.replace("\n", " ").strip()
        assert len(words) > 30, attributes
    for _, text in page.of("p", **{"class": "absent"}):
        assert re.fullmatch(r"[A-Z][^.]*\.", text)


def test_the_least_report_makes_a_page() -> None:
    least = {name: full()[name] for name in schema()["required"]} | {"arms": {}, "training": [], "verdict": []}
    page = PageReader(render(typed({**least, "targets": {}, "phase_times": {}})))
    assert page.charts["charts"] == {}
    assert "All required targets met" in page.text
    assert "This run evaluated no arm" in page.text


def test_the_page_of_a_real_run_shows_its_figures() -> None:
    run = finished("plain")
    page = PageReader(render(typed(run.report)))
    assert run.folder.name in page.text
    assert "SYNTHETIC bars." in page.text
    for sentence in run.report["verdict"]:
        assert sentence in page.text
    rows = {text.split("\n")[0] for _, text in page.of("tr")}
    for name, arm in run.report["arms"].items():
        shown = wording.signed_usd(arm["net_usd_per_session"])
        assert any(row.startswith(name) and shown in row for row in rows), (name, shown)


def test_every_term_has_a_definition_and_every_definition_a_use() -> None:
    page = read_full()
    defined = {str(attributes["id"]).removeprefix("def-") for attributes, _ in page.of("dd") if "id" in attributes}
    used = {str(given["aria-describedby"]).removeprefix("def-") for given, _ in page.of("button", **{"class": "term"})}
    assert defined == set(glossary())
    unused = defined - used
    # Figures the maker's report has not got: learning curves of another kind, an interquartile mean of five seeds, and
    # the agreement of several markets (test_markets.py).
    assert unused == {"clip_fraction", "value_loss", "interquartile_mean", "kendalls_w"}
    with pytest.raises(KeyError):
        term("no such word")


def test_it_can_be_read_without_seeing_the_charts() -> None:
    page = read_full()
    plots = page.of("div", role="img")
    assert len(plots) == len(page.of("figure")) == len(page.charts["charts"]) >= 13
    for attributes, _ in plots:
        assert len(str(attributes["aria-label"])) > 20
    for attributes, text in page.of("button"):
        assert attributes["type"] == "button"
        assert text.strip()
    assert all(attributes.get("scope") in ("col", "row") for attributes, _ in page.of("th"))
    assert all("\n" not in text.strip() and text.strip() for _, text in page.of("caption"))
    levels = [int(tag[1]) for tag, _, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = [attributes["id"] for _, attributes, _ in page.elements if attributes.get("id")]
    assert len(ids) == len(set(ids))


def contrast_ratio(one: str, other: str) -> float:
    """Of two #rrggbb colours, by WCAG 2.2."""

    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def test_colours_stand_out_in_both_themes_and_looks_differ_without_them() -> None:
    ((_, css),) = read_full().of("style")
    light, dark = (dict(re.findall(r"--(\w+): (#\w{6})", part)) for part in css.split("@media screen", 1))
    dark = dict(list(dark.items()))
    for theme in (light, dark):
        for name in ("ink", "muted", "link"):
            assert contrast_ratio(theme[name], theme["paper"]) >= 4.5, name
        for name in {style.role for style in ARM_STYLES.values()} | {"bar"}:
            assert contrast_ratio(theme[name], theme["paper"]) >= 3.0, name
    looks = [(style.dash, style.symbol) for style in ARM_STYLES.values()]
    assert len({symbol for _, symbol in looks}) == len({dash for dash, _ in looks[:-1]}) + 1 == len(looks)
    assert set(ARMS) <= set(ARM_STYLES)


@given(st.lists(st.integers(-1000, 1000), max_size=30))
def test_a_drawdown_is_the_distance_below_the_best_so_far(net: list[int]) -> None:
    curve = np.concatenate([[0.0], np.cumsum(net)])
    wanted = [curve[i] - curve[: i + 1].max() for i in range(1, len(curve))]
    assert drawdowns([float(value) for value in net]) == wanted


def test_equity_is_the_seeds_mean_within_their_band() -> None:
    report, arrays = full(), Arrays()
    figure = equity_figure(typed(report), arrays)
    drawn = [trace for trace in figure.traces if trace["legendgroup"] == "hybrid"]
    low, high, mean, fall = (np.array(arrays.kept[trace["y"]["ref"]]) for trace in drawn)
    rows = np.cumsum(report["seeds"]["net_usd_by_session"]["hybrid"], axis=1)
    np.testing.assert_allclose(mean, rows.mean(axis=0), atol=0.51)
    np.testing.assert_allclose(low, rows.min(axis=0), atol=0.51)
    np.testing.assert_allclose(high, rows.max(axis=0), atol=0.51)
    assert (fall <= 0).all()
    assert arrays.kept[drawn[0]["x"]["ref"]] == report["session_dates"]
    assert "flat" not in {entry["group"] for entry in figure.legend}


def test_no_interval_is_drawn_where_there_is_none() -> None:
    report = copy.deepcopy(full())
    with_one = PageReader(render(typed(report))).charts["charts"]["contrast-chart"]["figures"][0]["traces"]
    report["statistics"]["contrasts"][0] |= {"low_usd": None, "high_usd": None, "reason": "not enough sessions (9)"}
    page = PageReader(render(typed(report)))
    without = page.charts["charts"]["contrast-chart"]["figures"][0]["traces"]
    assert len(without) == len(with_one) - 1
    assert "No interval for hybrid − hybrid_placebo: not enough sessions (9)." in page.text
    first_row = page.of("tr")[1][1]
    assert "hybrid − hybrid_placebo" in first_row
    assert " to " not in first_row


def test_a_session_is_drawn_with_its_trades_and_stops_at_their_prices() -> None:
    session, arrays = full()["sessions"][0], Arrays()
    charted = typed(full()).sessions[0]
    figure = session_figure(charted, charted.arms["hybrid"], ACTIONS, arrays)
    bars, stops, *trades = figure.traces
    advice = trades.pop()
    made = session["arms"]["hybrid"]["trades"]
    assert arrays.kept[bars["close"]["ref"]] == [ticks * 0.25 for ticks in session["close_ticks"]]
    first = dict(zip(("date", "time"), arrays.kept[bars["x"]["ref"]][0].split(" "), strict=True))
    assert first == {"date": session["date"], "time": "09:30"}
    assert [trade["y"] for trade in trades] == [[t["entry_ticks"] * 0.25, t["exit_ticks"] * 0.25] for t in made]
    times = arrays.kept[bars["x"]["ref"]]
    assert [trade["x"] for trade in trades] == [[times[t["entry_bar"]], times[t["exit_bar"]]] for t in made]
    assert stops["y"].count(None) == len(made)
    assert stops["y"][0] == made[0]["stops"][0][1] * 0.25
    said = [ACTIONS[code] for code in session["arms"]["hybrid"]["advice"]["action"] if code >= 0]
    assert arrays.kept[advice["y"]["ref"]] == said


def test_learning_goes_on_where_base_training_ended() -> None:
    curves, arrays = full()["learning"]["curves"], Arrays()
    figure = learning_figure([Curve(**curve) for curve in curves], "mean_episode_reward", arrays)
    starts = {trace["name"]: arrays.kept[trace["x"]["ref"]][0] for trace in figure.traces}
    assert starts["base, seed 0"] < 512_000 < starts["hybrid, seed 0"]
    mean = next(trace for trace in figure.traces if trace["name"] == "hybrid, mean")
    rows = [c["mean_episode_reward"] for c in curves if c["phase"] == "hybrid"]
    np.testing.assert_allclose(arrays.kept[mean["y"]["ref"]], np.mean(rows, axis=0), atol=1e-4)


def test_the_fan_draws_every_percentile_once() -> None:
    simulation = full()["pass_simulation"]
    made = PassSimulation(**simulation)
    figure = fan_figure(made, "hybrid")
    rows = {trace["name"]: trace["y"] for trace in figure.traces}
    fan = simulation["arms"]["hybrid"]["fan"]
    assert rows == {f"percentile {p:g}": row for p, row in zip(fan["percentiles"], fan["equity_usd"], strict=True)}


def test_tables_follow_the_choice_over_their_chart() -> None:
    page = read_full()
    tables = page.of("div", **{"data-chosen-by": "session-chart"})
    assert [attributes["data-choice"] for attributes, _ in tables] == ["0", "1", "2", "3"]
    assert ["hidden" in attributes for attributes, _ in tables] == [False, True, True, True]
    assert len(page.charts["charts"]["session-chart"]["figures"]) == 4


def test_equal_arrays_are_kept_once() -> None:
    arrays = Arrays()
    assert arrays.ref([1.0, 2.0]) == arrays.ref([1.0, 2.0]) != arrays.ref([1.0, 2.5])
    assert arrays.ref([1.26, None, "x"], 1) == {"ref": 2}
    assert arrays.kept[2] == [1.3, None, "x"]


@given(st.floats(-1e9, 1e9), st.integers(0, 4))
def test_a_figure_reads_back_as_the_number_it_shows(value: float, digits: int) -> None:
    for text in (wording.plain(value, digits), wording.signed(value, digits)):
        back = float(text.replace(",", ""))
        assert back == pytest.approx(value, abs=0.501 * 10**-digits)
        assert not (back == 0 and text[0] in "+-")
    for text in (wording.usd(value, digits), wording.signed_usd(value, digits)):
        sign, amount = re.fullmatch(r"([+-]?)\$([\d,]+(?:\.\d+)?)", text).groups()  # type: ignore[union-attr]
        back = float(sign + amount.replace(",", ""))
        assert back == pytest.approx(value, abs=0.501 * 10**-digits)
        assert not (back == 0 and sign)
    assert wording.signed(value, digits)[0] in "+-" or float(wording.plain(value, digits).replace(",", "")) == 0


def test_words_of_figures() -> None:
    assert (wording.plain(None), wording.percent(None), wording.duration(None), wording.significant(None)) == ("–",) * 4
    assert (wording.usd(None), wording.signed_usd(None)) == ("–",) * 2
    assert [wording.usd(v) for v in (283.4, -227.0, 24_982.0, 0.32, -0.001, 0.0, 0.999)] == [
        "$283", "-$227", "$24,982", "$0.32", "$0", "$0", "$1.00",
    ]  # fmt: skip
    assert [wording.signed_usd(v) for v in (170.2, -80.0, 0.0)] == ["+$170", "-$80", "$0"]
    assert wording.usd_per_session(-227.0, -364.0, -59.0) == "-$227/session (95% CI -$364 to -$59)"
    assert [wording.count(v) for v in (0.0, 3.0, 2.5, 1 / 3, 1200.0)] == ["0", "3", "2.5", "0.3", "1,200"]
    assert [wording.duration(s) for s in (3.21, 119.94, 120.0, 7199.0, 7200.0)] == [
        "3.2 s",
        "119.9 s",
        "2.0 min",
        "120.0 min",
        "2.0 h",
    ]
    assert wording.percent(0.4217, 1) == "42.2%"
    assert (wording.significant(3600.0), wording.significant(0.7268), wording.significant(-1.5)) == (
        "3,600",
        "0.727",
        "-1.5",
    )


def test_text_from_outside_is_kept_apart() -> None:
    assert marked("a<b") == Markup('<bdi class="given">a&lt;b</bdi>')
    assert "wide" in marked("x" * 60)
    assert "long" in marked("word " * 100)
    assert marked("-$227/session (<b>, -5$)") == Markup(
        '<bdi class="given"><span class="amount">-$227</span>/session (&lt;b&gt;, -5$)</bdi>'
    )


def written(folder: Path, text: str) -> Path:
    (folder / "report.json").write_text(text, encoding="utf-8")
    return folder


def test_a_run_folder_gets_its_page_again_and_only_from_the_report(tmp_path: Path) -> None:
    page = rebuild(written(tmp_path, json.dumps(full())))
    assert page == tmp_path / "report.html"
    assert page.read_text(encoding="utf-8") == render(typed(full()))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "damaged"),
        ('{"test_name": "x", "schema', "damaged"),
        ("[" * 100_000, "damaged"),
        ('{"a": 1}', "not a report of this toolkit"),
        ("[1, 2]", "not a report of this toolkit"),
        ('{"test_name": "x", "schema_version": 9}', "newer"),
        ('{"test_name": "x", "schema_version": 1}', "damaged"),
    ],
)
def test_a_report_that_cannot_be_used_is_an_error_to_mend(tmp_path: Path, text: str, wanted: str) -> None:
    with pytest.raises(UserError, match=wanted) as caught:
        rebuild(written(tmp_path, text))
    assert str(tmp_path / "report.json") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "report.html").exists()


def test_bytes_that_are_no_text_are_damage(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_bytes(b'{"test_name": "\xff"}')
    with pytest.raises(ReportError, match="damaged"):
        rebuild(tmp_path)


def test_a_folder_without_a_report_is_an_error_to_mend(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ReportError, match=r"no report\.json"):
            rebuild(folder)
    (tmp_path / "report.json").mkdir()
    with pytest.raises(ReportError, match="cannot be read"):
        rebuild(tmp_path)


def test_a_page_that_cannot_be_written_is_an_error_to_mend(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportError, match="cannot be written"):
        write_page(typed(full()), tmp_path / "file" / "report.html")


def test_the_command_says_where_the_page_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(written(tmp_path, json.dumps(full())))]) == 0
    assert capsys.readouterr().out == f"Report: {tmp_path / 'report.html'}\n"
    assert main([str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.startswith("error: There is no report.json in")


def test_a_large_report_is_built_fast_and_stays_small() -> None:
    report = full_report(553, 3, bars_a_session=390, n_charted=6)
    render(typed(full()))
    began = time.process_time()
    html = render(typed(report))
    assert time.process_time() - began < 3.0
    assert len(html.encode()) < 6e6
