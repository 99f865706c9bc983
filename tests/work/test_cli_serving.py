"""The ways out of an agent's sandbox, against an agent that writes nonsense into them."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from aevo.config.agent import CliAgent
from aevo.records.plan import Budget
from aevo.records.trace import Trace, Usage
from aevo.work.cli import proxy, serving, tools
from aevo.work.cli.desk import AgentMeter
from aevo.work.cli.proxy import ModelProxy

TOKEN = "aevo-token"


@dataclass
class Endpoint:
    """A model's endpoint that keeps what reaches it."""

    seen: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    found = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            found.seen.append((self.command, self.path, dict(self.headers)))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Set-Cookie", "session=1")
            self.end_headers()
            self.wfile.write(b'{"usage": {"prompt_tokens": 1, "completion_tokens": 1}}')

        def log_message(self, format: str, *args: Any) -> None:
            return None

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        found.url = f"http://127.0.0.1:{server.server_port}/v1"
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield found
        server.shutdown()


@pytest.fixture
def port(endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of a proxy before the endpoint."""
    monkeypatch.setenv("KEY_OF_TEST", "sk-secret-0123456789")
    settings = CliAgent(
        base_url=endpoint.url, model="m-1", api_key_env="KEY_OF_TEST", command=["true"]
    )
    made = ModelProxy(settings, TOKEN, Trace(tmp_path / "trace.jsonl"), lambda: "", lambda _: None)
    listening = socket.create_server(("127.0.0.1", 0))
    server = serving.serve(serving.Http, listening, made.handler())
    yield listening.getsockname()[1]
    server.shutdown()
    server.server_close()
    made.close()


def send(port: int, data: bytes, seconds: float = 10) -> bytes:
    """What comes back for these bytes."""
    with socket.create_connection(("127.0.0.1", port), seconds) as link:
        link.sendall(data)
        link.shutdown(socket.SHUT_WR)
        parts = []
        while part := link.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


def request(path: str = "/v1/chat/completions", *headers: str, body: bytes | None = None) -> bytes:
    body = json.dumps({"model": "m-1", "messages": []}).encode() if body is None else body
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: x",
        f"Authorization: Bearer {TOKEN}",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *headers,
    ]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def test_only_what_is_named_passes_on(port: int, endpoint: Endpoint) -> None:
    odd = (
        "X-HTTP-Method-Override: DELETE",
        "X-Forwarded-Host: evil",
        "Helicone-Target-Url: http://evil",
        "OpenAI-Organization: other",
        "Cookie: a=b",
        "X-Goog-User-Project: other",
        "Accept: text/event-stream",
        "X-Stainless-Lang: js",
    )
    answer = send(port, request("/v1/chat/completions?beta=true&key=k&$httpMethod=DELETE", *odd))
    assert answer.startswith(b"HTTP/1.1 200") and b"Set-Cookie" not in answer
    ((method, path, headers),) = endpoint.seen
    names = {name.lower() for name in headers}
    assert (method, path) == ("POST", "/v1/chat/completions?beta=true")
    assert names <= proxy.PASSED_ON | {
        "host", "authorization", "content-length", "accept-encoding", "connection",
        "x-stainless-lang",
    }  # fmt: skip
    assert headers["authorization"] == "Bearer sk-secret-0123456789"


@pytest.mark.parametrize(
    "data",
    [
        request("http://[x/v1/chat/completions"),
        request("http://evil.example/v1/files"),
        request("//evil.example/v1/chat/completions"),
        request("/v1/chat/completions\xe9"),
        request("/v1/models/../files"),
        request(body=b"[" * 100_000),
        request(body=b"\xff"),
        request("/v1/chat/completions", "Transfer-Encoding: chunked", body=b"zz\r\n"),
        request("/v1/chat/completions", "Transfer-Encoding: chunked", body=b"-5\r\nx"),
        request("/v1/chat/completions", "Content-Length: -1"),
        b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
        b"CONNECT evil.example:443 HTTP/1.1\r\n\r\n",
        b"PUT /v1/files HTTP/1.1\r\n\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x00\x00",
        b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(300)) + b"\r\n",
    ],
)
def test_nonsense_is_answered_or_hung_up_on(
    port: int, endpoint: Endpoint, data: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = send(port, data)
    assert answer == b"" or b" 200 " not in answer.split(b"\r\n")[0]
    assert not endpoint.seen and "Traceback" not in capsys.readouterr().err
    assert b" 200 " in send(port, request())


@pytest.mark.parametrize("value", ["a\xe9", "a\x01b", "x" * 30_000])
def test_a_header_that_cannot_pass_is_left_out(port: int, endpoint: Endpoint, value: str) -> None:
    assert b" 200 " in send(port, request("/v1/chat/completions", f"User-Agent: {value}"))
    assert value not in endpoint.seen[0][2].values()


def test_many_connections_leave_the_worker_its_files(port: int) -> None:
    links = [socket.create_connection(("127.0.0.1", port), 10) for _ in range(100)]
    ended = 0
    end = time.monotonic() + 20
    while ended < 100 - serving.MOST_OPEN and time.monotonic() < end:
        ended = 0
        for link in links:
            link.settimeout(0.01)
            try:
                ended += link.recv(1) == b""
            except TimeoutError:
                continue
            except ConnectionError:
                ended += 1
    assert ended == 100 - serving.MOST_OPEN
    for link in links:
        link.close()
    while b" 200 " not in send(port, request()):
        assert time.monotonic() < end + 20


def test_a_message_without_an_end_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "LONGEST", 1000)
    stream = tools._Bounded(BytesIO(b"x" * 900 + b"\n" + b"y" * 100_000))
    read = b"".join(iter(lambda: stream.read1(512), b""))
    assert read.startswith(b"x" * 900 + b"\n") and len(read) < 2000


def test_polls_at_the_same_time_buy_no_turns(tmp_path: Path) -> None:
    trace = Trace(tmp_path / "trace.jsonl")
    meter = AgentMeter(Budget(trainings=1, turns=9, wall_s=60), trace)
    for _ in range(3):
        trace.spend(Usage(tokens_in=1), model_call="chat/completions")
    for _ in range(50):
        trace.spend(None, poll="wait")
    assert meter.taken([]) == 2
