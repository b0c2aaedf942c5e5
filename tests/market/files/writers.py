"""One small writer for each dialect of bars: what the vendors' exports look like, from bars of known UTC open times.

`DIALECTS` names them all. A writer of wall-clock times takes any IANA zone and either stamp, whatever the vendor
promises, so that a study of clocks can write files whose promise is false.
"""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
from numpy.typing import NDArray

Stamp = Literal["open", "close"]


@dataclass(frozen=True, eq=False)
class BarsToWrite:
    """Bars with prices in points, float64[n, 4] open high low close; open times in UTC nanoseconds, in order."""

    open_ns: NDArray[np.int64]
    prices: NDArray[np.float64]
    volume: NDArray[np.int64]
    interval_min: int = 5

    def stamps(self, stamp: Stamp) -> NDArray[np.int64]:
        return self.open_ns + (self.interval_min * 60_000_000_000 if stamp == "close" else 0)

    def wall(self, zone: str, stamp: Stamp) -> pd.DatetimeIndex:
        """Wall-clock times of a zone, without their zone."""
        return self.zoned(zone, stamp).tz_localize(None)

    def zoned(self, zone: str, stamp: Stamp) -> pd.DatetimeIndex:
        return pd.DatetimeIndex(self.stamps(stamp).astype("datetime64[ns]")).tz_localize("UTC").tz_convert(zone)


Writer = Callable[[BarsToWrite, str, Stamp], bytes]


@dataclass(frozen=True)
class Dialect:
    """How a vendor writes: `zone` and `stamp` are its promise; `instant` if its times carry an offset or an epoch."""

    name: str
    file_name: str
    zone: str
    stamp: Stamp
    instant: bool
    write: Writer
    volume_kind: Literal["contracts", "ticks", "none"] = "contracts"


DIALECTS: dict[str, Dialect] = {}


def dialect(
    file_name: str, *, zone: str, stamp: Stamp = "open", instant: bool = False, kind: str = "contracts"
) -> Callable[[Writer], Writer]:
    def registered(writer: Writer) -> Writer:
        name = writer.__name__
        DIALECTS[name] = Dialect(name, file_name, zone, stamp, instant, writer, kind)  # type: ignore[arg-type]
        return writer

    return registered


def number(value: float, decimals: int | None = None) -> str:
    """The shortest text, or a fixed number of decimals."""
    return f"{value:.{decimals}f}" if decimals is not None else f"{value:.10g}"


def rows(bars: BarsToWrite, times: list[str], separator: str, *, decimals: int | None = None, tail: str = "") -> str:
    lines = [
        separator.join((time, *(number(price, decimals) for price in four), f"{volume}{tail}"))
        for time, four, volume in zip(times, bars.prices.tolist(), bars.volume.tolist(), strict=True)
    ]
    return "\n".join(lines) + "\n"


def texts(times: pd.DatetimeIndex, form: str) -> list[str]:
    return list(times.strftime(form))


def with_offset(times: pd.DatetimeIndex, separator: str = " ") -> list[str]:
    return [time.isoformat(sep=separator) for time in times.to_pydatetime()]


@dialect("ES 12-25.Last.txt", zone="UTC", stamp="close")
def ninjatrader(bars: BarsToWrite, zone: str, stamp: Stamp) -> bytes:
    return rows(bars, texts(bars.wall(zone, stamp), "%Y%m%d %H%M%S"), ";").encode()


@dialect("ES_nt.csv", zone="UTC", stamp="close")
def ninjatrader_header(bars: BarsToWrite, zone: str, stamp: Stamp) -> bytes:
    return b"datetime;open;high;low;close;volume\n" + ninjatrader(bars, zone, stamp)


@dialect("ES_5min_sample.txt", zone="America/New_York")
def firstrate(bars: BarsToWrite, zone: str, stamp: Stamp) -> bytes:
    return rows(bars, texts(bars.wall(zone, stamp), "%Y-%m-%d %H:%M:%S"), ",").encode()


@dialect("ES_5min.csv", zone="America/New_York")
def firstrate_header(bars: BarsToWrite, zone: str, stamp: Stamp) -> bytes:
    return b"timestamp,open,high,low,close,volume\n" + firstrate(bars, zone, stamp)


def _sierra(bars: BarsToWrite, times: list[str]) -> bytes:
    head = "Date, Time, Open, High, Low, Last, Volume, NumberOfTrades, BidVolume, AskVolume\n"
    tails = [f", {v // 2}, {v // 2}, {v - v // 2}" for v in bars.volume.tolist()]
    body = rows(bars, times, ", ", decimals=2).splitlines()
    return (head + "\n".join(line + tail for line, tail in zip(body, tails, strict=True)) + "\n").encode()


@dialect("ESZ25-CME_5m.scid_BarData.txt", zone="America/Chicago")
def sierra_slash(bars: BarsToWrite, zone: str, stamp: Stamp) -> bytes:
    times = bars.wall(zone, stamp)
    return _sierra(bars, [f"{t.year}/{t.month}/{t.day}, {t:%H:%M:%S}" for t in times])


@dialect("ESZ25-CME.txt", zone="America/Chicago")
def sierra_dash(bars: BarsToWrite, zone: str, stamp: Stamp) -> bytes:
    times = bars.wall(zone, stamp)
    return _sierra(bars, [f"{t.year}-{t.month}-{t.day}, {t:%H:%M:%S.%f}" for t in times])


@dialect("ESZ25.txt", zone="UTC")
def sierra_padded(bars: BarsToWrite, zone: str, stamp: Stamp) -> bytes:
    return _sierra(bars, texts(bars.wall(zone, stamp), "%Y-%m-%d, %H:%M:%S"))


@dialect("@ES_5min.txt", zone="America/Chicago", stamp="close")
def tradestation(bars: BarsToWrite, zone: str, stamp: Stamp) -> bytes:
    head = '"Date","Time","Open","High","Low","Close","Up","Down"\n'
    lines = rows(bars, texts(bars.wall(zone, stamp), "%m/%d/%Y,%H:%M"), ",", decimals=2).splitlines()
    split = [f"{line.rpartition(',')[0]},{v // 3},{v - v // 3}" for line, v in zip(lines, bars.volume, strict=True)]
    return (head + "\n".join(split) + "\n").encode()


@dialect("ES_mc.txt", zone="America/Chicago", stamp="close")
def multicharts(bars: BarsToWrite, zone: str, stamp: Stamp) -> bytes:
    head = "<Date>, <Time>, <Open>, <High>, <Low>, <Close>, <Volume>\n"
    return (head + rows(bars, texts(bars.wall(zone, stamp), "%m/%d/%Y,%H:%M:%S"), ",", decimals=2)).encode()


@dialect("ES total.txt", zone="America/Chicago", stamp="close")
def multicharts_total(bars: BarsToWrite, zone: str, stamp: Stamp) -> bytes:
    head = "Date,Time,Open,High,Low,Close,TotalVolume\n"
    return (head + rows(bars, texts(bars.wall(zone, stamp), "%Y%m%d,%H%M"), ",", decimals=2)).encode()


@dialect("CME_MINI_ES1!, 5.csv", zone="America/Chicago", instant=True)
def tradingview(bars: BarsToWrite, zone: str, stamp: Stamp) -> bytes:
    head = "time,open,high,low,close,Volume,Plot,Volume MA\n"
    return (head + rows(bars, with_offset(bars.zoned(zone, stamp), "T"), ",", tail=",,12.5")).encode()


@dialect("CME_MINI_DL_ES1!, 5_a1b2c.csv", zone="UTC", instant=True)
def tradingview_epoch(bars: BarsToWrite, zone: str, stamp: Stamp) -> bytes:
    times = [str(time // 1_000_000_000) for time in bars.stamps(stamp).tolist()]
    return ("time,open,high,low,close,Volume\n" + rows(bars, times, ",")).encode()


@dialect("ES_ib.csv", zone="US/Eastern")
def ib_named_zone(bars: BarsToWrite, zone: str, stamp: Stamp) -> bytes:
    times = [f"{text} {zone}" for text in texts(bars.wall(zone, stamp), "%Y%m%d %H:%M:%S")]
    return ("date,open,high,low,close,volume,wap,count\n" + rows(bars, times, ",", tail=",6850.125,17")).encode()


@dialect("ES_ib_utc.csv", zone="UTC")
def ib_compact_utc(bars: BarsToWrite, zone: str, stamp: Stamp) -> bytes:
    times = texts(bars.wall(zone, stamp), "%Y%m%d-%H:%M:%S")
    return ("date,open,high,low,close,volume,average,barCount\n" + rows(bars, times, ",", tail=",1.5,17")).encode()


@dialect("ES.csv", zone="America/New_York", instant=True)
def ib_insync(bars: BarsToWrite, zone: str, stamp: Stamp) -> bytes:
    times = [f"{row},{text}" for row, text in enumerate(with_offset(bars.zoned(zone, stamp)))]
    return (",date,open,high,low,close,volume,average,barCount\n" + rows(bars, times, ",", tail=".0,1.5,17")).encode()


@dialect("ES_F_5m.csv", zone="America/New_York", instant=True)
def yfinance(bars: BarsToWrite, zone: str, stamp: Stamp) -> bytes:
    lines = rows(bars, with_offset(bars.zoned(zone, stamp)), ",").splitlines()
    closes = [number(close) for close in bars.prices[:, 3].tolist()]
    body = [
        f"{line.rpartition(',')[0]},{close},{line.rpartition(',')[2]}"
        for line, close in zip(lines, closes, strict=True)
    ]
    return ("Datetime,Open,High,Low,Close,Adj Close,Volume\n" + "\n".join(body) + "\n").encode()


@dialect("es_5m_data.csv", zone="UTC", instant=True)
def yfinance_three(bars: BarsToWrite, zone: str, stamp: Stamp) -> bytes:
    head = "Price,Close,High,Low,Open,Volume\nTicker,ES=F,ES=F,ES=F,ES=F,ES=F\nDatetime,,,,,\n"
    times = with_offset(bars.zoned(zone, stamp))
    body = [
        f"{time},{number(c)},{number(h)},{number(low)},{number(o)},{v}"
        for time, (o, h, low, c), v in zip(times, bars.prices.tolist(), bars.volume.tolist(), strict=True)
    ]
    return (head + "\n".join(body) + "\n").encode()


def _aggregates(bars: BarsToWrite, stamp: Stamp) -> list[dict[str, float | int]]:
    return [
        {"v": v, "vw": c, "o": o, "c": c, "h": h, "l": low, "t": t // 1_000_000, "n": 7}
        for t, (o, h, low, c), v in zip(
            bars.stamps(stamp).tolist(), bars.prices.tolist(), bars.volume.tolist(), strict=True
        )
    ]


@dialect("ESZ5.json", zone="UTC", instant=True)
def polygon_json(bars: BarsToWrite, zone: str, stamp: Stamp) -> bytes:
    results = _aggregates(bars, stamp)
    return json.dumps({"ticker": "ESZ5", "resultsCount": len(results), "results": results, "status": "OK"}).encode()


@dialect("2025-11-03.csv", zone="UTC", instant=True)
def polygon_flat(bars: BarsToWrite, zone: str, stamp: Stamp) -> bytes:
    body = [
        f"ESZ5,{v},{number(o)},{number(c)},{number(h)},{number(low)},{t},9"
        for t, (o, h, low, c), v in zip(
            bars.stamps(stamp).tolist(), bars.prices.tolist(), bars.volume.tolist(), strict=True
        )
    ]
    return ("ticker,volume,open,close,high,low,window_start,transactions\n" + "\n".join(body) + "\n").encode()


def _databento(bars: BarsToWrite, times: list[str], prices: list[list[str]], symbol: str) -> bytes:
    head = f"ts_event,rtype,publisher_id,instrument_id,open,high,low,close,volume{',symbol' if symbol else ''}\n"
    tail = f",{symbol}" if symbol else ""
    lines = [
        f"{time},33,1,118,{','.join(four)},{volume}{tail}"
        for time, four, volume in zip(times, prices, bars.volume.tolist(), strict=True)
    ]
    return (head + "\n".join(lines) + "\n").encode()


def _billionths(bars: BarsToWrite) -> list[list[str]]:
    return [[str(round(price * 4) * 250_000_000) for price in four] for four in bars.prices.tolist()]


@dialect("glbx-mdp3-20251103.ohlcv-5m.csv", zone="UTC", instant=True)
def databento_pretty(bars: BarsToWrite, zone: str, stamp: Stamp) -> bytes:
    times = texts(bars.wall("UTC", stamp), "%Y-%m-%dT%H:%M:%S.000000000Z")
    return _databento(bars, times, [[number(price, 9) for price in four] for four in bars.prices.tolist()], "ESZ5")


@dialect("glbx-mdp3-20251104.ohlcv-5m.csv", zone="UTC", instant=True)
def databento_raw(bars: BarsToWrite, zone: str, stamp: Stamp) -> bytes:
    return _databento(bars, [str(time) for time in bars.stamps(stamp).tolist()], _billionths(bars), "")


@dialect("glbx-mdp3-20251105.ohlcv-5m.csv", zone="UTC", instant=True)
def databento_symbols(bars: BarsToWrite, zone: str, stamp: Stamp) -> bytes:
    return _databento(bars, [str(time) for time in bars.stamps(stamp).tolist()], _billionths(bars), "ESZ5")


@dialect("ES_kibot.txt", zone="America/New_York")
def kibot(bars: BarsToWrite, zone: str, stamp: Stamp) -> bytes:
    return rows(bars, texts(bars.wall(zone, stamp), "%m/%d/%Y,%H:%M"), ",").encode()


@dialect("esz25_intraday-5min_historical-data.csv", zone="America/Chicago")
def barchart(bars: BarsToWrite, zone: str, stamp: Stamp) -> bytes:
    lines = rows(bars, texts(bars.wall(zone, stamp), "%Y-%m-%d %H:%M"), ",").splitlines()[::-1]
    body = [f"{line.rpartition(',')[0]},0.25,+0.01%,{line.rpartition(',')[2]}" for line in lines]
    foot = '"Downloaded from Barchart.com as of 11-04-2025 09:00am CST"\n'
    return ("Time,Open,High,Low,Latest,Change,%Change,Volume\n" + "\n".join(body) + "\n" + foot).encode()


@dialect("US500_M5.csv", zone="Europe/Athens", kind="ticks")
def mt5(bars: BarsToWrite, zone: str, stamp: Stamp) -> bytes:
    head = "<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\t<VOL>\t<SPREAD>\n"
    return (head + rows(bars, texts(bars.wall(zone, stamp), "%Y.%m.%d\t%H:%M:%S"), "\t", tail="\t0\t1")).encode()


@dialect("ES5.csv", zone="Europe/Athens", kind="ticks")
def mt4(bars: BarsToWrite, zone: str, stamp: Stamp) -> bytes:
    return rows(bars, texts(bars.wall(zone, stamp), "%Y.%m.%d,%H:%M"), ",", decimals=2).encode()


@dialect("ES_bt.csv", zone="UTC")
def backtrader(bars: BarsToWrite, zone: str, stamp: Stamp) -> bytes:
    head = "Date,Time,Open,High,Low,Close,Volume,OpenInterest\n"
    return (head + rows(bars, texts(bars.wall(zone, stamp), "%Y-%m-%d,%H:%M:%S"), ",", tail=",0")).encode()


def _days(times: pd.DatetimeIndex) -> NDArray[np.float64]:
    return (times.as_unit("s").asi8 / 86_400) + 25_569


@dialect("ES_excel.csv", zone="UTC")
def excel(bars: BarsToWrite, zone: str, stamp: Stamp) -> bytes:
    times = [f"{day:.9f}" for day in _days(bars.wall(zone, stamp))]
    return ("datetime,open,high,low,close,volume\n" + rows(bars, times, ",")).encode()


@dialect("ES_excel2.csv", zone="UTC")
def excel_split(bars: BarsToWrite, zone: str, stamp: Stamp) -> bytes:
    times = [f"{int(day)},{day % 1:.10f}" for day in _days(bars.wall(zone, stamp))]
    return ("Date,Time,Open,High,Low,Close,Volume\n" + rows(bars, times, ",")).encode()


def _comma(text: str) -> str:
    return text.replace(".", ",")


@dialect("ES_eu.csv", zone="Europe/Berlin")
def decimal_comma(bars: BarsToWrite, zone: str, stamp: Stamp) -> bytes:
    body = _comma(rows(bars, texts(bars.wall(zone, stamp), "%d-%m-%Y %H:%M"), ";", decimals=2))
    return ("Datum;Open;High;Low;Close;Volume\n".replace("Datum", "Date") + body).encode()


@dialect("ES_eu.tsv", zone="Europe/Berlin")
def decimal_comma_tabs(bars: BarsToWrite, zone: str, stamp: Stamp) -> bytes:
    body = _comma(rows(bars, texts(bars.wall(zone, stamp), "%Y-%m-%d %H:%M:%S"), "\t", decimals=2))
    return ("Date\tOpen\tHigh\tLow\tClose\tVolume\n" + body).encode()


@dialect("ES_us.csv", zone="America/New_York")
def thousands(bars: BarsToWrite, zone: str, stamp: Stamp) -> bytes:
    times = texts(bars.wall(zone, stamp), "%m/%d/%Y %I:%M:%S %p")
    lines = [
        ",".join((time, *(f'"{price:,.2f}"' for price in four), f'"{volume:,}"'))
        for time, four, volume in zip(times, bars.prices.tolist(), bars.volume.tolist(), strict=True)
    ]
    return ("Date,Open,High,Low,Close,Volume\n" + "\n".join(lines) + "\n").encode()


@dialect("ES_iqfeed.csv", zone="America/New_York", stamp="close")
def iqfeed(bars: BarsToWrite, zone: str, stamp: Stamp) -> bytes:
    wall = bars.wall(zone, stamp)
    total = pd.Series(bars.volume).groupby(np.asarray(wall.date)).cumsum()
    lines = [
        f"{t:%Y-%m-%d %H:%M:%S},{number(h)},{number(low)},{number(o)},{number(c)},{all_day},{v},0"
        for t, (o, h, low, c), all_day, v in zip(
            wall, bars.prices.tolist(), total.tolist(), bars.volume.tolist(), strict=True
        )
    ]
    return ("\n".join(lines) + "\n").encode()


@dialect("USA500.IDXUSD_Candlestick_5_M_BID.csv", zone="UTC", kind="ticks")
def dukascopy(bars: BarsToWrite, zone: str, stamp: Stamp) -> bytes:
    body = rows(bars, texts(bars.wall(zone, stamp), "%d.%m.%Y %H:%M:%S.000"), ",", decimals=3)
    return ("Gmt time,Open,High,Low,Close,Volume\n" + body).encode()


@dialect("DAT_ASCII_SPXUSD_M1_2025.csv", zone="Etc/GMT+5", kind="none")
def histdata(bars: BarsToWrite, zone: str, stamp: Stamp) -> bytes:
    nothing = BarsToWrite(bars.open_ns, bars.prices, np.zeros_like(bars.volume), bars.interval_min)
    return rows(nothing, texts(bars.wall(zone, stamp), "%Y%m%d %H%M%S"), ";", decimals=6).encode()


@dialect("ES_finam.txt", zone="Europe/Moscow")
def finam(bars: BarsToWrite, zone: str, stamp: Stamp) -> bytes:
    times = [f"ES,5,{text}" for text in texts(bars.wall(zone, stamp), "%Y%m%d,%H%M%S")]
    head = "<TICKER>,<PER>,<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>\n"
    return (head + rows(bars, times, ",", decimals=7)).encode()


@dialect("ES_portara.csv", zone="America/Chicago")
def portara(bars: BarsToWrite, zone: str, stamp: Stamp) -> bytes:
    return rows(bars, texts(bars.wall(zone, stamp), "%Y%m%d,%H%M"), ",", tail=",12").encode()


@dialect("algoseek.csv", zone="UTC")
def algoseek(bars: BarsToWrite, zone: str, stamp: Stamp) -> bytes:
    head = "UTCDate,UTCTime,LocalDate,LocalTime,Ticker,OpenPrice,HighPrice,LowPrice,ClosePrice,Volume\n"
    here, there = bars.wall("UTC", stamp), bars.wall("America/Chicago", stamp)
    times = [f"{a:%Y%m%d,%H%M%S}000,{b:%Y%m%d,%H%M%S}000,ESZ5" for a, b in zip(here, there, strict=True)]
    return (head + rows(bars, times, ",")).encode()


@dialect("ES_utc.csv", zone="UTC", instant=True)
def iso_utc(bars: BarsToWrite, zone: str, stamp: Stamp) -> bytes:
    times = texts(bars.wall("UTC", stamp), "%Y-%m-%dT%H:%M:%SZ")
    return ("datetime,open,high,low,close,volume\n" + rows(bars, times, ",")).encode()


@dialect("bars.csv", zone="America/Chicago")
def pandas_index(bars: BarsToWrite, zone: str, stamp: Stamp) -> bytes:
    return (
        ",open,high,low,close,volume\n" + rows(bars, texts(bars.wall(zone, stamp), "%Y-%m-%d %H:%M:%S"), ",")
    ).encode()


def table(bars: BarsToWrite, times: pd.DatetimeIndex) -> pd.DataFrame:
    columns = {name: bars.prices[:, k] for k, name in enumerate(("open", "high", "low", "close"))}
    return pd.DataFrame({**columns, "volume": bars.volume}, index=pd.Index(times, name="when"))


def _parquet(frame: pd.DataFrame) -> bytes:
    sink = io.BytesIO()
    frame.to_parquet(sink)
    return sink.getvalue()


@dialect("ES_5m.parquet", zone="America/New_York", instant=True)
def parquet_zoned(bars: BarsToWrite, zone: str, stamp: Stamp) -> bytes:
    return _parquet(table(bars, bars.zoned(zone, stamp)))


@dialect("ES_5m_naive.parquet", zone="America/Chicago")
def parquet_naive(bars: BarsToWrite, zone: str, stamp: Stamp) -> bytes:
    return _parquet(table(bars, bars.wall(zone, stamp)))


@dialect("ES_5m.feather", zone="UTC", instant=True)
def feather(bars: BarsToWrite, zone: str, stamp: Stamp) -> bytes:
    sink = io.BytesIO()
    frame = table(bars, bars.zoned(zone, stamp)).reset_index()
    pyarrow.feather.write_feather(pa.Table.from_pandas(frame), sink)
    return sink.getvalue()


@dialect("ES_5m.arrow", zone="America/Chicago")
def arrow_stream(bars: BarsToWrite, zone: str, stamp: Stamp) -> bytes:
    sink = io.BytesIO()
    whole = pa.Table.from_pandas(table(bars, bars.wall(zone, stamp)).reset_index())
    with pa.ipc.new_stream(sink, whole.schema) as writer:
        writer.write_table(whole)
    return sink.getvalue()


def _records(bars: BarsToWrite, times: list[str]) -> list[dict[str, float | int | str]]:
    return [
        {"timestamp": time, "open": o, "high": h, "low": low, "close": c, "volume": v}
        for time, (o, h, low, c), v in zip(times, bars.prices.tolist(), bars.volume.tolist(), strict=True)
    ]


@dialect("ES.jsonl", zone="America/Chicago")
def json_lines(bars: BarsToWrite, zone: str, stamp: Stamp) -> bytes:
    records = _records(bars, texts(bars.wall(zone, stamp), "%Y-%m-%d %H:%M:%S"))
    return ("\n".join(json.dumps(record) for record in records) + "\n").encode()


@dialect("ES_records.json", zone="UTC", instant=True)
def json_records(bars: BarsToWrite, zone: str, stamp: Stamp) -> bytes:
    return json.dumps(_records(bars, with_offset(bars.zoned(zone, stamp), "T"))).encode()


@dialect("ES_columns.json", zone="UTC", instant=True)
def json_columns(bars: BarsToWrite, zone: str, stamp: Stamp) -> bytes:
    frame = pd.DataFrame(_records(bars, with_offset(bars.zoned(zone, stamp), "T")))
    return frame.to_json(orient="columns").encode()


@dialect("20251104_trade.zip", zone="UTC")
def lean(bars: BarsToWrite, zone: str, stamp: Stamp) -> bytes:
    """One member a day; the archive's own name carries the first day only, as do its members' names."""
    wall = bars.wall(zone, stamp)
    days = wall.normalize()
    members: dict[str, bytes] = {}
    for day in days.unique():
        rows_of_day = np.flatnonzero(days == day)
        lines = [
            f"{(wall[k] - day) // pd.Timedelta('1ms')},{','.join(number(p) for p in bars.prices[k])},{bars.volume[k]}"
            for k in rows_of_day
        ]
        members[f"{day:%Y%m%d}_es_minute_trade_202512.csv"] = ("\n".join(lines) + "\n").encode()
    return zipped(members)


@dialect("glbx.ohlcv-1m.dbn", zone="UTC", instant=True)
def dbn(bars: BarsToWrite, zone: str, stamp: Stamp) -> bytes:
    """Needs databento-dbn. Version 3 metadata, one instrument."""
    import databento_dbn

    start, end = int(bars.open_ns[0]), int(bars.open_ns[-1]) + 86_400_000_000_000
    days = pd.to_datetime([start, end + 86_400_000_000_000]).date
    interval = SimpleNamespace(start_date=days[0], end_date=days[1], symbol="118")
    mapping = SimpleNamespace(raw_symbol="ESZ5", intervals=[interval])
    head = databento_dbn.Metadata(
        "GLBX.MDP3",
        start,
        databento_dbn.SType.RAW_SYMBOL,
        databento_dbn.SType.INSTRUMENT_ID,
        databento_dbn.Schema.OHLCV_1M,
        symbols=["ESZ5"],
        mappings=[mapping],
        end=end,
        version=3,
    ).encode()
    record = np.dtype(
        [("length", "u1"), ("rtype", "u1"), ("publisher", "<u2"), ("instrument", "<u4"), ("time", "<u8")]
        + [(name, "<i8") for name in ("open", "high", "low", "close")]
        + [("volume", "<u8")]
    )
    records = np.zeros(len(bars.open_ns), record)
    records["length"], records["rtype"], records["publisher"], records["instrument"] = 14, 33, 1, 118
    records["time"], records["volume"] = bars.stamps(stamp), bars.volume
    for k, name in enumerate(("open", "high", "low", "close")):
        records[name] = np.rint(bars.prices[:, k] * 1e9).astype(np.int64)
    return bytes(head) + records.tobytes()


def zipped(members: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return sink.getvalue()


def compressed(data: bytes, container: str, member: str = "bars.csv") -> bytes:
    """`data` as it is ("plain"), as .gz, as .zst or as the only member of a .zip."""
    if container == "gz":
        return gzip.compress(data)
    if container == "zst":
        return bytes(pa.compress(data, codec="zstd", asbytes=True))
    return zipped({member: data}) if container == "zip" else data
