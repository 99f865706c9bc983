"""What can go wrong at an endpoint: classified, and retried with patience that has an end."""

import json
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any

from tenacity import RetryCallState, Retrying, retry_if_result, wait_exponential

from aevo.errors import AevoError
from aevo.records.trace import Usage

FIRST_WAIT_S = 1.0  # bound of the first backoff; doubles with each try
OUTAGE_S = 10.0  # a wait as long as this is one
LONGEST_WAIT_S = 60.0  # bound of one backoff; a server's Retry-After may be longer


class Kind(StrEnum):
    """Classes of failure, each with its own remedy."""

    TIMEOUT = "timeout"
    RATE_LIMIT = "rate_limit"
    SERVER = "server"
    CONNECTION = "connection"
    AUTH = "auth"
    NOT_FOUND = "not_found"
    BAD_REQUEST = "bad_request"
    QUOTA = "quota"
    MALFORMED = "malformed"


RETRIED = frozenset({Kind.TIMEOUT, Kind.RATE_LIMIT, Kind.SERVER, Kind.CONNECTION, Kind.MALFORMED})
# (kind, number of the try that failed, seconds until the next, what happened). What it raises ends
# the call: so a worker whose time is up need not wait out the endpoint.
OnRetry = Callable[[Kind, int, float, str], None]


class EndpointError(AevoError):
    """An endpoint that could not be used in the end.

    Attributes:
        kind: the class of the last failure.
        usage: what answered calls cost that led to no turn (a reply that was refused here).
    """

    code = 7

    def __init__(
        self, what: str, mend: str = "", *, kind: Kind = Kind.SERVER, usage: Usage | None = None
    ) -> None:
        self.kind, self.usage = kind, usage or Usage()
        super().__init__(what, mend)


@dataclass(frozen=True)
class Failure:
    """One failed try. `text` is for people and must have been scrubbed of keys."""

    kind: Kind
    text: str
    retry_after_s: float | None = None
    context_exceeded: bool = False
    tools_refused: bool = False
    context_limit: int | None = None  # tokens, where the endpoint tells
    status: int | None = None
    mend: str = ""  # where it is known better than by kind
    moved: bool = False  # the endpoint is now elsewhere


def patient(
    retries: int,
    max_wait_s: float,
    rng: random.Random,
    sleep: Callable[[float], None],
    before_sleep: Callable[[RetryCallState], None] = lambda _: None,
) -> Retrying:
    """Calls a function again while it returns a Failure that may pass; in the end returns what it
    returned last.

    Exponential backoff with full jitter; a server's Retry-After comes first, plus up to a second
    so that eight workers do not come back as one. Waits of one call sum up to at most
    `max_wait_s`; what a server asks beyond that is cut, and the last try made then. Where the
    endpoint has moved, whatever the failure was, the next try is made at once.
    """
    bound = wait_exponential(multiplier=FIRST_WAIT_S, max=LONGEST_WAIT_S)

    def wait(state: RetryCallState) -> float:
        failure = failure_of(state)
        if failure.moved:
            return 0.0
        asked = failure.retry_after_s
        longest = bound(state) if asked is None else FIRST_WAIT_S
        return min((asked or 0.0) + rng.uniform(0, longest), max_wait_s - state.idle_for)

    def stop(state: RetryCallState) -> bool:
        failure = failure_of(state)
        passing = failure.kind in RETRIED and state.idle_for < max_wait_s
        return state.attempt_number > retries or not (failure.moved or passing)

    return Retrying(
        sleep=sleep,
        wait=wait,
        stop=stop,
        before_sleep=before_sleep,
        retry=retry_if_result(lambda outcome: isinstance(outcome, Failure)),
        retry_error_callback=failure_of,
    )


def failure_of(state: RetryCallState) -> Failure:
    """What the last try returned, which was a Failure, or there would be no next."""
    if state.outcome is None:
        raise RuntimeError("asked before the first try")
    failure: Failure = state.outcome.result()
    return failure


def is_outage(state: RetryCallState) -> bool:
    """True where a failure is worth telling people of: not one that passes within seconds."""
    return (
        state.attempt_number > 1
        or state.upcoming_sleep >= OUTAGE_S
        or failure_of(state).kind is Kind.TIMEOUT
    )


_CONTEXT = re.compile(
    r"context[_ ](length|window|size)|maximum context|max_model_len|too many (input )?tokens"
    r"|(prompt|input) is too long|reduce the length",
    re.IGNORECASE,
)
_LIMIT = re.compile(
    r"(?:maximum context length (?:is|of)|max_model_len\D{0,5})\s*(\d[\d,]*)", re.IGNORECASE
)
_TOOLS = re.compile(r"\btools?\b|tool[_ -](?:use|call|choice)|function[_ ]?call", re.IGNORECASE)
_QUOTA = {
    "insufficient_quota",
    "billing_hard_limit_reached",
    "insufficient_balance",
    "billing_not_active",
    "insufficient_credits",
}
_BY_STATUS = {
    401: Kind.AUTH,
    403: Kind.AUTH,
    402: Kind.QUOTA,
    404: Kind.NOT_FOUND,
    405: Kind.NOT_FOUND,
    408: Kind.TIMEOUT,
    409: Kind.SERVER,
    425: Kind.SERVER,
    429: Kind.RATE_LIMIT,
}


def classify(
    status: int, headers: Mapping[str, str], body: str, now: float, scrub: Callable[[str], str]
) -> Failure:
    """An HTTP answer that is an error.

    Args:
        now: Unix seconds, for a Retry-After that is a date.
        scrub: takes keys out of what the server said.
    """
    message, marks = said(body)
    kind = _BY_STATUS.get(status, Kind.SERVER if status >= 500 else Kind.BAD_REQUEST)
    if kind is Kind.RATE_LIMIT and marks & _QUOTA:
        kind = Kind.QUOTA
    context = kind is Kind.BAD_REQUEST and (
        status == 413 or bool(_CONTEXT.search(message)) or "context_length_exceeded" in marks
    )
    limit = _LIMIT.search(message) if context else None
    return Failure(
        kind,
        scrub(f"HTTP {status}: {message}" if message else f"HTTP {status}"),
        retry_after_s=retry_after(headers, now),
        context_exceeded=context,
        tools_refused=status in (400, 404, 422, 501)
        and not context
        and bool(_TOOLS.search(message)),
        context_limit=int(limit.group(1).replace(",", "")) if limit else None,
        status=status,
    )


def classify_body(error: Any, now: float, scrub: Callable[[str], str]) -> Failure:
    """An error inside an answer that began as a success (status 200, or within a stream)."""
    text = json.dumps({"error": error})
    message, marks = said(text)
    code = error.get("code") if isinstance(error, dict) else None
    status = int(str(code)) if str(code).isdecimal() else 0
    if not 400 <= status < 600:
        limited = marks & _QUOTA or any("rate_limit" in mark for mark in marks)
        context = _CONTEXT.search(message) or "context_length_exceeded" in marks
        status = 429 if limited else 400 if context else 500
    return classify(status, {}, text, now, scrub)


def said(body: str) -> tuple[str, set[str]]:
    """The message of an error body in any of the usual shapes, and its codes and types."""
    try:
        data = json.loads(body)
    except ValueError:
        title = re.search(r"<title[^>]*>(.*?)</title>", body, re.IGNORECASE | re.DOTALL)
        return (f"a web page, {title.group(1).strip()!r}" if title else body), set()
    error = data.get("error", data) if isinstance(data, dict) else data
    if not isinstance(error, dict):
        return str(error), set()
    marks = {str(error[key]) for key in ("code", "type") if error.get(key) is not None}
    message = error.get("message") or error.get("detail") or json.dumps(error)
    return str(message), marks


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds a server asks to wait: `retry-after-ms`, or `Retry-After` in seconds or as a date."""
    given = {name.lower(): value.strip() for name, value in headers.items()}
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = given.get(name)
        if text is None:
            continue
        if re.fullmatch(r"\d+(\.\d+)?", text):
            return float(text) * scale
        try:
            moment = parsedate_to_datetime(text)
        except ValueError:
            continue
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return max(0.0, (moment - datetime.fromtimestamp(now, UTC)).total_seconds())
    return None
