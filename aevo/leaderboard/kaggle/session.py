"""A conversation with Kaggle, in a process of its own.

    python -m aevo.leaderboard.kaggle.session        (started by KaggleSite; not for users)

The kaggle package prints, ends the process where it finds no credentials, asks the site when it is
imported, and waits for answers without end. Here it may: the caller sets a limit to every question
and kills this process when it is reached. Questions come as JSON lines on stdin, answers go to
stdout; credentials stay in this process, and are taken out of whatever an error says.
"""

import contextlib
import ctypes
import json
import os
import signal
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from aevo.files import secrets
from aevo.leaderboard.kaggle.failure import KaggleFailure, of_status

PR_SET_PDEATHSIG = 1
PAGE = 100
SECRETS = ("KAGGLE_KEY", "KAGGLE_API_TOKEN")


class Failed(Exception):
    """A question that failed, classified."""

    def __init__(self, failure: KaggleFailure) -> None:
        self.failure = failure
        super().__init__(failure.text)


class Conversation:
    """The package, authenticated; one method per question."""

    def __init__(self) -> None:
        self.api: Any = None

    def open(self) -> dict[str, Any]:
        """Authenticates as the package does."""
        try:
            import kaggle
        except ImportError as error:
            raise Failed(KaggleFailure("package", str(error))) from error
        except OSError as error:  # it makes its folder of settings when it is imported
            raise Failed(
                KaggleFailure(
                    "package",
                    f"{error.strerror}: {error.filename}; set "
                    "KAGGLE_CONFIG_DIR to a folder that can be written",
                )
            ) from error
        self.api = kaggle.api
        if self.api.get_config_value("auth_method") is None:
            try:
                self.api.authenticate()
            except SystemExit as error:
                raise Failed(
                    KaggleFailure("credentials", "none were found, or the token has expired")
                ) from error
        return {"user": self.api.get_config_value("username") or ""}

    def competition(self, competition: str) -> dict[str, Any]:
        """Whether it is open to us."""
        from kagglesdk.competitions.types.competition_api_service import ApiGetCompetitionRequest

        request = ApiGetCompetitionRequest()
        request.competition_name = competition
        with self._client() as client:
            found = client.get_competition(request)
        deadline = found.deadline
        return {
            "entered": bool(found.user_has_entered),
            "disabled": bool(found.submissions_disabled),
            "code_only": bool(found.is_kernels_submissions_only),
            "daily": int(found.max_daily_submissions or 0),
            "deadline": deadline.replace(tzinfo=UTC).timestamp() if deadline else None,
        }

    def limits(self, competition: str) -> dict[str, Any]:
        """The team's submissions today, and how many more it may make."""
        found = self.api.competition_get_submission_limits(competition)
        return {"today": int(found.num_today), "left": int(found.num_allowed_now)}

    def submissions(self, competition: str, page: str) -> dict[str, Any]:
        """One page of the team's submissions, newest first."""
        from kagglesdk.competitions.types.competition_api_service import ApiListSubmissionsRequest

        request = ApiListSubmissionsRequest()
        request.competition_name = competition
        request.page_size = PAGE
        if page:
            request.page_token = page
        with self._client() as client:
            found = client.list_submissions(request)
        return {
            "items": [_submission(item) for item in found.submissions or []],
            "next": found.next_page_token or "",
        }

    def leaderboard(self, competition: str, page: str) -> dict[str, Any]:
        """Scores of one page of the public board, which the package's own wrapper does not ask for
        once there is a private one."""
        from kagglesdk.competitions.types.competition_api_service import ApiGetLeaderboardRequest

        request = ApiGetLeaderboardRequest()
        request.competition_name = competition
        request.override_public = True
        request.page_size = PAGE
        if page:
            request.page_token = page
        with self._client() as client:
            found = client.get_leaderboard(request)
        return {
            "scores": [item.score for item in found.submissions or []],
            "next": found.next_page_token or "",
        }

    def submit(self, competition: str, file: str, message: str) -> dict[str, Any]:
        """Uploads and submits one file."""
        found = self.api.competition_submit(file, message, competition, quiet=True)
        if found.message == self.api.COMPETITION_SUBMIT_UPLOAD_FAILED_MESSAGE:
            raise Failed(KaggleFailure("connection", "the upload was not completed"))
        return {"ref": str(found.ref or ""), "message": found.message or ""}

    @contextlib.contextmanager
    def _client(self) -> Iterator[Any]:
        with self.api.build_kaggle_client() as client:
            yield client.competitions.competition_api_client

    def clean(self, text: str) -> str:
        """The text without credentials."""
        known = [os.environ.get(name) for name in SECRETS]
        if self.api is not None:
            known += [self.api.get_config_value("key"), self.api.get_config_value("token")]
        return secrets.hide(text, known)

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """The answer to one question: `ok`, or `failure` with its kind."""
        import requests

        try:
            result: dict[str, Any] = getattr(self, question.pop("ask"))(**question)
            return {"ok": result}
        except Failed as problem:
            failure = problem.failure
        except requests.exceptions.JSONDecodeError:
            failure = KaggleFailure("html")
        except requests.RequestException as error:
            failure = _of_request(error)
        except json.JSONDecodeError:
            failure = KaggleFailure("html")
        except (ValueError, KeyError, TypeError, AttributeError) as error:  # the package's parsing
            failure = KaggleFailure("odd", f"{type(error).__name__}: {error}")
        except OSError as error:
            failure = KaggleFailure("connection", str(error))
        return {"failure": failure._replace(text=self.clean(failure.text))._asdict()}


def _of_request(error: Any) -> KaggleFailure:
    response = error.response
    if response is None:
        return KaggleFailure("connection", type(error).__name__)
    return of_status(response.status_code, response.text, response.headers.get("Retry-After"))


def _submission(item: Any) -> dict[str, Any]:
    date: datetime | None = item.date
    return {
        "ref": str(item.ref),
        "description": item.description or "",
        "state": item.status.name,
        "score": item.public_score or "",
        "error": item.error_description or "",
        "time": date.replace(tzinfo=UTC).timestamp() if date else None,
    }


def main() -> None:
    """Answers questions until stdin ends."""
    # Killed with the collector: an upload of ours must not go on beside its successor's.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever the package prints is no answer
    conversation = Conversation()
    for line in sys.stdin:
        answers.write(json.dumps(conversation.answer(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
