"""How the tests are spread over processes, and what the end of a run says beside its result.

With `-n 5 --dist loadscope` (what scripts/test does) a module stays in one process, so that what
its tests share is made once. `@pytest.mark.together(name)` takes a test out of its module, to those
of the same name: tests that share a service of the machine. `@pytest.mark.long(seconds)` says what
a module, or a test, takes; the longest group begins.

xdist's own mark `xdist_group` does nothing under pytest 9.2: xdist 3.8 writes the group into an
attribute that pytest no longer reads. Here the processes tell the groups in a file.
"""

import json
import os
import re
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

LONG_MODULE = re.compile(r"^pytestmark = (\[[^\]]*)?pytest\.mark\.long\(", re.MULTILINE)
GROUPS = pytest.StashKey[Path]()


def group_of(item: pytest.Item) -> str:
    """What runs in one process, one after the other."""
    mark = item.get_closest_marker("together")
    return str(mark.args[0]) if mark else item.nodeid.split("::")[0]


def seconds_by_group(items: list[pytest.Item]) -> dict[str, float]:
    """The sum of what the marks of a group's modules and tests say."""
    marks: dict[str, dict[int, float]] = defaultdict(dict)
    for item in items:
        for mark in item.iter_markers("long"):  # a module's is one object in all of its tests
            marks[group_of(item)][id(mark)] = float(mark.args[0])
    return {group: sum(found.values()) for group, found in marks.items()}


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Where only short tests are asked for, a module that is long as a whole is not imported: some
    bring in torch and megatron-core."""
    if config.getoption("markexpr") != "not long" or collection_path.suffix != ".py":
        return None
    return True if LONG_MODULE.search(collection_path.read_text(encoding="utf-8")) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long groups first, so that the processes end together; elsewhere the files' order."""
    given = getattr(config, "workerinput", None)
    if given is None:
        return
    seconds = seconds_by_group(items)
    items.sort(key=lambda item: -seconds.get(group_of(item), 0.0))
    path = Path(given["groups"])
    fresh = path.with_suffix(f".{given['workerid']}")
    fresh.write_text(json.dumps({item.nodeid: group_of(item) for item in items}))
    fresh.replace(path)  # the same from every process


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tells a process where to write the groups."""
    node.workerinput["groups"] = str(groups_file(node.config))


def groups_file(config: pytest.Config) -> Path:
    """Where the processes of this run say what belongs together."""
    if GROUPS not in config.stash:
        folder = Path(tempfile.mkdtemp(prefix="aevo-tests-"))
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
        config.stash[GROUPS] = folder / "groups.json"
    return config.stash[GROUPS]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Groups as told, in the order of the items."""
    if config.getoption("dist") != "loadscope":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        known: dict[str, str] | None = None

        def _split_scope(self, nodeid: str) -> str:
            if self.known is None:
                self.known = json.loads(groups_file(config).read_text())
            return self.known[nodeid]

    config.option.loadscopereorder = False
    return ByGroup(config, log)


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that the first process to ask for it fills, and all others of this run share."""
    top = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        top = top.parent
    folder, made = top / name, top / f"{name}.made"
    with FileLock(top / f"{name}.lock"):
        if not made.exists():
            folder.mkdir()
            make(folder)
            made.touch()
    return folder


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Attacks tried and how many succeeded; how many tests were skipped, by reason."""

    def attacks(outcome: str) -> int:
        return sum(
            "tests/attacks/" in report.nodeid and "[" in report.nodeid
            for report in terminalreporter.getreports(outcome)
        )

    passed, failed = attacks("passed"), attacks("failed")
    if passed or failed:
        terminalreporter.write_line(f"attacks: {passed + failed} tried, {failed} not repelled")
    skipped = terminalreporter.getreports("skipped")
    if skipped:
        terminalreporter.write_line(f"skipped: {len(skipped)}")
        for reason, count in Counter(map(reason_of, skipped)).most_common():
            terminalreporter.write_line(f"  {count} {reason}")


def reason_of(report: Any) -> str:
    """Why a test, or a module, was skipped."""
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")
