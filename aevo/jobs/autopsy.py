"""Why an attempt died, read from its logs: the last Python traceback, and causes that have a name.
Pure functions of text, and the bounded reading of a log."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from aevo.files import words
from aevo.text import cut

READ_BYTES = 1024 * 1024  # of the end of a log
HEADS = 100  # tracebacks of a log that are looked at, from its end
TRACEBACK_LINES = 40
LAST_LINES = 5
LINE = 500  # characters of a line that are shown
CAUSE_LINES = 60  # of the end of a log, where a cause is looked for
HEAD = "Traceback (most recent call last):"

# A cause and what a log says of it, the most specific first. Case matters: "Killed" alone on its
# line is the shell's word for SIGKILL, which is nearly always the kernel's out-of-memory killer.
CAUSES = (
    ("hang", re.compile(r"^HANG: ", re.MULTILINE)),
    (
        "CUDA out of memory",
        re.compile(
            r"CUDA out of memory|torch\.(cuda\.)?OutOfMemoryError|"
            r"CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED"
        ),
    ),
    (
        "host out of memory",
        re.compile(
            r"oom[-_]kill|[Oo]ut[ -][Oo]f[ -][Mm]emory handler|"
            r"OutOfMemory|\bMemoryError\b|Cannot allocate memory|"
            r"(^|[:\d] )Killed\b",
            re.MULTILINE,
        ),
    ),
    (
        "diverged (NaN or infinity)",
        re.compile(
            r"\b[Dd]iverged\b|\b(loss|grad\w*|norm)\b[^\n]{0,40}\b(nan|NaN|inf|Inf)\b|"
            r"not finite|[Nn]on-finite|\bNaN (loss|detected)"
        ),
    ),
    ("killed, most often for want of host memory", re.compile(r"ended with signal SIGKILL")),
    ("disk full", re.compile(r"No space left on device|Disk quota exceeded")),
    (
        "NCCL failure",
        re.compile(
            r"NCCL (error|WARN .*[Tt]imeout)|ncclSystemError|"
            r"Watchdog caught collective operation timeout"
        ),
    ),
)

# What the sandbox says of a command that it stopped for taking too much.
STOPPED = re.compile(r"^aevo sandbox: (stopped: .*)$", re.MULTILINE)


def log_text(path: Path) -> str:
    """The end of a log, empty if there is none; control characters that move a terminal's cursor
    are gone."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - READ_BYTES))
        text = file.read().decode(errors="replace")
    # Of a progress bar, its last state. No expression: it would take hours for one long line.
    text = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    return words.clean(text, READ_BYTES)


def cause(message: str, texts: Iterable[str]) -> str:
    """The cause that the job's own message, the last traceback or the end of a log names; empty if
    none does. What a log said long before the end is not taken for the cause."""
    parts = [message]
    for text in texts:
        parts += [*text.split("\n")[-CAUSE_LINES:], *traceback(text)]
    said = "\n".join(parts)
    return next((name for name, pattern in CAUSES if pattern.search(said)), "")


def traceback(text: str) -> list[str]:
    """The last Python traceback, from its head to the exception, at most TRACEBACK_LINES; empty
    if there is none. Those that end in an error of aevo's own are passed over: what it says is the
    job's message already, and it stands after the one that matters."""
    lines = text.split("\n")
    heads = [index for index, line in enumerate(lines) if HEAD in line]
    for start in reversed(heads[-HEADS:]):
        found = _from(lines, start)
        if not found[-1].startswith("aevo.errors."):
            return found
    return []


def _from(lines: list[str], start: int) -> list[str]:
    """The traceback that begins in line `start`. A prefix before the head (`[rank0]: `, `0: `)
    marks its lines: others that stand between them are another rank's."""
    prefix = lines[start][: lines[start].index(HEAD)]
    found = [HEAD]
    for line in lines[start + 1 :]:
        if not line.startswith(prefix):
            continue
        line = line.removeprefix(prefix).rstrip()
        found.append(line)
        if line and not line.startswith(" "):
            break
    while found[-1] == "":
        found.pop()
    if len(found) > TRACEBACK_LINES:
        left_out = len(found) - TRACEBACK_LINES
        found = [*found[:5], f"  … {left_out} lines …", *found[5 + left_out :]]
    return found


def limit(text: str) -> str:
    """Which limit a command was stopped for, in the sandbox's words; empty if for none."""
    said = STOPPED.findall(text[-READ_BYTES:])
    return said[-1].strip() if said else ""


def ending(text: str, lines: int) -> list[str]:
    """What a log says of how a job failed: the last traceback, else the last lines."""
    return [cut(line, LINE) for line in traceback(text) or last_lines(text, lines)]


def last_lines(text: str, lines: int = LAST_LINES) -> list[str]:
    """The last lines that say something: not blank, not of submitit's, not of a traceback of
    aevo's own errors."""
    head = text.find(HEAD)
    said = (text if head < 0 else text[:head]).split("\n")
    return [line for line in said if line.strip() and not line.startswith("submitit ")][-lines:]
