"""Nodes on which commands hung, and those that later jobs of the campaign stay away from."""

import os
import socket
import time
from collections import Counter, defaultdict
from pathlib import Path

from aevo.files.documents import append_line, read_lines
from aevo.records.job import HungNode, JobSpec

TWICE = 2


def note_hang(spec: JobSpec) -> None:
    """Keeps that a job hung here. Of several nodes nobody can say which it was: none is kept."""
    if spec.watchdog is None or spec.watchdog.record is None or spec.resources.nodes > 1:
        return
    node = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    append_line(Path(spec.watchdog.record), HungNode(node=node, job=spec.name, time=time.time()))


def excluded(spec: JobSpec) -> list[str]:
    """Nodes, by name, on which this job hung twice, or jobs of two candidates did: trainings of one
    may hang on purpose, and must not take the campaign's nodes away. Take lines out of the file to
    let them work again."""
    if spec.watchdog is None or spec.watchdog.record is None:
        return []
    own: Counter[str] = Counter()
    whose: dict[str, set[str]] = defaultdict(set)
    for line in read_lines(HungNode, Path(spec.watchdog.record)):
        own[line.node] += line.job == spec.name
        whose[line.node].add(line.job.partition("-")[0])
    return sorted(node for node in whose if max(own[node], len(whose[node])) >= TWICE)
