"""How every entry point ends: a user's mistake is one line on stderr and a non-zero exit code."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from aevo.errors import AevoError
from aevo.files.words import line


def run(main: Callable[[list[str]], None]) -> None:
    """Calls `main` with the command line's arguments; turns an `AevoError` into its line."""
    with errors_as_one_line():
        main(sys.argv[1:])


def parser(name: str, text: str | None) -> argparse.ArgumentParser:
    """The command line of a command that takes a campaign, by default the newest; its module's
    docstring is the help."""
    made = argparse.ArgumentParser(
        prog=f"python -m aevo.{name}",
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "campaign",
        nargs="?",
        type=Path,
        help="a campaign folder; default: the one below runs/ that changed last",
    )
    return made


def report(error: AevoError) -> None:
    """Prints an error as its one line."""
    print(f"error: {line(error, 4000)}", file=sys.stderr)


def unread() -> NoReturn:
    """Ends as a shell's SIGPIPE does, where nobody reads stdout any more (`... | head`)."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # its last flush is silent
    sys.exit(141)


class errors_as_one_line:
    """Within it, an `AevoError` prints `error: …` and exits with its code."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, AevoError):
            report(error)
            sys.exit(error.code)
        if isinstance(error, BrokenPipeError):
            unread()
        if error is None:
            try:
                sys.stdout.flush()
            except BrokenPipeError:
                unread()
