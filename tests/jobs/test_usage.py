"""Waiting for the scheduler is told apart from working."""

from pathlib import Path

from aevo.files.documents import append_line, write_text
from aevo.jobs.folder import JobFolder
from aevo.jobs.usage import gpu_hours, queue_seconds
from aevo.records.job import JobSpec, LedgerLine, Resources


def ledger(root: Path, name: str, *events: tuple[str, int, float]) -> JobFolder:
    job = JobFolder(root / name)
    for event, attempt, time in events:
        append_line(
            job.ledger,
            LedgerLine.model_validate(
                {"event": event, "name": name, "attempt": attempt, "time": time}
            ),
        )
    return job


def test_waits_that_overlap_count_once_and_what_was_before_does_not(tmp_path: Path) -> None:
    ledger(tmp_path, "c01-worker", ("intent", 1, 0.0), ("started", 1, 100.0))
    ledger(
        tmp_path,
        "c01-train-1",
        ("intent", 1, 110.0),
        ("submitted", 1, 111.0),
        ("started", 1, 150.0),
    )
    ledger(tmp_path, "c01-train-2", ("intent", 1, 140.0), ("started", 1, 160.0))
    folders = list(tmp_path.iterdir())
    assert queue_seconds(folders, since=100.0, now=500.0) == 50.0


def test_job_that_waits_still_waits_until_now(tmp_path: Path) -> None:
    ledger(tmp_path, "c01-train-1", ("intent", 1, 10.0), ("submitted", 1, 11.0))
    assert queue_seconds(tmp_path.iterdir(), since=0.0, now=70.0) == 60.0


def test_attempt_that_never_started_waited_until_the_next(tmp_path: Path) -> None:
    ledger(tmp_path, "c01-train-1", ("intent", 1, 10.0), ("intent", 2, 30.0), ("started", 2, 35.0))
    assert queue_seconds(tmp_path.iterdir(), since=0.0, now=900.0) == 25.0


def test_requeued_attempt_waited_since_the_last_sign_of_the_one_before(tmp_path: Path) -> None:
    job = ledger(tmp_path, "c01-train-1", ("intent", 1, 10.0), ("started", 1, 12.0))
    write_text(job.log(1), "step 7\n")
    seen = job.log(1).stat().st_mtime
    ledger(tmp_path, "c01-train-1", ("requeued", 2, seen + 40), ("started", 2, seen + 41))
    waited = queue_seconds(tmp_path.iterdir(), since=0.0, now=seen + 500)
    assert abs(waited - (2 + 41)) < 0.01


def test_gpu_hours_of_an_attempt_that_was_killed_end_with_its_last_sign(tmp_path: Path) -> None:
    job = ledger(tmp_path, "c01-train-1", ("intent", 1, 10.0))
    spec = JobSpec(
        name="c01-train-1",
        kind="train",
        campaign="t",
        folder=str(job.root),
        product=str(tmp_path / "p"),
        resources=Resources(gpus=4, nodes=2),
    )
    write_text(job.spec, spec.model_dump_json())
    write_text(job.log(1), "step 7\n")
    seen = job.log(1).stat().st_mtime
    ledger(
        tmp_path,
        "c01-train-1",
        ("started", 1, seen - 1800),
        ("requeued", 2, seen + 9000),
        ("started", 2, seen + 9000),
    )
    hours = gpu_hours(tmp_path.iterdir(), now=seen + 9000 + 900)
    assert abs(hours - 8 * (0.5 + 0.25)) < 0.01
