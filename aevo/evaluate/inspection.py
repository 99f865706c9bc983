"""The trusted look at a training run: what it left is judged and copied before it counts.

Worker-written code made everything in a run's folders. So the data it trained on is searched for
evaluation items, its output for what is no plain file, and each adapter is copied to where no
worker writes, judged there, and evaluated and submitted from there.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from aevo.evaluate import IntegrityError
from aevo.evaluate.adapters import take_adapter
from aevo.evaluate.index import Index, read_items
from aevo.evaluate.outputs import OutputLimits, check_output
from aevo.evaluate.overlap import scan
from aevo.evaluate.proof import prove_run
from aevo.evaluate.rows import MAX_BYTES
from aevo.files import digest
from aevo.files.documents import finished, read, write_json
from aevo.files.paths import RunLayout
from aevo.files.untrusted import Room, plain_tree, shown
from aevo.records.inspection import AdapterReport, Inspection, OverlapReport
from aevo.records.job import JobSpec
from aevo.records.scores import TrainingResult
from aevo.substrate.frozen import Substrate

# A run's data folder: what a training reads is a handful of files. All of it is searched, in at
# most SEARCH_S, adapters included: trusted work that a candidate causes is bounded, and within its
# wall budget.
DATA = Room(files=64, bytes=MAX_BYTES, file=MAX_BYTES, caches=True)
SEARCH_S = 1800.0
LONGEST_NAME = 100


@dataclass(frozen=True)
class Inspector:
    """Looks at the runs of one candidate. `items` are the sets that no training may hold."""

    substrate: Substrate
    base: Path
    items: list[Path]

    def inspect(self, run: RunLayout, expected: JobSpec, seed: int) -> Inspection:
        """Judges a run whose job has ended; made once, later calls return the record.

        Never raises for what the run left: that is the finding.

        Args:
            expected: the job as the plan gives it, with this seed in its commands.
        """
        if finished(Inspection, run.inspection):
            return read(Inspection, run.inspection)
        result, failure, proof, reports = None, None, None, list[OverlapReport]()
        adapters: dict[str, AdapterReport] = {}
        refused: dict[str, str] = {}
        try:
            limits = OutputLimits(bytes=int(expected.resources.disk_gb * 2**30))
            result = check_output(run.output, limits)
            until = time.monotonic() + SEARCH_S
            index = Index.of(read_items(self.items))
            reports = self._overlaps(run.data, index, until)
            reports += self._carried(run.fork, index, until)
            adapters, refused = self._take(run, result, until)
            proof = prove_run(run, expected, seed, self.substrate, result, adapters)
        except IntegrityError as error:
            failure = str(error)
        found = Inspection(
            run=run.number,
            result=result,
            failure=failure or _contamination(reports),
            proof=proof,
            overlap=reports,
            refused=refused,
            adapters={name: report.identities for name, report in adapters.items()},
        )
        write_json(run.inspection, found)
        return found

    def _overlaps(self, data: Path, index: Index, until: float) -> list[OverlapReport]:
        """One report for each file of the data folder.

        Raises:
            IntegrityError: the folder holds links or pipes, or too many files to look at.
        """
        try:
            files = plain_tree(data, ["."], DATA)
        except IntegrityError as error:
            raise IntegrityError(f"the data folder: {error.what}") from error
        _nothing_beside(data, files)
        return [scan(index, path, until=until) for path in files]

    def _carried(self, fork: Path, index: Index, until: float) -> list[OverlapReport]:
        """One report for each file of the fork that holds an item, or could not be searched: a
        training reads its own code and what lies beside it, not its data alone."""
        found = [scan(index, path, until=until) for path in self.substrate.plain_files(fork)]
        return [report for report in found if not report.clean]

    def _take(
        self, run: RunLayout, result: TrainingResult, until: float
    ) -> tuple[dict[str, AdapterReport], dict[str, str]]:
        taken: dict[str, AdapterReport] = {}
        refused: dict[str, str] = {}
        for item in result.checkpoints:
            name = Path(item.path).name
            if time.monotonic() > until:
                refused[name] = f"what this run left took more than {SEARCH_S:g} s to look at"
                continue
            try:
                taken[name] = take_adapter(
                    run.output / item.path, run.adapter(name), self.base, root=run.output
                )
            except IntegrityError as error:
                refused[name] = str(error)
        return taken, refused


def _nothing_beside(data: Path, files: list[Path]) -> None:
    """Refuses what a training could read and no search looks at: names, and attributes of files.

    Raises:
        IntegrityError: naming the first of them.
    """
    folders = [Path(top) for top, _, _ in digest.walk(data)]
    if len(folders) > DATA.files or any(len(path.name) > LONGEST_NAME for path in folders + files):
        raise IntegrityError(
            f"the data folder: more than {DATA.files} folders, or a name of more than "
            f"{LONGEST_NAME} characters"
        )
    for path in [*folders, *files]:
        try:
            names = os.listxattr(path, follow_symlinks=False)
        except OSError:  # the filesystem has none
            continue
        if any(name.startswith("user.") for name in names):
            raise IntegrityError(f"the data folder: {shown(path.name)} has extended attributes")


def _contamination(reports: list[OverlapReport]) -> str | None:
    """Why the data may not be trained on; which items are in it stays in the record."""
    count = sum(report.contaminated for report in reports)
    if count:
        return f"the training data, or the fork, holds {count} evaluation item(s)"
    if not all(report.complete for report in reports):
        return "training data and fork are too large to be searched for evaluation items"
    return None
