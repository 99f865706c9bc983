"""What dispatching costs on a Slurm cluster, beside submitit's own way of doing it.

    SLURM_CONF=… python tests/bench/bench_dispatch.py [--n 8 64] [--window 20] [--repeats 5]

Measures, in one run on the same cluster: the time to submit a candidate's jobs (worker, training,
evaluation) and how often the scheduler is asked while N jobs are waited for (jobs that are held, so
the machine is idle); the time from the appearance of a job's result to the return of `wait`, and of
submitit's `job.result()`; the time from `kill -9` of a driver that is submitting a round to the
next submission by the one that is started again. Prints a Markdown table. Commands of Slurm are
counted by wrappers that are first on PATH. Its jobs are cancelled at the end.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import submitit
import yaml

REPO = Path(__file__).parents[2]
sys.path.insert(0, str(REPO))

from aevo.config.cluster import SlurmCluster  # noqa: E402
from aevo.errors import JobError  # noqa: E402
from aevo.files.paths import Layout  # noqa: E402
from aevo.jobs.submit import submit, wait  # noqa: E402
from aevo.plan.cancel import cancel_all  # noqa: E402
from aevo.records.job import JobSpec, Step  # noqa: E402
from tests.conftest import Cli, until  # noqa: E402

COMMANDS = ("sbatch", "squeue", "sacct", "scontrol", "scancel")
JOBS = 3  # of a candidate: worker, training, evaluation
PARAMETERS = {"partition": "cpu", "time": 10, "cpus_per_task": 1, "mem": "500M"}


def settings(**changes: Any) -> SlurmCluster:
    """conf/cluster/devcluster, with production's pauses unless `changes` say otherwise."""
    merged = yaml.safe_load((REPO / "conf/cluster/slurm.yaml").read_text())
    merged["control"] |= {"partition": "cpu", "memory_gb": 0.5, "time_min": 10}
    return SlurmCluster.model_validate(merged | changes)


class Counter:
    """Counts calls of Slurm's commands by wrappers that are first on PATH."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "calls.txt"
        self.log.touch()
        place = folder / "bin"
        place.mkdir()
        for name in COMMANDS:
            real = shutil.which(name)
            if real is None:
                sys.exit(f"{name} is not on PATH: this bench needs a Slurm cluster")
            (place / name).write_text(f'#!/bin/sh\necho {name} >>"{self.log}"\nexec {real} "$@"\n')
            (place / name).chmod(0o755)
        os.environ["PATH"] = f"{place}{os.pathsep}{os.environ['PATH']}"

    def calls(self) -> int:
        """Calls so far."""
        return len(self.log.read_text().splitlines())


def spec(folder: Path, name: str, argv: list[str]) -> JobSpec:
    """A job of one command, which leaves `<name>.done`."""
    return JobSpec(
        name=name,
        kind="collector",
        campaign="bench",
        attempts=1,
        folder=str(folder / "round-01" / "jobs" / name),
        product=str(folder / f"{name}.done"),
        steps=[Step(argv=argv, cwd=str(folder))],
    )


def waiting(
    count: Counter, waits: list[Callable[[], Any]], window: float, end: Callable[[], Any]
) -> float:
    """Calls a minute while all of `waits` wait, each in a thread, until `end` cancels the jobs."""

    def quiet(call: Callable[[], Any]) -> None:
        try:
            call()
        except (JobError, submitit.core.utils.UncompletedJobError):
            return  # cancelled at the end

    threads = [threading.Thread(target=quiet, args=(call,), daemon=True) for call in waits]
    for thread in threads:
        thread.start()
    before = count.calls()
    time.sleep(window)
    calls = count.calls() - before
    end()
    for thread in threads:  # else they would ask on in the next window
        thread.join(60)
    return calls * 60 / window


def held(folder: Path, count: Counter, n: int, window: float) -> dict[str, tuple[float, float]]:
    """Figure -> (aevo, submitit) for N jobs that wait in the queue."""
    cluster = settings(common=settings().common.model_copy(update={"extra": {"hold": True}}))
    specs = [spec(folder, f"job{number}", ["true"]) for number in range(n)]
    before, started = count.calls(), time.monotonic()
    for item in specs:
        submit(item, cluster)
    ours = (time.monotonic() - started) / n, (count.calls() - before) / n
    rate = waiting(
        count,
        [lambda item=item: wait(item, cluster) for item in specs],
        window,
        lambda: cancel_all(Layout(folder)),
    )
    executor = submitit.SlurmExecutor(folder=folder / "submitit")
    executor.update_parameters(**PARAMETERS, additional_parameters={"hold": True})
    before, started = count.calls(), time.monotonic()
    jobs = [executor.submit(time.time) for _ in range(n)]
    theirs = (time.monotonic() - started) / n, (count.calls() - before) / n
    their_rate = waiting(
        count,
        [job.result for job in jobs],
        window,
        lambda: subprocess.run(["scancel", *(job.job_id for job in jobs)], check=True),
    )
    return {
        f"submission of a candidate's {JOBS} jobs, N={n} [ms]": (
            1000 * JOBS * ours[0],
            1000 * JOBS * theirs[0],
        ),
        f"scheduler calls to submit a candidate, N={n}": (JOBS * ours[1], JOBS * theirs[1]),
        f"scheduler calls a minute, {n} jobs waited for": (rate, their_rate),
    }


def latency(folder: Path, repeats: int) -> tuple[float, float]:
    """Median seconds from a result's appearance to the return of who waits for it."""
    ours, theirs = [], []
    executor = submitit.SlurmExecutor(folder=folder / "submitit")
    executor.update_parameters(**PARAMETERS)
    for number in range(repeats):
        item = spec(folder, f"quick{number}", ["touch", str(folder / f"quick{number}.done")])
        submit(item, settings())
        wait(item, settings())
        ours.append(time.time() - Path(item.product).stat().st_mtime)
        job = executor.submit(time.time)
        job.result()
        theirs.append(time.time() - job.paths.result_pickle.stat().st_mtime)
    return statistics.median(ours), statistics.median(theirs)


def restart(folder: Path) -> float:
    """Seconds from kill -9 of a driver, in the middle of its submissions, to the next one."""
    cli = Cli(folder)
    layout = cli.layout()
    words = [
        word
        for word in cli.argv("campaign", "cluster=devcluster", "rounds=1", n=8)
        if not word.startswith("cluster.slot_folder")
    ]

    def intents() -> int:
        return sum(
            path.read_text().count('"intent"')
            for path in layout.round(1).jobs.glob("*/ledger.jsonl")
        )

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            words,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    first = start()
    until(lambda: intents() >= 2)
    os.killpg(first.pid, signal.SIGKILL)
    killed, before = time.monotonic(), intents()
    if before >= 10:
        raise SystemExit("the driver had submitted everything before it could be killed")
    first.wait()
    second = start()
    until(lambda: intents() > before)
    seconds = time.monotonic() - killed
    os.killpg(second.pid, signal.SIGKILL)
    second.wait()
    cancel_all(layout)
    return seconds


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, nargs="+", default=[8, 64], help="jobs waited for")
    parser.add_argument("--window", type=float, default=20.0, help="seconds that calls are counted")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--work", type=Path, help="folder that the nodes see; default: temporary")
    given = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="aevo-bench-", dir=given.work))
    count = Counter(work)
    print("| figure | aevo | submitit | ratio |\n|---|---:|---:|---:|")

    def row(name: str, ours: float, theirs: float | None = None) -> None:
        other = "" if theirs is None else f"{theirs:.3g}"
        ratio = f"{ours / theirs:.2f}" if theirs else ""
        print(f"| {name} | {ours:.3g} | {other} | {ratio} |", flush=True)

    def place() -> Path:
        folder = work / uuid.uuid4().hex[:8]
        folder.mkdir()
        return folder

    for n in given.n:
        for name, (ours, theirs) in held(place(), count, n, given.window).items():
            row(name, ours, theirs)
    row("result on disk to return of wait [s]", *latency(place(), given.repeats))
    row(
        "kill -9 of the driver to the next submission [s]",
        statistics.median(restart(place()) for _ in range(min(3, given.repeats))),
    )
    print(
        f"\nload average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores at the end; "
        f"poll_s={settings().poll_s:g}"
    )
    shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
