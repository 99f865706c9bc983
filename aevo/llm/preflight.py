"""Is there an endpoint, does it take the key, has it the model? Asked before anything is
submitted, so that a mistake is one line now and not eight failed workers later."""

import difflib
import json
import time
from typing import Any

from aevo.config.agent import EndpointSettings
from aevo.llm.answers import BadAnswer, from_body
from aevo.llm.endpoint import (
    NO_KEY,
    Endpoint,
    KeyHolder,
    final_error,
    guarded,
    json_of,
    locate,
    open_client,
    shown_url,
)
from aevo.llm.retry import EndpointError, Failure, Kind

LONGEST_S = 30.0  # a question of the preflight; a model that is slower than that is no mistake
_FATAL = (Kind.CONNECTION, Kind.TIMEOUT, Kind.SERVER, Kind.QUOTA)


def check(settings: EndpointSettings) -> None:
    """Returns if the endpoint can be used.

    `GET /models` is asked first. Where it is not offered, does not name the model, or answers
    without a key too, it proves nothing of the key: a completion of one token decides. Nothing is
    retried.

    Raises:
        ConfigError: base_url or model is not set.
        EndpointError: wrong key, wrong address, unknown model (names those there are), not
            reachable; one line.
    """
    endpoint = locate(settings)
    keys = KeyHolder(settings.api_key_env, endpoint.api_key_file)
    key = keys.read()
    listed = _models(settings, endpoint, key or NO_KEY, keys)
    if isinstance(listed, Failure):
        if listed.kind in _FATAL or listed.status == 401:
            raise final_error(listed, endpoint, keys)
    elif (
        endpoint.model in listed
        and key is not None
        and isinstance(_models(settings, endpoint, NO_KEY, keys), Failure)
    ):
        return
    failure = _one_token(settings, endpoint, key or NO_KEY, keys)
    if failure is None or failure.kind is Kind.RATE_LIMIT:
        return
    if failure.kind is Kind.TIMEOUT and isinstance(listed, list) and not keys.named:
        return  # a server of one's own that is busy: nothing that a key could mend
    unknown = _about_the_model(failure, endpoint.model)
    if (
        isinstance(listed, list)
        and endpoint.model not in listed
        and (unknown or failure.kind in (Kind.NOT_FOUND, Kind.BAD_REQUEST))
    ):
        raise EndpointError(
            f"agent endpoint {shown_url(endpoint.base_url)} has no model {endpoint.model}",
            f"it has {_nearest(endpoint.model, [keys.scrub(name) for name in listed])}",
            kind=Kind.NOT_FOUND,
        )
    if failure.kind is Kind.BAD_REQUEST and not unknown:
        return  # it objects to how little is asked for, not to who asks or to the model
    raise final_error(failure, endpoint, keys)


def _models(
    settings: EndpointSettings, endpoint: Endpoint, key: str, keys: KeyHolder
) -> list[str] | Failure:
    """Names of the endpoint's models."""

    def request() -> list[str]:
        with open_client(settings, endpoint, key, LONGEST_S) as client:
            data = json_of(client.models.with_raw_response.list().http_response)
        items = data.get("data") if isinstance(data, dict) else data
        if not isinstance(items, list):
            raise BadAnswer(f"no list of models: {json.dumps(data)[:200]}")
        return [str(item["id"]) for item in items if isinstance(item, dict) and "id" in item]

    return guarded(request, time.time, keys)


def _one_token(
    settings: EndpointSettings, endpoint: Endpoint, key: str, keys: KeyHolder
) -> Failure | None:
    """Asks for one token; None if that worked."""
    ping: list[Any] = [{"role": "user", "content": "ping"}]

    def request() -> None:
        with open_client(settings, endpoint, key, LONGEST_S) as client:
            raw = client.chat.completions.with_raw_response.create(
                model=endpoint.model,
                messages=ping,
                max_tokens=1,
                extra_body=settings.extra_body or None,
            )
            from_body(json_of(raw.http_response))

    return guarded(request, time.time, keys)


def _about_the_model(failure: Failure, model: str) -> bool:
    text = failure.text.lower()
    return (
        failure.kind is Kind.BAD_REQUEST
        and "model" in text
        and (
            model.lower() in text or "not found" in text or "not exist" in text or "unknown" in text
        )
    )


def _nearest(model: str, names: list[str]) -> str:
    """At most ten names, the most alike first."""
    if not names:
        return "none"
    near = difflib.get_close_matches(model, names, n=10, cutoff=0.3)
    shown = (near + [name for name in sorted(names) if name not in near])[:10]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
