"""Job folders as jobs leave them, written with the real records, and Slurm's commands as fakes
that say what a test wants: most reasons of a real cluster cannot be brought about."""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from aevo.files.documents import append_line, write_json, write_text
from aevo.files.paths import Layout
from aevo.jobs.folder import JobFolder
from aevo.records.job import JobEnd, JobSpec, LedgerLine, Queue, Resources, Running


class Jobs:
    """The jobs of round 1 of a campaign. Times are given as seconds ago."""

    def __init__(self, root: Path) -> None:
        self.layout = Layout(root / "camp")
        self.files = self.layout.round(1)
        self.files.jobs.mkdir(parents=True)
        self.now = time.time()

    def spec(self, name: str, slurm: bool = True, **fields: Any) -> JobFolder:
        """A job that was never submitted."""
        job = JobFolder(self.files.jobs / name)
        parts = name.split("-")
        queue = Queue(cache=str(self.files.root / ".queue.json"), poll_s=60, settle_s=5, watch_s=5)
        if len(parts) == 3:
            fields.setdefault("owner", str(self.files.jobs / f"{parts[0]}-worker"))
        write_json(
            job.spec,
            JobSpec.model_validate(
                {
                    "name": name,
                    "kind": parts[1] if len(parts) > 1 else name,
                    "campaign": "camp",
                    "folder": str(job.root),
                    "product": str(job.root / "product"),
                    "entry": "aevo.work.worker:main",
                    "queue": queue if slurm else None,
                    "resources": Resources(gpus=4 if len(parts) == 3 else 0),
                    **fields,
                }
            ),
        )
        return job

    def line(
        self,
        job: JobFolder,
        event: str,
        ago: float,
        attempt: int = 1,
        job_id: str | None = None,
        text: str = "",
    ) -> None:
        append_line(
            job.ledger,
            LedgerLine.model_validate(
                {
                    "event": event,
                    "name": job.root.name,
                    "attempt": attempt,
                    "time": self.now - ago,
                    "job_id": job_id,
                    "text": text,
                    "job_name": f"{job.root.name}-{attempt}",
                }
            ),
        )

    def submitted(self, name: str, job_id: str, ago: float = 100.0, **fields: Any) -> JobFolder:
        """A job that was submitted to Slurm."""
        job = self.spec(name, **fields)
        self.line(job, "intent", ago)
        self.line(job, "submitted", ago, job_id=job_id)
        job.open_attempt(1)
        return job

    def running(self, job: JobFolder, ago: float, attempt: int = 1, log: str = "") -> None:
        """Its attempt starts."""
        self.line(job, "started", ago, attempt)
        write_json(
            job.running,
            Running(
                name=job.root.name,
                attempt=attempt,
                pid=1,
                host="node",
                started=self.now - ago,
                phase="running",
            ),
        )
        write_text(job.log(attempt), log)

    def end(
        self,
        job: JobFolder,
        code: int,
        message: str,
        attempt: int = 1,
        seconds: float = 1.0,
        **fields: Any,
    ) -> None:
        """Its attempt ends."""
        write_json(
            job.end(attempt),
            JobEnd(
                name=job.root.name,
                attempt=attempt,
                exit_code=code,
                seconds=seconds,
                host="node7",
                message=message,
                **fields,
            ),
        )

    def finish(self, job: JobFolder) -> None:
        write_text(job.root / "product", "done")

    def silence(self, job: JobFolder, ago: float, attempt: int = 1) -> None:
        """Its log was last written so long ago."""
        os.utime(job.log(attempt), (self.now - ago, self.now - ago))


class FakeSlurm:
    """squeue, sinfo and sacct that print what they are told and note that they were called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        for command in ("squeue", "sinfo", "sacct"):
            script = folder / command
            write_text(
                script,
                f"""#!/bin/sh
echo "$*" >> {folder}/{command}.calls
case "$*" in *"%i|%P"*) exec cat {folder}/partitions.out ;; esac
cat {folder}/{command}.err >&2
cat {folder}/{command}.out
exit $(cat {folder}/{command}.code)
""",
                mode=0o755,
            )
            self.say(command, "")
        write_text(folder / "partitions.out", "")

    def say(self, command: str, text: str, error: str = "", code: int = 0) -> None:
        for suffix, content in (("out", text), ("err", error), ("code", str(code))):
            write_text(self.folder / f"{command}.{suffix}", content)

    def queue(self, *rows: tuple[str, str, str, str]) -> None:
        """Rows of squeue: id, state, reason, expected start."""
        self.say(
            "squeue",
            "".join(
                f"{job_id}|{state}|{reason}||{start}|N/A|name\n"
                for job_id, state, reason, start in rows
            ),
        )

    def calls(self, command: str) -> int:
        path = self.folder / f"{command}.calls"
        return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    return Jobs(tmp_path)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    made = FakeSlurm(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{made.folder}:{os.environ['PATH']}")
    return made
