"""What can go wrong between us and Kaggle: classified by what the answer says, with the mend."""

import json
import re
from typing import Any, NamedTuple

from aevo.leaderboard.site import BoardError, foreign

# May pass by itself, so the call is repeated.
PASSING = ("html", "connection", "rate", "server", "timeout", "odd")

# Of the team's submissions, not of the size of one.
QUOTA = re.compile(
    r"^(?!.*\b(size|rows?|columns?|bytes|[GM]i?B)\b)"
    r".*((daily|maximum|max|allowed)( number of)? submissions?\b|"
    r"submissions?\b.{0,40}(limit|quota|per day|today|remaining)|"
    r"(limit|quota)\b.{0,40}submissions?\b)",
    re.IGNORECASE,
)
RULES = re.compile(
    r"\brules?\b|must accept|agree to|joined|not entered|enter the competition", re.IGNORECASE
)
CLOSED = re.compile(
    r"deadline|has ended|is over|closed|no longer accept|not accepting|disabled", re.IGNORECASE
)
MENDS = {
    "package": "pip install -e '.[kaggle]' in the environment that the command and its jobs use",
    "credentials": "set KAGGLE_API_TOKEN, or KAGGLE_USERNAME and KAGGLE_KEY, or put the token into "
    "~/.kaggle/access_token or kaggle.json into KAGGLE_CONFIG_DIR, where the "
    "collector runs (kaggle.com/settings makes one)",
    "rules": "open kaggle.com/competitions/{competition}/rules with the same account and accept "
    "them, then run the same command again",
    "missing": "leaderboard.competition is the last part of the competition's address; a private "
    "one must have invited the account",
    "closed": "choose another competition or leaderboard=file; a campaign's leaderboard is pinned",
    "forbidden": "accept the competition's rules with this account, and give its token the right "
    "to submit",
    "quota": "it begins anew at 00:00 UTC; run the same command again then",
    "rejected": "see docs/leaderboards.md for what the scorer takes",
    "html": "a proxy or a login page may stand in between: try `kaggle competitions submissions "
    "{competition}` on the same machine",
    "connection": "the collector needs the network where it runs (on Slurm: cluster.control); "
    "behind a proxy set HTTPS_PROXY. Nothing is submitted twice: run it again",
    "rate": "wait and run the same command again; nothing is submitted twice",
    "server": "wait and run the same command again; nothing is submitted twice",
    "timeout": "run the same command again, nothing is submitted twice; leaderboard.timeout_s and "
    "leaderboard.upload_timeout_s allow more",
    "odd": "the kaggle package may be too old or too new: pip install -U kaggle",
}
SAYS = {
    "package": "the kaggle package cannot be used",
    "credentials": "Kaggle does not take the credentials",
    "rules": "the rules of {competition} are not accepted",
    "missing": "Kaggle knows no competition {competition}, or hides it from this account",
    "closed": "{competition} takes no submissions",
    "forbidden": "Kaggle forbids this account to do that in {competition}",
    "quota": "the quota of {competition} is used up",
    "rejected": "Kaggle rejected the submission",
    "html": "Kaggle's answer is a web page, not an answer of its API",
    "connection": "Kaggle cannot be reached",
    "rate": "Kaggle asks for fewer calls (429)",
    "server": "Kaggle has an error of its own",
    "timeout": "Kaggle did not answer in time",
    "odd": "Kaggle's answer is not understood",
}


class KaggleFailure(NamedTuple):
    """One failed call. `text` is what was said, without credentials."""

    kind: str
    text: str = ""
    retry_after_s: float | None = None

    def error(self, competition: str) -> BoardError:
        """As one line for the user."""
        says = SAYS[self.kind].format(competition=competition)
        text = foreign(self.text)
        return BoardError(
            f"{says}: {text}" if text else says,
            MENDS[self.kind].format(competition=competition),
            lasting=self.kind not in PASSING,
        )


def of_status(status: int, body: str, retry_after: str | None) -> KaggleFailure:
    """An answer that is an error, by its status and what its body says."""
    page = "<html" in body[:2000].lower() or "<!doctype" in body[:200].lower()
    text = f"status {status}, a web page" if page else message_of(body) or f"status {status}"
    wait = float(retry_after) if retry_after and retry_after.strip().isdigit() else None
    if status == 429:
        return KaggleFailure("rate", text, wait)
    if status >= 500:
        return KaggleFailure("server", f"{status}: {text}" if not page else text, wait)
    if page and status != 404:
        return KaggleFailure("html", text)
    if status == 401:
        return KaggleFailure("credentials", text)
    if status == 404:
        return KaggleFailure("missing", text)
    if QUOTA.search(text):
        return KaggleFailure("quota", text)
    if status == 403 and RULES.search(text):
        return KaggleFailure("rules", text)
    if CLOSED.search(text):
        return KaggleFailure("closed", text)
    return KaggleFailure("forbidden" if status == 403 else "rejected", text)


def message_of(body: str) -> str:
    """The message of an error body: JSON with `message` (or `error`), else its text."""
    try:
        data: Any = json.loads(body)
    except ValueError:
        return foreign(body)
    if isinstance(data, dict):
        found = data.get("message") or data.get("error") or ""
        if isinstance(found, dict):
            found = found.get("message", "")
        return foreign(str(found))
    return foreign(body)
