"""Where a round stands: every candidate, its jobs, what they wait for, and named problems."""

import re
from pathlib import Path

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from aevo.evaluate.clearing import flagged
from aevo.files import plain, words
from aevo.files.documents import Foreign, Part, finished, read
from aevo.files.paths import CandidateLayout, Layout, RoundLayout
from aevo.files.untrusted import read_end
from aevo.jobs.folder import JobFolder, tail
from aevo.jobs.usage import Seen, Spent, Survey, fate_unknown, spent, survey
from aevo.plan.graph import candidate_ids, worker_name
from aevo.policy import chain
from aevo.records.evidence import Evidence
from aevo.records.leaderboard import Leaderboard
from aevo.records.manifest import Manifest
from aevo.records.plan import Plan
from aevo.records.scores import Scores
from aevo.view.problems import Problem, Problems

WIDTH = 200  # of the table where it goes into a file or pipe
LAST_CHARACTERS = 160


class Row(Part):
    """One candidate (or plan, collector, meta, leaderboard) now. `job` is the one that matters
    now, `state` Slurm's word or else how the job stands by its records, `reason` Slurm's while it
    waits; `wait_s` (in the queue, after all it depends on) and `run_s` are of that job, all
    attempts; `gpu_hours` of all of the candidate's jobs. `dev` is the last score, `lb` the
    leaderboard's."""

    name: str
    axis: str = ""
    phase: str
    job: str = ""
    job_id: str | None = None
    state: str = ""
    reason: str = ""
    expected_start: str | None = None
    wait_s: float | None = None
    run_s: float | None = None
    gpu_hours: float | None = None
    dev: float | None = None
    lb: float | None = None
    last: str = ""


class Status(Part):
    """What `--json` prints."""

    campaign: str
    round: int
    rows: list[Row]
    problems: list[Problem]


class _Worker(Foreign):
    n: int = 0


class _Cluster(Foreign):
    max_jobs_per_round: int | None = None


class _Settings(Foreign):
    """What the view needs of the round's configuration."""

    worker: _Worker = _Worker()
    cluster: _Cluster = _Cluster()


def status(layout: Layout, number: int, problems: Problems) -> Status:
    """Where round `number` stands, planned or only submitted."""
    files = layout.round(number)
    folders = [*sorted(files.jobs.glob("*/spec.json")), *layout.jobs.glob("*/spec.json")]
    seen = survey(JobFolder(path.parent) for path in folders)
    board = read(Leaderboard, files.leaderboard) if files.leaderboard.exists() else None
    settings = read(_Settings, files.config) if files.config.exists() else _Settings()
    axes = _axes(files, settings.worker.n)
    rows = [_candidate(files, name, axis, seen, board) for name, axis in axes.items()]
    if "plan" in seen.jobs:
        rows.insert(0, _single("plan", seen))
    rows += [_single("collector", seen), _single("meta", seen)]
    if "leaderboard" in seen.jobs:
        rows.insert(-1, _single("leaderboard", seen))
    out = frozenset(name for name in axes if files.candidate(name).cancelled.exists())
    return Status(
        campaign=layout.root.name,
        round=number,
        rows=rows,
        problems=[
            *problems.find(seen, out, settings.cluster.max_jobs_per_round),
            *_judged(files),
            *_audited(files),
            *_edited(layout),
        ],
    )


def _judged(files: RoundLayout) -> list[Problem]:
    """The flagged runs of a round that nobody has cleared."""
    return [
        Problem(
            job=item.candidate,
            problem=f"run {item.run} is flagged and counts for nothing: "
            + "; ".join(flag.text for flag in item.flags),
            mend=f"python -m aevo.judge show; if it is honest: python -m aevo.judge clear "
            f"{files.root.parent} {item.round} {item.candidate} --run {item.run} --reason TEXT",
        )
        for item in flagged(files)
        if item.clearance is None
    ]


def _audited(files: RoundLayout) -> list[Problem]:
    """The checks of the round's audit that failed."""
    if not files.evidence.exists():
        return []
    return [
        Problem(
            job="",
            problem=f"the audit's check failed: {item.check}: {words.line(item.text)}",
            mend=f"read {files.evidence_text}",
        )
        for item in read(Evidence, files.evidence).audit
        if not item.passed
    ]


def _edited(layout: Layout) -> list[Problem]:
    """Records of finished rounds that are not as they were."""
    return [
        Problem(job="", problem=line, mend=f"python -m aevo.evidence verify {layout.root}")
        for line in chain.broken(layout)
    ]


_followed = Problems()  # what a command that follows remembers of sinfo and sacct


def table(layout: Layout, number: int, problems: Problems | None = None) -> "View":
    """The status for a terminal: the table, and the problems below it."""
    return View(status(layout, number, problems or _followed))


def _axes(files: RoundLayout, n: int) -> dict[str, str]:
    """The candidates and their axes; before the round is planned, those that were submitted."""
    if files.plan.exists():
        plan = read(Plan, files.plan)
        return {item.id: item.axis.axis if item.axis else "anchor" for item in plan.candidates}
    workers = sorted(path.name.removesuffix("-worker") for path in files.jobs.glob("c*-worker"))
    return dict.fromkeys(workers or candidate_ids(n), "")


def _candidate(
    files: RoundLayout, name: str, axis: str, seen: Survey, board: Leaderboard | None
) -> Row:
    here = files.candidate(name)
    worker = seen.jobs.get(worker_name(name))
    runs = _runs(name, seen)
    live = next(
        (item for item in reversed(runs) if item.state.alive and not fate_unknown(item, seen.time)),
        None,
    )
    row = _single(name, seen, live or worker, "")
    hours = sum(spent(item, seen.time).gpu_hours for item in runs)
    row = row.model_copy(
        update={
            "axis": axis,
            "gpu_hours": round(hours, 4),
            "dev": _last_dev(here),
            "lb": board.score_of(name) if board else None,
        }
    )
    if finished(Manifest, here.manifest):
        manifest = read(Manifest, here.manifest)
        chosen = manifest.selected
        said = manifest.change.summary() if chosen else manifest.failure or ""
        phase = "done" if manifest.status == "ok" else "failed"
        suspect = [item for item in flagged(files, name) if not item.counts]
        if suspect and (chosen is None or any(item.run == chosen.run for item in suspect)):
            phase, said = "flagged", "; ".join(flag.text for flag in suspect[0].flags)
        return row.model_copy(
            update={"phase": phase, "last": _clean(said), "dev": chosen.dev if chosen else None}
        )
    if here.cancelled.exists():
        return row.model_copy(update={"phase": "cancelled"})
    if live is not None:
        kind, number = live.spec.name.split("-")[1:]
        progress = _progress(here, int(number)) if kind == "train" else ""
        return row.model_copy(update={"phase": f"{kind} {number}", "last": progress or row.last})
    return row


def _runs(candidate: str, seen: Survey) -> list[Seen]:
    """The candidate's trainings and evaluations, in the order in which they are made."""
    found = [
        item
        for name, item in seen.jobs.items()
        if item.spec.kind in ("train", "evaluate") and name.split("-")[0] == candidate
    ]
    return sorted(
        found, key=lambda item: (int(item.spec.name.split("-")[-1]), item.spec.kind == "evaluate")
    )


def _single(name: str, seen: Survey, item: Seen | None = None, job: str | None = None) -> Row:
    """The row of one job."""
    item = item or seen.jobs.get(name if job is None else job)
    if item is None:
        return Row(name=name, phase="not submitted")
    state = item.state
    phase = {"none": "not submitted", "finished": "done"}.get(state.phase, state.phase)
    if state.cancelled:
        phase = "cancelled"
    elif fate_unknown(item, seen.time):
        phase = "no record"
    used = spent(item, seen.time) if item.lines else Spent()
    waits = item.row is not None and state.phase == "queued"
    start = item.row.start if item.row and waits and item.row.start[:1].isdigit() else None
    last = "" if state.phase == "finished" else state.message or _last_line(state.log)
    reason = state.reason if item.row is not None or state.alive else ""
    return Row(
        name=name,
        phase=phase,
        job=item.spec.name,
        job_id=state.job_id,
        state=state.state or (item.row.state if item.row else "") or state.phase,
        reason="" if reason == "None" or state.phase == "unknown" else reason,
        expected_start=start,
        wait_s=round(used.wait_s, 1),
        run_s=round(used.run_s, 1),
        gpu_hours=round(used.gpu_hours, 4) if item.spec.resources.gpus else None,
        last=_clean(last),
    )


def _last_line(log: Path | None) -> str:
    """The last line of a log that is not of submitit's own."""
    lines = [line for line in tail(log, 10).split("\n") if not line.startswith("submitit ")]
    return next((line for line in reversed(lines) if line.strip()), "")


def _clean(text: str) -> str:
    """A log's line as a terminal may show it; of a progress bar, its last state."""
    lines = [part for part in re.split(r"[\r\n]", text) if part.strip()]
    return words.line(lines[-1], LAST_CHARACTERS) if lines else ""


def _last_dev(here: CandidateLayout) -> float | None:
    """Best dev score among the checkpoints of the newest evaluated run."""
    evaluated = sorted(
        (
            int(path.parent.name)
            for path in here.root.glob("eval/*/scores.json")
            if path.parent.name.isdigit()
        ),
        reverse=True,
    )
    for number in evaluated[:1]:
        scores = read(Scores, here.run(number).scores).scores.values()
        return max((score.dev for score in scores if score.dev is not None), default=None)
    return None


def _progress(here: CandidateLayout, number: int) -> str:
    """Step and loss of the last line of the run's metrics."""
    end = read_end(here.run(number).metrics, 4096)
    lines = [line for line in end.split(b"\n")[:-1] if line]
    try:
        last = plain.from_json(lines[-1], "a line of metrics", nan=True)
        return f"step {int(last['step'])}, loss {float(last['loss']):.3f}"
    except (IndexError, plain.FormError, ValueError, KeyError, TypeError):
        return ""  # a line of the substrate's that is not (yet) whole is only not shown


COLUMNS = (
    "candidate",
    "axis",
    "phase",
    "job",
    "state",
    "reason",
    "wait",
    "run",
    "GPU-h",
    "dev",
    "LB",
    "last line",
)
RIGHT = ("wait", "run", "GPU-h", "dev", "LB")
ALWAYS = ("candidate", "phase", "job", "dev")  # others are left out where they are all empty
NARROW_WIDTH = 120
NARROW = ("candidate", "axis", "phase", "state", "dev", "LB", "last line")


class View:
    """A status as rich draws it: the table, with fewer columns on a narrow terminal, and the
    problems below it."""

    def __init__(self, now: Status) -> None:
        self.now = now

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = [dict(zip(COLUMNS, _cells(row), strict=True)) for row in self.now.rows]
        wanted = COLUMNS if options.max_width >= NARROW_WIDTH else NARROW
        shown = [title for title in wanted if title in ALWAYS or any(line[title] for line in lines)]
        view = Table(
            title=f"{self.now.campaign}, round {self.now.round}", title_justify="left", expand=False
        )
        for title in shown:
            view.add_column(
                title,
                overflow="fold",
                no_wrap=title in (*RIGHT, "candidate"),
                justify="right" if title in RIGHT else "left",
            )
        for line in lines:
            view.add_row(*(Text(line[title]) for title in shown))
        yield view
        for item in self.now.problems:
            about = f"{item.job}: " if item.job else ""
            yield Text(f"problem: {about}{item.problem}\n    mend: {item.mend}")


def _cells(row: Row) -> list[str]:
    start = f", starts about {row.expected_start}" if row.expected_start else ""
    job = f"{row.job} ({row.job_id})" if row.job_id else row.job
    begun = row.job != ""
    return [
        row.name,
        row.axis,
        row.phase,
        job,
        row.state,
        f"{row.reason}{start}",
        _duration(row.wait_s) if begun else "",
        _duration(row.run_s) if begun else "",
        f"{row.gpu_hours:.2f}" if row.gpu_hours else "",
        "" if row.dev is None else f"{row.dev:.3f}",
        "" if row.lb is None else f"{row.lb:.2f}",
        row.last,
    ]


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
