"""Where everything lies in a campaign folder: paths only, no reading."""

from dataclasses import dataclass
from pathlib import Path

from aevo.errors import RecordError

# Where package, `conf/`, `substrate/` and constitution.txt lie: a checkout, or a snapshot of one.
CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class RunLayout:
    """One training run of a candidate: the fork it ran, its output, its evaluation."""

    candidate: Path
    number: int

    @property
    def train(self) -> Path:
        """Snapshot of the fork, data, metrics and checkpoints of the run."""
        return self.candidate / "train" / str(self.number)

    @property
    def jobs(self) -> Path:
        """The folders of the jobs of the run's round."""
        return self.candidate.parent / "jobs"

    @property
    def fork(self) -> Path:
        """The mutable files as they were when the run was launched."""
        return self.train / "fork"

    @property
    def data(self) -> Path:
        return self.train / "data"

    @property
    def output(self) -> Path:
        return self.train / "out"

    @property
    def result(self) -> Path:
        return self.output / "result.json"

    @property
    def metrics(self) -> Path:
        return self.output / "metrics.jsonl"

    def kernels(self, environment: str) -> Path:
        """What compilers keep for a run that is resumed, in one Python environment. No other run
        sees it: what one wrote there, weights perhaps, another must not begin with."""
        return self.candidate / "kernels" / str(self.number) / environment

    @property
    def inspection(self) -> Path:
        """The trusted look at the run, and beside it the adapters that were taken from it."""
        return self.candidate / "checked" / str(self.number) / "inspection.json"

    @property
    def judgement(self) -> Path:
        """What the judge found suspect in the run."""
        return self.inspection.parent / "judgement.json"

    @property
    def clearance(self) -> Path:
        """A person's word that a flagged run is honest."""
        return self.inspection.parent / "clearance.json"

    def adapter(self, checkpoint: str) -> Path:
        """The trusted copy of a checkpoint's adapter: what is evaluated and submitted."""
        return self.inspection.parent / "adapters" / checkpoint

    @property
    def evaluation(self) -> Path:
        return self.candidate / "eval" / str(self.number)

    @property
    def scores(self) -> Path:
        return self.evaluation / "scores.json"

    def predictions(self, checkpoint: str) -> Path:
        """Per-item predictions of one checkpoint on dev."""
        return self.evaluation / f"{checkpoint}.predictions.jsonl"


@dataclass(frozen=True)
class CandidateLayout:
    """One candidate's folder, `round-KK/cNN`."""

    root: Path

    @property
    def fork(self) -> Path:
        return self.root / "fork"

    @property
    def trace(self) -> Path:
        return self.root / "trace.jsonl"

    @property
    def manifest(self) -> Path:
        return self.root / "manifest.json"

    @property
    def agent(self) -> Path:
        """What a coding agent of others keeps and says: its home, and the output of each of its
        sessions. All of it is written in its sandbox."""
        return self.root / "agent"

    @property
    def cancelled(self) -> Path:
        """Written when a person cancels the candidate: it will not run again."""
        return self.root / "cancelled.json"

    def run(self, number: int) -> RunLayout:
        """The candidate's training run of that number, counted from 1."""
        return RunLayout(self.root, number)


@dataclass(frozen=True)
class RoundLayout:
    """One round's folder, `round-KK`."""

    root: Path
    number: int

    @property
    def plan(self) -> Path:
        return self.root / "plan.yaml"

    @property
    def config(self) -> Path:
        """The resolved configuration of the command that runs the round."""
        return self.root / "config.yaml"

    @property
    def clearances(self) -> Path:
        """The flagged runs that a person had cleared when the collector began."""
        return self.root / "clearances.json"

    @property
    def leaderboard(self) -> Path:
        return self.root / "leaderboard.json"

    @property
    def evidence(self) -> Path:
        return self.root / "evidence.json"

    @property
    def evidence_text(self) -> Path:
        return self.root / "evidence.md"

    @property
    def meta(self) -> Path:
        return self.root / "meta"

    @property
    def log(self) -> Path:
        return self.root / "round.log"

    @property
    def jobs(self) -> Path:
        """One folder per job: its spec, ledger, attempts and logs."""
        return self.root / "jobs"

    @property
    def standing(self) -> Path:
        """The mutable files with the standing recipe: what every fork of the round starts as."""
        return self.root / "standing"

    def candidate(self, name: str) -> CandidateLayout:
        """The folder of candidate `name` (c00, c01, …)."""
        return CandidateLayout(self.root / name)


@dataclass(frozen=True)
class Layout:
    """A campaign folder, `runs/<campaign>`."""

    root: Path

    @property
    def campaign(self) -> Path:
        return self.root / "campaign.yaml"

    @property
    def substrate(self) -> Path:
        """The campaign's own copy of the substrate it started with, read-only."""
        return self.root / "substrate"

    @property
    def constitution(self) -> Path:
        """The campaign's own copy of the constitution it started with, read-only."""
        return self.root / "constitution.txt"

    @property
    def snapshots(self) -> Path:
        """Code, configuration, packages as jobs were submitted with (`aevo.start.snapshot`)."""
        return self.root / "snapshots"

    @property
    def vault(self) -> Path:
        """Dev and hidden items with their answers: trusted jobs only, never shown to a worker."""
        return self.root / "vault"

    @property
    def dev_items(self) -> Path:
        return self.vault / "dev.jsonl"

    @property
    def hidden_items(self) -> Path:
        return self.vault / "hidden.jsonl"

    @property
    def rows(self) -> Path:
        """The training part of the user's own data, which worker-written code may read."""
        return self.root / "real"

    @property
    def source_report(self) -> Path:
        """What became of the rows of the user's own data."""
        return self.root / "source.json"

    @property
    def items_seed(self) -> Path:
        """The secret seed that the items were drawn with, if it is one (`aevo.start.items`)."""
        return self.vault / "items-seed"

    @property
    def baseline(self) -> Path:
        """Scores of the base checkpoint without any adapter: round 0 of the report."""
        return self.root / "baseline"

    @property
    def board(self) -> Path:
        """What passes between the campaign and a leaderboard outside of it: the ledger, and one
        folder per submission in `outbox/`."""
        return self.root / "leaderboard"

    @property
    def discoveries(self) -> Path:
        return self.root / "discoveries.jsonl"

    @property
    def discoveries_text(self) -> Path:
        return self.root / "discoveries.md"

    @property
    def report(self) -> Path:
        return self.root / "report"

    @property
    def jobs(self) -> Path:
        """Jobs of the campaign as a whole: the baseline's evaluation."""
        return self.root / "jobs"

    @property
    def hangs(self) -> Path:
        """Which jobs hung on which nodes; a node of two is excluded (`aevo.jobs.nodes`)."""
        return self.root / "hangs.jsonl"

    @property
    def lock(self) -> Path:
        """Held while a driver plans and submits, so that two drivers never double a job."""
        return self.root / ".driver.lock"

    def policy(self, number: int) -> Path:
        """The policy of round `number`, YAML; its Markdown lies beside it."""
        return self.root / "policy" / f"round-{number:02d}.yaml"

    def round(self, number: int) -> RoundLayout:
        """The folder of round `number`, counted from 1."""
        return RoundLayout(self.root / f"round-{number:02d}", number)

    def rounds(self) -> list[RoundLayout]:
        """The rounds that have a plan, in order."""
        found = sorted(self.root.glob("round-*/plan.yaml"))
        return [self.round(int(path.parent.name.removeprefix("round-"))) for path in found]


def campaign_at(given: Path | None) -> Path:
    """The campaign folder that a command line names, by default the newest below `runs/`.

    Raises:
        RecordError: it is none.
    """
    root = given or latest_campaign(Path("runs"))
    if not Layout(root).campaign.is_file():
        raise RecordError(
            f"{root} is not a campaign folder (it has no campaign.yaml)",
            "name one, as in runs/<campaign>",
        )
    return root


def latest_campaign(runs: Path) -> Path:
    """The campaign below `runs` whose records changed last.

    Raises:
        RecordError: there is none.
    """
    found = [path.parent for path in runs.glob("*/campaign.yaml")]
    if not found:
        raise RecordError(
            f"no campaign below {runs}", "start one with: python -m aevo.campaign rounds=2"
        )
    return max(found, key=_changed)


def _changed(root: Path) -> float:
    """When the campaign's records changed last (Unix seconds)."""
    patterns = ("campaign.yaml", "discoveries.jsonl", "policy/*.yaml", "round-*/*")
    return max(path.stat().st_mtime for pattern in patterns for path in root.glob(pattern))
