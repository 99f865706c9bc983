"""The Kaggle leaderboard: the real package against a local stand-in of the site."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from aevo.config.cluster import LocalCluster
from aevo.config.leaderboard import KaggleSettings
from aevo.config.schema import Config
from aevo.errors import ConfigError
from aevo.evidence import collector
from aevo.evidence.inputs import read_rounds
from aevo.files.documents import read, read_lines
from aevo.files.paths import Layout
from aevo.jobs.submit import clean_environment
from aevo.leaderboard.configured import check, described
from aevo.leaderboard.external import ExternalBoard
from aevo.leaderboard.kaggle.failure import of_status
from aevo.leaderboard.kaggle.site import KaggleSite
from aevo.leaderboard.site import BoardError
from aevo.plan.setup import OpenCampaign
from aevo.records.campaign import Campaign
from aevo.records.evidence import Evidence
from aevo.records.job import JobSpec
from aevo.records.leaderboard import Leaderboard, SubmissionLine
from aevo.view.trajectory import read_trajectory
from tests.conftest import until
from tests.support.board_support import (
    FakeClock,
    add_round,
    configuration,
    make_campaign,
    write_adapter,
)
from tests.support.builders import files, paper_world
from tests.support.fake_kaggle import QUOTA_TEXT, FakeKaggle, Fault, page, says

pytest.importorskip("kaggle", reason="the kaggle package is not installed")

pytestmark = pytest.mark.long(35)

FAST = (
    "leaderboard=kaggle",
    "leaderboard.competition=the-challenge",
    "leaderboard.backoff_s=1",
    "leaderboard.retries=2",
    "leaderboard.deadline_s=3600",
    "leaderboard.timeout_s=20",
)
SCORES = {"c00": "0.80", "c01": "0.82", "c02": "0.76", "c03": "0.80"}


def score(description: str) -> str:
    """By candidate, as the description names it."""
    named = re.search(r" (c\d\d) ", description)
    return SCORES.get(named[1], "0.81") if named else "0.5"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def site(clock: FakeClock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeKaggle]:
    with FakeKaggle(now=clock.now) as found:
        found.scores = score
        for name, value in found.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "home"))
        monkeypatch.delenv("KAGGLE_API_TOKEN", raising=False)
        (tmp_path / "home").mkdir()
        yield found


@dataclass
class Bench:
    """A campaign on disk, its board, and the site."""

    layout: Layout
    clock: FakeClock

    def config(self) -> Config:
        return Config.model_validate(read(Campaign, self.layout.campaign).config)

    def settings(self) -> KaggleSettings:
        found = self.config().leaderboard
        assert isinstance(found, KaggleSettings)
        return found

    def board(self, **changes: float) -> ExternalBoard:
        settings = self.settings().model_copy(update=changes)
        return ExternalBoard(
            OpenCampaign.read(self.layout),
            settings,
            KaggleSite(settings, self.clock.sleep),
            settings.quota_wait_s,
            self.clock.clock,
        )

    def collect(self, number: int = 1, **changes: float) -> Leaderboard:
        collector.collect(self.layout, number, self.board(**changes))
        return self.record(number)

    def record(self, number: int = 1) -> Leaderboard:
        return read(Leaderboard, self.layout.round(number).leaderboard)

    def ledger(self) -> list[SubmissionLine]:
        return read_lines(SubmissionLine, self.layout.board / "ledger.jsonl")


@pytest.fixture
def bench(tmp_path: Path, site: FakeKaggle, clock: FakeClock) -> Bench:
    return Bench(make_campaign(tmp_path / "camp", paper_world(), *FAST), clock)


def test_a_round_is_submitted_scored_and_placed(bench: Bench, site: FakeKaggle) -> None:
    site.score_after_s = 100.0
    site.board = ["0.91", "0.82", "0.82", "0.80", "0.80", "0.80", "0.50"]
    record = bench.collect()
    assert [item.candidate for item in record.submissions] == ["c00", "c01", "c04", "c03", "c05"]
    assert [item.score for item in record.submissions][:2] == [0.80, 0.82]
    assert len(site.described()) == 5 and record.quota_left == 0
    token, name, words = site.described()[1].split(" ", 2)
    assert (name, words) == (
        "camp",
        "round 1 c01 run 1 step-000050 adapter " + record.submissions[1].adapter_sha256[:16],
    )
    assert token == bench.ledger()[-1].token or token.startswith("aevo-")
    standing = record.standing
    assert standing is not None and site.private_asked == 0
    assert (standing.teams, standing.best, standing.better, standing.tied) == (7, 0.91, 1, 2)
    assert standing.scores == {"0.91": 1, "0.82": 2, "0.80": 3, "0.50": 1}
    assert record.daily is not None and (record.daily.used, record.daily.left) == (5, 0)
    assert bench.clock.waits == [30.0, 60.0, 120.0]  # less and less often


def test_lists_are_read_page_by_page(bench: Bench, site: FakeKaggle) -> None:
    bench.collect(quota=2)
    ours = site.submissions[:2]
    for number in range(10):  # others of the team, after ours
        site.put(f"by hand {number}")
    again = KaggleSite(bench.settings(), bench.clock.sleep)
    tokens = [item["description"].split()[0] for item in ours]
    before = site.calls.count("ListSubmissions")
    found = again.find(tokens, 0.0)
    again.close()
    assert set(found) == set(tokens)
    assert site.calls.count("ListSubmissions") - before == 4  # twelve by threes


def test_equal_scores_are_ties_at_the_boards_decimals(bench: Bench, site: FakeKaggle) -> None:
    site.scores = lambda description: "0.8049" if " c01 " in description else "0.80"
    site.board = ["0.80499", "0.8012", "0.79"]
    record = bench.collect(quota=2)
    assert [item.score for item in record.submissions] == [0.80, 0.80]
    assert record.standing is not None and record.standing.tied == 2


def test_what_the_team_submitted_elsewhere_counts(bench: Bench, site: FakeKaggle) -> None:
    for number in range(3):
        site.put(f"by hand {number}")
    site.put("yesterday", age_s=86400)
    record = bench.collect()
    assert [item.score is not None for item in record.submissions] == [True, True, *[False] * 3]
    assert "none left" in str(record.submissions[2].error)
    assert "00:00 UTC" in str(record.submissions[2].error) and record.quota_left == 3


def test_the_quota_of_a_day_holds_over_rounds_and_a_new_day_begins_anew(
    bench: Bench, site: FakeKaggle
) -> None:
    assert bench.collect(quota=4).quota_left == 0
    site.submissions.clear()  # a site that lists nothing yet: our records count
    _next(bench)
    record = bench.collect(2)
    assert sum(item.score is not None for item in record.submissions) == 1
    _next(bench)
    bench.clock.time += 86400
    record = bench.collect(3)
    assert all(item.score is not None for item in record.submissions)


def _next(bench: Bench) -> None:
    """The next round, under the policy that the last one led to."""
    from aevo.meta import step

    number = max(item.number for item in bench.layout.rounds())
    step.main([str(bench.layout.root), str(number)])
    add_round(bench.layout, number + 1, paper_world())


def test_it_waits_for_a_new_day_if_it_may(bench: Bench, site: FakeKaggle) -> None:
    for number in range(4):
        site.put(f"by hand {number}")
    board = bench.board()
    board.quota_wait_s = 86400.0
    collector.collect(bench.layout, 1, board)
    assert all(item.score is not None for item in bench.record().submissions)
    assert bench.clock.waits[0] == 43260.0


def test_a_quota_that_the_site_alone_knows_of_leaves_the_rest_out(
    bench: Bench, site: FakeKaggle
) -> None:
    site.add("CreateSubmission", Fault(carried_out=True), says(400, QUOTA_TEXT))
    record = bench.collect()
    assert record.submissions[0].score == 0.80  # its answer was lost, it was found in the list
    assert QUOTA_TEXT in str(record.submissions[1].error)
    assert len(site.described()) == 1
    assert [line.event for line in bench.ledger() if line.candidate == "c01"] == [
        "intent",
        "refused",
    ]


def test_a_file_that_the_site_rejects_is_one_candidates_error(
    bench: Bench, site: FakeKaggle
) -> None:
    site.add("CreateSubmission", says(400, "Submission file is not in the expected format"))
    site.failing = lambda text: "Evaluation raised\nan error" if " c01 " in text else ""
    record = bench.collect()
    assert "expected format" in str(record.submissions[0].error)
    assert record.submissions[1].error == "Evaluation raised an error"
    assert [item.score is not None for item in record.submissions[2:]] == [True] * 3
    assert record.quota_left == 1  # the scorer's error used a submission, the rejection did not


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ({"rank": 64}, "rank 64 is not between 1 and 32"),
        ({"value": float("nan")}, "values that are not finite"),
        ({"module": "backbone.layers.0.mixer.gate"}, "the base has no matrix"),
    ],
)
def test_an_adapter_that_the_scorer_does_not_take_is_never_uploaded(
    bench: Bench, site: FakeKaggle, spoil: dict[str, float], words: str
) -> None:
    run = bench.layout.round(1).candidate("c01").run(1)
    write_adapter(run.adapter("step-000050"), 1, **spoil)  # type: ignore[arg-type]
    record = bench.collect(quota=3)
    assert words in str(record.submissions[1].error)
    assert len(site.described()) == 2 and "c01" not in " ".join(site.described())


def test_module_names_that_vllm_does_not_know_are_refused(bench: Bench, site: FakeKaggle) -> None:
    board = bench.board()
    board.settings = board.settings.model_copy(update={"modules": ["q_proj"], "quota": 1})
    collector.collect(bench.layout, 1, board)
    assert "takes no LoRA for in_proj" in str(bench.record().submissions[0].error)
    assert site.described() == []


@pytest.mark.parametrize("method", ["ListSubmissions", "CreateSubmission"])
def test_what_passes_is_tried_again(bench: Bench, site: FakeKaggle, method: str) -> None:
    site.add(
        method,
        page(),
        page(503),
        says(500, "oops"),
        says(429, "slow down", Retry_After="7"),
        Fault(),
    )
    record = bench.collect(quota=1, retries=5)
    assert record.submissions[0].score == 0.80 and len(site.described()) == 1
    assert bench.clock.waits[:5] == [1.0, 2.0, 4.0, 7.0, 16.0]


def test_what_does_not_pass_is_one_line_in_the_end(bench: Bench, site: FakeKaggle) -> None:
    board = KaggleSite(bench.settings(), bench.clock.sleep)
    for fault, words in [
        (page(), "web page"),
        (says(502, "bad gateway"), "error of its own: 502: bad gateway"),
        (says(429, "slow"), "fewer calls"),
        (Fault(), "cannot be reached"),
    ]:
        before = site.calls.count("ListSubmissions")
        site.add("ListSubmissions", *[fault] * 3)
        with pytest.raises(BoardError, match=words) as found:
            board.find(["aevo-x"], 0.0)
        assert not found.value.lasting and "\n" not in str(found.value)
        assert site.calls.count("ListSubmissions") == before + 3
    board.close()


def test_a_round_that_the_site_stopped_goes_on(bench: Bench, site: FakeKaggle) -> None:
    site.add("StartSubmissionUpload", says(403, "You must accept the rules"))
    with pytest.raises(BoardError, match="rules of the-challenge are not accepted"):
        bench.collect(quota=1)
    assert not bench.layout.round(1).evidence.exists() and site.described() == []
    assert bench.collect(quota=1).submissions[0].score == 0.80


def test_a_late_score_is_taken_up_by_the_next_round(bench: Bench, site: FakeKaggle) -> None:
    site.score_after_s = 5000.0
    record = bench.collect(quota=2)
    assert [item.pending for item in record.submissions] == [True, True]
    evidence = read(Evidence, bench.layout.round(1).evidence)
    assert any("score is not in yet" in item.text for item in evidence.audit)
    assert evidence.candidates[1].lb is None
    _next(bench)
    bench.clock.time += 90000
    site.score_after_s = 0.0
    late = bench.collect(2, quota=2)
    assert {(item.round, item.candidate, item.score) for item in late.late} == {
        (1, "c00", 0.80),
        (1, "c01", 0.82),
    }
    rounds = read_rounds(bench.layout, 2)
    assert rounds[0].leaderboard is not None and rounds[0].leaderboard.score_of("c01") == 0.82
    assert read_trajectory(bench.layout.root).rounds[0].leaderboard == rounds[0].leaderboard
    assert read_rounds(bench.layout, 1)[0].leaderboard == record  # round 1 verifies as before


def test_the_same_collector_run_again_takes_up_a_late_score(bench: Bench, site: FakeKaggle) -> None:
    site.score_after_s = 5000.0
    bench.collect(quota=2)
    bench.layout.round(1).evidence.unlink()
    bench.clock.time += 5000
    uploads = site.calls.count("upload")
    record = bench.collect(quota=2)
    assert [item.score for item in record.submissions] == [0.80, 0.82]
    assert site.calls.count("upload") == uploads


def test_a_site_that_is_away_while_scores_are_awaited_costs_nothing(
    bench: Bench, site: FakeKaggle
) -> None:
    site.score_after_s = 50.0
    board = bench.board()
    site.add("GetSubmissionLimits")
    original = board.site.post

    def post(archive: Path, request: object) -> str:
        reference = original(archive, request)  # type: ignore[arg-type]
        site.add("ListSubmissions", *[says(503, "maintenance")] * 3)
        return reference

    board.site.post = post  # type: ignore[method-assign]
    board.settings = board.settings.model_copy(update={"quota": 1})
    collector.collect(bench.layout, 1, board)
    assert bench.record().submissions[0].score == 0.80


@pytest.mark.parametrize(
    ("method", "carried_out"),
    [("StartSubmissionUpload", False), ("CreateSubmission", False), ("CreateSubmission", True)],
)
def test_killed_at_an_upload_nothing_is_lost_or_repeated(
    bench: Bench, site: FakeKaggle, method: str, carried_out: bool
) -> None:
    bench.clock.time = time.time()  # the collector's, too
    command = [sys.executable, "-m", "aevo.evidence.collector", str(bench.layout.root), "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def kill() -> None:
        process.kill()
        process.wait()

    site.add(method, Fault(carried_out=carried_out, hook=kill))
    process.communicate(timeout=200)
    assert process.returncode == -signal.SIGKILL
    assert [line.event for line in bench.ledger()] == ["intent"]
    record = bench.collect()
    assert [item.score is not None for item in record.submissions] == [True] * 5
    assert len(site.described()) == len(set(site.described())) == 5


def test_a_lost_folder_does_not_repeat_what_the_site_has(bench: Bench, site: FakeKaggle) -> None:
    first = bench.collect(quota=3)
    for path in (
        bench.layout.round(1).evidence,
        bench.layout.round(1).leaderboard,
        bench.layout.board / "ledger.jsonl",
    ):
        path.unlink()
    assert bench.collect(quota=3).submissions == first.submissions
    assert len(site.described()) == 3


def test_a_finished_round_asks_nothing(bench: Bench, site: FakeKaggle) -> None:
    bench.collect()
    calls = len(site.calls)
    assert bench.board().submit(1, []) == bench.record()
    assert len(site.calls) == calls


def refusal(*overrides: str) -> str:
    with pytest.raises((BoardError, ConfigError)) as found:
        check(configuration(*FAST, *overrides))
    assert "\n" not in str(found.value)
    return str(found.value)


def test_what_a_submission_needs_is_asked_before_anything_starts(
    site: FakeKaggle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    check(configuration(*FAST))
    assert "ended on 2026-06-15" in capsys.readouterr().out
    assert "competition is not set" in refusal("leaderboard.competition=null")
    assert "knows no competition elsewhere" in refusal("leaderboard.competition=elsewhere")
    monkeypatch.setenv("KAGGLE_KEY", "wrong-key-of-alice")
    text = refusal()
    assert "does not take the credentials" in text and "wrong-key" not in text
    monkeypatch.delenv("KAGGLE_KEY")
    assert "none were found" in refusal()
    assert "StartSubmissionUpload" not in site.calls


def test_a_competition_that_is_not_open_to_us(bench: Bench, site: FakeKaggle) -> None:
    board = KaggleSite(bench.settings(), bench.clock.sleep)

    def refused() -> str:
        with pytest.raises(BoardError) as found:
            board.check()
        return str(found.value)

    site.entered = False
    assert "rules of the-challenge are not accepted" in refused()
    site.entered, site.disabled = True, True
    assert "takes no submissions" in refused()
    site.disabled = False
    site.add("GetCompetition", says(403, "You must accept the competition rules"))
    assert "kaggle.com/competitions/the-challenge/rules" in refused()
    board.close()


def test_credentials_by_file_and_by_token(
    site: FakeKaggle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY"):
        monkeypatch.delenv(name)
    place = tmp_path / "elsewhere"
    place.mkdir()
    (place / "kaggle.json").write_text(json.dumps({"username": site.user, "key": site.key}))
    (place / "kaggle.json").chmod(0o600)
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(place))
    check(configuration(*FAST))
    (place / "kaggle.json").unlink()
    monkeypatch.setenv("KAGGLE_API_TOKEN", site.token)
    check(configuration(*FAST))
    monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_expired")
    assert "KGAT_expired" not in refusal()


def test_credentials_reach_no_file_no_message_and_no_other_job(
    bench: Bench, site: FakeKaggle, capfd: pytest.CaptureFixture[str]
) -> None:
    site.add("GetSubmissionLimits", says(403, f"token {site.key} of Basic YWxpY2U6azN5 may not"))
    with pytest.raises(BoardError, match="forbids") as found:
        bench.collect()
    assert site.key not in str(found.value) and "YWxpY2U6" not in str(found.value)
    bench.collect()
    secret = site.key.encode()
    assert not [name for name, data in files(bench.layout.root).items() if secret in data]
    said = capfd.readouterr()
    assert site.key not in said.out + said.err
    cluster = LocalCluster.model_validate(
        configuration().cluster.model_dump() | {"slot_folder": str(bench.layout.root)}
    )
    for kind, there in (("collector", True), ("worker", False), ("train", False), ("meta", False)):
        spec = JobSpec.model_validate(
            {"name": "x", "kind": kind, "campaign": "c", "folder": "f", "product": "p"}
        )
        with clean_environment(spec, 1, cluster):
            assert ("KAGGLE_KEY" in os.environ) is there, kind
            assert ("KAGGLE_USERNAME" in os.environ) is there, kind


def test_a_site_that_is_silent_is_given_up(site: FakeKaggle, clock: FakeClock) -> None:
    settings = configuration(*FAST, "leaderboard.timeout_s=1").leaderboard
    assert isinstance(settings, KaggleSettings)
    over = threading.Event()
    site.add("GetCompetition", Fault(hook=lambda: until(over.is_set)))
    board = KaggleSite(settings, clock.sleep)
    assert board.check()["entered"]  # the second try
    over.set()
    board.close()
    assert clock.waits == [1.0] and site.calls.count("GetCompetition") == 2


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (400, QUOTA_TEXT, "quota"),
        (400, "Submission limit reached for today", "quota"),
        (400, "You have used your daily submissions", "quota"),
        (400, "The number of rows in the submission must be 500", "rejected"),
        (400, "Submission exceeds the size limit", "rejected"),
        (400, "Invalid file", "rejected"),
        (400, "The competition deadline has passed", "closed"),
        (401, "Unauthorized", "credentials"),
        (403, "You must accept the rules", "rules"),
        (403, "Permission denied", "forbidden"),
        (404, "Not found", "missing"),
        (413, "Too large", "rejected"),
        (429, "Too many", "rate"),
        (503, "Later", "server"),
    ],
)
def test_errors_are_told_apart(status: int, text: str, kind: str) -> None:
    failure = of_status(status, json.dumps({"message": text}), None)
    assert failure.kind == kind and failure.text.endswith(text)
    assert "{" not in str(failure.error("x"))


def test_a_dry_run_says_what_would_be_submitted() -> None:
    text = described(configuration(*FAST, "worker.n=4"))
    assert "at most 4 of 4 candidates, the anchor first, to kaggle.com/competitions/the" in text
    assert "5 a UTC day" in text
