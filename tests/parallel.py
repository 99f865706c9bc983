"""How the tests are spread over processes, and what the end of a run says beside its result.

With `-n 3 --dist loadgroup` (what scripts/test does) a module stays in one process, so that what
its tests share is made once. `@pytest.mark.xdist_group(name)` takes a test out of its module, to
those of the same name: tests that share a machine's service, or one that is alone by its length.
`@pytest.mark.long(seconds)` says what a module, or a test, takes; the longest group begins.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock


def group_of(item: pytest.Item) -> str:
    """What runs in one process, one after the other."""
    mark = item.get_closest_marker("xdist_group")
    return str(mark.args[0]) if mark else item.nodeid.split("::")[0]


def seconds_by_group(items: list[pytest.Item]) -> dict[str, float]:
    """The sum of what the marks of a group's modules and tests say."""
    marks: dict[str, dict[int, float]] = defaultdict(dict)
    for item in items:
        for mark in item.iter_markers("long"):  # a module's is one object in all of its tests
            marks[group_of(item)][id(mark)] = float(mark.args[0])
    return {group: sum(found.values()) for group, found in marks.items()}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long groups first, so that the processes end together; elsewhere the files' order."""
    if hasattr(config, "workerinput"):
        seconds = seconds_by_group(items)
        items.sort(key=lambda item: -seconds.get(group_of(item), 0.0))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Groups as marked, and each other module is a group; in the order of the items."""
    if config.getoption("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadGroupScheduling

    class ByModule(LoadGroupScheduling):
        def _split_scope(self, nodeid: str) -> str:
            found = str(super()._split_scope(nodeid))
            return nodeid.split("::")[0] if found == nodeid else found

    config.option.loadscopereorder = False
    return ByModule(config, log)


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
        return sum("tests/attacks/" in report.nodeid and "[" in report.nodeid
                   for report in terminalreporter.getreports(outcome))

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
