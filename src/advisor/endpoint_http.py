"""Requests to a model's server: time limits, retries, a rate, a size limit, and a key that appears nowhere.

A redirect is not followed, no proxy and no netrc file is read, and a compressed body is refused. The key goes into one
header; every text of the server is cleared of it before it can reach a message.
"""

from __future__ import annotations

import json
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Final, TypeVar

import httpx2
from pydantic import SecretStr

from src.advisor.endpoint_url import host_of, is_loopback, native_url
from src.advisor.settings import LLMSettings
from src.errors import EXIT_TARGET_MISSED, ConfigError, UserError
from src.plain_text import beginning, escaped

MAX_BODY_BYTES: Final = 32 << 20
"""Of a response: 2,000 log-probabilities take 0.2 MB."""
CONNECT_S: Final = 10.0
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 30.0
LONGEST_ASKED_PAUSE_S: Final = 600.0
"""A server that asks for a longer pause is not waited for."""
SHOWN_CHARS: Final = 200
_TRY_AGAIN: Final = frozenset((408, 409, 425, 429, 500, 502, 503, 504, 529))

T = TypeVar("T")

logger = logging.getLogger(__name__)


class ServerRefused(ConfigError):
    """The server answered, and no retry would change its answer. `status` is HTTP's."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class ServerLost(UserError):
    """The server gave no usable answer on any try."""

    exit_code = EXIT_TARGET_MISSED


class _Failed(Exception):
    """One try failed; `pause_s` is what the server asked for, `is_lost` says that the connection broke."""

    def __init__(self, reason: str, pause_s: float | None = None, *, is_lost: bool = False) -> None:
        super().__init__(reason)
        self.pause_s = pause_s
        self.is_lost = is_lost


@dataclass
class RequestStats:
    """What was sent so far."""

    requests: int = 0
    """Tries included."""
    retries: int = 0
    limited: int = 0
    """How often the server answered that there were too many (429)."""
    connections_lost: int = 0


class Pace:
    """When the next request may leave: `per_min` evenly spaced, and none before a pause that the server asked for.

    Threads share it. `wait` returns after that moment, or at once when `stop` is set.
    """

    def __init__(self, per_min: float | None, stop: threading.Event, clock: Callable[[], float]) -> None:
        self._gap_s = 60.0 / per_min if per_min else 0.0
        self._next = -float("inf")
        self._lock = threading.Lock()
        self._stop = stop
        self._clock = clock

    def hold(self, seconds: float) -> None:
        """No request leaves for that long."""
        with self._lock:
            self._next = max(self._next, self._clock() + seconds)

    def wait(self) -> None:
        """Wait for this request's turn."""
        with self._lock:
            now = self._clock()
            turn = max(now, self._next)
            self._next = turn + self._gap_s if self._gap_s else self._next
        while (left := turn - self._clock()) > 0 and not self._stop.wait(left):
            pass


class Server:
    """One server, asked by several threads within `session`. `give_up` ends every pause and every next try at once.

    ConfigError for a key whose environment variable is missing or holds what cannot be a key.
    """

    def __init__(self, settings: LLMSettings, *, clock: Callable[[], float] = time.monotonic) -> None:
        if settings.endpoint is None:
            raise ValueError("llm.endpoint is not set: there is no server to ask")
        self.url = settings.endpoint
        self.stats = RequestStats()
        self._native = native_url(self.url)
        self._timeout_s = settings.endpoint_timeout_s
        self._retries = settings.endpoint_retries
        self._concurrency = settings.endpoint_concurrency
        self._key = _key_of(settings.endpoint_key_env)
        self._stop = threading.Event()
        self._clock = clock
        self._pace = Pace(settings.endpoint_requests_per_min, self._stop, clock)
        self._counts = threading.Lock()
        self._random = random.Random()  # jitter: two clients must not wait alike
        self._client: httpx2.Client | None = None
        if self._key is not None and self.url.startswith("http://") and not is_loopback(self.url):
            logger.warning("the server's key goes to %s unencrypted: use https where you can", host_of(self.url))

    @contextmanager
    def session(self) -> Iterator[None]:
        """Connections are open within; a session within a session is the same."""
        if self._client is not None:
            yield
            return
        for name in ("httpx2", "httpcore2"):  # a line a request, for thousands of requests
            logging.getLogger(name).setLevel(logging.WARNING)
        headers = {"Accept-Encoding": "identity", "User-Agent": "hybrid-trading-toolkit"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key.get_secret_value()}"
        self._stop.clear()
        with httpx2.Client(
            headers=headers,
            timeout=httpx2.Timeout(self._timeout_s, connect=min(CONNECT_S, self._timeout_s)),
            limits=httpx2.Limits(max_connections=self._concurrency),
            follow_redirects=False,
            trust_env=False,
        ) as self._client:
            try:
                yield
            finally:
                self.give_up()
                self._client = None

    def give_up(self) -> None:
        """No thread waits any longer, and none tries again."""
        self._stop.set()

    def request(
        self,
        path: str,
        body: Mapping[str, Any] | None,
        read: Callable[[Any], T],
        *,
        native: bool = False,
        trying: bool = False,
    ) -> T:
        """What `read` finds in the JSON answer: of a POST of `body` as JSON, of a GET without one.

        `path` begins with a slash; `native` leaves out `/v1`. `read` raises ValueError (also KeyError, TypeError,
        IndexError) for an answer that lacks what it looks for: such an answer is asked for again, except while `trying`
        what the server can do.
        Raises ServerRefused for an answer that no retry would change, ServerLost where no try gave a usable one.
        """
        url = f"{self._native if native else self.url}{path}"
        attempt = 0
        while True:
            self._pace.wait()
            try:
                answer = self._once(url, body)
                try:
                    return read(answer)
                except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
                    what = f"{self._shown(str(error)) if type(error) is ValueError else type(error).__name__}"
                    if trying:
                        raise ServerRefused(f"{self._where(url)} without what is needed: {what}.", 200) from None
                    raise _Failed(f"an answer without what is needed ({what})") from None
            except _Failed as failed:
                with self._counts:
                    self.stats.connections_lost += failed.is_lost
                asked_s = failed.pause_s
                too_long = asked_s is not None and asked_s > LONGEST_ASKED_PAUSE_S
                if attempt >= self._retries or too_long or self._stop.is_set():
                    tries = "once" if attempt == 0 else f"{attempt + 1} times"
                    raise ServerLost(
                        f"the server {host_of(self.url)} was asked {tries} without a usable answer: {failed}"
                    ) from None  # a chained error could hold what this text was cleared of
                self._pause(attempt, asked_s)
            attempt += 1
            with self._counts:
                self.stats.retries += 1

    def _pause(self, attempt: int, asked_s: float | None) -> None:
        """Wait before the next try: as long as the server asks, else twice as long as before, half of it random."""
        if asked_s is not None:
            self._pace.hold(asked_s)  # for every thread
            self._stop.wait(asked_s)
            return
        longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0**attempt)
        self._stop.wait(longest * self._random.uniform(0.5, 1.0))

    def _once(self, url: str, body: Mapping[str, Any] | None) -> Any:
        if self._client is None:
            raise RuntimeError("a server is asked within its session")
        with self._counts:
            self.stats.requests += 1
        deadline = self._clock() + self._timeout_s
        try:
            with self._client.stream("GET" if body is None else "POST", url, json=body) as response:
                content = self._content(response, deadline)
                status, headers = response.status_code, response.headers
        except httpx2.TimeoutException as error:
            waited = CONNECT_S if isinstance(error, httpx2.ConnectTimeout) else self._timeout_s
            raise _Failed(f"no answer within {waited:g} s", is_lost=isinstance(error, httpx2.ConnectTimeout)) from None
        except httpx2.TransportError as error:
            reason = self._shown(str(error)) or "no reason given"
            raise _Failed(f"{type(error).__name__}: {reason}", is_lost=True) from None
        except httpx2.InvalidURL:
            raise ConfigError("llm.endpoint: its host is no name that can be looked up. Fix the address.") from None
        if status in _TRY_AGAIN:
            with self._counts:
                self.stats.limited += status == 429
            raise _Failed(f"HTTP {status}: {self._words(content)}", _pause_of(headers.get("retry-after")))
        if not 200 <= status < 300:
            raise self._refusal(status, url, content)
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            raise _Failed(f"a body that is not JSON: {self._words(content)}") from None

    def _content(self, response: httpx2.Response, deadline: float) -> bytes:
        """The body, within the limits of size and time."""
        if (encoding := response.headers.get("content-encoding", "identity")) != "identity":
            raise ServerRefused(
                f"llm.endpoint {host_of(self.url)} compresses its answers ({self._shown(encoding)}), although asked "
                f"not to; such bodies are not read. Switch compression off in the server or the gateway in front.",
                response.status_code,
            )
        content = bytearray()
        for piece in response.iter_raw():
            content += piece
            if len(content) > MAX_BODY_BYTES:
                raise ServerRefused(
                    f"llm.endpoint {host_of(self.url)} answers with more than {MAX_BODY_BYTES >> 20} MiB, which is no "
                    f"answer to one question. See that the URL is that of a language model's server.",
                    response.status_code,
                )
            if self._clock() > deadline:
                raise _Failed(f"the answer was not complete within {self._timeout_s:g} s")
        return bytes(content)

    def _refusal(self, status: int, url: str, content: bytes) -> ServerRefused:
        where = f"{self._where(url)} with HTTP {status}"
        said = self._words(content)
        if 300 <= status < 400:
            text = f"{where}, a redirect, which is not followed: give the address it leads to as llm.endpoint."
        elif status in (401, 403):
            has = "the key was not accepted" if self._key else "it wants a key, and llm.endpoint_key_env is not set"
            text = f"{where}: {has} ({said}). Name the environment variable that holds the key in llm.endpoint_key_env."
        else:
            text = f"{where}: {said}. See that llm.endpoint and llm.model are those of the server."
        return ServerRefused(text, status)

    def _where(self, url: str) -> str:
        return f"llm.endpoint {host_of(self.url)} answered {url.removeprefix(self._native)}"

    def _words(self, content: bytes) -> str:
        """What the server said, short, on one line and without the key."""
        text = content[: 1 << 16].decode("utf-8", "replace")
        try:
            found = json.loads(text)
            inner = found.get("error", found) if isinstance(found, dict) else found
            text = str(inner.get("message", inner) if isinstance(inner, dict) else inner)
        except (ValueError, RecursionError):
            pass  # not JSON: as it is
        return self._shown(text) or "an empty body"

    def _shown(self, text: str) -> str:
        return escaped(beginning(" ".join(self._cleared(text).split()), SHOWN_CHARS))

    def _cleared(self, text: str) -> str:
        """The text without the key, in whatever form the server repeated it."""
        if self._key is None:
            return text
        secret = self._key.get_secret_value()
        for form in (secret, json.dumps(secret)[1:-1]):
            text = text.replace(form, "[key]")
        return text


def _key_of(variable: str | None) -> SecretStr | None:
    """The key in an environment variable. ConfigError, without the value, where there is none or it cannot be one."""
    if variable is None:
        return None
    value = os.environ.get(variable, "").strip()
    if not value:
        raise ConfigError(
            f"llm.endpoint_key_env names the environment variable {variable}, which is not set. Set it to the server's "
            f"key before the run, or leave llm.endpoint_key_env out for a server without one."
        )
    if not (value.isascii() and value.isprintable()) or " " in value:
        raise ConfigError(
            f"The environment variable {variable} (llm.endpoint_key_env) holds a space, a line break or another "
            f"character that no key has. Set it to the key alone."
        )
    return SecretStr(value)


def _pause_of(header: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, given as a number or a date; None without a usable one."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds) if seconds == seconds else None
