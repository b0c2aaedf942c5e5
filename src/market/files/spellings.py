"""Vendors' spellings of column names, normalised by `columns.key`, preferred ones first."""

from __future__ import annotations

# fmt: off
PRICES = (
    (
        "open", "o", "openprice", "priceopen", "firsttradeprice", "op", "opn", "first", "openbid", "bidopen",
        "eröffnung", "eroeffnung", "öffnung", "apertura", "ouverture", "erster", "openpx", "openingprice",
        "openvalue",
    ),
    (
        "high", "h", "highprice", "pricehigh", "hightradeprice", "hi", "max", "hoch", "tageshoch", "máximo",
        "maximo", "haut", "plushaut", "highpx", "highbid", "bidhigh", "highestprice", "highvalue",
    ),
    (
        "low", "l", "lowprice", "pricelow", "lowtradeprice", "lo", "min", "tief", "tagestief", "mínimo", "minimo",
        "bas", "plusbas", "lowpx", "lowbid", "bidlow", "lowestprice", "lowvalue",
    ),
    (
        "close", "c", "last", "latest", "closeprice", "priceclose", "lasttradeprice", "lastprice", "closelast",
        "cl", "schluss", "schlusskurs", "letzter", "cierre", "clôture", "cloture", "closepx", "closebid",
        "bidclose", "settle", "price", "closingprice", "closevalue",
    ),
)
"""For open, high, low and close."""
VOLUME = (
    "volume", "v", "vol", "realvol", "realvolume", "actualvolume", "actualvol", "totalvolume", "totvolume",
    "tradevolume", "tradedvolume", "volumen", "umsatz", "volumencontratos", "periodvolume", "periodvol",
    "volumecontracts", "qty", "quantity", "size", "tradesize", "totalqty", "totalquantity", "contractvolume",
    "basevolume", "sharevolume",
)
TICKS = ("tickvol", "tickvolume", "ticks", "tickcount", "numticks")
"""Counts of price changes."""
WHOLE = (
    "tsevent", "datetime", "timestamp", "time", "date", "ts", "t", "windowstart", "opentime", "timeopen",
    "starttime", "barstart", "timestart", "timebarstart", "barstarttime", "start", "timeleft", "begin",
    "datetimeopen", "opendatetime", "gmttime", "localtime", "utctime", "timeutc", "datetimeutc", "utcdatetime",
    "timestamputc", "utc", "utctimestamp", "dateutc", "unixtime", "unixtimestamp", "unix", "epoch", "epochtime",
    "timestampms", "timestampns", "tsrecv", "dates",
    "dateandtime", "datetimeet", "datetimeest", "datetimect", "datetimecst",
    "exchangetime", "bartime", "tradetime", "minute", "when", "index", "datumzeit", "zeitstempel", "datum", "fecha",
    "fechahora", "endtime", "timeend", "barend", "barendtime", "closetime", "timeclose", "timeright", "end",
    "closedatetime",
)
"""A time, or date and time of day in one column."""
DATE = (
    "utcdate", "date", "datum", "fecha", "day", "tradedate", "tradingdate", "localdate", "dateutc", "dates", "tag",
    "yyyymmdd", "dtyyyymmdd", "dt", "tradingday", "sessiondate",
)
CLOCK = (
    "utctime", "time", "zeit", "hora", "uhrzeit", "timeofday", "tradetime", "localtime", "timeutc", "bartime",
    "times", "hhmm", "hhmmss", "clock", "minute", "heure", "tm", "starttime", "endtime",
)
OPENS = (
    "windowstart", "opentime", "timeopen", "starttime", "barstart", "timestart", "timebarstart", "barstarttime",
    "start", "timeleft", "begin", "datetimeopen", "opendatetime",
)
"""Time columns named for the bar's open."""
CLOSES = (
    "endtime", "timeend", "barend", "barendtime", "closetime", "timeclose", "timeright", "end", "closedatetime",
)
"""Time columns named for the bar's close."""
INSTRUMENT = (
    "contract", "localsymbol", "rawsymbol", "contractname", "contractsymbol", "contractcode", "instrument",
    "symbol", "ticker", "sym", "instrumentname", "product", "security", "code", "ric", "#ric", "secid",
    "instrumentid", "securityid", "assetid",
)
EXPIRY = (
    "expiry", "expiration", "expirydate", "expirationdate", "contractmonth", "lasttradedateorcontractmonth",
    "maturity", "delivery", "deliverymonth", "contractexpiry",
)
UP_DOWN = (
    ("up", "down"), ("upvol", "downvol"), ("upvolume", "downvolume"), ("askvolume", "bidvolume"),
    ("buyvolume", "sellvolume"), ("u", "d"),
)
"""Pairs whose sum is the volume."""
# fmt: on
