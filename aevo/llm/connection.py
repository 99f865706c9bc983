"""The connection to an endpoint: opening it, and turning every exception on it into a Failure."""

import importlib
import importlib.util
import json
import logging
from collections.abc import Callable
from typing import Any, TypeVar

import openai

from aevo.config.agent import EndpointSettings
from aevo.llm.answers import BadAnswer, ErrorAnswer, Unfinished
from aevo.llm.endpoint import Endpoint, KeyHolder, shown_url
from aevo.llm.retry import EndpointError, Failure, Kind, classify, classify_body

# The HTTP library of `openai`, another one in its newer versions; its errors may come through.
HTTP = importlib.import_module("httpx2" if importlib.util.find_spec("httpx2") else "httpx")
# Its debug log holds the headers of answers, and a server may say the key back in one.
for _name in ("httpcore", "httpcore2"):
    logging.getLogger(_name).setLevel(logging.INFO)
NO_KEY = "none"  # sent where no key is set: endpoints without keys do not look at it

T = TypeVar("T")


def open_client(settings: EndpointSettings, endpoint: Endpoint, key: str,
                longest_s: float | None = None) -> openai.OpenAI:
    """A client that retries nothing by itself."""
    total = min(settings.timeout_s, longest_s or settings.timeout_s)
    return openai.OpenAI(
        base_url=endpoint.base_url, api_key=key, max_retries=0,
        timeout=openai.Timeout(total, connect=min(settings.connect_timeout_s, total)),
        default_headers=settings.extra_headers or None,
    )


def json_of(response: Any) -> Any:
    """The body of an HTTP response, parsed.

    Raises:
        BadAnswer: it is not JSON.
    """
    response.read()
    text = response.text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    raise BadAnswer(f"{response.headers.get('content-type') or 'no content type'}: {text[:2000]}")


def guarded(request: Callable[[], T], clock: Callable[[], float], keys: KeyHolder) -> T | Failure:
    """Runs one request. Every error becomes a Failure here, so that no exception that holds the
    request, and with it the key, is in the chain of one that is raised later."""
    try:
        return request()
    except (openai.OpenAIError, HTTP.HTTPError, HTTP.InvalidURL, ErrorAnswer) as error:
        return failure_from(error, clock(), keys)
    except Unfinished as error:
        return Failure(Kind.CONNECTION, str(error))
    except TimeoutError as error:
        return Failure(Kind.TIMEOUT, str(error))
    except (BadAnswer, ValueError, RecursionError) as error:
        return Failure(Kind.MALFORMED, keys.scrub(f"not a chat completion: {error}"))
    except EndpointError as error:
        return Failure(error.kind, error.what, mend=error.mend)


def failure_from(error: Exception, now: float, keys: KeyHolder) -> Failure:
    """The class of an exception of `openai`, its HTTP library, or an error within an answer."""
    if isinstance(error, openai.APIStatusError):
        return classify(error.status_code, error.response.headers, error.response.text, now,
                        keys.scrub)
    if isinstance(error, ErrorAnswer):
        return classify_body(error.error, now, keys.scrub)
    if isinstance(error, HTTP.InvalidURL):
        return Failure(Kind.NOT_FOUND, keys.scrub(str(error)))
    if isinstance(error, openai.APITimeoutError | HTTP.TimeoutException):
        return Failure(Kind.TIMEOUT, "no answer in time")
    if isinstance(error, openai.APIConnectionError | HTTP.HTTPError):
        cause = error.__cause__ or error
        return Failure(Kind.CONNECTION, keys.scrub(str(cause) or type(cause).__name__))
    return classify_body(getattr(error, "body", None) or str(error), now, keys.scrub)


def final_error(failure: Failure, endpoint: Endpoint | None, keys: KeyHolder,
                tries: str = "") -> EndpointError:
    """The one line a person reads: what, where, how to mend it."""
    where = "agent endpoint"
    if endpoint is not None:
        where = f"agent endpoint {shown_url(endpoint.base_url)}, model {endpoint.model}"
    source = keys.source if keys.named else "agent.api_key_env or agent.api_key_file"
    mends = {
        Kind.AUTH: f"check the key in {source}" if keys.there else
                   f"no key was sent: put it in {source}",
        Kind.QUOTA: "add credit or use another key, then run the same command again",
        Kind.NOT_FOUND: "check agent.base_url (most end in /v1) and agent.model",
        Kind.BAD_REQUEST: "lower agent.context_tokens" if failure.context_exceeded else
                          "agent.tools=text" if failure.tools_refused else
                          "check agent.temperature, agent.max_tokens and agent.extra_body",
        Kind.MALFORMED: "check agent.base_url (most end in /v1) and what lies between",
        Kind.RATE_LIMIT: "fewer workers at once, or raise agent.max_wait_s and agent.retries",
        Kind.TIMEOUT: "raise agent.timeout_s, or see whether the server is overloaded",
        Kind.CONNECTION: "see whether the server runs and can be reached from this machine",
        Kind.SERVER: "see the server's log or status page, then run the same command again",
    }
    words = str(failure.kind).replace("_", " ")
    return EndpointError(f"{where}: {words}{tries}: {failure.text}",
                         failure.mend or mends[failure.kind], kind=failure.kind)
