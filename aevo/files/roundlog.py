"""round.log: one line an event, from every process of a round; made for `tail -f`."""

import os
import time
from pathlib import Path

from aevo.files import words


def tell(log: Path, who: str, text: str) -> None:
    """Notes it, and prints it: the last line of a job's log is what a status shows of the job."""
    note(log, who, text)
    print(text, flush=True)


def note(log: Path, who: str, text: str) -> None:
    """Appends `time who text` in one write, so that lines of several processes never mix."""
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime())
    line = f"{stamp}  {who:<10} {words.line(text, 500)}\n"
    log.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)
