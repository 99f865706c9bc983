"""Following a round: shows its progress, submits again what was lost, ends in order on Ctrl-C."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.live import Live

from aevo.files.paths import Layout, RoundLayout
from aevo.plan.cancel import cancel_all
from aevo.records.job import JobSpec
from aevo.view.table import table

POLL_S = 0.5


def follow(
    layout: Layout,
    files: RoundLayout,
    specs: list[JobSpec],
    done: Callable[[], bool],
    resubmit: Callable[[JobSpec], None],
    ours: bool,
) -> None:
    """Stays until `done`. On a terminal it shows a live table, else the lines of round.log.

    Jobs on this machine are `ours`, they belong to this command: Ctrl-C cancels them before it
    ends the command. Jobs on Slurm go on without it.
    """
    console = Console()
    log = _Tail(files.log)
    try:
        with _view(console, layout, files) as refresh:
            while not done():
                for line in log.new_lines():
                    console.print(line, highlight=False, markup=False, soft_wrap=True)
                for spec in specs:
                    if not Path(spec.product).exists():
                        resubmit(spec)
                refresh()
                time.sleep(POLL_S)
    except KeyboardInterrupt:
        if not ours:
            print(
                f"\nno longer following; the jobs go on (python -m aevo.cancel {layout.root} "
                "ends them, the same command follows again)",
                file=sys.stderr,
            )
            raise
        print("\nstopping the jobs of this campaign …", file=sys.stderr)
        cancel_all(layout)
        raise
    for line in log.new_lines():
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(table(layout, files.number))


@contextlib.contextmanager
def _view(console: Console, layout: Layout, files: RoundLayout) -> Iterator[Callable[[], None]]:
    if not console.is_terminal:
        yield lambda: None
        return
    with Live(
        table(layout, files.number), console=console, transient=True, auto_refresh=False
    ) as live:
        yield lambda: live.update(table(layout, files.number), refresh=True)


class _Tail:
    """The lines of a growing file that were not read yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = path.stat().st_size if path.exists() else 0

    def new_lines(self) -> list[str]:
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(self.offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self.offset += len(whole)
        return whole.decode(errors="replace").splitlines()
