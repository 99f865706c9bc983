"""The trusted side of a worker: validates, submits and reads back training and evaluation.

An agent names a run by its number and gets back what the records say. It never passes a path, a
seed, an item set or a score.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from aevo.config.agent import EndpointSettings
from aevo.errors import AevoError, JobError
from aevo.evaluate.contract import check_baseline
from aevo.evaluate.criterion import Criterion, criterion_of
from aevo.evaluate.inspection import Inspector
from aevo.evaluate.scores import by_checkpoint, read_scores
from aevo.files import digest, roundlog
from aevo.files.documents import finished, read
from aevo.files.paths import CandidateLayout, RoundLayout, RunLayout
from aevo.files.untrusted import scratch_folder, there
from aevo.jobs.ending import cancel
from aevo.jobs.folder import JobFolder
from aevo.jobs.state import observe
from aevo.jobs.submit import submit, wait
from aevo.plan.graph import evaluation_job, training_job
from aevo.plan.setup import OpenCampaign
from aevo.records.inspection import Inspection
from aevo.records.job import JobSpec
from aevo.records.manifest import CheckpointScore, Manifest, best_of
from aevo.records.plan import CandidatePlan, Plan
from aevo.records.scores import Scores
from aevo.records.trace import Trace
from aevo.substrate.catalogue import Move
from aevo.substrate.catalogue import load as load_catalogue
from aevo.substrate.frozen import Substrate
from aevo.substrate.measured import recorded_change
from aevo.substrate.recipe import load_recipe
from aevo.substrate.sound import unknown_keys
from aevo.work import answers, stopping
from aevo.work.answers import Evaluation, RunStarted, RunStatus
from aevo.work.budget import spend_shell
from aevo.work.check import check
from aevo.work.curve import curve
from aevo.work.library import Library
from aevo.work.teacher import Desk


class BrokerError(AevoError):
    """A request that is refused; the text goes back to the agent."""


@dataclass(frozen=True)
class Broker:
    """Bound to one candidate; all its state is in that candidate's files."""

    campaign: OpenCampaign
    plan: Plan
    candidate: CandidatePlan
    trace: Trace
    still: Callable[[], AbstractContextManager[None]] = nullcontext  # holds the fork's writers

    @property
    def substrate(self) -> Substrate:
        """The campaign's own, frozen."""
        return self.campaign.substrate

    @property
    def round(self) -> RoundLayout:
        """The round's folder."""
        return self.campaign.layout.round(self.plan.round)

    @property
    def files(self) -> CandidateLayout:
        """The candidate's folder."""
        return self.round.candidate(self.candidate.id)

    @property
    def trainings(self) -> int:
        """Training runs this candidate may start; an anchor needs one per seed."""
        if self.candidate.role == "anchor":
            return len(self.candidate.seeds)
        return self.candidate.trainings or self.plan.budget.trainings

    @cached_property
    def desk(self) -> Desk:
        """Who answers the candidate's questions; an anchor has none."""
        config, layout = self.campaign.config, self.campaign.layout
        folder = Path(config.knowledge) if config.knowledge else None
        teacher = config.teacher if isinstance(config.teacher, EndpointSettings) else None
        if self.candidate.role == "anchor":
            folder, teacher = None, None
        library = Library(folder, [layout.dev_items, layout.hidden_items])
        return Desk(library, teacher, self.trace, self.plan.budget.questions)

    def moves(self) -> list[Move]:
        """The catalogue moves that the candidate's brief asks for."""
        brief = self.candidate.axis
        if brief is None:
            return []
        return load_catalogue(
            self.substrate.catalogue,
            real=True,
            trainer=self.campaign.config.trainer.name,
            preset=self.campaign.config.model.preset,
        ).assigned(brief)

    def runs(self) -> list[int]:
        """Numbers of the runs that were started, in order."""
        numbers = range(1, stopping.most_runs(self.trainings) + 1)
        return [number for number in numbers if self.files.run(number).fork.exists()]

    def seed(self, number: int) -> int:
        """The seed of run `number`: fixed by the plan, out of the agent's reach."""
        return self.candidate.seeds[self.seed_number(number) - 1]

    def seed_number(self, number: int) -> int:
        """Which of the plan's seeds run `number` takes, counted from 1: a recipe's first run the
        first, as the anchor's did, and each further run of the same recipe the next."""
        return min(1 + len(self.same(number)), len(self.candidate.seeds))

    def same(self, number: int) -> list[int]:
        """The runs before run `number` that trained the same fork."""
        if not self.files.run(number).fork.exists():
            return []
        own = self.substrate.recipe_sha256(self.files.run(number).fork)
        return [
            other
            for other in range(1, number)
            if self.substrate.recipe_sha256(self.files.run(other).fork) == own
        ]

    def train(self) -> RunStarted:
        """Launches the next run on a snapshot of the fork as it is now.

        A call that was cut short by a crash is adopted: the run it started is the answer.

        Raises:
            BrokerError: the budget is spent, or an anchor was edited; CheckError, SubstrateError:
                the fork cannot be trained, or recorded, which costs no run.
        """
        check_baseline(self.campaign.layout)
        number = self.trace.answered("train") + 1
        begun = [other for other in self.runs() if other < number]
        left = self.trainings - sum(map(self.counts, begun))
        if left < 1:
            raise BrokerError(f"the budget of {self.trainings} training runs is spent")
        if self.candidate.role == "anchor" and not self._unchanged(self.files.fork):
            raise BrokerError("the anchor runs the standing recipe untouched; undo your edits")
        run = self.files.run(number)
        if not run.fork.exists():
            with self._as_it_is() as fork:
                change = recorded_change(self.substrate, fork, self.round.standing)
                standing = load_recipe(self.round.standing / self.substrate.file.recipe)
                if unknown := unknown_keys(self.substrate, change, standing):
                    raise BrokerError(
                        f"the recipe has no {', '.join(unknown)}, and no code reads it"
                    )
                self._check(fork)
                self.substrate.fork(run.fork, [], source=fork)
        self.campaign.verify()
        submit(self.train_spec(number), self.campaign.config.cluster)
        self.trace.note("job", run=number, job=self.train_spec(number).name, seed=self.seed(number))
        self._log(f"run {number} submitted")
        return RunStarted(
            run=number,
            seed=self.seed_number(number),
            note=self._remark(number),
            trainings_left=round(left - 1, 2),
        )

    def counts(self, number: int) -> float:
        """How much of a training run `number` counts as: 1, or less for one that was stopped."""
        job = JobFolder.of(self.train_spec(number))
        return stopping.share(job, self.usual_seconds) if stopping.stopped(job) else 1.0

    @property
    def usual_seconds(self) -> float | None:
        """What a whole training takes, by the last round's anchor; None where that is not known."""
        path = self.campaign.layout.round(self.plan.round - 1).candidate("c00").manifest
        found = (
            [run.seconds for run in read(Manifest, path).runs] if finished(Manifest, path) else []
        )
        return max(found, default=None)

    def stop(self, number: int) -> str:
        """Ends run `number` for good; what is given back of it.

        Raises:
            BrokerError: it is not going, or the anchor's, whose runs are fixed.
        """
        self._known(number)
        if self.candidate.role == "anchor":
            raise BrokerError("the anchor's runs are fixed")
        job = JobFolder.of(self.train_spec(number))
        if not stopping.stop(job):
            raise BrokerError(f"run {number} is not going: it is {observe(job).phase}")
        part = self.counts(number)
        self._log(f"run {number} stopped by its agent; it counts as {part:g}")
        return f"run {number} is stopped and counts as {part:g} of a training run"

    def check(self) -> str:
        """Whether the fork as it is now can be trained, as far as that shows at no cost; an
        untouched one can."""
        with self._as_it_is() as fork:
            return self._check(fork)

    def _check(self, fork: Path) -> str:
        if self._unchanged(fork):
            return "your fork equals the standing recipe; nothing to check"
        recipe = load_recipe(fork / self.substrate.file.recipe)
        criterion_of(recipe)
        count = partial(spend_shell, self.trace)
        return check(self.campaign, fork, self.candidate.seeds[0], recipe, count)

    @contextmanager
    def _as_it_is(self) -> Iterator[Path]:
        """A copy of the fork: what is judged, tried and trained is one state of it, whatever an
        agent's processes do meanwhile.

        Raises:
            SubstrateError: the fork holds something that is not a regular file.
        """
        with scratch_folder("aevo-fork-") as top:
            with self.still():
                self.substrate.copy(self.files.fork, top / "fork")
            yield top / "fork"

    def wait(self, number: int) -> RunStatus:
        """Waits for run `number`; a lost job is submitted again and resumes from its state."""
        self._known(number)
        spec = self.train_spec(number)
        if stopping.stopped(JobFolder.of(spec)):
            curve = self.curve(number)
            return RunStatus(run=number, status="failed", failure=stopping.SAID, metrics=curve)
        try:
            wait(spec, self.campaign.config.cluster)
        except JobError as error:
            state = observe(JobFolder.of(spec))
            cause = answers.cause(state) or error.what
            self._log(f"run {number} failed: {cause}")
            return RunStatus(
                run=number,
                status="failed",
                failure=cause,
                log=answers.said(state),
                metrics=self.curve(number),
            )
        found = self.inspection(number)
        if found.result is None or found.failure is not None:
            self._log(f"run {number} refused: {found.failure}")
            self.trace.note("note", run=number, refused=found.failure)
            return RunStatus(run=number, status="refused", failure=found.failure)
        if found.refused:
            self.trace.note("note", run=number, refused=found.refused)
        result = found.result
        why = answers.why(result.status, found.refused)
        self._log(
            f"run {number} {result.status}, loss {answers.figure(result.final_loss)}"
            + (f": {why}" if why else "")
        )
        status = RunStatus(
            run=number,
            status=result.status,
            final_loss=result.final_loss,
            checkpoints=list(found.adapters),
            failure=why,
        )
        if result.status == "ok":
            return status
        state = observe(JobFolder.of(spec))
        return status.model_copy(update={"log": answers.said(state), "metrics": self.curve(number)})

    def curve(self, number: int) -> list[str]:
        """Lines of a run's metrics, evenly spread over it, the last ones included."""
        return curve(self.files.run(number))

    def inspection(self, number: int) -> Inspection:
        """The trusted look at a run that has ended, made once."""
        run = self.files.run(number)
        inspector = Inspector(
            self.substrate,
            Path(self.campaign.base),
            [self.campaign.layout.dev_items, self.campaign.layout.hidden_items],
        )
        return inspector.inspect(run, self.train_spec(number), self.seed(number))

    def settle(self, number: int) -> str:
        """Ends run `number` if it is still going; returns why it has no result."""
        job = JobFolder.of(self.train_spec(number))
        # one that has said how it failed may be in its last breath: it was not cancelled
        if observe(job).phase != "failed" and cancel(job):
            return "cancelled when its candidate ended"
        if stopping.stopped(job):
            return stopping.SAID
        return answers.cause(observe(job)) or "never ran"

    def logs(self, number: int, lines: int) -> str:
        """How a run stands, its learning curve, and the end of its log."""
        self._known(number)
        state = observe(JobFolder.of(self.train_spec(number)))
        curve = ["metrics:", *self.curve(number)]
        return "\n".join(
            [
                f"{state.phase} {answers.cause(state)}".strip(),
                *(curve if len(curve) > 1 else ["no metrics yet"]),
                "log:",
                *answers.said(state, lines),
            ]
        )

    def evaluate(self, number: int) -> Evaluation:
        """Scores all checkpoints of run `number` on dev in a trusted job.

        Raises:
            BrokerError: the run has left no checkpoint; JobError: the evaluation itself failed.
        """
        run = self._known(number)
        if not there(run.result):
            raise BrokerError(f"run {number} has no result yet", "wait for it first")
        found = self.inspection(number)
        if found.failure is not None:
            raise BrokerError(f"run {number} does not count: {found.failure}")
        if not found.adapters:
            raise BrokerError(
                f"run {number} left no checkpoint that counts", "; ".join(found.refused.values())
            )
        self.campaign.verify()
        wait(self.evaluate_spec(number), self.campaign.config.cluster)
        scores = self.scores(number)
        criterion = self.criterion(number)
        chosen = best_of(self.checkpoint_scores(number))
        shown = {name: score.model_dump() for name, score in scores.scores.items()}
        self.trace.note("score", run=number, selected=chosen and chosen.name, scores=shown)
        if chosen is not None:
            self._log(f"run {number} dev {chosen.dev:.3f} at {chosen.name}")
        return Evaluation(
            run=number,
            criterion=criterion.name,
            scores=scores.scores,
            selected=chosen.name if chosen else None,
        )

    def check_choice(self, number: int | None, checkpoint: str | None) -> None:
        """Refuses to finish on a run or checkpoint that was not scored."""
        if number is None:
            return
        run = self._known(number)
        if not run.scores.exists():
            raise BrokerError(f"run {number} was not evaluated", "evaluate it first")
        names = [item.name for item in self.checkpoint_scores(number)]
        if checkpoint is not None and checkpoint not in names:
            raise BrokerError(
                f"run {number} has no scored checkpoint {checkpoint}", f"scored: {', '.join(names)}"
            )

    def scores(self, number: int) -> Scores:
        """The evaluation record of a run, checked against the campaign's item set.

        Raises:
            JobError: the scores are of other items or adapters, or older than the run.
        """
        try:
            return read_scores(
                self.files.run(number), self.inspection(number), self.campaign.record.pins.dev_items
            )
        except JobError as error:
            self._log(f"run {number}: the evaluation breaks the contract: {error.what}")
            raise

    def criterion(self, number: int) -> Criterion:
        """The checkpoint criterion in the recipe that run `number` used."""
        return criterion_of(load_recipe(self.files.run(number).fork / self.substrate.file.recipe))

    def checkpoint_scores(self, number: int) -> list[CheckpointScore]:
        """Scored checkpoints of a run in step order, without those the evaluator refused."""
        return by_checkpoint(self.inspection(number), self.scores(number), self.criterion(number))

    def train_spec(self, number: int) -> JobSpec:
        """The training job of run `number`: data, then training, in the snapshot."""
        return training_job(self.campaign, self.files.run(number), self.seed(number))

    def evaluate_spec(self, number: int) -> JobSpec:
        """The evaluation job of run `number`: the pristine substrate, no code of the fork."""
        run = self.files.run(number)
        adapters = {name: run.adapter(name) for name in self.inspection(number).adapters}
        return evaluation_job(self.campaign, run, adapters)

    def _known(self, number: int) -> RunLayout:
        if number not in self.runs():
            raise BrokerError(f"there is no training run {number}", f"started: {self.runs()}")
        return self.files.run(number)

    def _unchanged(self, fork: Path) -> bool:
        self.substrate.plain_files(fork)
        names = self.substrate.file.mutable
        return digest.of_tree(fork, names) == digest.of_tree(self.round.standing, names)

    def _remark(self, number: int) -> str | None:
        """What an explorer should know of a run that can teach little."""
        if self.candidate.role == "anchor":
            return None
        fork = self.files.run(number).fork
        if self.substrate.recipe_sha256(fork) == self.plan.standing_recipe_sha256:
            return "warning: your fork equals the standing recipe, which the anchor trains already"
        same = self.same(number)
        if len(same) >= len(self.candidate.seeds):
            return f"warning: run {same[-1]} had this recipe and this seed already"
        return f"the same recipe as run {same[-1]}, on another seed" if same else None

    def _log(self, text: str) -> None:
        roundlog.note(self.round.log, self.candidate.id, text)
