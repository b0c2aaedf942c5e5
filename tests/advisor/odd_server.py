"""A small server on loopback that answers like vLLM, or like a server that has chat only, and misbehaves on demand.

Its model is a table of random log-probabilities, so a test knows every right answer.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Mapping
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import numpy as np

from src.advisor.prompts import load_prompts
from src.advisor.situations import N_SITUATIONS, split_situations
from src.advisor.table import LABEL_SETS
from src.trading.layout import N_ACTIONS, N_SIDES

NAME = "odd"


@cache
def situations_by_text() -> Mapping[str, int]:
    prompts = load_prompts()
    return {prompts.situation_text(situation): situation for situation in range(N_SITUATIONS)}


class OddServer:
    """Entered, it serves; `style` is "vllm" or "chat".

    `faults` are used up, one a question, from the front: "500", "429" (with `retry_after`), "cut", "text", "empty",
    "null", "slow" (`slow_s`). `always` is a fault of every question. `top_k` limits the likeliest tokens of a chat;
    `thinks` are situations answered with a thought first. `asked` counts answered questions by situation.
    """

    def __init__(self, style: str = "chat", *, seed: int = 0, key: str | None = None, top_k: int = 20) -> None:
        self.style, self.key, self.top_k = style, key, top_k
        self.faults: list[str] = []
        self.always = ""
        self.retry_after = "0"
        self.slow_s = 1.0
        self.work_s = 0.0
        self.thinks: set[int] = set()
        self.dies_after: int | None = None
        self.asked: Counter[int] = Counter()
        self.seen: list[tuple[str, Mapping[str, str], float]] = []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.use_model(seed)

    def use_model(self, seed: int) -> None:
        scores = -4.0 * np.random.default_rng(seed).random((N_SITUATIONS, N_ACTIONS)) - 1.7
        labels = LABEL_SETS[split_situations(np.arange(N_SITUATIONS))[1]]
        self.scores = np.where(labels, scores, -np.inf).astype(np.float32)

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"odd": self}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def fault(self) -> str:
        with self.lock:
            return self.faults.pop(0) if self.faults else self.always

    def likeliest(self, situation: int) -> list[tuple[str, float]]:
        """Of a chat: a thought or a filler, then the labels, likeliest first."""
        labels = load_prompts().labels(situation % N_SIDES)
        found = [(label, float(self.scores[situation, action])) for action, label in labels]
        found.append(("<think>", -0.1) if situation in self.thinks else ("The", -1.2))
        return sorted(found, key=lambda entry: -entry[1])[: self.top_k]


class _Handler(BaseHTTPRequestHandler):
    odd: OddServer

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        self._see()
        if self.path == "/v1/models":
            self._send({"data": [{"id": NAME}]})
        else:
            self._send({"error": {"message": "nothing here"}}, 404)

    def do_POST(self) -> None:
        self._see()
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.odd.key is not None and self.headers.get("authorization") != f"Bearer {self.odd.key}":
            self._send({"error": {"message": "no such key"}}, 401)
        elif self.path in ("/tokenize", "/detokenize") and self.odd.style == "vllm":
            self._send(self._converted(body))
        elif self.path == ("/v1/completions" if self.odd.style == "vllm" else "/v1/chat/completions"):
            with self.odd.lock:
                self.odd.at_once += 1
                self.odd.most_at_once = max(self.odd.most_at_once, self.odd.at_once)
            try:
                self._answer(body)
            finally:
                with self.odd.lock:
                    self.odd.at_once -= 1
        else:
            self._send({"error": {"message": "nothing here"}}, 404)

    def _see(self) -> None:
        self.odd.seen.append((self.path, dict(self.headers), time.monotonic()))

    def _converted(self, body: Mapping[str, Any]) -> Any:
        if self.path == "/tokenize" and "messages" in body:
            text = "".join(f"<|{each['role']}|>{each['content']}<|end|>" for each in body["messages"])
            return {"tokens": [ord(each) for each in f"{text}<|assistant|>"]}
        return {"prompt": "".join(map(chr, body["tokens"]))}

    def _answer(self, body: Mapping[str, Any]) -> None:
        time.sleep(self.odd.work_s)
        fault = self.odd.fault()
        if fault == "slow":
            time.sleep(self.odd.slow_s)
        if fault in ("401", "429", "500"):
            said = {"error": {"message": f"so said {self.headers.get('authorization')}"}}
            self._send(said, int(fault), {"Retry-After": self.odd.retry_after} if fault == "429" else {})
        elif fault == "redirect":
            self._send({}, 307, {"Location": "/elsewhere"})
        elif fault == "huge":
            self._raw(b"[" + b"1," * 200_000 + b"1]")
        elif fault == "text":
            self._raw(b"<html>busy</html>")
        elif fault == "null":
            self._send({"choices": [None]})
        else:
            answer = self._completion(body) if self.odd.style == "vllm" else self._chat(body)
            if fault == "empty":
                answer = {"choices": [{"index": 0, "logprobs": {"content": [], "tokens": []}}]}
            self._raw(json.dumps(answer).encode(), cut=fault == "cut")
            if not fault or fault == "slow":
                self._count(body)

    def _situation(self, text: str) -> int:
        found = re.search(r"Market: .*Position [a-z ]*[a-z]", text)
        assert found is not None
        return situations_by_text()[found.group()]

    def _count(self, body: Mapping[str, Any]) -> None:
        text = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
        with self.odd.lock:
            self.odd.asked[self._situation(text if isinstance(text, str) else text[0])] += 1
            if self.odd.dies_after is not None and sum(self.odd.asked.values()) >= self.odd.dies_after:
                self.odd.always = "500"

    def _chat(self, body: Mapping[str, Any]) -> Any:
        top = self.odd.likeliest(self._situation(body["messages"][-1]["content"]))[: body["top_logprobs"]]
        found = [{"token": text, "logprob": value} for text, value in top]
        message = {"role": "assistant", "content": top[0][0]}
        choice = {"index": 0, "message": message, "logprobs": {"content": [{**found[0], "top_logprobs": found}]}}
        return {"choices": [choice], "system_fingerprint": "odd-1"}

    def _completion(self, body: Mapping[str, Any]) -> Any:
        texts = body["prompt"] if isinstance(body["prompt"], list) else [body["prompt"]]
        choices = []
        for index, text in enumerate(texts):
            situation = self._situation(text)
            label = next((each for each in load_prompts().labels(situation % N_SIDES) if text.endswith(each[1])), None)
            tokens = re.findall(r"\s*\S+", text.removesuffix(label[1]) if label else text)
            values: list[float | None] = [None, *[-1.0] * (len(tokens) - 1)]
            if label:
                tokens, values = [*tokens, label[1]], [*values, float(self.odd.scores[situation, label[0]])]
            if not body.get("echo"):
                tokens, values = ["The"], [-0.5]
            said = {"tokens": tokens, "token_logprobs": values, "top_logprobs": [{tokens[-1]: values[-1]}]}
            choices.append({"index": index, "text": "", "logprobs": said})
        return {"choices": choices[::-1]}

    def _send(self, answer: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self._raw(json.dumps(answer).encode(), status, headers)

    def _raw(
        self, content: bytes, status: int = 200, headers: Mapping[str, str] | None = None, *, cut: bool = False
    ) -> None:
        try:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("X-Echo", str(self.headers.get("authorization")))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if cut else content)
        except (BrokenPipeError, ConnectionResetError):
            pass  # a client that gave up
