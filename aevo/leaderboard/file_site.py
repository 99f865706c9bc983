"""A lab's own scorer, met in a folder.

For each submission there is a folder `leaderboard/outbox/<token>/` with `submission.zip` and,
written after it, `request.json`. The answer is `score.json` beside them, or the last line that a
command printed, which is then written there.
"""

import json
import math
import subprocess
import time
from collections.abc import Collection
from pathlib import Path

from pydantic import ValidationError

from aevo.config.leaderboard import FileSettings
from aevo.errors import ConfigError
from aevo.files.documents import problems, read, write_json, write_text
from aevo.leaderboard.site import Posted, foreign
from aevo.records.leaderboard import Answer, Request

PLACES = ("submission", "request")
TORN_S = 10.0  # a document that cannot be read is given this long: its writer may be at work


class FileSite:
    """Bound to the outbox of one campaign."""

    kind = "file"
    settle_s = 0.0

    def __init__(self, settings: FileSettings, outbox: Path) -> None:
        self.settings, self.outbox = settings, outbox

    def check(self) -> None:
        """Finds out whether the command can be run.

        Raises:
            ConfigError: it names an unknown placeholder.
        """
        self._argv("a", "b")

    def find(self, tokens: Collection[str], since: float) -> dict[str, Posted]:
        """Requests in the outbox, and the answers to them; runs the command for those without."""
        found = {}
        for token in sorted(tokens):
            folder = self.outbox / token
            if not (folder / "request.json").exists():
                continue
            answer = folder / "score.json"
            if self.settings.command is not None and not answer.exists():
                self._run(folder)
            found[token] = _posted(token, read(Request, folder / "request.json"), answer)
        return found

    def daily(self, ours: int, time: float) -> None:
        """No daily quota."""

    def post(self, archive: Path, request: Request) -> str:
        """Puts the request beside the archive."""
        write_json(archive.with_name("request.json"), request)
        return request.token

    def standing(self, ours: float | None, time: float) -> None:
        """No public board."""

    def close(self) -> None:
        """Nothing is held."""

    def _argv(self, submission: str, request: str) -> list[str]:
        try:
            return [
                word.format(submission=submission, request=request)
                for word in self.settings.command or []
            ]
        except (KeyError, IndexError, ValueError) as error:
            raise ConfigError(
                f"leaderboard.command has a placeholder that is not known ({error})",
                f"known: {', '.join('{' + name + '}' for name in PLACES)}",
            ) from error

    def _run(self, folder: Path) -> None:
        """Runs the command until it gives an answer, or has failed too often; a command that was
        killed with us is run again."""
        text = ""
        for _ in range(self.settings.attempts):
            argv = self._argv(str(folder / "submission.zip"), str(folder / "request.json"))
            try:
                done = subprocess.run(
                    argv,
                    cwd=folder,
                    capture_output=True,
                    text=True,
                    errors="replace",
                    stdin=subprocess.DEVNULL,
                    timeout=self.settings.command_timeout_s,
                )
            except subprocess.TimeoutExpired:
                text = f"no answer within {self.settings.command_timeout_s:g} s"
                continue
            except OSError as error:
                raise ConfigError(
                    f"leaderboard.command cannot be run: {error}",
                    "name a program that is there where the collector runs",
                ) from error
            lines = done.stdout.strip().splitlines()
            if done.returncode == 0 and lines:
                write_text(folder / "score.json", lines[-1] + "\n")
                return
            said = done.stderr.strip().splitlines() or lines or ["it printed nothing"]
            text = f"the scorer's command failed ({done.returncode}): {said[-1]}"
        request = read(Request, folder / "request.json")
        write_json(
            folder / "score.json",
            Answer(schema_version=1, archive_sha256=request.archive_sha256, error=foreign(text)),
        )


def _posted(token: str, request: Request, path: Path) -> Posted:
    """An answer, judged: it must be of this archive, and have a finite score or an error."""
    if not path.exists():
        return Posted(token, "pending")
    try:
        answer = Answer.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        return Posted(token, "failed", text=f"score.json: {problems(error)}")
    except (OSError, ValueError) as error:
        if time.time() - path.stat().st_mtime < TORN_S:
            return Posted(token, "pending")
        return Posted(token, "failed", text=f"score.json is not JSON: {foreign(str(error))}")
    if answer.archive_sha256 != request.archive_sha256:
        return Posted(
            token,
            "failed",
            text="score.json is of another archive "
            f"({foreign(answer.archive_sha256)[:16]}, not "
            f"{request.archive_sha256[:16]})",
        )
    if answer.error:
        return Posted(token, "failed", text=foreign(answer.error))
    if answer.score is None or not math.isfinite(answer.score):
        return Posted(token, "failed", text=f"score.json has the score {answer.score}")
    return Posted(token, "scored", answer.score)
