"""`ray start` and `ray stop`: what they are given is kept, nothing is started."""

from __future__ import annotations

import json
import sys

from ray import STARTED


def main() -> None:
    command, *words = sys.argv[1:]
    if command == "stop":
        STARTED.unlink(missing_ok=True)
        return
    assert command == "start", command
    given = dict(word.removeprefix("--").partition("=")[::2] for word in words)
    assert "head" in given or "address" in given
    with STARTED.open("a") as handle:
        handle.write(json.dumps(given) + "\n")
