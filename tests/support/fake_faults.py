"""Faults of the fake OpenAI server: what to do to a request in place of answering it."""

import threading
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Drop = Literal["", "before", "middle", "quietly"]


@dataclass(frozen=True)
class Fault:
    """What to do to a request in place of answering it, or before.

    Args:
        status: answer with this and `body`; with 200 the body is sent as it is.
        delay_s: wait first (until the server closes at most).
        drop: reset the connection before anything is sent, or after half of the answer; `quietly`
            ends a stream half-way as if it were whole.
        reply: replaces the brain's reply.
        match: only for requests whose JSON holds this text.
        path: only for requests to a path that ends so.
        times: for how many requests; -1 for all that match.
    """

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None
    delay_s: float = 0.0
    drop: Drop = ""
    reply: dict[str, Any] | None = None
    match: str = ""
    path: str = "/chat/completions"
    times: int = 1


def error(
    status: int,
    message: str,
    kind: str = "error",
    headers: dict[str, str] | None = None,
    **more: Any,
) -> Fault:
    """An error in the usual shape."""
    body = {"error": {"message": message, "type": kind, "code": kind}}
    return Fault(status=status, headers=headers or {}, body=body, **more)


def rate_limited(retry_after: float | str | None = None, **more: Any) -> Fault:
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return error(429, "Rate limit reached", "rate_limit_exceeded", headers, **more)


def quota(**more: Any) -> Fault:
    return error(429, "You exceeded your current quota", "insufficient_quota", **more)


def overloaded(status: int = 503, **more: Any) -> Fault:
    return error(status, "The server is overloaded", "overloaded_error", **more)


def hang(seconds: float, **more: Any) -> Fault:
    return Fault(delay_s=seconds, **more)


def dropped(when: Drop = "before", **more: Any) -> Fault:
    return Fault(drop=when, **more)


def html(status: int = 200, **more: Any) -> Fault:
    page = "<html><head><title>Bad gateway</title></head><body>nginx</body></html>"
    return Fault(status=status, headers={"Content-Type": "text/html"}, body=page, **more)


def bad_json(**more: Any) -> Fault:
    return Fault(status=200, body='{"id": "x", "choices": [{"mess', **more)


def wrong_arguments(name: str, raw: str, **more: Any) -> Fault:
    call = {"id": "bad", "name": name, "arguments": raw}
    return Fault(reply={"tool_calls": [call]}, **more)


def tools_refused(**more: Any) -> Fault:
    """All requests that offer tools are refused, as by servers without tool calls."""
    more = {"match": '"tools"', "times": -1, **more}
    return error(400, "this model does not support tools", "invalid_request_error", **more)


def context_exceeded(limit: int = 2000, **more: Any) -> Fault:
    return error(
        400,
        f"This model's maximum context length is {limit} tokens. Please reduce the "
        "length of the messages.",
        "context_length_exceeded",
        **more,
    )


class Faults:
    """The faults that are still to happen, in order; the first that fits a request is used."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[tuple[Fault, int]] = []

    def add(self, *faults: Fault) -> None:
        with self._lock:
            self._waiting += [(fault, fault.times) for fault in faults]

    def clear(self) -> None:
        with self._lock:
            self._waiting.clear()

    def left(self) -> int:
        """How many are waiting (those for all requests aside)."""
        with self._lock:
            return sum(max(times, 0) for _, times in self._waiting)

    def take(self, path: str, text: str) -> Fault | None:
        with self._lock:
            for place, (fault, times) in enumerate(self._waiting):
                if path.endswith(fault.path) and fault.match in text:
                    if times == 1:
                        del self._waiting[place]
                    elif times > 1:
                        self._waiting[place] = (fault, times - 1)
                    return fault
        return None


def plain(fault: Fault) -> dict[str, Any]:
    """A fault as `--faults` and `POST /fake/faults` take it."""
    return asdict(fault)
