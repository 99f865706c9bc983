"""An OpenAI-compatible server for tests: real HTTP on this machine, scripted and faulty on demand.

    with FakeOpenAI(brain) as server:            # in a test
        server.faults.add(rate_limited(2), hang(5, match="candidate c03"))
        ... OpenAIModel(EndpointSettings(base_url=server.url, model=server.model)) ...
        assert len(server.requests) == 3

    python -m tests.support.fake_openai --port 0 --brain tests.support.brains:round_of_eight \
        --record requests.jsonl --endpoint agent-endpoint.json --faults faults.json

The command prints its URL on its first line and serves until it is ended; any number of processes
may use it. A brain is a function of the whole request (`messages`, `tools`, `model`, …) and
returns `{"content", "tool_calls": [{"id", "name", "arguments"}], "reasoning", "finish_reason",
"usage"}`, all optional; `arguments` may be an object or a text, also a broken one. It is called
from many threads and must draw on nothing but the request. From other processes, faults are added
with `POST /fake/faults` (a JSON list of Fault fields) and requests read with `GET /fake/requests`.
"""

import argparse
import importlib
import json
import os
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from aevo.files.documents import write_text
from tests.support.fake_faults import Drop, Fault, Faults, context_exceeded, error, tools_refused
from tests.support.fake_protocols import protocol_of

Brain = Callable[[dict[str, Any]], dict[str, Any]]


class FakeOpenAI:
    """The server, as a context manager.

    Args:
        brain: what the model says.
        key: if given, requests without it get 401.
        models: what GET /models lists; the first is `model`. None: GET /models gives 404.
        public_models: GET /models needs no key.
        context_tokens: longer conversations (four characters a token) get the usual 400.
        native_tools: False: requests with tools get 400.
        record: file to which each request is appended as a JSON line.
    """

    def __init__(
        self,
        brain: Brain,
        *,
        port: int = 0,
        key: str | None = None,
        models: list[str] | None = None,
        list_models: bool = True,
        public_models: bool = False,
        context_tokens: int | None = None,
        native_tools: bool = True,
        record: Path | None = None,
    ) -> None:
        self.brain, self.key, self.context_tokens = brain, key, context_tokens
        self.models = models or ["fake-model"]
        self.list_models, self.public_models = list_models, public_models
        self.record = record
        self.faults = Faults()
        if not native_tools:
            self.faults.add(tools_refused())
        self.requests: list[dict[str, Any]] = []
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", port), self)

    def __enter__(self) -> "FakeOpenAI":
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def model(self) -> str:
        return self.models[0]

    def chats(self) -> list[dict[str, Any]]:
        """Bodies of the chat requests so far."""
        with self._lock:
            return [
                item["body"] for item in self.requests if item["path"].endswith("/chat/completions")
            ]

    def note(self, path: str, headers: dict[str, str], body: Any) -> None:
        """Keeps a request, without its key."""
        kept = {
            name.lower(): value
            for name, value in headers.items()
            if name.lower() not in ("authorization", "api-key", "x-api-key", "x-goog-api-key")
        }
        entry = {
            "path": path,
            "headers": kept,
            "authorized": self.authorized(headers),
            "body": body,
        }
        with self._lock:
            self.requests.append(entry)
            if self.record is not None:
                with self.record.open("a") as file:
                    file.write(json.dumps(entry) + "\n")

    def authorized(self, headers: dict[str, str]) -> bool:
        given = {name.lower(): value for name, value in headers.items()}
        keys = (given.get("x-api-key"), given.get("x-goog-api-key"))
        sent = given.get("authorization", "")
        return self.key is None or sent == f"Bearer {self.key}" or self.key in keys


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], fake: FakeOpenAI) -> None:
        self.fake = fake
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are part of the game; a brain that fails is not."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        return None

    def do_GET(self) -> None:
        fake = self.server.fake
        if self.path == "/fake/requests":
            self._send(200, fake.requests)
            return
        fake.note(self.path, dict(self.headers), None)
        if self._faulty(""):
            return
        if self.path != "/v1/models" or not fake.list_models:
            self._error(404, f"no such path {self.path}", "not_found")
        elif not (fake.public_models or fake.authorized(dict(self.headers))):
            self._unauthorized()
        else:
            data = [{"id": name, "object": "model"} for name in fake.models]
            self._send(200, {"object": "list", "data": data})

    def do_POST(self) -> None:
        fake = self.server.fake
        text = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        body = json.loads(text)
        if self.path == "/fake/faults":
            fake.faults.add(*(Fault(**item) for item in body))
            self._send(200, {"waiting": fake.faults.left()})
            return
        fake.note(self.path, dict(self.headers), body)
        fault = self._faulty(json.dumps(body))
        if fault is True:
            return
        if protocol_of(self.path) is not None:
            self._other(body)
        elif self.path != "/v1/chat/completions":
            self._error(404, f"no such path {self.path}", "not_found")
        elif not fake.authorized(dict(self.headers)):
            self._unauthorized()
        elif body.get("model") not in fake.models:
            self._error(404, f"The model `{body.get('model')}` does not exist", "model_not_found")
        elif fake.context_tokens is not None and tokens(body["messages"]) > fake.context_tokens:
            refusal = context_exceeded(fake.context_tokens)
            self._send(refusal.status, refusal.body)
        else:
            given = fault.reply if isinstance(fault, Fault) and fault.reply else fake.brain(body)
            self._answer(body, given, fault.drop if isinstance(fault, Fault) else "")

    def _other(self, body: dict[str, Any]) -> None:
        """Answers in one of the other protocols, whose keys come in headers of their own."""
        fake, found = self.server.fake, protocol_of(self.path)
        if found is None:
            return
        protocol, model, streams = found
        body = {**body, "model": model or body.get("model")}
        if not fake.authorized(dict(self.headers)):
            self._unauthorized()
            return
        if body["model"] not in fake.models:
            self._error(404, f"The model `{body['model']}` does not exist", "model_not_found")
            return
        request = protocol.request(body)
        given = fake.brain(request)
        usage = given.get("usage") or {
            "prompt_tokens": tokens(request["messages"]),
            "completion_tokens": tokens(given),
        }
        if not (streams or body.get("stream")):
            self._send(200, protocol.whole(body, given, usage))
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for name, data in protocol.events(body, given, usage):
            head = f"event: {name}\n" if name else ""
            self._chunk(f"{head}data: {json.dumps(data)}\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def _faulty(self, text: str) -> Fault | bool:
        """Does the next fault that fits; True if the request is done with."""
        fault = self.server.fake.faults.take(self.path, text)
        if fault is None:
            return False
        if fault.delay_s:
            self.server.fake.closing.wait(fault.delay_s)
        if fault.drop == "before":
            self._reset()
            return True
        if fault.status:
            self._send(fault.status, fault.body, fault.headers)
            return True
        return fault

    def _answer(self, request: dict[str, Any], given: dict[str, Any], drop: Drop) -> None:
        usage = given.get(
            "usage",
            {"prompt_tokens": tokens(request["messages"]), "completion_tokens": tokens(given)},
        )
        common = {"id": "chatcmpl-fake", "created": 0, "model": request["model"]}
        if request.get("stream"):
            wanted = (request.get("stream_options") or {}).get("include_usage")
            events = list(pieces(given))
            if wanted and usage is not None:
                events.append({"choices": [], "usage": usage})
            self._stream(
                [{**common, "object": "chat.completion.chunk", **event} for event in events], drop
            )
            return
        choice = {"index": 0, "message": message(given), "finish_reason": finish(given)}
        whole = {**common, "object": "chat.completion", "choices": [choice]}
        if usage is not None:
            whole["usage"] = usage
        self._send(200, whole, half=bool(drop))

    def _stream(self, events: list[dict[str, Any]], drop: Drop) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._chunk(": a comment that keeps the connection alive\n\n")
        for event in events[: len(events) // 2] if drop else events:
            self._chunk(f"data: {json.dumps(event)}\n\n")
        if drop == "middle":
            self._reset()
            return
        if not drop:
            self._chunk("data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, text: str) -> None:
        data = text.encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _send(
        self, status: int, body: Any, headers: dict[str, str] | None = None, half: bool = False
    ) -> None:
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if half else data)
        self.wfile.flush()
        if half:
            self._reset()

    def _error(self, status: int, text: str, kind: str) -> None:
        self._send(status, error(status, text, kind).body)

    def _unauthorized(self) -> None:
        """Says back what it was sent, as some proxies do: a client must not pass that on."""
        self._error(
            401,
            f"Incorrect API key, Authorization: {self.headers.get('Authorization')}",
            "invalid_api_key",
        )

    def _reset(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            linger = struct.pack("ii", 1, 0)  # close by reset, not by an orderly end
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.shutdown(socket.SHUT_RDWR)


def tokens(value: Any) -> int:
    """Four characters a token."""
    return len(json.dumps(value)) // 4


def message(given: dict[str, Any]) -> dict[str, Any]:
    """A brain's reply as the message of a whole answer."""
    whole: dict[str, Any] = {"role": "assistant", "content": given.get("content")}
    if given.get("reasoning"):
        whole["reasoning_content"] = given["reasoning"]
    if given.get("tool_calls"):
        whole["tool_calls"] = [_wire(call) for call in given["tool_calls"]]
    return whole


def pieces(given: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A brain's reply as the events of a stream, in small pieces."""

    def event(delta: dict[str, Any], ended: str | None = None) -> dict[str, Any]:
        return {"choices": [{"index": 0, "delta": delta, "finish_reason": ended}]}

    yield event({"role": "assistant"})
    for key, wire in (("reasoning", "reasoning_content"), ("content", "content")):
        for text in _cut(given.get(key) or ""):
            yield event({wire: text})
    for index, call in enumerate(given.get("tool_calls") or []):
        wired = _wire(call)
        arguments = wired["function"].pop("arguments")
        yield event({"tool_calls": [{"index": index, **wired}]})
        for text in _cut(arguments):
            yield event({"tool_calls": [{"index": index, "function": {"arguments": text}}]})
    yield event({}, finish(given))


def finish(given: dict[str, Any]) -> str:
    return str(given.get("finish_reason") or ("tool_calls" if given.get("tool_calls") else "stop"))


def _wire(call: dict[str, Any]) -> dict[str, Any]:
    raw = call.get("arguments", {})
    text = raw if isinstance(raw, str) else json.dumps(raw)
    return {
        "id": call.get("id", "call-1"),
        "type": "function",
        "function": {"name": call["name"], "arguments": text},
    }


def _cut(text: str) -> list[str]:
    size = max(7, len(text) // 20)
    return [text[start : start + size] for start in range(0, len(text), size)]


def main() -> None:
    """Serves until it is ended by a signal."""
    parser = argparse.ArgumentParser(description="A fake OpenAI-compatible server for tests.")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--brain", required=True, metavar="MODULE:FUNCTION")
    parser.add_argument("--record", type=Path, help="append each request here, as a JSON line")
    parser.add_argument("--endpoint", type=Path, help="leave a record of the address here")
    parser.add_argument("--faults", type=Path, help="a JSON list of faults to begin with")
    parser.add_argument("--models", nargs="+", default=["fake-model"])
    parser.add_argument("--key-env", metavar="NAME", help="environment variable with the key")
    parser.add_argument("--context-tokens", type=int)
    parser.add_argument("--no-tools", action="store_true", help="refuse native tool calls")
    given = parser.parse_args()
    module, _, function = given.brain.partition(":")
    brain = getattr(importlib.import_module(module), function)
    key = os.environ[given.key_env] if given.key_env else None
    with FakeOpenAI(
        brain,
        port=given.port,
        key=key,
        models=given.models,
        record=given.record,
        context_tokens=given.context_tokens,
        native_tools=not given.no_tools,
    ) as server:
        if given.faults:
            server.faults.add(*(Fault(**item) for item in json.loads(given.faults.read_text())))
        if given.endpoint:
            write_text(
                given.endpoint,
                json.dumps({"schema_version": 1, "base_url": server.url, "model": server.model}),
            )
        print(server.url, flush=True)
        with suppress(KeyboardInterrupt):
            server.closing.wait()


def says_hello(request: dict[str, Any]) -> dict[str, Any]:
    """The simplest brain."""
    return {"content": f"hello, {len(request['messages'])} messages"}


if __name__ == "__main__":
    main()
