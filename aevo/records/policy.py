"""The rolling search policy: the only document that changes from round to round (paper section 3).

`policy/round-KK.yaml` is written once per round; round 1 is the operator's, every later one comes
from the meta step. Markdown beside it is rendered from it, with the paper's section titles.
"""

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from aevo.files.documents import Part, Record
from aevo.files.words import Line
from aevo.records.change import Change, Edit
from aevo.records.scores import DomainGain

SearchMode = Literal[
    "recipe_stabilisation", "stack_and_calibrate", "proxy_exploitation", "transfer"
]
Objective = Literal["maximise_dev", "maximise_transfer"]
MODE_TITLES: dict[str, str] = {
    "recipe_stabilisation": "Recipe stabilisation",
    "stack_and_calibrate": "Stack-and-calibrate",
    "proxy_exploitation": "Proxy exploitation",
    "transfer": "Proxy-aware search",
}


def without_defaults(dumped: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """The dumped record without fields that a newer version added and this record does not use."""
    return {
        name: value
        for name, value in dumped.items()
        if name not in defaults or value != defaults[name]
    }


class Provenance(Part):
    """Where a statement comes from: the round, the candidate and the figure it rests on."""

    round: int
    candidate: str | None = None
    figure: str


class StandingChange(Part):
    """One change that every later fork starts with. `established`: the test promoted it; else it is
    only likely to help, is measured again by every anchor, and leaves when expected to lose.
    `title` is its author's name for it."""

    id: str
    axis: str
    change: Change
    provenance: Provenance
    established: bool = True
    title: Line = ""

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what says nothing new, so that records and digests of earlier campaigns hold."""
        return without_defaults(dump(self), {"established": True, "title": ""})


class MoveRef(Part):
    """A move of the catalogue, by its axis and its own id."""

    axis: str
    move: str


class OwnMove(Part):
    """A move that the policy itself states: recipe keys to set and files to patch. With a `source`
    (round and candidate, `r01-c02`) it is a change that was measured there, to be tried again."""

    id: str
    title: Line = ""
    set: dict[str, Any] = {}
    patch: list[Edit] = []
    why: str = ""
    source: str | None = None

    @property
    def change(self) -> Change:
        """The move as a composable change."""
        return Change(set=self.set, edits=self.patch)


BRIEF_DEFAULTS: dict[str, Any] = {"own": [], "trainings": None, "seeds": 1, "figure": ""}


class AxisBrief(Part):
    """An axis as assigned for one round. `moves` names the catalogue moves still worth trying,
    `own` are those that the policy states itself.

    `transfer` marks an axis that is expected to help the leaderboard even where dev falls.
    `combines` makes it a stack: an axis of the policy's own, whose one move is all of these moves
    of different catalogue axes together. `trainings` are what its candidate may start (None: as
    many as every other), `seeds` on how many its change is to be measured. `figure` is what the
    choice rests on, for people: no worker is shown it.
    """

    axis: str
    category: str
    brief: str
    knobs: list[str] = []
    moves: list[str] = []
    combines: list[MoveRef] = []
    transfer: bool = False
    reason: str
    own: list[OwnMove] = []
    trainings: int | None = Field(default=None, ge=1)
    seeds: int = Field(default=1, ge=1)
    figure: str = ""

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_defaults(dump(self), BRIEF_DEFAULTS)


class NoiseRule(Part):
    """The empirical promotion rule of this round; itself revisable (paper section 3).

    A candidate is promoted when its effect over the anchor (records.evidence.Effect, accuracy,
    0..1) exceeds `promotion_threshold` with an adjusted p of at most `alpha`. A round whose best LB
    improves by less than `lb_threshold` counts as a plateau. `seed_sd` is the measured standard
    deviation of dev between seeds of one recipe, None before there are two such runs. `prior` is
    the operator's threshold of round 1, below which no revision goes; `band_prior` the difference
    between two runs that the operator takes for chance before it is measured, `lb_prior` the
    standard deviation of the difference between two leaderboard scores of one recipe. At most
    `promotions_per_round` changes enter the standing recipe at once.
    """

    promotion_threshold: float
    lb_threshold: float
    promotions_per_round: int = 1
    prior: float = 0.02
    band_prior: float = 0.02
    lb_prior: float = 0.01
    alpha: float = 0.05
    seed_sd: float | None = None
    seed_runs: int = 0
    provenance: Provenance


class MoveBelief(Part):
    """What is believed of a move after all trials: expected gain on the target (accuracy), its
    standard deviation, the probability that it is a gain, and whether a test has established it."""

    axis: str
    move: str
    expected: float
    sd: float
    probability: float
    established: bool


class DeadEnd(Part):
    """An entry of "Don't waste budget on": never removed, always with its provenance."""

    id: str
    axis: str
    move: str
    what: str
    provenance: Provenance


class Trial(Part):
    """One move as it was tried: what it gained over its round's anchor, and what became of it.

    The ledger of trials tells a later round which moves are fresh and which only stayed undecided.
    `dev`, `dev_se`, `dev_shared`, `lb_se` are the readings of the selected run (records.evidence.
    Readings); a later trial of the same change (`change_sha256`) is pooled with them. `domains` are
    its gains by domain of dev. `combines` are the moves that a stack tried together. `own` is a
    change that no catalogue has, with the category and knobs of its axis: what it takes to try it
    again.
    """

    axis: str
    move: str
    round: int
    candidate: str
    gain: float | None
    lb_gain: float | None = None
    dev: float | None = None
    dev_se: float | None = None
    dev_shared: float = 0.0
    lb_se: float | None = None
    domains: dict[str, DomainGain] = {}
    change_sha256: str | None = None
    combines: list[MoveRef] = []
    outcome: Literal["promoted", "likely", "dead_end", "undecided", "failed"]
    reason: str
    own: OwnMove | None = None
    category: str = ""
    knobs: list[str] = []

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        new: dict[str, Any] = {"domains": {}, "own": None, "category": "", "knobs": []}
        return without_defaults(dump(self), new)


class Selection(Part):
    """How a checkpoint is chosen among those a run evaluated; weights over dev's domains."""

    criterion: Literal["dev", "reweighted", "last"] = "dev"
    weights: dict[str, float] = {}
    provenance: Provenance


class RetiredAxis(Part):
    """An axis or a whole category that is no longer assigned, and why."""

    axis: str | None = None
    category: str | None = None
    until_round: int | None = None
    provenance: Provenance


POLICY_DEFAULTS: dict[str, Any] = {
    "beliefs": [],
    "likely_per_round": 1,
    "stacks_per_round": 1,
    "trainings": None,
}


class Policy(Record):
    """The complete search policy of one round. A stack combines at most `stack_up_to` moves, the
    operator's choice; below 2 there are none. So is how many candidates may be stacks
    (`stacks_per_round`; with 1 only likely gains are stacked), how many changes that are only
    likely may enter the working recipe (`likely_per_round`), and what an explorer may train
    (`trainings`; None in records from before there was an allotment). `beliefs` are those that the
    last round left."""

    round: int
    mode: SearchMode
    mode_reason: str
    objective: Objective
    standing: list[StandingChange] = []
    axes: list[AxisBrief]
    stack_up_to: int = 4
    stacks_per_round: int = 1
    likely_per_round: int = 1
    trainings: int | None = None
    noise: NoiseRule
    selection: Selection
    retired: list[RetiredAxis] = []
    dont_waste_budget_on: list[DeadEnd] = []
    tried: list[Trial] = []
    beliefs: list[MoveBelief] = []
    provenance: list[Provenance]

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_defaults(dump(self), POLICY_DEFAULTS)

    @property
    def divergence_known(self) -> bool:
        """True once the campaign has found that dev is no longer evidence."""
        return self.objective == "maximise_transfer"
