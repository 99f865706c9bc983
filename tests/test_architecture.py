"""The layout is the architecture: a package imports only those above it, and knows no circle."""

import ast
import subprocess
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path

AEVO = Path(__file__).parents[1] / "aevo"
# In the order of the loop. What stands in none of them is a command, which imports what it likes.
ROOMS = (
    "errors",
    "statistics",
    "text",
    "files",
    "cli",
    "records",
    "config",
    "sandbox",
    "substrate",
    "jobs",
    "llm",
    "policy",
    "plan",
    "evaluate",
    "leaderboard",
    "start",
    "work",
    "evidence",
    "meta",
    "view",
    "studies",
)
MOST_FLOORS = 12


def imported(path: Path) -> set[str]:
    """The modules of aevo that a file imports, wherever in it, by their dotted names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "aevo":
            found |= {f"{node.module}.{name.name}" for name in node.names}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names if name.name.split(".")[0] == "aevo"}
    return found


def room(path: Path) -> str:
    """The package, or module of the root, that a file belongs to."""
    return path.relative_to(AEVO).parts[0].removesuffix(".py")


@cache
def arrows() -> dict[str, set[str]]:
    """Which rooms each room imports."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in sorted(AEVO.rglob("*.py")):
        names = {name.split(".")[1] for name in imported(path)}
        found[room(path)] |= names - {room(path)}
    return found


def test_every_package_has_its_place() -> None:
    packages = {path.parent.name for path in AEVO.glob("*/__init__.py")}
    assert packages == set(ROOMS) - {"text", "errors", "cli"}


def test_packages_import_only_those_above_them() -> None:
    wrong = [
        f"{here} imports {other}"
        for here, others in arrows().items()
        if here in ROOMS
        for other in others
        if other not in ROOMS[: ROOMS.index(here)]
    ]
    assert not wrong


def test_commands_import_no_command() -> None:
    """Else one could not be understood without the other; a campaign is made of rounds, a report
    ends it."""
    commands = {path.stem for path in AEVO.glob("*.py")} - {"__init__", *ROOMS}
    wrong = {(here, other) for here in commands for other in arrows()[here] & commands}
    assert wrong == {("campaign", "round")}


def test_floors() -> None:
    """The longest way down through the packages."""
    below = arrows()
    floor: dict[str, int] = {}
    for name in ROOMS:
        floor[name] = 1 + max((floor[other] for other in below[name]), default=0)
    assert max(floor.values()) <= MOST_FLOORS, floor


STARTED_PER_JOB = "aevo.jobs.execute aevo.work.worker aevo.evidence.collector aevo.meta.step"
HEAVY = {"openai", "scipy", "pandas", "torch", "transformers", "matplotlib", "mcp"}


def test_what_starts_with_every_job_imports_nothing_heavy() -> None:
    """A campaign starts hundreds of these, and a round of rules needs none of it."""
    code = (
        f"import importlib, sys; [importlib.import_module(name) for name in "
        f"{STARTED_PER_JOB.split()}]; print(sorted({HEAVY} & set(sys.modules)))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=AEVO.parent
    )
    assert shown.stdout.strip() == "[]", shown.stderr
