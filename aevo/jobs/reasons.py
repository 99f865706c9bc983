"""What keeps a job waiting on Slurm that time alone will not cure, and what to do about it.

Reasons that pass (Resources, Priority, Dependency, BeginTime, …) are no problem; they are shown
with the job. Words as squeue prints them, Slurm 20 to 24.
"""

from dataclasses import dataclass

from aevo.cluster import section_of
from aevo.jobs.queue import QueuedJob
from aevo.records.io import Part
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
    Reason(("dependencyneversatisfied",), "waits for a job that failed or was cancelled",
           mend="`scancel {id}`, then run the same command again: it submits what is missing"),
    Reason(("launch failed requeued held", "jobholdmaxrequeue"),
           "Slurm holds it after a launch that failed",
           mend="whoever waits for it submits it again; where nothing does: "
                "`scontrol release {id}`"),
    Reason(("jobheldadmin",), "an administrator holds it",
           mend="ask them, or as an operator: `scontrol release {id}`"),
    Reason(("jobhelduser",), "its user holds it", mend="`scontrol release {id}`"),
    Reason(("partitiontimelimit",), "it asks for more time than its partition allows",
           "time_min", "timelimit"),
    Reason(("partitionnodelimit",), "it asks for more nodes than its partition allows",
           "nodes", "numnodes"),
    Reason(("partitiondown", "partitioninactive"), "its partition is out of service",
           "partition", "partition"),
    Reason(("qosnotallowed", "invalidqos"), "its QOS may not be used here", "qos", "qos"),
    Reason(("qos",), "a limit of its QOS is reached; it starts when other jobs end, unless it "
           "alone is over it", "qos, gpus or time_min", "qos"),
    Reason(("invalidaccount", "accountnotallowed", "accountingpolicy"),
           "its account may not be used here", "account", "account"),
    Reason(("assoc", "maxjobs"), "a limit of its account is reached; it starts when other jobs "
           "end, unless it alone is over it", "account", "account"),
    Reason(("reqnodenotavail", "nodes required for job are down", "nodedown"),
           "nodes that it needs are down, drained or reserved (`sinfo -R` says why)",
           "nodelist, exclude, constraint or reservation", "reqnodelist"),
    Reason(("licenses",), "it waits for licenses", "extra.licenses", "licenses"),
    Reason(("badconstraints", "nodeconfig"), "no node has all that it asks for",
           "constraint, gres, gpus, nodes, cpus or memory_gb", "features"),
    Reason(("reservationdeleted", "invalidreservation"), "its reservation does not exist any more",
           "reservation", "reservationname"),
)


def reason_problem(name: str, kind: JobKind, row: QueuedJob) -> Problem | None:
    """The problem of a job that waits for a reason in `REASONS`; None if it only waits."""
    said = row.reason.replace("_", " ").lower()
    found = next((reason for reason in REASONS if said.startswith(reason.words)), None)
    if found is None:
        if row.state.startswith(("REQUEUE_HOLD", "SPECIAL_EXIT")):
            return Problem(job=name, problem=f"Slurm holds it ({row.state})",
                           mend=f"`scontrol release {row.id}`")
        return None
    if found.mend:
        mend = found.mend.format(id=row.id)
    else:
        mend = (f"change cluster.{section_of(kind)} or cluster.common: {found.key} (conf/cluster); "
                f"for this one `scontrol update jobid={row.id} {found.field}=…`")
    return Problem(job=name, problem=f"{row.reason}: {found.meaning}", mend=mend)
