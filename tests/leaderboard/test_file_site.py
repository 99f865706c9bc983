"""A lab's own scorer: the outbox, what may come back, and the archive that goes out."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from aevo.config.leaderboard import FileSettings
from aevo.errors import ConfigError, JobError
from aevo.evaluate.adapters import CONFIG, WEIGHTS, identities
from aevo.evaluate.lora import base_shapes
from aevo.evidence import collector
from aevo.files.documents import read, read_lines, write_text, write_yaml
from aevo.leaderboard import Entry
from aevo.leaderboard.archive import ArchiveError, Rules, check_archive, judge, pack
from aevo.leaderboard.configured import check, described, open_board
from aevo.leaderboard.external import ExternalBoard
from aevo.leaderboard.file_site import FileSite
from aevo.plan.setup import OpenCampaign
from aevo.records.campaign import Campaign
from aevo.records.leaderboard import Leaderboard, Request, SubmissionLine
from aevo.substrate.frozen import DEFAULT, open_substrate
from tests.conftest import Cli
from tests.support.board_support import (
    MODULE,
    FakeClock,
    configuration,
    make_campaign,
    write_adapter,
)
from tests.support.builders import paper_world

FILE = ("leaderboard=file", "leaderboard.quota=2", "leaderboard.deadline_s=600")
SCORER = """\
import hashlib, json, sys
from pathlib import Path
archive, request = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
print("scoring", request["candidate"])
found = hashlib.sha256(archive.read_bytes()).hexdigest()
score = {"c00": 0.8, "c01": 0.8215}[request["candidate"]]
print(json.dumps({"schema_version": 1, "archive_sha256": found, "score": score}))
"""


class Desk:
    """A campaign, its board, and somebody who may answer while the board waits."""

    def __init__(self, root: Path, *overrides: str) -> None:
        self.layout = make_campaign(root / "camp", paper_world(), *FILE, *overrides)
        self.clock = FakeClock()
        self.answers: dict[str, str] = {}  # by candidate
        self.outbox = self.layout.board / "outbox"

    def sleep(self, seconds: float) -> None:
        self.clock.sleep(seconds)
        for folder in self.outbox.iterdir():
            request = read(Request, folder / "request.json")
            if request.candidate in self.answers:
                text = self.answers[request.candidate].replace("SHA", request.archive_sha256)
                write_text(folder / "score.json", text)
                os.utime(folder / "score.json", (1, 1))  # not just being written

    def collect(self) -> Leaderboard:
        board = open_board(OpenCampaign.read(self.layout))
        assert isinstance(board, ExternalBoard)
        clock = self.clock.clock
        board.clock = type(clock)(clock.now, self.sleep)
        collector.collect(self.layout, 1, board)
        return read(Leaderboard, self.layout.round(1).leaderboard)

    def ledger(self) -> list[SubmissionLine]:
        return read_lines(SubmissionLine, self.layout.board / "ledger.jsonl")


def answer(score: object = 0.8, sha: str = "SHA", **more: object) -> str:
    return json.dumps({"schema_version": 1, "archive_sha256": sha, "score": score} | more)


def test_a_round_scored_by_whoever_watches_the_folder(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.answers = {"c00": answer(0.8), "c01": answer(0.82149, seconds=12)}
    record = desk.collect()
    assert [(item.candidate, item.score) for item in record.submissions] == [
        ("c00", 0.8),
        ("c01", 0.821),
    ]
    assert (record.kind, record.quota_left, record.daily) == ("file", 0, None)
    assert [line.event for line in desk.ledger()] == ["intent", "posted"] * 2 + ["scored"] * 2
    left = sorted(path.name for path in next(desk.outbox.iterdir()).iterdir())
    assert left == ["request.json", "score.json"]  # the archive can be made again, byte for byte


def test_what_is_asked_for_is_complete_before_the_request_is_seen(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    record = desk.collect()  # nobody answers
    assert [item.pending for item in record.submissions] == [True, True]
    assert desk.clock.waits[:4] == [5.0, 10.0, 20.0, 40.0] and sum(desk.clock.waits) == 600.0
    for item in record.submissions:
        folder = desk.outbox / str(item.reference)
        request = read(Request, folder / "request.json")
        data = (folder / request.archive).read_bytes()
        assert hashlib.sha256(data).hexdigest() == request.archive_sha256
        with zipfile.ZipFile(folder / request.archive) as archive:
            weights = archive.read(WEIGHTS)
            assert sorted(archive.namelist()) == [CONFIG, WEIGHTS]
        run = desk.layout.round(1).candidate(item.candidate).run(item.run)
        assert weights == (run.adapter(item.checkpoint) / WEIGHTS).read_bytes()
        assert request.adapter_sha256 == item.adapter_sha256


@pytest.mark.long(4)
@pytest.mark.parametrize(
    ("text", "words"),
    [
        (answer(float("nan")), "has the score nan"),
        (answer(1e400), "has the score inf"),
        (answer(1.2), "score 1.2 is not between 0 and 1"),
        (answer(None), "has the score None"),
        (answer("high"), "score: Input should be a valid number"),
        (answer(0.9, sha="0" * 64), "is of another archive"),
        (answer(None, error="out of\nmemory"), "out of memory"),
        ('{"schema_version": 1, "archive', "is not JSON"),
        ('{"score": 0.9}', "archive_sha256: Field required"),
    ],
)
def test_an_answer_that_is_none_is_one_candidates_error(
    tmp_path: Path, text: str, words: str
) -> None:
    desk = Desk(tmp_path)
    desk.answers = {"c00": answer(), "c01": text}
    record = desk.collect()
    assert record.submissions[0].score == 0.8 and record.submissions[1].score is None
    assert words in str(record.submissions[1].error)
    assert "\n" not in str(record.submissions[1].error)


def test_a_round_scored_by_a_command(tmp_path: Path) -> None:
    write_text(tmp_path / "score.py", SCORER)
    desk = Desk(
        tmp_path,
        f"leaderboard.command=[{sys.executable},{tmp_path}/score.py,"
        "'{submission}','{request}']",
    )
    record = desk.collect()
    assert [item.score for item in record.submissions] == [0.8, 0.822]


def test_a_command_that_fails_says_why(tmp_path: Path) -> None:
    fails = "import sys; open('runs', 'a').write('x'); sys.exit('no GPU is free')"
    write_text(tmp_path / "score.py", fails)
    desk = Desk(tmp_path, f"leaderboard.command=[{sys.executable},{tmp_path}/score.py]")
    record = desk.collect()
    assert [item.error for item in record.submissions] == [
        "the scorer's command failed (1): no GPU is free"
    ] * 2
    folder = desk.outbox / str(record.submissions[0].reference)
    assert (folder / "runs").read_text() == "xx"  # attempts: 2


@pytest.mark.long(4)
def test_killed_while_the_command_runs_it_is_run_again(tmp_path: Path) -> None:
    kills = SCORER + (
        "import os, signal\nif not Path('once').exists():\n    Path('once').touch()\n"
        "    os.kill(os.getppid(), signal.SIGKILL)\n"
    )
    write_text(tmp_path / "score.py", kills)
    desk = Desk(
        tmp_path,
        f"leaderboard.command=[{sys.executable},{tmp_path}/score.py,"
        "'{submission}','{request}']",
        "leaderboard.poll_s=0.05",
    )
    run = [sys.executable, "-m", "aevo.evidence.collector", str(desk.layout.root), "1"]
    deaths = 0
    while (done := subprocess.run(run, capture_output=True, text=True, timeout=120)).returncode:
        assert done.returncode == -signal.SIGKILL, done.stderr
        deaths += 1
    record = read(Leaderboard, desk.layout.round(1).leaderboard)
    assert deaths == 2 and [item.score for item in record.submissions] == [0.8, 0.822]
    events = [line.event for line in desk.ledger()]
    assert sorted(events) == sorted(["intent", "posted", "scored"] * 2)


@pytest.mark.long(3)
def test_a_command_is_checked_before_anything_starts(cli: Cli) -> None:
    check(configuration(*FILE, "leaderboard.command=[score,'{submission}']"))
    with pytest.raises(ConfigError, match="not known"):
        check(configuration(*FILE, "leaderboard.command=[score,'{adapter}']"))
    done = cli.run("round", *FILE)  # the regression substrate has no export command
    assert done.returncode == ConfigError.code and done.stderr.count("\n") == 1
    assert "has no command `export`" in done.stderr and not cli.layout().campaign.exists()
    assert "scored by score" in described(configuration(*FILE, "leaderboard.command=[score]"))


def test_what_a_later_command_may_change_and_what_not() -> None:
    pinned = configuration(*FILE).pinned()
    assert configuration(*FILE, "leaderboard.deadline_s=7").pinned() == pinned
    assert configuration(*FILE, "leaderboard.decimals=2").pinned() != pinned


def test_a_command_that_is_not_there_stops_with_one_line(tmp_path: Path) -> None:
    settings = configuration(*FILE, "leaderboard.command=[/no/such/program]").leaderboard
    assert isinstance(settings, FileSettings)
    layout = make_campaign(tmp_path / "camp", paper_world(), *FILE)
    board = ExternalBoard(
        OpenCampaign.read(layout),
        settings,
        FileSite(settings, layout.board / "outbox"),
        0.0,
        FakeClock().clock,
    )
    with pytest.raises(ConfigError, match="/no/such/program"):
        collector.collect(layout, 1, board)


def entry(folder: Path, sha: str) -> Entry:
    return Entry("c01", 1, "step-000200", folder, sha, 0.5)


@pytest.mark.long(7)
def test_the_default_substrates_export_makes_what_is_taken(tmp_path: Path) -> None:
    base = DEFAULT / "base" / "tiny"
    name = "model.layers.0.self_attn.q_proj"
    out_size, in_size = base_shapes(base)[f"{name}.weight"]
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_file(
        {
            f"base_model.model.{name}.lora_A.weight": np.ones((4, in_size), np.float32),
            f"base_model.model.{name}.lora_B.weight": np.zeros((out_size, 4), np.float32),
        },
        folder / WEIGHTS,
    )
    write_text(
        folder / CONFIG,
        json.dumps(
            {
                "peft_type": "LORA",
                "r": 4,
                "lora_alpha": 8,
                "bias": "none",
                "target_modules": ["q_proj"],
            }
        ),
    )
    sha = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    given = entry(folder, identities(sha, 4, 2.0)[1])
    out = tmp_path / "submission.zip"
    rules = Rules(modules=frozenset({"q_proj"}))
    assert (
        pack(open_substrate(DEFAULT), given, base, out, rules)
        == hashlib.sha256(out.read_bytes()).hexdigest()
    )
    with pytest.raises(ArchiveError, match="not the one that was scored on dev"):
        judge(entry(folder, "0" * 64), base, rules)


def test_an_archive_with_anything_else_in_it_is_refused(tmp_path: Path) -> None:
    base, folder = tmp_path / "base", tmp_path / "adapter"
    base.mkdir()
    save_file({f"{MODULE}.weight": np.zeros((6, 4), np.float32)}, base / "model.safetensors")
    given = entry(folder, write_adapter(folder, 1))
    report = judge(given, base, Rules())
    parts = {name: (folder / name).read_bytes() for name in (CONFIG, WEIGHTS)}

    def refused(files: dict[str, bytes], rules: Rules | None = None) -> str:
        path = tmp_path / "submission.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        with pytest.raises(ArchiveError) as found:
            check_archive(path, report, rules or Rules())
        return str(found.value)

    assert "not exactly" in refused(parts | {"notes.txt": b"x"})
    assert "not exactly" in refused({f"adapter/{name}": data for name, data in parts.items()})
    assert "not exactly" in refused({WEIGHTS: parts[WEIGHTS]})
    assert "is not the adapter's" in refused(parts | {CONFIG: b"{}"})
    assert "above 0" in refused(parts, Rules(max_bytes=10))
    (tmp_path / "broken.zip").write_bytes(b"no zip")
    with pytest.raises(ArchiveError, match="no readable zip"):
        check_archive(tmp_path / "broken.zip", report, Rules())


def test_an_export_that_fails_stops_the_round_and_not_the_candidate(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    substrate = Path(read(Campaign, desk.layout.campaign).substrate_path)
    write_text(substrate / "export.py", "import torch_that_is_not_there")
    pinned = open_substrate(substrate).freeze()
    campaign = read(Campaign, desk.layout.campaign)
    write_yaml(
        desk.layout.campaign,
        campaign.model_copy(
            update={"pins": campaign.pins.model_copy(update={"substrate": pinned})}
        ),
    )
    with pytest.raises(JobError, match="torch_that_is_not_there"):
        desk.collect()
    assert not desk.layout.round(1).leaderboard.exists() and desk.ledger() == []
