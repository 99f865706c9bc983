"""The command line of the substrate: see `aevo.substrate.frozen`."""

import argparse
from pathlib import Path

from aevo.cli import run
from aevo.errors import SubstrateError
from aevo.substrate.frozen import DEFAULT, open_substrate
from aevo.substrate.sound import check_sound


def main(arguments: list[str]) -> None:
    """The command line; prints what it found."""
    parser = argparse.ArgumentParser(
        prog="python -m aevo.substrate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", required=True)
    for name in ("verify", "freeze", "fork", "diff"):
        action = actions.add_parser(name)
        if name == "fork":
            action.add_argument("destination", type=Path)
        if name == "diff":
            action.add_argument("fork", type=Path)
        action.add_argument("path", type=Path, nargs="?", default=DEFAULT)
    given = parser.parse_args(arguments)
    substrate = open_substrate(given.path)
    if given.action == "verify":
        print(f"{substrate.verify()} {substrate.root} is as it was frozen")
    elif given.action == "freeze":
        check_sound(substrate)
        print(f"{substrate.freeze()} {substrate.lock} written")
    elif given.action == "fork":
        substrate.verify()
        if given.destination.exists():
            raise SubstrateError(f"{given.destination} exists already", "name a new folder")
        substrate.fork(given.destination, [])
        print(f"{given.destination} forked from {substrate.root}")
    else:
        if not given.fork.is_dir():
            raise SubstrateError(f"{given.fork} is not a folder", "give the path of a fork")
        found = substrate.diff(given.fork)
        for key, value in found.set.items():
            print(f"set  {key} = {value}")
        for edit in found.edits:
            print(f"edit {edit.file}\n--- old\n{edit.find}+++ new\n{edit.replace}")
        if found.empty:
            print("no difference")


if __name__ == "__main__":
    run(main)
