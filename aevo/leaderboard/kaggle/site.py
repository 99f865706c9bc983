"""The public leaderboard of a Kaggle competition, through the official package."""

import contextlib
import json
import math
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from aevo.config.leaderboard import KaggleSettings
from aevo.errors import ConfigError
from aevo.files.paths import CHECKOUT
from aevo.jobs.environment import package_first
from aevo.leaderboard.kaggle.failure import PASSING, KaggleFailure
from aevo.leaderboard.site import Posted, Refused, foreign, utc
from aevo.leaderboard.submissions import day
from aevo.records.leaderboard import Daily, Request, Standing

MAX_PAGES = 500
LONGEST_PAUSE_S = 300.0
STARTED_S = 60.0  # the import of the package, on a slow filesystem


class KaggleSite:
    """One competition. Starts a process for the conversation when it is first needed."""

    kind = "kaggle"

    def __init__(
        self, settings: KaggleSettings, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        if settings.competition is None:
            raise ConfigError(
                "leaderboard.competition is not set",
                "leaderboard=kaggle leaderboard.competition=SLUG, the last part of "
                "the competition's address",
            )
        self.settings, self.competition, self._sleep = settings, settings.competition, sleep
        self._session: KaggleProcess | None = None

    @property
    def settle_s(self) -> float:
        """How long an upload may be on its way before it is listed."""
        return self.settings.settle_s

    def check(self) -> dict[str, Any]:
        """Asks, without submitting, for all that a submission needs; returns what the site says of
        the competition.

        Raises:
            BoardError: credentials, rules or competition are not in order; one line.
        """
        found = self._call("competition", tries=2)
        name = self.competition
        if found["code_only"]:
            raise KaggleFailure("closed", "it takes notebooks only, no files").error(name)
        if found["disabled"]:
            raise KaggleFailure("closed").error(name)
        if not found["entered"]:
            raise KaggleFailure("rules", "this account has not entered it").error(name)
        self._call("limits", tries=2)
        return found

    def find(self, tokens: Collection[str], since: float) -> dict[str, Posted]:
        """What the team's list of submissions has of these, newest first, page by page."""
        found: dict[str, Posted] = {}
        for item in self._pages("submissions", "items"):
            token = item["description"].split(" ")[0]
            if token in tokens and token not in found:
                found[token] = _posted(item)
            if len(found) == len(tokens) or (item["time"] is not None and item["time"] < since):
                break
        return found

    def daily(self, ours: int, time: float) -> Daily:
        """The day's quota: the site counts all of the team's submissions, our ledger also those
        that it may not list yet; the larger count and the smaller allowance hold."""
        limits = self._call("limits")
        used = max(ours, limits["today"])
        left = max(0, min(self.settings.daily_quota - used, limits["left"]))
        return Daily(day=day(time), quota=self.settings.daily_quota, used=used, left=left)

    def post(self, archive: Path, request: Request) -> str:
        """Submits; after an answer that was lost, looks for the submission before trying again."""
        failure = KaggleFailure("odd")
        for attempt in range(self.settings.retries + 1):
            if attempt:
                self._pause(attempt, failure)
                found = self.find([request.token], 0.0).get(request.token)
                if found is not None:
                    return found.reference
            answer = self._ask(
                "submit",
                self.settings.upload_timeout_s,
                file=str(archive),
                message=request.description,
                competition=self.competition,
            )
            if not isinstance(answer, KaggleFailure):
                return str(answer["ref"])
            failure = answer
            if failure.kind in ("quota", "rejected"):
                raise Refused(foreign(failure.text), exhausted=failure.kind == "quota")
            if failure.kind not in PASSING:
                break
        raise failure.error(self.competition)

    def standing(self, ours: float | None, time: float) -> Standing:
        """The whole public board, as counts of scores."""
        scores: dict[float, int] = {}
        for text in self._pages("leaderboard", "scores"):
            score = _number(text)
            if score is not None:
                score = round(score, self.settings.decimals)
                scores[score] = scores.get(score, 0) + 1
        shown = {
            f"{score:.{self.settings.decimals}f}": count
            for score, count in sorted(scores.items(), reverse=True)
        }
        return Standing(
            taken=utc(time),
            teams=sum(scores.values()),
            best=max(scores, default=None),
            scores=shown,
            ours=ours,
            better=None if ours is None else sum(n for s, n in scores.items() if s > ours),
            tied=None if ours is None else scores.get(ours, 0),
        )

    def close(self) -> None:
        """Ends the conversation."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def _pages(self, question: str, key: str) -> Iterator[Any]:
        page, seen = "", set()
        for _ in range(MAX_PAGES):
            answer = self._call(question, page=page)
            yield from answer[key]
            page = answer["next"]
            if not page or page in seen:
                return
            seen.add(page)

    def _call(self, question: str, tries: int | None = None, **words: Any) -> dict[str, Any]:
        """Asks until there is an answer, or a failure that does not pass, or patience ends."""
        failure = KaggleFailure("odd")
        for attempt in range(tries or self.settings.retries + 1):
            if attempt:
                self._pause(attempt, failure)
            answer = self._ask(
                question, self.settings.timeout_s, competition=self.competition, **words
            )
            if not isinstance(answer, KaggleFailure):
                return answer
            failure = answer
            if failure.kind not in PASSING:
                break
        raise failure.error(self.competition)

    def _pause(self, attempt: int, failure: KaggleFailure) -> None:
        wait = failure.retry_after_s
        if wait is None:
            wait = self.settings.backoff_s * 2 ** (attempt - 1)
        self._sleep(min(wait, LONGEST_PAUSE_S))

    def _ask(self, question: str, limit_s: float, **words: Any) -> dict[str, Any] | KaggleFailure:
        """One question; a conversation that ended is begun anew.

        Raises:
            BoardError: there is no package, or there are no credentials that Kaggle takes.
        """
        if self._session is None:
            session = KaggleProcess()
            answer = session.ask({"ask": "open"}, self.settings.timeout_s + STARTED_S)
            if isinstance(answer, KaggleFailure):
                session.close()
                if answer.kind in PASSING:
                    return answer
                raise answer.error(self.competition)
            self._session = session
        answer = self._session.ask({"ask": question, **words}, limit_s)
        if isinstance(answer, KaggleFailure) and not self._session.alive:
            self.close()
        return answer


class KaggleProcess:
    """The process that talks (`aevo.leaderboard.kaggle.session`)."""

    def __init__(self) -> None:
        ours = package_first(str(CHECKOUT), os.environ.get("PYTHONPATH", ""))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "aevo.leaderboard.kaggle.session"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **ours},
        )

    @property
    def alive(self) -> bool:
        """False once the process has ended."""
        return self._process.poll() is None

    def ask(self, question: dict[str, Any], limit_s: float) -> dict[str, Any] | KaggleFailure:
        """The answer, or why there is none; a process that is silent for too long is killed."""
        sink, source = self._process.stdin, self._process.stdout
        if sink is None or source is None:  # never: both are pipes
            return KaggleFailure("odd", "no pipes")
        with contextlib.suppress(BrokenPipeError):  # then there is no answer either
            sink.write(json.dumps(question).encode() + b"\n")
            sink.flush()
        line, end = b"", time.monotonic() + limit_s
        with selectors.DefaultSelector() as selector:
            selector.register(source, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(0.0, end - time.monotonic())):
                    self.close()
                    return KaggleFailure("timeout", f"nothing for {limit_s:g} s")
                piece = os.read(source.fileno(), 1 << 16)
                if not piece:
                    self.close()
                    return KaggleFailure(
                        "odd",
                        "the kaggle package ended without an answer; try "
                        "`kaggle competitions list`",
                    )
                line += piece
        answer = json.loads(line)
        if "ok" in answer:
            found: dict[str, Any] = answer["ok"]
            return found
        return KaggleFailure(**answer["failure"])

    def close(self) -> None:
        """Ends the process now."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def _posted(item: dict[str, Any]) -> Posted:
    state, score = item["state"], _number(item["score"])
    if state == "PENDING":
        return Posted(item["ref"], "pending")
    if state == "ERROR":
        return Posted(item["ref"], "failed", text=item["error"] or "scoring failed on the site")
    if score is None:
        return Posted(item["ref"], "failed", text=f"its public score is {item['score']!r}")
    return Posted(item["ref"], "scored", score)


def _number(text: Any) -> float | None:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None
