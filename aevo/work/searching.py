"""One search of files for a regular expression, in a process of its own.

    python -I -S searching.py < {"pattern": …, "files": […], "most": …}

A regular expression can take longer than the world will last, and a file of line breaks more memory
than the machine has. So the trusted worker does not match: this script does, with limits on its
processor time and memory, and is killed at a deadline. Standard library only. Prints one JSON
object: {"found": [[file's index, line number, line], …]} or {"error": TEXT}.
"""

import io
import json
import os
import re
import resource
import stat
import sys
from typing import Any

SECONDS, MEMORY = 10, 1 << 30
FILE_BYTES = 4 << 20  # of a file that is searched; larger ones are passed over
LINE = 500  # characters of a line that are shown


def main() -> None:
    """Searches what stdin says."""
    for limit, value in ((resource.RLIMIT_CPU, SECONDS), (resource.RLIMIT_AS, MEMORY)):
        resource.setrlimit(limit, (value, value))
    given = json.load(sys.stdin)
    try:
        json.dump({"found": search(given)}, sys.stdout)
    except (re.error, RecursionError, OverflowError) as error:
        json.dump({"error": f"not a regular expression: {error}"}, sys.stdout)
    except MemoryError:
        json.dump({"error": "the search took too much memory"}, sys.stdout)


def search(given: dict[str, Any]) -> list[tuple[int, int, str]]:
    """The lines that match, at most `most` of them."""
    pattern, found = re.compile(given["pattern"]), []
    for index, path in enumerate(given["files"]):
        for number, line in enumerate(io.StringIO(text(path), newline=None), start=1):
            if pattern.search(line.rstrip("\n")):
                found.append((index, number, line.rstrip("\n")[:LINE]))
            if len(found) >= given["most"]:
                return found
    return found


def text(path: str) -> str:
    """A regular file's text; empty if it is none, too large or no UTF-8."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    try:
        handle = os.open(path, flags)
    except OSError:
        return ""
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode) or found.st_size > FILE_BYTES:
            return ""
        try:
            return file.read(FILE_BYTES).decode("utf-8")
        except UnicodeDecodeError:
            return ""


if __name__ == "__main__":
    main()
