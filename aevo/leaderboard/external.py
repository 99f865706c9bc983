"""A leaderboard outside of the campaign: submit within the quota, wait for scores with a deadline,
and neither lose nor repeat a submission, whenever this process is killed.

Before an upload stands a line in the ledger; an upload whose line has no outcome is looked for on
the board, by the token that its description carries, before anything is uploaded again. What has no
score at the deadline is recorded as pending and taken up by the next round.
"""

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from aevo.config.leaderboard import ExternalSettings
from aevo.errors import SubstrateError
from aevo.files.documents import finished, read, write_json
from aevo.leaderboard.archive import ArchiveError, Rules, pack
from aevo.leaderboard.board import Entry
from aevo.leaderboard.site import BoardError, Posted, Refused, Site, foreign, utc
from aevo.leaderboard.submissions import OPEN, TAKEN, Ledger, Order, day, order
from aevo.plan.setup import OpenCampaign
from aevo.records.leaderboard import (
    Daily,
    Leaderboard,
    LedgerEvent,
    Request,
    Submission,
    SubmissionLine,
)

ARCHIVE = "submission.zip"
SLACK_S = 86400.0  # by how much the board's clock and ours may differ, generously


@dataclass(frozen=True)
class Clock:
    """Time, replaceable in tests: seconds since the epoch, and waiting."""

    now: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep


class ExternalBoard:
    """Bound to one campaign and one site."""

    def __init__(
        self,
        campaign: OpenCampaign,
        settings: ExternalSettings,
        site: Site,
        quota_wait_s: float = 0.0,
        clock: Clock | None = None,
    ) -> None:
        self.campaign, self.layout = campaign, campaign.layout
        self.settings, self.site = settings, site
        self.quota_wait_s, self.clock = quota_wait_s, clock or Clock()
        self.ledger = Ledger(self.layout.board / "ledger.jsonl")

    @property
    def decimals(self) -> int:
        return self.settings.decimals

    @property
    def quota(self) -> int:
        return self.settings.quota

    def submit(self, number: int, entries: list[Entry]) -> Leaderboard:
        """Submits up to `quota` entries, waits for their scores until the deadline, and writes the
        round's record. Called again, it submits nothing and looks once for what is pending.

        Raises:
            BoardError: the board cannot be used (credentials, rules, competition, network).
            JobError, SubstrateError: archives cannot be made.
        """
        path = self.layout.round(number).leaderboard
        orders = [order(self.campaign.name, number, entry) for entry in entries[: self.quota]]
        try:
            if finished(Leaderboard, path):
                return self._again(number, orders, read(Leaderboard, path))
            left_out = self._place(number, orders)
            self._wait(number, orders)
            return self._write(number, orders, left_out)
        finally:
            self.site.close()

    def _again(self, number: int, orders: list[Order], record: Leaderboard) -> Leaderboard:
        if not any(entry.pending for entry in record.submissions):
            return record
        try:
            self._look(number)
        except BoardError as error:
            print(f"{self.site.kind}: {error}", file=sys.stderr)
            return record
        latest = self.ledger.latest()
        known = {
            (item.entry.candidate, item.entry.run, item.entry.checkpoint): item for item in orders
        }
        submissions = []
        for entry in record.submissions:
            mine = known.get((entry.candidate, entry.run, entry.checkpoint))
            submissions.append(
                self._submission(mine, latest.get(mine.token), "")
                if mine and entry.pending
                else entry
            )
        record = record.model_copy(update={"submissions": submissions})
        write_json(self.layout.round(number).leaderboard, record)
        return record

    def _place(self, number: int, orders: list[Order]) -> dict[str, str]:
        """Makes sure that each order is on the board; returns why others are not, by token."""
        self._look(number, orders)
        left_out: dict[str, str] = {}
        exhausted = ""
        for wanted in orders:
            line = self.ledger.latest().get(wanted.token)
            if line is not None and line.event == "intent":
                line = self._settle(wanted, line)
            if line is not None and line.event in (*TAKEN, "rejected"):
                continue
            exhausted = exhausted or self._exhausted()
            if exhausted:
                left_out[wanted.token] = exhausted
                continue
            try:
                self._upload(wanted)
            except ArchiveError as error:
                self.ledger.note("rejected", wanted, self.clock.now(), text=foreign(str(error)))
            except Refused as refusal:
                event: LedgerEvent = "refused" if refusal.exhausted else "rejected"
                self.ledger.note(event, wanted, self.clock.now(), text=foreign(refusal.text))
                if refusal.exhausted:
                    exhausted = left_out[wanted.token] = f"not submitted: {refusal.text}"
        return left_out

    def _settle(self, wanted: Order, line: SubmissionLine) -> SubmissionLine | None:
        """An upload that nobody saw end: it may be on its way to the board's list. Returns its
        line if it is there now, else None: then it was not made."""
        rest = line.time + self.site.settle_s - self.clock.now()
        if rest > 0:
            self.clock.sleep(min(rest, self.site.settle_s))
        self._look(wanted.round, [wanted])
        found = self.ledger.latest()[wanted.token]
        return None if found.event == "intent" else found

    def _exhausted(self) -> str:
        """Why nothing more may be submitted today; empty if something may. Waits for a new day if
        it comes within `quota_wait_s`."""
        daily = self._daily()
        if daily is None or daily.left > 0:
            return ""
        wait = _until_tomorrow(self.clock.now())
        if wait <= self.quota_wait_s:
            print(
                f"{self.site.kind}: today's quota of {daily.quota} is used up; waiting "
                f"{wait / 3600:.1f} h for the next UTC day",
                flush=True,
            )
            self.clock.sleep(wait)
            daily = self._daily()
            if daily is None or daily.left > 0:
                return ""
        return (
            f"not submitted: {daily.used} submissions on {daily.day} (UTC), none left; the "
            f"quota begins anew at 00:00 UTC"
        )

    def _daily(self) -> Daily | None:
        now = self.clock.now()
        return self.site.daily(self.ledger.used(day(now)), now)

    def _upload(self, wanted: Order) -> None:
        substrate = self.campaign.substrate
        self.campaign.verify()
        if "export" not in substrate.file.commands:
            raise SubstrateError(
                f"{substrate.root}/substrate.yaml has no command `export`",
                "the leaderboard needs one that writes a submission archive",
            )
        archive = self.layout.board / "outbox" / wanted.token / ARCHIVE
        sha = pack(
            substrate,
            wanted.entry,
            Path(self.campaign.base),
            archive,
            rules_of(self.settings, lora=self.site.kind == "kaggle"),
        )
        self.ledger.note("intent", wanted, self.clock.now(), sha)
        reference = self.site.post(archive, self._request(wanted, sha))
        self.ledger.note("posted", wanted, self.clock.now(), sha, reference)
        print(f"{self.site.kind}: submitted {wanted.description} as {reference}", flush=True)

    def _request(self, wanted: Order, sha: str) -> Request:
        entry = wanted.entry
        return Request(
            token=wanted.token,
            campaign=self.campaign.name,
            round=wanted.round,
            candidate=entry.candidate,
            run=entry.run,
            checkpoint=entry.checkpoint,
            adapter_sha256=entry.adapter_sha256,
            archive=ARCHIVE,
            archive_sha256=sha,
            description=wanted.description,
            requested=utc(self.clock.now()),
        )

    def _open(self) -> dict[str, SubmissionLine]:
        return {token: line for token, line in self.ledger.latest().items() if line.event in OPEN}

    def _look(self, number: int, orders: list[Order] | None = None) -> None:
        """Asks the board for all that has no outcome, also of earlier rounds, and for `orders` that
        the ledger does not know (a folder that was restored from a backup); notes what it says."""
        waiting = self._open()
        latest = self.ledger.latest()
        strange = {item.token: item for item in orders or [] if item.token not in latest}
        if not waiting and not strange:
            return
        since = 0.0 if strange else min(line.time for line in waiting.values()) - SLACK_S
        found = self.site.find({*waiting, *strange}, since)
        for token, line in waiting.items():
            if token not in found and line.event == "intent" and line.round < number:
                self.ledger.follow(line, "refused", line.time, number, text="never arrived")
        for token, posted in found.items():
            known = waiting.get(token)
            if known is None:
                line = self.ledger.note(
                    "posted", strange[token], self.clock.now(), reference=posted.reference
                )
            elif known.event == "intent":
                self.ledger.follow(known, "posted", known.time, number, posted.reference)
                line = self.ledger.latest()[token]
            else:
                line = known
            self._outcome(number, line, posted)

    def _outcome(self, number: int, line: SubmissionLine, posted: Posted) -> None:
        if posted.state == "pending":
            return
        text = posted.text or "the board gave no reason"
        score = posted.score if posted.state == "scored" else None
        if posted.state == "scored":
            text = self._odd(posted.score)
        if text:
            self.ledger.follow(line, "failed", self.clock.now(), number, text=foreign(text))
        elif score is not None:
            self.ledger.follow(
                line, "scored", self.clock.now(), number, score=round(score, self.decimals)
            )
        (self.layout.board / "outbox" / line.token / ARCHIVE).unlink(missing_ok=True)

    def _odd(self, score: float | None) -> str:
        low, high = self.settings.lowest, self.settings.highest
        if score is None:
            return "scored without a score"
        if not math.isfinite(score) or not low <= score <= high:
            return f"score {score:g} is not between {low:g} and {high:g}"
        return ""

    def _wait(self, number: int, orders: list[Order]) -> None:
        """Asks for scores, less and less often, until all are in or the deadline has come."""
        mine = {item.token for item in orders}
        pause = self.settings.poll_s
        while waiting := [
            line for token, line in self._open().items() if token in mine and line.event == "posted"
        ]:
            rest = max(line.time for line in waiting) + self.settings.deadline_s - self.clock.now()
            if rest <= 0:
                print(
                    f"{self.site.kind}: {len(waiting)} score(s) are not in after "
                    f"{self.settings.deadline_s:g} s; the next round takes them up",
                    flush=True,
                )
                return
            self.clock.sleep(min(pause, rest))
            pause = min(2 * pause, self.settings.poll_max_s)
            try:
                self._look(number)
            except BoardError as error:
                if error.lasting:
                    raise
                print(f"{self.site.kind}: {error}", file=sys.stderr, flush=True)

    def _write(self, number: int, orders: list[Order], left_out: dict[str, str]) -> Leaderboard:
        latest = self.ledger.latest()
        submissions = [
            self._submission(item, latest.get(item.token), left_out.get(item.token, ""))
            for item in orders
        ]
        taken = sum(latest[item.token].event in TAKEN for item in orders if item.token in latest)
        best = max((item.score for item in submissions if item.score is not None), default=None)
        daily, standing = None, None
        try:
            daily = self._daily()
            standing = self.site.standing(best, self.clock.now())
        except BoardError as error:  # the scores are in: the round does not fail over the rest
            print(f"{self.site.kind}: no snapshot of the board: {error}", file=sys.stderr)
        record = Leaderboard(
            kind=self.site.kind,
            round=number,
            decimals=self.decimals,
            quota=self.quota,
            quota_left=self.quota - taken,
            submissions=submissions,
            daily=daily,
            standing=standing,
            late=self.ledger.late(number),
        )
        write_json(self.layout.round(number).leaderboard, record)
        return record

    def _submission(self, wanted: Order, line: SubmissionLine | None, reason: str) -> Submission:
        entry = wanted.entry
        scored = line is not None and line.event == "scored"
        pending = line is not None and line.event == "posted"
        error = None
        if not scored and not pending:
            error = reason or (line.text if line else None) or "not submitted"
        return Submission(
            candidate=entry.candidate,
            run=entry.run,
            checkpoint=entry.checkpoint,
            adapter_sha256=entry.adapter_sha256,
            dev=entry.dev,
            error=error,
            pending=pending,
            score=line.score if line is not None and scored else None,
            reference=line.reference if line is not None else None,
        )


def rules_of(settings: ExternalSettings, lora: bool) -> Rules:
    """What the scorer takes, by the settings."""
    return Rules(
        max_rank=settings.max_rank or Rules.max_rank,
        modules=None if settings.modules is None else frozenset(settings.modules),
        max_bytes=settings.max_mb << 20,
        lora=lora,
    )


def _until_tomorrow(now: float) -> float:
    """Seconds until the next UTC day has begun for sure (a minute of slack for clocks)."""
    moment = datetime.fromtimestamp(now, UTC)
    midnight = (moment + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    return (midnight - moment).total_seconds() + 60.0
