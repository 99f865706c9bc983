"""A campaign read back as a story: round by round, what was tried, what it got, what was learned.

Reads records only, and copes with a campaign that is still running: a round without evidence is
there, marked unfinished. The report and its figures are drawn from this and from nothing else.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from aevo.errors import RecordError
from aevo.files.documents import read, read_lines
from aevo.files.paths import Layout, RoundLayout, campaign_at
from aevo.records.campaign import Campaign
from aevo.records.discovery import Discovery
from aevo.records.evidence import CandidateSummary, Evidence
from aevo.records.leaderboard import Leaderboard, with_late_scores
from aevo.records.manifest import Manifest
from aevo.records.plan import Plan
from aevo.records.policy import MODE_TITLES, DeadEnd, Policy, StandingChange
from aevo.records.proposal import Proposal, Session
from aevo.records.scores import Scores
from aevo.records.trace import total
from aevo.work.curve import curve

SUBSTRATE_TEXT = (
    "Fixed human-authored baseline: the default recipe as round 1's anchor ran it. All candidates "
    "fork from this substrate; winning recipes update the policy, not the substrate itself."
)


@dataclass(frozen=True)
class Expense:
    """What a round's finished candidates spent, summed over their manifests; `control_tokens` and
    `control_dollars` are what the models of collector and meta took besides. Dollars are None where
    they are unknown."""

    candidates: int = 0
    trainings: int = 0
    training_s: float = 0.0
    turns: int = 0
    tokens: int = 0
    dollars: float | None = 0.0
    control_tokens: int = 0
    control_dollars: float | None = 0.0

    def __add__(self, other: "Expense") -> "Expense":
        return Expense(
            self.candidates + other.candidates,
            self.trainings + other.trainings,
            self.training_s + other.training_s,
            self.turns + other.turns,
            self.tokens + other.tokens,
            total([self.dollars, other.dollars]),
            self.control_tokens + other.control_tokens,
            total([self.control_dollars, other.control_dollars]),
        )


@dataclass(frozen=True)
class RoundStory:
    """One planned round. `evidence` is None until the collector wrote it, `outcome` (the policy
    that came out of the round) until the meta step did. `curves` are the learning curves of every
    candidate's runs, by candidate and run; `divided` says what tokens each candidate's
    runs trained and read, where a method divides them; `author` is who proposed the outcome."""

    number: int
    plan: Plan
    policy: Policy
    outcome: Policy | None
    evidence: Evidence | None
    leaderboard: Leaderboard | None
    discoveries: list[Discovery]
    spent: Expense
    curves: dict[str, dict[int, list[str]]] = field(default_factory=dict)
    divided: list[str] = field(default_factory=list)
    author: str = ""

    @property
    def mode(self) -> str:
        """The search mode as the paper's table words it."""
        return MODE_TITLES[self.policy.mode]

    @property
    def state(self) -> str:
        """What is still missing, in words; empty for a finished round."""
        if self.evidence is None:
            done, planned = self.spent.candidates, len(self.plan.candidates)
            return f"unfinished: {done} of {planned} candidates have ended, no evidence yet"
        if self.outcome is None:
            return f"unfinished: evidence written, no policy for round {self.number + 1} yet"
        return ""

    @property
    def scored(self) -> list[CandidateSummary]:
        """Candidates with a dev score."""
        return [c for c in self._candidates if c.dev is not None]

    @property
    def best(self) -> CandidateSummary | None:
        """The round's best candidate: by LB, ties by dev; by dev alone if none has an LB score."""
        return max(self.scored, key=lambda c: (_or_low(c.lb), _or_low(c.dev)), default=None)

    @property
    def best_dev(self) -> CandidateSummary | None:
        """The candidate with the highest dev, whatever the leaderboard says of it."""
        return max(self.scored, key=lambda c: _or_low(c.dev), default=None)

    @property
    def anchor(self) -> CandidateSummary | None:
        """The candidate that ran the standing recipe untouched, if it was scored."""
        return self.evidence.anchor() if self.evidence else None

    @property
    def learned(self) -> str:
        """What the loop learned: the log's summary of the round and the promotions it does not
        name; without a summary, the round's discoveries in a row."""
        summaries = [d.text for d in self.discoveries if d.kind == "summary"]
        if not summaries:
            return " ".join(_sentence(d.text) for d in self.discoveries)
        unnamed = [
            f"{c.change.summary()} ({c.provenance.figure})"
            for c in self.new_standing
            if c.change.summary() not in summaries[-1]
        ]
        promoted = f" Promoted: {'; '.join(unnamed)}." if unnamed else ""
        return _sentence(summaries[-1]) + promoted

    @property
    def findings(self) -> list[Discovery]:
        """The round's discoveries without its summary and its dead ends, which stand elsewhere."""
        return [d for d in self.discoveries if d.kind not in ("summary", "dead_end")]

    @property
    def new_standing(self) -> list[StandingChange]:
        """Changes that the round's outcome added to the standing recipe."""
        known = {change.id for change in self.policy.standing}
        return [c for c in self.outcome.standing if c.id not in known] if self.outcome else []

    @property
    def new_dead_ends(self) -> list[DeadEnd]:
        """Entries that the round's outcome added to "Don't waste budget on"."""
        known = {entry.id for entry in self.policy.dont_waste_budget_on}
        entries = self.outcome.dont_waste_budget_on if self.outcome else []
        return [entry for entry in entries if entry.id not in known]

    def fate(self, candidate: str) -> str:
        """What became of the candidate: promoted, dead end, undecided, failed; empty for an anchor
        and for a candidate that nobody judged."""
        if self.outcome is None:
            return "not decided yet"
        if any(change.provenance.candidate == candidate for change in self.new_standing):
            return "promoted"
        own = [t for t in self.outcome.tried if (t.round, t.candidate) == (self.number, candidate)]
        return ", ".join(dict.fromkeys(trial.outcome.replace("_", " ") for trial in own))

    @property
    def _candidates(self) -> list[CandidateSummary]:
        return self.evidence.candidates if self.evidence else []


@dataclass(frozen=True)
class Row:
    """One line of the paper's Table 2; scores are None where they are not known yet."""

    round: int
    mode: str
    dev: float | None
    lb: float | None
    learned: str
    candidate: str | None = None
    note: str = ""


@dataclass(frozen=True)
class Trajectory:
    """The whole campaign. `base_dev` is the bare base checkpoint's, `last_policy` the newest."""

    root: Path
    campaign: Campaign
    base_dev: float | None
    rounds: list[RoundStory]
    last_policy: Policy | None

    @property
    def decimals(self) -> int:
        """Decimals the leaderboard shows."""
        boards = [story.leaderboard for story in self.rounds if story.leaderboard]
        return boards[-1].decimals if boards else 3

    @property
    def spent(self) -> Expense:
        """What the whole campaign spent so far."""
        return sum((story.spent for story in self.rounds), Expense())

    def table(self) -> list[Row]:
        """Table 2: row 0 is the substrate, then one row per planned round."""
        return [self._substrate_row(), *(_row(story) for story in self.rounds)]

    def _substrate_row(self) -> Row:
        anchor = self.rounds[0].anchor if self.rounds and self.rounds[0].number == 1 else None
        base = "" if self.base_dev is None else f"bare base checkpoint: dev {self.base_dev:.3f}"
        if anchor is None:
            return Row(0, "Substrate", None, None, SUBSTRATE_TEXT, note=base)
        return Row(
            0, "Substrate", anchor.dev, anchor.lb, SUBSTRATE_TEXT, anchor.candidate, note=base
        )


def read_trajectory(root: Path) -> Trajectory:
    """Reads a campaign folder.

    Raises:
        RecordError: `root` holds no campaign, or a record in it is corrupt.
    """
    layout = Layout(campaign_at(root))
    discoveries = read_lines(Discovery, layout.discoveries)
    rounds = [_read_round(layout, found, discoveries) for found in layout.rounds()]
    policies = sorted(layout.policy(1).parent.glob("round-[0-9]*.yaml"))
    return Trajectory(
        root=root,
        campaign=read(Campaign, layout.campaign),
        base_dev=_base_dev(layout),
        rounds=with_late_scores(rounds),
        last_policy=read(Policy, policies[-1]) if policies else None,
    )


def _read_round(layout: Layout, found: RoundLayout, log: list[Discovery]) -> RoundStory:
    number = found.number
    plan = read(Plan, found.plan)
    outcome, board = layout.policy(number + 1), found.leaderboard
    evidence = read(Evidence, found.evidence) if found.evidence.exists() else None
    manifests = list(_manifests(found, plan))
    return RoundStory(
        number=number,
        plan=plan,
        policy=read(Policy, layout.policy(number)),
        outcome=read(Policy, outcome) if outcome.exists() else None,
        evidence=evidence,
        leaderboard=read(Leaderboard, board) if board.exists() else None,
        discoveries=[entry for entry in log if entry.round == number],
        spent=_spent(manifests) + _control(found, evidence),
        curves={item.candidate: _curves(found, item) for item in manifests},
        divided=_divided(manifests),
        author=_author(found),
    )


def _divided(manifests: list[Manifest]) -> list[str]:
    """What each candidate's runs trained and read, a line each; none where no run divides its
    budget: then all have trained as many tokens as the recipe says."""
    if not any(run.budget for manifest in manifests for run in manifest.runs):
        return []
    lines = []
    for manifest in manifests:
        runs = [run for run in manifest.runs if run.status == "ok"]
        said = [
            f"{run.tokens:,} trained"
            + (f", {run.read:,} read or written, of {run.budget:,}" if run.budget else "")
            for run in runs
        ]
        lines += [f"{manifest.candidate}: {'; '.join(said)}"] if said else []
    return lines


def _curves(found: RoundLayout, manifest: Manifest) -> dict[int, list[str]]:
    """The learning curves that a candidate's runs left."""
    files = found.candidate(manifest.candidate)
    lines = {run.number: curve(files.run(run.number)) for run in manifest.runs}
    return {number: points for number, points in lines.items() if points}


def _author(found: RoundLayout) -> str:
    """Who proposed the round's outcome, and why the rules did where a model was asked."""
    path = found.meta / "proposal.json"
    return read(Proposal, path).author if path.exists() else ""


def _manifests(found: RoundLayout, plan: Plan) -> Iterator[Manifest]:
    for candidate in plan.candidates:
        try:
            yield read(Manifest, found.candidate(candidate.id).manifest)
        except RecordError:
            continue  # missing or corrupt is a fact about the candidate, which the evidence states


def _spent(manifests: list[Manifest]) -> Expense:
    whole = Expense()
    for manifest in manifests:
        cost = manifest.cost
        whole += Expense(
            candidates=1,
            trainings=len(manifest.runs),
            training_s=cost.training_s,
            turns=cost.turns,
            tokens=cost.tokens_in + cost.tokens_out,
            dollars=cost.dollars,
        )
    return whole


def _control(found: RoundLayout, evidence: Evidence | None) -> Expense:
    """What the round's collector and meta step asked of a model, as far as it is on record."""
    session = found.meta / "session.json"
    costs = [evidence.prose.cost] if evidence is not None and evidence.prose is not None else []
    costs += [read(Session, session).cost] if session.exists() else []
    return Expense(
        control_tokens=sum(cost.tokens_in + cost.tokens_out for cost in costs),
        control_dollars=total(cost.dollars for cost in costs),
    )


def _base_dev(layout: Layout) -> float | None:
    path = layout.baseline / "scores.json"
    if not path.exists():
        return None
    score = read(Scores, path).scores.get("base")
    return score.dev if score else None


def _row(story: RoundStory) -> Row:
    best, top = story.best, story.best_dev
    if best is None or top is None:
        return Row(story.number, story.mode, None, None, story.learned, note=story.state)
    notes = [story.state] if story.state else []
    if top.candidate != best.candidate and top.dev is not None:
        notes.append(f"highest dev of the round: {top.dev:.3f} ({top.candidate})")
    return Row(
        story.number,
        story.mode,
        best.dev,
        best.lb,
        story.learned,
        best.candidate,
        note="; ".join(notes),
    )


def _or_low(score: float | None) -> float:
    return float("-inf") if score is None else score


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
