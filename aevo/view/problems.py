"""Problems of a round that a person has to look at, each named with the mend.

Reads records, the shared answer of squeue, and, only where they may matter, sinfo (a job waits for
nodes) and sacct (a job vanished without a record); both with short deadlines. Guarantees nothing
about problems that neither records nor these commands show.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aevo.config.cluster import section_of
from aevo.files.documents import Part
from aevo.jobs.folder import JobFolder
from aevo.jobs.queue import WAITING, QueuedJob, call
from aevo.jobs.submit import exhausted
from aevo.jobs.usage import Accounting, Accounts, Seen, Survey, fate_unknown
from aevo.records.job import JobKind


class Problem(Part):
    """Something that a person has to look at. `job` is its name, empty if it concerns all."""

    job: str
    problem: str
    mend: str


@dataclass(frozen=True)
class Reason:
    """A reason that begins with one of `words`. `key` is the setting of conf/cluster to change,
    `field` what `scontrol update` calls it; or `mend` says it all. `{id}` is Slurm's id."""

    words: tuple[str, ...]
    meaning: str
    key: str = ""
    field: str = ""
    mend: str = ""


REASONS = (
    Reason(
        ("dependencyneversatisfied",),
        "waits for a job that failed or was cancelled",
        mend="`scancel {id}`, then run the same command again: it submits what is missing",
    ),
    Reason(
        ("launch failed requeued held", "jobholdmaxrequeue"),
        "Slurm holds it after a launch that failed",
        mend="whoever waits for it submits it again; where nothing does: `scontrol release {id}`",
    ),
    Reason(
        ("jobheldadmin",),
        "an administrator holds it",
        mend="ask them, or as an operator: `scontrol release {id}`",
    ),
    Reason(("jobhelduser",), "its user holds it", mend="`scontrol release {id}`"),
    Reason(
        ("partitiontimelimit",),
        "it asks for more time than its partition allows",
        "time_min",
        "timelimit",
    ),
    Reason(
        ("partitionnodelimit",),
        "it asks for more nodes than its partition allows",
        "nodes",
        "numnodes",
    ),
    Reason(
        ("partitiondown", "partitioninactive"),
        "its partition is out of service",
        "partition",
        "partition",
    ),
    Reason(("qosnotallowed", "invalidqos"), "its QOS may not be used here", "qos", "qos"),
    Reason(
        ("qos",),
        "a limit of its QOS is reached; it starts when other jobs end, unless it alone is over it",
        "qos, gpus or time_min",
        "qos",
    ),
    Reason(
        ("invalidaccount", "accountnotallowed", "accountingpolicy"),
        "its account may not be used here",
        "account",
        "account",
    ),
    Reason(
        ("assoc", "maxjobs"),
        "a limit of its account is reached; it starts when other jobs "
        "end, unless it alone is over it",
        "account",
        "account",
    ),
    Reason(
        ("reqnodenotavail", "nodes required for job are down", "nodedown"),
        "nodes that it needs are down, drained or reserved (`sinfo -R` says why)",
        "nodelist, exclude, constraint or reservation",
        "reqnodelist",
    ),
    Reason(("licenses",), "it waits for licenses", "extra.licenses", "licenses"),
    Reason(
        ("badconstraints", "nodeconfig"),
        "no node has all that it asks for",
        "constraint, gres, gpus, nodes, cpus or memory_gb",
        "features",
    ),
    Reason(
        ("reservationdeleted", "invalidreservation"),
        "its reservation does not exist any more",
        "reservation",
        "reservationname",
    ),
)


def reason_problem(name: str, kind: JobKind, row: QueuedJob) -> Problem | None:
    """The problem of a job that waits for a reason in `REASONS`; None if it only waits."""
    said = row.reason.replace("_", " ").lower()
    found = next((reason for reason in REASONS if said.startswith(reason.words)), None)
    if found is None:
        if row.state.startswith(("REQUEUE_HOLD", "SPECIAL_EXIT")):
            return Problem(
                job=name,
                problem=f"Slurm holds it ({row.state})",
                mend=f"`scontrol release {row.id}`",
            )
        return None
    if found.mend:
        mend = found.mend.format(id=row.id)
    else:
        mend = (
            f"change cluster.{section_of(kind)} or cluster.common: {found.key} (conf/cluster); "
            f"for this one `scontrol update jobid={row.id} {found.field}=…`"
        )
    return Problem(job=name, problem=f"{row.reason}: {found.meaning}", mend=mend)


NODES_DEADLINE_S = 3.0
NODES_EVERY_S = 30.0
# Reasons of a job that waits for nodes: one that is out of service may be why.
FOR_NODES = (
    "resources",
    "priority",
    "reqnodenotavail",
    "nodes required",
    "nodedown",
    "none",
    "partitiondown",
    "partitioninactive",
)
BAD_NODE = ("down", "drain", "drng", "fail", "error", "maint", "unk", "boot_fail", "no_respond")
SACCT_MEND = (
    "nothing of aevo depends on it: records and squeue tell; where it should answer, "
    "`sacctmgr ping` and the site's administrators"
)


class Problems:
    """Finds problems, again and again for a view that refreshes; remembers what sinfo and sacct
    said for a while."""

    def __init__(self, probe: bool = False) -> None:
        self.probe = probe
        self._accounting = Accounting()
        self._nodes: tuple[float, list[Problem]] = (0.0, [])

    def find(
        self, seen: Survey, cancelled: frozenset[str] = frozenset(), cap: int | None = None
    ) -> list[Problem]:
        """All problems of these jobs; none of a candidate whose round went on without it.

        Args:
            cancelled: candidates that a person took out of the round; their jobs are no problem.
            cap: cluster.max_jobs_per_round.
        """
        found = []
        if seen.error:
            found.append(
                Problem(
                    job="",
                    problem=f"the scheduler does not answer ({seen.error})",
                    mend="jobs that run go on; `scontrol ping` shows which controller is away",
                )
            )
        items = [
            item
            for item in seen.jobs.values()
            if _candidate(item) not in cancelled and not _past(item, seen)
        ]
        for item in items:
            found += _of_job(item, seen)
        found += self._vanished([item for item in items if fate_unknown(item, seen.time)], seen)
        if not seen.error:
            found += self._bad_nodes(seen)
        return found + _cap(seen, cap)

    def _vanished(self, gone: list[Seen], seen: Survey) -> list[Problem]:
        """Jobs that Slurm has done with and that left no record; and sacct, if it cannot say."""
        ids = [item.state.job_id or "" for item in gone]
        if not gone and not (self.probe and seen.on_slurm):
            return []
        said = self._accounting.ask(ids)
        found = []
        for item in gone:
            worker = seen.jobs.get(Path(item.spec.owner).name) if item.spec.owner else None
            if worker is not None and worker.state.alive and worker not in gone:
                mend = f"nothing to do: {worker.spec.name} sees to it"
            else:
                mend = "run the same command again: it is submitted anew"
            found.append(
                Problem(
                    job=item.spec.name, mend=mend, problem=f"{_word(item, said)} and left no record"
                )
            )
        if said.error:
            found.append(
                Problem(
                    job="", problem=f"accounting does not answer ({said.error})", mend=SACCT_MEND
                )
            )
        return found

    def _bad_nodes(self, seen: Survey) -> list[Problem]:
        """Nodes out of service in the partitions that jobs wait for."""
        waiting = {
            item.row.id: item.spec.name
            for item in seen.jobs.values()
            if item.row is not None and _for_nodes(item)
        }
        if not waiting:
            return []
        asked, known = self._nodes
        if time.time() - asked >= NODES_EVERY_S:
            known = bad_nodes(waiting)
            self._nodes = (time.time(), known)
        return known


def bad_nodes(waiting: dict[str, str]) -> list[Problem]:
    """Nodes that are down or drained in the partitions of these jobs (Slurm's id: name)."""
    code, text, _ = call(
        ["sinfo", "--noheader", "--Node", "--format=%N|%R|%T|%E"], NODES_DEADLINE_S
    )
    rows = [line.split("|", 3) for line in text.splitlines()] if code == 0 else []
    bad = [row for row in rows if len(row) == 4 and _is_bad(row[2])]
    if not bad:
        return []
    code, text, _ = call(
        ["squeue", "--noheader", f"--jobs={','.join(waiting)}", "--format=%i|%P"], NODES_DEADLINE_S
    )
    asked = dict(line.split("|", 1) for line in text.splitlines() if "|" in line)
    found: dict[str, Problem] = {}
    for job_id, partitions in asked.items():
        for node, partition, state, why in bad:
            if partition in partitions.split(",") and node not in found:
                found[node] = Problem(
                    job=waiting.get(job_id, ""),
                    problem=f"node {node} of partition {partition}, which it waits for, is "
                    f"{state}: {why}",
                    mend="when that is mended: "
                    f"`scontrol update nodename={node} state=resume` (as an operator)",
                )
    return list(found.values())


def _candidate(item: Seen) -> str:
    """The candidate that a job belongs to; empty for the round's own jobs."""
    name, separator, _ = item.spec.name.partition("-")
    return name if separator else ""


def _past(item: Seen, seen: Survey) -> bool:
    """True for a candidate's job when the collector has judged the round: what failed is data."""
    collector = seen.jobs.get("collector")
    return bool(_candidate(item)) and collector is not None and collector.state.phase == "finished"


def _is_bad(state: str) -> bool:
    return state.lower().startswith(BAD_NODE) or state.endswith("*")  # `*`: does not respond


def _for_nodes(seen: Seen) -> bool:
    row = seen.row
    return (
        row is not None
        and row.state.startswith(WAITING)
        and row.reason.replace("_", " ").lower().startswith(FOR_NODES)
    )


def _word(seen: Seen, said: Accounts) -> str:
    """How a vanished job ended, as far as Slurm tells."""
    starts = said.starts.get(seen.state.job_id or "", [])
    state = seen.state.state or (starts[-1].state if starts else "")
    return (
        f"Slurm says it ended as {state}"
        if state
        else "its fate is unknown: Slurm does not know it any more"
    )


def _of_job(item: Seen, seen: Survey) -> Iterator[Problem]:
    name, state = item.spec.name, item.state
    if state.phase == "finished":
        return
    waits = item.row is not None and item.row.state.startswith(WAITING)
    told = reason_problem(name, item.spec.kind, item.row) if item.row and waits else None
    if told is not None:
        yield told
    elif item.lines and item.lines[-1].event == "refused":
        what, _, mend = item.lines[-1].text.partition(" -- ")
        yield Problem(job=name, problem=what, mend=mend or "run the same command again")
    elif state.phase in ("failed", "lost") and not state.cancelled:
        yield from _failed(item, seen)
    if state.alive:
        yield from _waits_in_vain(item, seen)


def _failed(item: Seen, seen: Survey) -> Iterator[Problem]:
    name, state = item.spec.name, item.state
    worker = seen.jobs.get(Path(item.spec.owner).name) if item.spec.owner else None
    what = state.message or "no record left"
    if worker is not None and (worker.state.phase == "finished" or state.phase == "failed"):
        return  # a training that failed is data: its worker decided about it, or will
    if exhausted(item.job, state, item.spec):
        mend = f"see {state.log}; remove {item.job.root} to try again"
        if item.spec.kind == "worker":
            mend = f"the round goes on without it; {mend}"
        yield Problem(job=name, problem=f"out of attempts, last: {what}", mend=mend)
    elif worker is not None and worker.state.alive:
        yield Problem(
            job=name,
            problem=f"lost: {what}",
            mend=f"nothing to do: {worker.spec.name} submits it again",
        )
    else:
        yield Problem(
            job=name,
            problem=f"{state.phase}: {what}",
            mend=f"run the same command again: it is submitted anew; log: {state.log}",
        )


def _waits_in_vain(item: Seen, seen: Survey) -> Iterator[Problem]:
    """A job that waits for one that a person has cancelled."""
    for folder in item.spec.needs:
        parent = seen.jobs.get(JobFolder(Path(folder)).root.name)
        if parent is not None and parent.cancelled and parent.job.root == Path(folder):
            yield Problem(
                job=item.spec.name,
                problem=f"waits for {parent.spec.name}, which was cancelled",
                mend="run the same command again: it submits the cancelled job again",
            )
    if item.spec.kind != "worker":
        return
    own = [other for other in seen.jobs.values() if other.spec.owner == item.spec.folder]
    newest = max(own, key=lambda other: other.lines[-1].time if other.lines else 0.0, default=None)
    if newest is not None and newest.cancelled:
        yield Problem(
            job=item.spec.name,
            problem=f"its job {newest.spec.name} was cancelled: it goes on without that result",
            mend="to end the candidate too: "
            f"`python -m aevo.cancel --candidate {item.spec.name.split('-')[0]}`",
        )


def _cap(seen: Survey, cap: int | None) -> list[Problem]:
    counts: dict[Path, int] = {}
    for item in seen.jobs.values():
        place = item.job.root.parent
        counts[place] = counts.get(place, 0) + sum(line.event == "intent" for line in item.lines)
    count = max(counts.values(), default=0)
    if cap is None or count < cap or not seen.on_slurm:
        return []
    return [
        Problem(
            job="",
            problem=f"{count} submissions, the most that cluster.max_jobs_per_round={cap} "
            "allows: nothing more is submitted",
            mend="find out what submits so many (`python -m aevo.failures`), then raise it",
        )
    ]
