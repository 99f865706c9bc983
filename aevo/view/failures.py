"""Every attempt of a job that did not do its work: why, and where its log is."""

import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from aevo.files import words
from aevo.files.documents import Part, read
from aevo.files.paths import CandidateLayout, Layout
from aevo.jobs import autopsy
from aevo.jobs.attempt import TIME_LIMIT
from aevo.jobs.folder import CANCELLED, HUNG, INTERRUPTED, JobFolder
from aevo.jobs.usage import Accounted, Accounts, Seen, accounts, fate_unknown, survey
from aevo.plan.cancel import job_folders
from aevo.records.inspection import Inspection
from aevo.records.job import JobEnd
from aevo.records.manifest import Manifest
from aevo.records.trace import Trace

SLURM_WORDS = (
    "OUT_OF_MEMORY",
    "TIMEOUT",
    "NODE_FAIL",
    "CANCELLED",
    "PREEMPTED",
    "BOOT_FAIL",
    "DEADLINE",
    "FAILED",
)


class FailedAttempt(Part):
    """One attempt that did not do its work. `outcome` is `exit N` or `signal NAME`, or
    OUT_OF_MEMORY, TIMEOUT, HANG, NODE_FAIL, CANCELLED, REFUSED, LOST; `cause` is a named one found
    in the log (CUDA out of memory, diverged …); `text` the last traceback or else the last lines;
    `requeued`: it ran again."""

    round: int | None
    job: str
    attempt: int
    job_id: str | None
    node: str
    time: float
    outcome: str
    cause: str
    message: str
    requeued: bool
    text: list[str]
    log: str
    slurm: bool = True


def failures(layout: Layout, number: int | None = None) -> list[FailedAttempt]:
    """The failed attempts of a campaign, or of one of its rounds, the newest last."""
    jobs = [
        job
        for job in job_folders(layout)
        if number is None or job.root.parent == layout.round(number).jobs
    ]
    found: list[FailedAttempt] = []
    # names repeat in every round: one look per folder of jobs
    for place in dict.fromkeys(job.root.parent for job in jobs):
        seen = survey(job for job in jobs if job.root.parent == place)
        items = list(seen.jobs.values())
        silent = {
            item.spec.name: [a for a in _attempts(item) if _wordless(item, a, seen.time)]
            for item in items
        }
        ids = [
            _job_id(item, a) or ""
            for item in items
            for a in silent[item.spec.name]
            if item.spec.queue is not None
        ]
        said = accounts(ids) if ids else Accounts(0.0, {})
        for item in items:
            found += _of_job(item, silent[item.spec.name], said)
    return sorted(found, key=lambda failure: failure.time)


def _attempts(item: Seen) -> list[int]:
    return sorted({line.attempt for line in item.lines})


def _wordless(item: Seen, attempt: int, now: float) -> bool:
    """True for an attempt that is over and left no end.json."""
    if item.job.ended(attempt) is not None:
        return False
    if attempt < item.state.attempt:
        return True
    return item.state.phase in ("failed", "lost") or fate_unknown(item, now)


def _of_job(item: Seen, silent: list[int], said: Accounts) -> Iterator[FailedAttempt]:
    for attempt in _attempts(item):
        end = item.job.ended(attempt)
        if end is not None:
            if end.exit_code == 0 or (end.exit_code == INTERRUPTED and end.requeued):
                continue
            yield _failure(item, attempt, _outcome_of(end), end.message, end.host, end.requeued)
        elif attempt in silent:
            yield _silent(item, attempt, said)


def _outcome_of(end: JobEnd) -> str:
    word = end.message.split(" ")[0]
    if end.exit_code == TIME_LIMIT or word == "TIMEOUT":
        return "TIMEOUT"
    if end.exit_code == HUNG:
        return "HANG"
    if end.exit_code == CANCELLED:
        return "CANCELLED"
    return word if end.by == "scheduler" and word in SLURM_WORDS else f"exit {end.exit_code}"


def _silent(item: Seen, attempt: int, said: Accounts) -> FailedAttempt:
    """An attempt that left no word: what its ledger, squeue or sacct say."""
    refused = [line for line in item.lines if line.attempt == attempt and line.event == "refused"]
    if refused:
        return _failure(item, attempt, "REFUSED", refused[-1].text, "", False)
    start = _start(item, attempt, said)
    last = attempt == item.state.attempt
    word = item.state.state if last else ""
    node = item.row.node if last and item.row else ""
    if start is not None:
        word, node = word or start.state, node or start.node
    again = any(line.attempt == attempt + 1 and line.event == "requeued" for line in item.lines)
    message = item.state.message if last else ""
    if not message:
        message = f"Slurm says {word}" if word else "it was killed and left no word"
    outcome = word.split(" ")[0]
    if outcome == "FAILED" and start is not None:
        outcome = _exit(start.exit_code)
    elif outcome == "COMPLETED":
        outcome = "exit 0"
    known = outcome in SLURM_WORDS or outcome.startswith(("exit", "signal"))
    return _failure(item, attempt, outcome if known else "LOST", message, node, again)


def _exit(text: str) -> str:
    """sacct's `code:signal` in words."""
    code, _, number = text.partition(":")
    if code == "0" and number.isdigit() and int(number) in set(signal.Signals):
        return f"signal {signal.Signals(int(number)).name}"
    return f"exit {code}"


def _start(item: Seen, attempt: int, said: Accounts) -> Accounted | None:
    """sacct's line of this attempt: the starts of one submission, in order."""
    job_id = _job_id(item, attempt)
    starts = said.starts.get(job_id or "", [])
    same = [other for other in _attempts(item) if _job_id(item, other) == job_id]
    place = same.index(attempt) if attempt in same else 0
    return starts[place] if place < len(starts) else None


def _job_id(item: Seen, attempt: int) -> str | None:
    own = [line.job_id for line in item.lines if line.attempt == attempt and line.job_id]
    return own[-1] if own else item.state.job_id if attempt == item.state.attempt else None


def _failure(
    item: Seen, attempt: int, outcome: str, message: str, node: str, requeued: bool
) -> FailedAttempt:
    job, place = item.job, item.job.root.parents[1].name
    paths = _logs(job, attempt, _job_id(item, attempt))
    texts = [autopsy.log_text(path) for path in paths]
    text = "\n".join(texts)
    times = [path.stat().st_mtime for path in (job.end(attempt), *paths) if path.exists()]
    times = times[:1] or [line.time for line in item.lines if line.attempt == attempt][-1:]
    return FailedAttempt(
        round=int(place.removeprefix("round-")) if place.startswith("round-") else None,
        job=item.spec.name,
        attempt=attempt,
        job_id=_job_id(item, attempt),
        node=node,
        time=times[0],
        outcome=outcome,
        cause=autopsy.cause(message, texts),
        requeued=requeued,
        message=words.line(message, words.LONG),
        text=autopsy.ending(text, autopsy.LAST_LINES),
        log=str(paths[-1]) if paths else "",
        slurm=item.spec.queue is not None,
    )


def _logs(job: JobFolder, attempt: int, job_id: str | None) -> list[Path]:
    """The attempt's logs that exist, its own last. What sbatch itself and Slurm's daemons say
    (module lines, an interpreter that is missing, `oom_kill`) goes to the output file of the
    submission, which lies in the folder of its first attempt."""
    found = []
    for number in range(attempt, 0, -1):
        outputs = sorted(job.attempt(number).glob(f"{job_id or '*'}_0_log.out"))
        if outputs:
            found.append(outputs[-1])
            break
    own = job.log(attempt)
    if own.exists() and not (found and own.samefile(found[-1])):
        found.append(own)
    return found


class Refusal(Part):
    """A run, checkpoint or candidate that ended well and does not count, and why."""

    round: int
    candidate: str
    text: str


def refusals(layout: Layout, number: int | None = None) -> list[Refusal]:
    """What the trusted side refused, from inspections, manifests and what it told the agents."""
    found = []
    for root in sorted(layout.root.glob("round-[0-9]*")):
        files = layout.round(int(root.name.removeprefix("round-")))
        if number is not None and files.number != number:
            continue
        for path in sorted(files.root.glob("c[0-9]*")):
            texts = _refused(CandidateLayout(path))
            found += [
                Refusal(round=files.number, candidate=path.name, text=text)
                for text in dict.fromkeys(words.line(text, words.LONG) for text in texts)
            ]
    return found


def _refused(here: CandidateLayout) -> Iterator[str]:
    for path in sorted(here.root.glob("checked/*/inspection.json")):
        seen = read(Inspection, path)
        if seen.failure is not None:
            yield f"run {seen.run} does not count: {seen.failure}"
        for name, why in seen.refused.items():
            yield f"run {seen.run}: checkpoint {name} was refused: {why}"
    for event in Trace(here.trace).events:
        turn = event.turn
        if turn is not None and turn.role == "tool" and turn.content.startswith("error:"):
            yield turn.content
    if here.manifest.exists() and (failure := read(Manifest, here.manifest).failure):
        yield f"the candidate failed: {failure}"


def show(found: list[FailedAttempt], console: Console, refused: Sequence[Refusal] = ()) -> None:
    """Prints one block per failure, then one line per refusal."""
    if not found and not refused:
        console.print("no failure")
    for refusal in refused:
        console.print(
            Text(f"round {refusal.round}, {refusal.candidate}: {refusal.text}"), soft_wrap=True
        )
    for item in found:
        where = f"round {item.round}, " if item.round else ""
        facts = [f"{where}{item.job}, attempt {item.attempt}"]
        facts += [f"Slurm job {item.job_id}"] if item.job_id and item.slurm else []
        facts += [f"on {item.node}"] if item.node else []
        named = f" -- {item.cause}" if item.cause else ""
        again = " (it ran again)" if item.requeued else ""
        console.print(
            Text(f"{', '.join(facts)}: {item.outcome}{named}{again}", style="bold"), soft_wrap=True
        )
        lines = [item.message] if item.message else []
        for line in [*lines, *item.text]:
            console.print(Text(f"    {line}"), soft_wrap=True)
        console.print(Text(f"    log: {item.log or 'none was written'}\n"), soft_wrap=True)


class Failures(Part):
    """What `--json` prints."""

    campaign: str
    failures: list[FailedAttempt]
    refusals: list[Refusal] = []
