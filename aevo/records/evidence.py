"""evidence.json: the collector's record of a round; its five sections never change (section 3)."""

from typing import Literal

from aevo.files.documents import Part, Record
from aevo.records.change import Change
from aevo.records.leaderboard import Submission
from aevo.records.manifest import Cost
from aevo.records.scores import DomainGain

SECTIONS = {
    "candidates": "Per-candidate summaries",
    "patterns": "Cross-candidate patterns",
    "calibration": "Dev/leaderboard calibration",
    "surprises": "Surprises",
    "audit": "Design-rationale audit",
}


class Comparison(Part):
    """An explorer against the anchor on the same items (accuracy differences, 0..1).

    Both ran with the same training seed. `won` and `lost` of the `n` common items changed sides;
    `low`, `high` is the 95 % paired-bootstrap interval; `p` McNemar's exact p, `p_adjusted` its
    Holm adjustment over the round's axes; `beyond_band` whether |gain| exceeds the seed band.
    `domains` are gains by domain, `domain_reach` half of the width of their 95 % intervals;
    `damaged` those that the change cost, with the p of that, adjusted over the round's domains.
    """

    n: int
    won: int
    lost: int
    gain: float
    low: float
    high: float
    p: float
    p_adjusted: float
    beyond_band: bool
    domains: dict[str, float]
    domain_reach: dict[str, float] = {}
    damaged: dict[str, float] = {}


class Readings(Part):
    """A candidate's gains as measured in this round, each with its standard error.

    `dev` is taken against the mean of all of the anchor's runs; `dev_shared` is the part of
    `dev_se` that another trial on the same items would repeat. `lb` is None if it was not
    submitted. `domains` are the same by domain of dev; empty in records of before there were any.
    `selection` was taken off `dev` and every domain's gain: what choosing among more checkpoints
    than the anchor had is expected to flatter them by (`aevo.statistics.selection`).
    """

    dev: float
    dev_se: float
    dev_shared: float
    lb: float | None = None
    lb_se: float | None = None
    domains: dict[str, DomainGain] = {}
    selection: float = 0.0


class Effect(Part):
    """What a candidate's change is worth over the anchor, from all that is known of it.

    Readings of dev and leaderboard, and of earlier trials of the same move, weighed by precision.
    `p` is one-sided against no gain, by Student's t with `dof` degrees of freedom, those that the
    noise is known with (None: by the normal distribution, as records before had it). `p_adjusted`
    is its Holm adjustment over the round's candidates.
    Promotion is decided by it (constitution R2).
    """

    basis: Literal["dev", "dev and leaderboard", "leaderboard"]
    gain: float
    se: float
    low: float
    high: float
    p: float
    p_adjusted: float
    trials: int
    dof: float | None = None


class RunSummary(Part):
    """One training run of a candidate; `gain` is its dev over the anchor's. `curve` is the loss at
    a few steps, as its own code wrote it: no figure to decide by or to quote."""

    run: int
    change: Change
    checkpoint: str | None
    dev: float | None
    gain: float | None
    failure: str | None = None
    curve: list[tuple[int, float]] = []


class CandidateSummary(Part):
    """What one candidate did and got. `lb` is None if it was not submitted.

    `lb_gain` is against the anchor of the same round, None unless both were scored. `effect` takes
    dev and leaderboard as readings of one gain, as is right while dev is evidence; `external` rests
    on the leaderboard alone. `flags` are the judge's on the run that it stands by: with one it
    counts for nothing. `title` and `said` are the agent's words on its change.
    """

    candidate: str
    role: Literal["anchor", "explorer"]
    axis: str | None
    category: str | None
    move: str | None
    change: Change
    status: Literal["ok", "failed", "missing"]
    failure: str | None = None
    dev: float | None = None
    lb: float | None = None
    lb_gain: float | None = None
    domains: dict[str, float] = {}
    checkpoint: str | None = None
    comparison: Comparison | None = None
    readings: Readings | None = None
    effect: Effect | None = None
    external: Effect | None = None
    runs: list[RunSummary] = []
    flags: list[str] = []
    failure_modes: list[str] = []
    findings: list[str] = []
    title: str = ""
    said: str = ""
    text: str


class Stacked(Part):
    """Whether changes promoted after the last round hold together on the standing recipe.

    `expected` is what their trials promised (shrunk, because the best of several flatters), `step`
    what this round's anchor gained over the last one's, with standard errors; `kept` pools both.
    """

    changes: list[str]
    expected: float
    expected_se: float
    step: float
    step_se: float
    kept: float
    verdict: Literal["holds", "falls_short", "reversed"]


class Patterns(Part):
    """What holds across candidates: mean gain per category and per domain, and prose.

    `weak_domain` is the domain that holds most of the anchor's errors on dev, if it holds visibly
    more than an even share; `weak_share` is what it holds. `stacked` judges the changes promoted
    after the last round, None if there were none.
    """

    gain_by_category: dict[str, float]
    domain_movers: dict[str, str]
    weak_domain: str | None = None
    weak_share: float | None = None
    stacked: Stacked | None = None
    text: str


class Pair(Part):
    """One dev/LB pair of a real submission; gains are taken against its round's anchor.

    `residual` is what its LB gain lies above the one that its dev gain predicts by `slope`.
    """

    round: int
    candidate: str
    role: Literal["anchor", "explorer"]
    dev: float
    lb: float
    residual: float | None = None


class Calibration(Part):
    """Whether dev still predicts the leaderboard.

    `slope` is LB per dev over `pairs` gains (all rounds); `rank_correlation` Spearman's rho;
    `leverage` is, per domain, the dev gain that candidates of this round won there beyond what LB
    confirmed. `dev_band` and `lb_noise` are the differences that chance alone explains; `run_sd`
    and `lb_sd` the standard deviations of one run's dev and one LB score between seeds, pooled with
    their priors (`lb_runs` scores of repeated anchors). `spread` is the standard deviation of true
    gains among changes tried. `passed` of the dev gains of this round's rising explorers reached
    the leaderboard; `source_passed` of what the domain `source`, the one that most of dev's gains
    come from, added to dev in all rounds. `detectable` is the smallest gain that this design finds
    with a power of 80 %, by what it is measured on. `verdict` follows `reason`.
    """

    pairs: list[Pair]
    seed_sd: float | None
    seed_runs: int
    seed_dof: int
    dev_band: float
    lb_noise: float
    run_sd: float = 0.0
    lb_sd: float = 0.0
    lb_runs: int = 0
    spread: float = 0.0
    passed: float | None = None
    passed_se: float | None = None
    source: str | None = None
    source_passed: float | None = None
    source_se: float | None = None
    detectable: dict[str, float] = {}
    slope: float | None
    slope_low: float | None
    slope_high: float | None
    rank_correlation: float | None
    best_dev: float | None
    best_lb: float | None
    dev_gain_of_round: float | None
    lb_gain_of_round: float | None
    leverage: dict[str, float]
    plateau_rounds: int
    verdict: Literal["evidence", "suspect", "not_evidence"]
    reason: str
    text: str


class Surprise(Part):
    """A result against expectation, with the candidate and figure it rests on."""

    candidate: str
    figure: str
    text: str


class Audit(Part):
    """Did the round test what its plan said? One line per check, with its outcome."""

    check: str
    passed: bool
    text: str


class Prose(Part):
    """What a language model wrote beside the computed sections; no decision reads it.

    `sections` is empty where the rules stand in, and then `author` says why. Every figure in it
    matched the evidence when it was written, and does again in `python -m aevo.evidence verify`.
    """

    author: str
    sections: dict[str, str]
    refusals: int
    cost: Cost


class Evidence(Record):
    """The five sections of a round, always these five, plus what identifies the round.

    `prose` is None where no language model was asked.
    """

    campaign: str
    round: int
    mode: str
    policy_sha256: str
    manifests: dict[str, str]
    submissions: list[Submission]
    candidates: list[CandidateSummary]
    patterns: Patterns
    calibration: Calibration
    surprises: list[Surprise]
    audit: list[Audit]
    prose: Prose | None = None

    def anchor(self) -> CandidateSummary | None:
        """The anchor's summary if it was scored."""
        for summary in self.candidates:
            if summary.role == "anchor" and summary.dev is not None:
                return summary
        return None


VERDICTS = {
    "evidence": "dev is evidence of the leaderboard",
    "suspect": "dev is suspect as evidence of the leaderboard",
    "not_evidence": "dev is no longer evidence of the leaderboard",
}
