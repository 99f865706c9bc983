"""The only way from an agent's sandbox to a model: adds the key, counts, keeps to the budget.

It serves HTTP on a listening socket that it was given, one thread a connection, and passes what
`requests.judge` lets through to the endpoint as it is, streams as streams.

Guaranteed: the key is read at use, is in what goes to the endpoint and in nothing else: where an
endpoint says it back, it is taken out. Each answered call is on record in the trace, with its
tokens, before the next one is let through. Once a budget is spent, LAST_CALLS more may pass, for
the agent to finish; then none. Not guaranteed: calls at the same time may exceed a budget together;
an answer that does not tell its tokens is counted by its length.
"""

import hmac
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import urlsplit

from aevo.config.agent import CliAgent
from aevo.errors import ConfigError
from aevo.llm.endpoint import HTTP, NO_KEY, KeyHolder, locate
from aevo.llm.retry import EndpointError
from aevo.llm.tokens import usage_of
from aevo.records.trace import Trace
from aevo.work.cli.requests import Passed, Refused, judge
from aevo.work.cli.told import Told, parsed

LAST_CALLS = 3  # that may pass once a budget is spent
FREE_CALLS = 2000  # requests of one session that cost nothing: lists of models, counts of tokens
NOTED = 50  # failures of one session that are put on record one by one
LONGEST_BODY = 32 << 20
# What passes of a request's headers: what it holds, who speaks, which protocol. Others are obeyed
# by some endpoints, or by what stands before them: another method, another host, another account.
PASSED_ON = {
    "accept", "content-type", "user-agent", "anthropic-version", "anthropic-beta", "openai-beta",
    "x-app", "x-goog-api-client",
}  # fmt: skip
PASSED_FAMILY = "x-stainless-"
QUERIES = {"alt", "beta"}  # likewise of its query
HEADER = re.compile(r"[\x20-\x7e]{0,4000}")
PASSED_BACK = ("content-type", "retry-after", "retry-after-ms", "x-should-retry", "request-id")


class ModelProxy:
    """Answers the requests of one agent.

    Args:
        token: what the agent has for a key; without it nothing passes.
        spent: which budget is spent, in words; empty while there is none.
        on_outage: told once that the endpoint fails, and that it answers again.
    """

    def __init__(
        self,
        settings: CliAgent,
        token: str,
        trace: Trace,
        spent: Callable[[], str],
        on_outage: Callable[[str], None],
    ) -> None:
        self.settings, self.token, self.trace, self.spent = settings, token, trace, spent
        self.on_outage = on_outage
        self.keys = KeyHolder(settings.api_key_env, settings.api_key_file)
        self.active, self.touched = 0, time.monotonic()
        self.calls = 0
        self._left, self._free, self._noted, self._out = LAST_CALLS, FREE_CALLS, 0, False
        self._lock, self.reading = threading.Lock(), threading.Lock()
        self._client = HTTP.Client(
            timeout=HTTP.Timeout(settings.timeout_s, connect=settings.connect_timeout_s),
            follow_redirects=False,
        )

    def close(self) -> None:
        """Ends its connections to the endpoint."""
        self._client.close()

    def admit(self, passed: Passed) -> None:
        """Counts a request before it passes.

        Raises:
            Refused: a budget is spent.
        """
        with self._lock:
            if not passed.costs:
                self._free -= 1
                if self._free < 0:
                    raise Refused("too many requests that ask no model")
                return
            reason = self.spent()
            if reason:
                self._left -= 1
                if self._left < 0:
                    raise Refused(f"the budget is spent ({reason})")
            self.calls += 1

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Counts a request that is under way: an agent that waits for one is alive."""
        with self._lock:
            self.active += 1
        try:
            yield
        finally:
            with self._lock:
                self.active -= 1
            self.touched = time.monotonic()

    @property
    def exhausted(self) -> bool:
        """True once the last calls after a spent budget were used."""
        return self._left < 0

    def request(self, passed: Passed, query: str, headers: dict[str, str], body: bytes) -> Any:
        """The request to the endpoint, with the key.

        Raises:
            EndpointError, ConfigError: the endpoint's address or the key cannot be had.
        """
        endpoint = locate(self.settings)
        self.keys.point_to(endpoint.api_key_file)
        key = self.keys.read() or NO_KEY
        url = (self.settings.upstream or endpoint.base_url).rstrip("/") + passed.path
        kept = {
            name.lower(): value
            for name, value in headers.items()
            if (name.lower() in PASSED_ON or name.lower().startswith(PASSED_FAMILY))
            and HEADER.fullmatch(value)
        }
        name = self.settings.key_header
        kept[name] = f"Bearer {key}" if name == "authorization" else key
        kept |= {"accept-encoding": "identity", **self.settings.extra_headers}
        parts = [
            part
            for part in query.split("&")
            if part.partition("=")[0] in QUERIES and HEADER.fullmatch(part)
        ]
        method = "POST" if body else "GET"
        asked = "&".join(parts)
        return self._client.build_request(
            method, url + (f"?{asked}" if asked else ""), headers=kept, content=body or None
        )

    def send(self, request: Any) -> Any:
        """The endpoint's answer, to be read piece by piece.

        Raises:
            EndpointError: it cannot be reached.
        """
        problem = ""
        try:
            return self._client.send(request, stream=True)
        except HTTP.HTTPError as error:
            problem = self.keys.scrub(str(error) or type(error).__name__)
        raise EndpointError(f"the endpoint cannot be reached: {problem}")

    def failed(self, what: str) -> None:
        """Puts a failure on record, and tells people of the first."""
        with self._lock:
            self._noted += 1
            noted, told = self._noted <= NOTED, self._out
            self._out = True
        if noted:
            self.trace.spend(None, model_call="failed", text=what)
        if not told:
            self.on_outage(f"the endpoint fails: {what}")

    def answered(self, passed: Passed, told: Told, sent: int, seconds: float) -> None:
        """Puts an answered call on record."""
        usage = usage_of(told.usage or None, self.settings, sent, told.characters)
        self.trace.spend(usage, model_call=passed.path.lstrip("/"), seconds=round(seconds, 2))
        with self._lock:
            out, self._out = self._out, False
        if out:
            self.on_outage("the endpoint answers again")

    def handler(self) -> type[BaseHTTPRequestHandler]:
        """The class that answers one connection for this proxy."""
        return type("Handler", (_Handler,), {"proxy": self})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 900.0
    proxy: ModelProxy

    def log_message(self, format: str, *args: Any) -> None:
        return None

    def do_GET(self) -> None:
        self._pass(b"")

    def do_POST(self) -> None:
        given = self.headers.get_all("Content-Length", [])
        length = int(given[0]) if len(given) == 1 and given[0].isdecimal() else -1
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = self._chunks()
        elif 0 <= length <= LONGEST_BODY:
            body = self.rfile.read(length)
        else:
            body = None
        if body is None:
            self.close_connection = True
            self._refuse(413, "the request has no length, or is too long")
        else:
            self._pass(body)

    def _chunks(self) -> bytes | None:
        """A chunked body; None if it is none, or too long."""
        body = bytearray()
        while True:
            try:
                length = int(self.rfile.readline(100).split(b";")[0], 16)
            except ValueError:
                return None
            if length < 0 or len(body) + length > LONGEST_BODY:
                return None
            body += self.rfile.read(length)
            self.rfile.readline(100)
            if length == 0:
                return bytes(body)

    def _pass(self, body: bytes) -> None:
        proxy = self.proxy
        proxy.touched = time.monotonic()
        try:
            parts = urlsplit(self.path)
        except ValueError:
            self._refuse(400, "the request names no path")
            return
        if not self._let_in(parts.query):
            self._refuse(401, "this is not what the agent was given for a key")
            return
        try:
            models = {*proxy.settings.more_models, locate(proxy.settings).model}
            with proxy.reading:  # a parsed body takes twenty times its length
                given = parsed(body) if body else None
                passed = judge(self.command, parts.path, given, models)
                del given
            proxy.admit(passed)
        except Refused as refused:
            self._refuse(403, str(refused))
            return
        except (EndpointError, ConfigError) as error:
            proxy.failed(error.what)
            self._refuse(502, error.what)
            return
        with proxy.at_work():
            self._forward(passed, parts.query, body)

    def _let_in(self, query: str) -> bool:
        given = [self.headers.get(name, "") for name in ("x-api-key", "x-goog-api-key", "api-key")]
        given.append(self.headers.get("authorization", "").removeprefix("Bearer "))
        given += [part.removeprefix("key=") for part in query.split("&")]
        token = self.proxy.token.encode()
        return any(hmac.compare_digest(text.encode(), token) for text in given)

    def _forward(self, passed: Passed, query: str, body: bytes) -> None:
        proxy, began = self.proxy, time.monotonic()
        try:
            answer = proxy.send(proxy.request(passed, query, dict(self.headers), body))
        except (EndpointError, ConfigError) as error:
            proxy.failed(error.what)
            self._refuse(502, error.what)
            return
        told = Told()
        try:
            if answer.status_code >= 400:
                self._fail(answer)
            else:
                self._relay(answer, told)
        except HTTP.HTTPError as error:  # it broke off: so does what the agent gets
            self.close_connection = True
            proxy.failed(proxy.keys.scrub(str(error) or type(error).__name__))
        finally:
            answer.close()
            if passed.costs and answer.status_code < 400:
                proxy.answered(passed, told, len(body), time.monotonic() - began)

    def _fail(self, answer: Any) -> None:
        """Passes an error on, without a key that it may quote."""
        text = self.proxy.keys.clean(answer.read()[: 1 << 20].decode(errors="replace"))
        self.proxy.failed(f"{answer.status_code}: {self.proxy.keys.scrub(text)}")
        self._head(answer, len(text.encode()))
        self.wfile.write(text.encode())

    def _relay(self, answer: Any, told: Told) -> None:
        """Passes an answer on, line by line as it comes."""
        self._head(answer, None)
        rest = b""
        for piece in answer.iter_bytes():
            self.proxy.touched = time.monotonic()
            *lines, rest = (rest + piece).split(b"\n")
            self._lines([line + b"\n" for line in lines], told)
        self._lines([rest] if rest else [], told)
        told.end()
        self.wfile.write(b"0\r\n\r\n")

    def _lines(self, lines: list[bytes], told: Told) -> None:
        if not lines:
            return
        for line in lines:
            told.line(line)
        text = b"".join(lines).decode(errors="surrogateescape")
        data = self.proxy.keys.clean(text).encode(errors="surrogateescape")
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _head(self, answer: Any, length: int | None) -> None:
        self.send_response(answer.status_code)
        for name in PASSED_BACK:
            if name in answer.headers:
                self.send_header(name, self.proxy.keys.clean(answer.headers[name]))
        if length is None:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def _refuse(self, status: int, why: str) -> None:
        error = {"message": why, "type": "refused", "code": status}
        data = json.dumps({"type": "error", "error": error}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
