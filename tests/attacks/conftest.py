"""Says how many attacks were tried."""

import pytest


def pytest_terminal_summary(terminalreporter: "pytest.TerminalReporter") -> None:
    """One line at the end: attacks tried, and how many succeeded."""
    def count(outcome: str) -> int:
        reports = terminalreporter.getreports(outcome)
        return sum("tests/attacks/" in report.nodeid and "[" in report.nodeid
                   for report in reports)

    passed, failed = count("passed"), count("failed")
    if passed or failed:
        terminalreporter.write_line(f"attacks: {passed + failed} tried, {failed} not repelled")
