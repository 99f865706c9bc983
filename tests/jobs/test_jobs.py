"""One submission wrapper: finished work is not repeated, live work adopted, lost work returns."""

import itertools
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from aevo.config.cluster import LocalCluster
from aevo.errors import JobError
from aevo.files.documents import read
from aevo.jobs.ending import cancel
from aevo.jobs.folder import JobFolder
from aevo.jobs.owner import OwnerGone, Watch
from aevo.jobs.script import DEPTH
from aevo.jobs.state import observe
from aevo.jobs.submit import submit, wait
from aevo.records.job import JobEnd, JobSpec, LedgerLine, Queue, Resources, Running, Step
from tests.conftest import until


@pytest.fixture
def cluster(tmp_path: Path) -> LocalCluster:
    return LocalCluster(kind="local", slots=1, slot_folder=str(tmp_path / "slots"), max_wait_min=10)


def python_job(tmp_path: Path, name: str, code: str, **fields: object) -> JobSpec:
    """A job that runs `code` with `product` as the path it must leave."""
    product = tmp_path / f"{name}.out"
    argv = [sys.executable, "-c", f"product = {str(product)!r}\n{code}"]
    return JobSpec.model_validate(
        {
            "name": name,
            "kind": "train",
            "campaign": "test",
            "folder": str(tmp_path / "jobs" / name),
            "product": str(product),
            "steps": [Step(argv=argv, cwd=str(tmp_path))],
            **fields,
        }
    )


LEAVE = "open(product, 'w').write('done')"


def test_job_runs_once_and_is_finished_by_its_product(
    tmp_path: Path, cluster: LocalCluster
) -> None:
    spec = python_job(tmp_path, "once", "open(product, 'a').write('x')")
    wait(spec, cluster)
    assert submit(spec, cluster).phase == "finished"
    assert Path(spec.product).read_text() == "x"
    events = sorted(line.event for line in JobFolder(Path(spec.folder)).lines())
    assert events == ["intent", "started", "submitted"]


def test_exit_without_product_is_a_failure(tmp_path: Path, cluster: LocalCluster) -> None:
    spec = python_job(tmp_path, "empty", "print('did nothing')")
    with pytest.raises(JobError, match="without leaving"):
        wait(spec, cluster)
    job = JobFolder(Path(spec.folder))
    assert observe(job).attempt == 2
    assert read(JobEnd, job.end(2)).exit_code != 0
    assert (job.root / "latest").readlink().name == "attempt_2"
    assert "did nothing" in job.log(1).read_text()


def test_failing_command_names_its_exit_code(tmp_path: Path, cluster: LocalCluster) -> None:
    spec = python_job(tmp_path, "seven", "import sys; sys.exit(7)", attempts=1)
    with pytest.raises(JobError, match="exit code 7"):
        wait(spec, cluster)
    assert observe(JobFolder(Path(spec.folder))).attempt == 1


def test_time_limit_ends_the_command(tmp_path: Path, cluster: LocalCluster) -> None:
    spec = python_job(
        tmp_path,
        "slow",
        "import time; time.sleep(600)",
        attempts=1,
        resources=Resources(time_min=0),
    )
    with pytest.raises(JobError, match="TIMEOUT"):
        wait(spec, cluster)


def test_killed_job_is_lost_and_comes_back(tmp_path: Path, cluster: LocalCluster) -> None:
    code = (
        "import os, time\nmark = product + '.first'\n"
        "if not os.path.exists(mark):\n    open(mark, 'w').close()\n    time.sleep(600)\n" + LEAVE
    )
    spec = python_job(tmp_path, "killed", code, attempts=1)
    submit(spec, cluster)
    job = JobFolder(Path(spec.folder))
    until(lambda: Path(spec.product + ".first").exists())
    running = read(Running, job.running)
    for pid in (running.pid, running.child):
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
    until(lambda: observe(job).phase == "lost")
    wait(spec, cluster)
    assert observe(job).attempt == 2


def test_command_that_outlives_its_job_keeps_the_job_alive(
    tmp_path: Path, cluster: LocalCluster
) -> None:
    code = f"import os, time\nwhile not os.path.exists(product + '.go'): time.sleep(0.02)\n{LEAVE}"
    spec = python_job(tmp_path, "orphan", code)
    submit(spec, cluster)
    job = JobFolder(Path(spec.folder))
    until(lambda: observe(job).phase == "running")
    until(lambda: read(Running, job.running).child is not None)
    os.kill(read(Running, job.running).pid, signal.SIGKILL)
    assert submit(spec, cluster).alive
    Path(spec.product + ".go").touch()
    assert wait(spec, cluster).attempt == 1


def test_simultaneous_submissions_start_one_job(tmp_path: Path, cluster: LocalCluster) -> None:
    spec = python_job(tmp_path, "race", "open(product, 'a').write('x')")
    threads = [threading.Thread(target=submit, args=(spec, cluster)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait(spec, cluster)
    assert Path(spec.product).read_text() == "x"


@pytest.mark.long(2)
def test_slots_bound_how_many_compute_at_once(tmp_path: Path, cluster: LocalCluster) -> None:
    code = (
        "import time\nbegin = time.time(); time.sleep(0.3)\n"
        "open(product, 'w').write(f'{begin} {time.time()}')"
    )
    specs = [python_job(tmp_path, f"j{n}", code) for n in range(3)]
    for spec in specs:
        submit(spec, cluster)
    for spec in specs:
        wait(spec, cluster)
    spans = sorted(tuple(map(float, Path(s.product).read_text().split())) for s in specs)
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(spans))


def test_job_after_others_starts_when_they_ended_however_they_ended(
    tmp_path: Path, cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = python_job(tmp_path, "a", "import time; time.sleep(0.5)\n" + LEAVE)
    last = python_job(
        tmp_path, "b", f"assert open({first.product!r}).read()\n" + LEAVE, after=[first.folder]
    )
    submit(first, cluster)
    submit(last, cluster)
    assert wait(last, cluster).attempt == 1


def test_cancelled_job_ends_with_its_command_and_may_run_again(
    tmp_path: Path, cluster: LocalCluster
) -> None:
    code = (
        "import os, time\nif not os.path.exists(product + '.second'):\n"
        "    open(product + '.pid', 'w').write(str(os.getpid())); time.sleep(600)\n" + LEAVE
    )
    spec = python_job(tmp_path, "cancelled", code, attempts=1)
    submit(spec, cluster)
    job = JobFolder(Path(spec.folder))
    until(lambda: Path(spec.product + ".pid").exists())
    pid = int(Path(spec.product + ".pid").read_text())
    assert cancel(job)
    until(lambda: not Path("/proc", str(pid)).exists())
    assert read(JobEnd, job.end(1)).message == "cancelled"
    assert not cancel(job)
    Path(spec.product + ".second").touch()
    wait(spec, cluster)


def test_commands_see_no_secret_and_no_scheduler(
    tmp_path: Path, cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "KAGGLE_KEY", "SLURM_JOB_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "secret")
    spec = python_job(
        tmp_path, "env", "import json, os; json.dump(dict(os.environ), open(product, 'w'))"
    )
    wait(spec, cluster)
    seen = json.loads(Path(spec.product).read_text())
    assert "secret" not in seen.values()
    assert not [name for name in seen if name.startswith(("SLURM", "SUBMITIT"))]
    assert seen["OMP_NUM_THREADS"] == "1" and seen["PYTHONDONTWRITEBYTECODE"] == "1"


def test_job_that_submits_itself_is_stopped(
    tmp_path: Path, cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DEPTH, "3")
    with pytest.raises(JobError, match="submits itself"):
        submit(python_job(tmp_path, "deep", LEAVE), cluster)


def test_answer_lost_after_the_intent_is_submitted_again(
    tmp_path: Path, cluster: LocalCluster
) -> None:
    spec = python_job(tmp_path, "lost", LEAVE)
    job = JobFolder(Path(spec.folder))
    job.root.mkdir(parents=True)
    job.spec.write_text(spec.model_dump_json())
    line = LedgerLine(event="intent", name="lost", attempt=1, time=time.time())
    job.ledger.write_text(line.model_dump_json() + "\n")
    assert observe(job).phase == "lost"
    assert wait(spec, cluster).attempt == 2


def test_job_that_has_left_its_product_outlives_its_worker(tmp_path: Path) -> None:
    """A worker may finish as soon as the scores are there, before the job's process has ended."""
    owner = tmp_path / "jobs" / "c00-worker"
    queue = Queue(cache=str(tmp_path / "queue.json"), poll_s=60, settle_s=0, watch_s=0)
    done = python_job(tmp_path, "c00-worker", LEAVE)
    JobFolder(owner).root.mkdir(parents=True)
    JobFolder(owner).spec.write_text(done.model_dump_json())
    Path(done.product).touch()
    spec = python_job(tmp_path, "c00-evaluate-1", LEAVE, owner=str(owner), queue=queue)
    with pytest.raises(OwnerGone, match="c00-worker has ended"):
        Watch(spec).look()
    Path(spec.product).touch()
    Watch(spec).look()
