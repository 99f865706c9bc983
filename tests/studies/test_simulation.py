"""Simulated campaigns: the surface, what runs on it show, and the real decisions made on them."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hydra import compose, initialize_config_dir

from aevo import simulate as command
from aevo.config import schema as configuration
from aevo.errors import ConfigError, RecordError
from aevo.meta.rules import propose
from aevo.records.proposal import Proposal
from aevo.studies.simulation import calibrate, study
from aevo.studies.simulation.ablation import ABLATIONS
from aevo.studies.simulation.campaign import Bench, Parts, Simulated, bench_of, simulate
from aevo.studies.simulation.searchers import SEARCHERS, Observation, Searcher, search
from aevo.studies.simulation.space import Key, Recipe
from aevo.studies.simulation.study import Outcome, Task
from aevo.studies.simulation.surface import PRESETS, Surface, draw, preset
from aevo.studies.simulation.tpe import Tpe
from aevo.studies.simulation.world import World
from aevo.substrate.catalogue import load
from tests.conftest import REPO

QUIET: dict[str, Any] = {"seed_sd": 0.0, "flips": 0.0, "reshuffle": 0.0}


@pytest.fixture(scope="module")
def bench() -> Bench:
    """The default configuration and the tiny substrate's catalogue."""
    with initialize_config_dir(str(REPO / "conf"), version_base=None):
        config = configuration.load(compose("config"))
    return bench_of(config, load(REPO / "substrate" / "default" / "axes.yaml"))


def surface(bench: Bench, name: str, seed: int = 1, **changes: Any) -> Surface:
    return draw(preset(name, **changes), bench.space, seed)


def campaign(bench: Bench, drawn: Surface, seed: int = 1, rounds: int = 4) -> Simulated:
    return simulate(bench.for_seed(seed), World(drawn, seed), rounds)


def keys(bench: Bench, axis: str) -> list[Key]:
    found = bench.catalogue.axis(axis)
    assert found is not None
    return [(axis, move.id) for move in found.moves]


def raise_axis(bench: Bench, drawn: Surface, axis: str, dev: float, hidden: float) -> None:
    """Gives every move of an axis the same gain in every domain."""
    for key in keys(bench, axis):
        drawn.dev[drawn.moves[key]] = dev
        drawn.hidden[drawn.moves[key]] = hidden


def documents(found: Simulated) -> list[str]:
    return [item.evidence.model_dump_json() + item.next.model_dump_json() for item in found.rounds]


# -- surface ---------------------------------------------------------------------------------------


def test_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"surface=nul is unknown.*no_effect, aligned"):
        preset("nul")


def test_a_surface_without_effects_does_nothing(bench: Bench) -> None:
    drawn = surface(bench, "no_effect")
    start = drawn.truth((), 1)
    for key in drawn.moves:
        assert drawn.truth((key,), 4) == start


def test_a_later_move_on_the_same_knob_replaces_the_earlier(bench: Bench) -> None:
    drawn = surface(bench, "aligned")
    first, second = keys(bench, "learning_rate")[:2]
    other = keys(bench, "rank")[0]
    assert drawn.active((first, other, second)) == (other, second)
    assert drawn.truth(drawn.active((first, second)), 1) == drawn.truth((second,), 1)


def test_gains_of_two_moves_overlap_by_the_interaction(bench: Bench) -> None:
    drawn = surface(bench, "no_effect")
    raise_axis(bench, drawn, "learning_rate", 0.04, 0.04)
    raise_axis(bench, drawn, "rank", 0.03, 0.02)
    one, other = keys(bench, "learning_rate")[0], keys(bench, "rank")[0]
    start = np.array(drawn.truth((), 1))
    alone = [np.array(drawn.truth((key,), 1)) - start for key in (one, other)]
    both = np.array(drawn.truth((one, other), 1)) - start
    overlap = drawn.overlap[drawn.moves[one], drawn.moves[other]]
    lost = overlap * 0.025  # of the smaller gain, the mean of dev's and hidden's
    assert overlap > 0
    assert np.allclose(alone[0] + alone[1] - both, lost, atol=0.02)  # bits may reach its floor
    assert np.all(both < alone[0] + alone[1])


def test_a_proxy_raises_dev_alone_and_only_from_its_onset(bench: Bench) -> None:
    changes: dict[str, Any] = {"proxies": 1.0, "proxy_gain": [0.05, 0.05], "proxy_cost": 0.4}
    drawn = surface(bench, "no_effect", onset=3, **changes)
    key = keys(bench, "rank")[0]
    start = drawn.truth((), 1)
    assert drawn.truth((key,), 2) == start
    dev, hidden = drawn.truth((key,), 3)
    assert dev - start[0] == pytest.approx(0.05)
    assert hidden - start[1] == pytest.approx(-0.02, abs=0.002)  # bits is at its floor
    assert drawn.truth((), 3) == start


def test_surfaces_of_one_preset_differ_by_seed_alone(bench: Bench) -> None:
    one, same, other = (surface(bench, "tiny", seed) for seed in (1, 1, 2))
    assert np.array_equal(one.dev, same.dev) and np.array_equal(one.hidden, same.hidden)
    assert not np.array_equal(one.dev, other.dev)
    assert np.abs(one.dev - other.dev).mean() < 0.05  # measured means, moved by their uncertainty


# -- world -----------------------------------------------------------------------------------------


def test_runs_are_repeatable_and_expect_the_truth(bench: Bench) -> None:
    drawn = surface(bench, "tiny")
    recipe = (keys(bench, "rank")[-1],)
    truth = drawn.truth(recipe, 1)
    world = World(drawn, 1)
    one, same = world.run(recipe, 5, 1), world.run(recipe, 5, 1)
    assert np.array_equal(one.correct, same.correct) and one.hidden == same.hidden
    seen = [World(drawn, seed).run(recipe, seed, 1) for seed in range(150)]
    assert np.mean([run.dev for run in seen]) == pytest.approx(truth[0], abs=0.004)
    assert np.mean([run.hidden for run in seen]) == pytest.approx(truth[1], abs=0.004)


def test_noise_of_items_and_of_seeds_can_be_told_apart(bench: Bench) -> None:
    """Without any noise all runs of a recipe are one; flips alone change items, and the total by
    far less than a seed's shift does."""
    quiet = World(surface(bench, "no_effect", **QUIET), 1)
    one, other = quiet.run((), 1, 1), quiet.run((), 2, 1)
    assert np.array_equal(one.correct, other.correct) and one.hidden == other.hidden

    def devs(**noise: float) -> tuple[float, float]:
        world = World(surface(bench, "no_effect", **{**QUIET, **noise}), 1)
        runs = [world.run((), seed, 1) for seed in range(40)]
        differ = [np.mean(runs[0].correct != run.correct) for run in runs[1:]]
        return float(np.mean(differ)), float(np.std([run.dev for run in runs]))

    flipped, flip_sd = devs(flips=0.1)
    shifted, shift_sd = devs(seed_sd=0.02)
    assert 0.03 < flipped < 0.20 and 0 < flip_sd < 0.01
    assert shifted < flipped and shift_sd > 0.015


def test_the_board_rounds(bench: Bench) -> None:
    run = World(surface(bench, "tiny"), 1).run((), 1, 1)
    assert run.board(2) == round(run.hidden, 2) != run.hidden


# -- campaigns -------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_campaign(bench: Bench) -> None:
    one, same, other = (campaign(bench, surface(bench, "tiny", s), s, 2) for s in (3, 3, 4))
    assert documents(one) == documents(same)
    assert documents(one) != documents(other)


def test_rounds_are_planned_submitted_and_judged_as_real_ones(bench: Bench) -> None:
    drawn = surface(bench, "tiny", decimals=3)
    limited = bench.config.leaderboard.model_copy(update={"quota": 4})
    bench = replace(bench, config=bench.config.model_copy(update={"leaderboard": limited}))
    found = campaign(bench, drawn)
    n, anchors = bench.config.worker.n, bench.config.worker.anchor_seeds
    assert found.runs == 4 * (n - 1 + anchors)
    assert found.refused == []
    for number, item in enumerate(found.rounds, start=1):
        assert item.facts.plan.round == number and item.runs == n - 1 + anchors
        assert len({c.axis for c in item.evidence.candidates if c.role == "explorer"}) == n - 1
        board = item.facts.leaderboard
        assert board is not None and len(board.submissions) == 4
        assert board.submissions[0].candidate == "c00"  # the anchor goes first
        for entry in board.submissions:
            assert entry.score is not None and round(entry.score, 3) == entry.score
        assert all(rule.passed for rule in item.verdict.rules)
        if number < len(found.rounds):
            assert found.rounds[number].policy == item.next


def test_without_effects_and_noise_nothing_is_promoted(bench: Bench) -> None:
    for seed in range(3):
        found = campaign(bench, surface(bench, "no_effect", seed, **QUIET), seed)
        assert found.recipe == () and found.refused == []
        for item in found.rounds:
            assert item.evidence.calibration.verdict == "evidence"
            readings = [c.readings for c in item.evidence.candidates if c.readings is not None]
            assert readings and all(reading.dev == 0 for reading in readings)


def test_one_strong_gain_is_promoted_and_kept(bench: Bench) -> None:
    for seed in range(3):
        drawn = surface(bench, "no_effect", seed)
        raise_axis(bench, drawn, "rank", 0.08, 0.08)
        found = campaign(bench, drawn, seed)
        claimed = [item.axis for item in found.rounds[0].next.standing if item.established]
        assert claimed == ["rank"]
        assert "rank" in [axis for axis, _ in found.recipe]
        assert drawn.truth(drawn.active(found.recipe), 4)[1] > drawn.truth((), 1)[1] + 0.05


def test_a_gain_on_dev_that_the_leaderboard_takes_back_is_seen_through(bench: Bench) -> None:
    """From round 3 every move gains a lot on dev and loses on the target."""
    changes: dict[str, Any] = {"proxies": 1.0, "proxy_gain": [0.06, 0.12], "proxy_cost": 0.4}
    early, seen, lost = 0, 0, []
    for seed in range(8):
        drawn = surface(bench, "no_effect", seed, onset=3, **changes)
        found = campaign(bench, drawn, seed)
        flags = [item.evidence.calibration.verdict == "not_evidence" for item in found.rounds]
        early += any(flags[:2])
        seen += any(flags[2:])
        if flags[2]:
            assert found.rounds[2].next.mode == "transfer"
            assert found.rounds[2].next.objective == "maximise_transfer"
        recipe = drawn.active(found.recipe)
        lost.append(drawn.truth((), 1)[1] - drawn.truth(recipe, 4)[1])
    assert early <= 1 and seen >= 7
    assert float(np.mean(lost)) < 0.01  # the cheapest of these moves costs 0.024


def test_a_refused_proposal_is_reported(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(*arguments: Any) -> Proposal:
        """Lowers the bar below what the operator allows (R20)."""
        proposal = propose(*arguments)
        noise = proposal.policy.noise.model_copy(update={"promotion_threshold": 0.001})
        policy = proposal.policy.model_copy(update={"noise": noise})
        return proposal.model_copy(update={"policy": policy})

    monkeypatch.setattr("aevo.studies.simulation.campaign.propose", greedy)
    drawn = surface(bench, "no_effect")
    found = campaign(bench, drawn, rounds=2)
    assert len(found.refused) >= 2
    assert any("promotion threshold 0.001 is below the prior" in text for text in found.refused)
    unjudged = simulate(bench, World(drawn, 1), 1, Parts(judged=False))
    assert unjudged.refused == []


# -- other methods ---------------------------------------------------------------------------------


def play(
    bench: Bench, name: str, drawn: Surface, seed: int, runs: int = 36
) -> "tuple[Recipe, Log]":
    """A search on a surface, and what it was told."""
    world, log = World(drawn, seed), Log()

    def trial(recipe: Recipe, batch: int, number: int) -> Observation:
        log.trials.append((recipe, batch, number))
        return Observation(recipe, world.run(recipe, batch, number).dev)

    def board(item: Observation, batch: int, number: int) -> float:
        log.boards.append((item.recipe, batch))
        return world.run(item.recipe, batch, number).board(2)

    searcher = {**SEARCHERS, "tpe": Tpe}[name](drawn.space, seed)
    return search(searcher, trial, board, runs, runs // 4, 5)[-1], log


@dataclass
class Log:
    """Runs and leaderboard scores that a search asked for."""

    trials: list[tuple[Recipe, int, int]] = field(default_factory=list)
    boards: list[tuple[Recipe, int]] = field(default_factory=list)


def methods() -> list[str]:
    return [*SEARCHERS, *(["tpe"] if find_spec("optuna") else [])]


@pytest.mark.parametrize("name", methods())
@pytest.mark.parametrize("runs", [36, 37])
def test_every_method_spends_exactly_its_runs(bench: Bench, name: str, runs: int) -> None:
    drawn = surface(bench, "tiny")
    ended, log = play(bench, name, drawn, 1, runs)
    assert len(log.trials) == runs
    assert {number for _, _, number in log.trials} >= {1, 2, 3, 4}
    tried = {recipe for recipe, _, _ in log.trials}
    assert ended in tried or ended == () or name == "thompson"  # by its posterior
    for recipe in tried:
        assert drawn.active(recipe) == recipe  # at most one move on a knob
        assert len({axis for axis, _ in recipe}) == len(recipe)
    submitted = {batch: 0 for _, batch in log.boards}
    for _, batch in log.boards:
        submitted[batch] += 1
    assert all(count <= 5 for count in submitted.values())
    assert bool(submitted) == (name in SEARCHERS and SEARCHERS[name].submits)
    assert play(bench, name, drawn, 1, runs) == (ended, log)  # the same seed, the same search


@pytest.mark.parametrize("name", methods())
def test_every_method_finds_a_gain_that_is_everywhere(bench: Bench, name: str) -> None:
    """Without noise, where every move of four axes gains 0.05: no baseline may be a straw man."""
    drawn = surface(bench, "no_effect", interaction=0.0, **QUIET)
    for axis in ("rank", "clipping", "warmup", "learning_rate"):
        raise_axis(bench, drawn, axis, 0.05, 0.05)
    ended, _ = play(bench, name, drawn, 1)
    assert drawn.truth(ended, 4)[1] > drawn.truth((), 4)[1] + 0.03


def test_a_proxy_leads_greedy_astray_but_not_aevo(bench: Bench) -> None:
    """From round 3 half of the moves gain on dev and cost 0.6 of that on the target."""
    changes: dict[str, Any] = {"onset": 3, "proxies": 0.5, "proxy_gain": [0.05, 0.1]}
    ends: dict[str, list[float]] = {"aevo": [], "greedy": []}
    for seed in range(6):
        drawn = surface(bench, "no_effect", seed, proxy_cost=0.6, **changes)
        start = drawn.truth((), 4)[1]
        ours = drawn.active(campaign(bench, drawn, seed).recipe)
        theirs, _ = play(bench, "greedy", drawn, seed)
        ends["aevo"].append(drawn.truth(ours, 4)[1] - start)
        ends["greedy"].append(drawn.truth(theirs, 4)[1] - start)
    assert float(np.mean(ends["greedy"])) < -0.05
    assert float(np.mean(ends["aevo"])) > float(np.mean(ends["greedy"])) + 0.05


# -- ablations -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(ABLATIONS))
def test_an_ablation_changes_its_part(bench: Bench, name: str) -> None:
    """Every ablation runs to its end and, over a few campaigns, decides otherwise than aevo."""
    differs = False
    for seed in range(12):
        drawn = surface(bench, "onset", seed, proxy_gain=[0.06, 0.12], proxy_cost=0.6)
        world = World(drawn, seed)
        found = simulate(bench.for_seed(seed), world, 4, ABLATIONS[name])
        assert len(found.rounds) == 4 and found.runs == 36
        if documents(found) != documents(campaign(bench, drawn, seed)):
            differs = True
            break
    assert differs


# -- studies ---------------------------------------------------------------------------------------


def task(method: str, seed: int = 1, name: str = "onset", **changes: Any) -> Task:
    return Task(method, name, tuple(changes.items()), seed, 4)


def test_a_study_is_the_same_whatever_the_number_of_processes(bench: Bench) -> None:
    tasks = [task(name, seed) for name in ("aevo", "greedy_board") for seed in (1, 2)]
    alone, together = (study.run(tasks, bench, workers) for workers in (1, 2))
    assert alone == together
    assert [(item.method, item.seed) for item in alone] == [(t.method, t.seed) for t in tasks]
    assert {item.runs for item in alone} == {36} and {item.refused for item in alone} == {0}
    assert [len(item.verdicts) for item in alone] == [4, 4, 0, 0]


@pytest.mark.long(3)
def test_what_is_shipped_may_hold_a_gain_that_was_not_promoted(bench: Bench) -> None:
    """Weak gains everywhere: no single one is proven, and the likeliest is worth having."""
    outcomes = [study.play(task("aevo", seed, "aligned"), bench) for seed in range(1, 31)]
    others = [study.play(task("greedy", seed, "aligned"), bench) for seed in range(1, 4)]
    assert sum(item.shipped != item.hidden for item in outcomes) > 5
    assert sum(item.shipped - item.hidden for item in outcomes) > 0
    assert all(item.shipped == item.hidden for item in others)


def test_what_the_table_says_follows_from_the_outcomes() -> None:
    def outcome(seed: int, hidden: float, false: int, verdicts: tuple[str, ...]) -> Outcome:
        return Outcome(
            "aevo", seed, hidden, 0.0, 2, false, 4, 36, seed, 2 * hidden, verdicts=verdicts
        )

    good, bad = "evidence", "not_evidence"
    outcomes = [
        outcome(0, 0.01, 1, (good, good, bad, bad)),
        outcome(1, 0.03, 0, (good, good, good, bad)),
        outcome(2, 0.02, 0, (good, bad, good, good)),
        outcome(3, 0.02, 0, (good, good, good, good)),
    ]
    row = study.table(outcomes, onset=3).loc["aevo"]
    assert row["hidden gain"] == pytest.approx(0.02)
    assert row["±"] == pytest.approx(1.96 * np.std([0.01, 0.03, 0.02, 0.02], ddof=1) / 2)
    assert row["shipped"] == pytest.approx(0.04)
    assert row["± shipped"] == pytest.approx(2 * row["±"])
    assert row["false / round"] == 1 / 16 and row["changes / round"] == 0.5
    assert row["refused"] == 6
    assert row["false alarm"] == 0.25 and row["detected in 1"] == 0.5
    assert study.wilson(5, 100) == pytest.approx((0.02154, 0.11175), abs=1e-4)
    assert study.wilson(0, 0) == (0.0, 1.0)
    text = study.markdown(study.table(outcomes, onset=3), "title")
    assert text.count("\n") == 5 and "| aevo | 4 | 36 | 0.0200 |" in text


def test_a_false_change_is_counted(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A method that always ends with the same move, on a surface where no move does anything, is
    wrong once: it does not change its mind again."""

    class Stubborn(Searcher):
        name = "stubborn"

        def propose(self, count: int) -> list[Recipe]:
            self.best = (keys(bench, "rank")[0],)
            return [self.best] * count

        def observe(self, seen: Sequence[Observation]) -> None:
            return None

    monkeypatch.setitem(SEARCHERS, "stubborn", Stubborn)
    found = study.play(task("stubborn", name="no_effect"), bench)
    assert (found.changed_rounds, found.false_rounds, found.hidden) == (1, 1, 0.0)


def test_the_command_writes_the_same_table_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = []
    for name in ("one", "two"):
        out = tmp_path / f"{name}.json"
        command.main(
            [
                "campaigns=2",
                "surface=no_effect",
                "methods=[aevo,random]",
                "rounds=2",
                "workers=1",
                "seed=5",
                "policy.alpha=0.04",
                f"out={out}",
            ]
        )
        written.append((out.read_text(), out.with_suffix(".md").read_text()))
    assert written[0] == written[1]
    outcomes = json.loads(written[0][0])
    assert [(item["method"], item["seed"]) for item in outcomes] == [
        (method, 5_000_000 + index) for method in ("aevo", "random") for index in range(2)
    ]
    assert {item["runs"] for item in outcomes} == {18}
    shown = capsys.readouterr().out
    assert "hidden gain" in shown and "4 campaigns in" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["surface=nul"], r"surface=nul is unknown.*no_effect, aligned"),
        (["methods=[aevo,gredy]"], r"method 'gredy' is unknown.*greedy"),
        (["campaigns=1"], "campaigns"),
        (["rounds=many"], "rounds"),
        (["campaings=5"], "campaings"),
        (["+surface.onsett=2"], r"onsett: Extra.*its keys: .*onset"),
        (["+surface.onset=soon"], r"surface tiny: onset: .*integer"),
        (["policy.alpha=7"], "policy.alpha"),
    ],
)
def test_a_mistaken_command_says_what_is_wrong(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        command.main(words)


def test_a_mistake_is_one_line_and_an_exit_code() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "aevo.simulate", "surface=nul"],
        capture_output=True,
        text=True,
        cwd=REPO,
        timeout=120,
    )
    assert ended.returncode == ConfigError.code and ended.stdout == ""
    assert ended.stderr.startswith("error: surface=nul is unknown")
    assert ended.stderr.count("\n") == 1


# -- calibration -----------------------------------------------------------------------------------


def write_runs(folder: Path, gains: dict[str, float], seeds: int = 3, n: int = 300) -> None:
    """A bench's work folder: accuracies of two domains, with a little noise of seeds."""
    generator = np.random.default_rng(1)
    for name, gain in gains.items():
        for seed in range(1, seeds + 1):
            run: dict[str, Any] = {"status": "ok", "seconds": 1.0}
            for split in ("dev", "hidden"):
                domains = {
                    domain: {"accuracy": level + gain + float(generator.normal(0, 0.004)), "n": n}
                    for domain, level in (("unit", 0.5), ("bits", 0.3))
                }
                mean = float(np.mean([item["accuracy"] for item in domains.values()]))
                run[split] = {"dev": mean, "n": 2 * n, "domains": domains}
            (folder / f"{name}-{seed}.json").write_text(json.dumps(run))


def test_condensed_effects_are_shrunk_but_large_ones_stay(tmp_path: Path) -> None:
    small = {f"move_{index}": 0.003 * (-1) ** index for index in range(10)}
    write_runs(tmp_path, {"default": 0.0, "strong": 0.2, **small})
    found = calibrate.condense(tmp_path)
    assert found["seeds"] == 3 and set(found["moves"]) == {"strong", *small}
    for split in ("dev", "hidden"):
        for domain in ("unit", "bits"):
            mean, sd = found["moves"]["strong"][split][domain]
            assert mean == pytest.approx(0.2, abs=0.02) and 0 < sd < 0.03
            weak = [abs(found["moves"][name][split][domain][0]) for name in small]
            assert max(weak) < 0.006


def test_a_folder_without_reference_is_refused(tmp_path: Path) -> None:
    write_runs(tmp_path, {"strong": 0.2})
    with pytest.raises(RecordError, match=r"has no default-<seed>\.json"):
        calibrate.condense(tmp_path)
    with pytest.raises(ConfigError, match="wrong arguments"):
        calibrate.main([str(tmp_path)])


def test_the_condensed_file_is_what_surfaces_read(bench: Bench) -> None:
    """The committed data names moves of the catalogue, for the domains of its preset."""
    chosen = preset("tiny")
    assert chosen.measured is not None
    data = yaml.safe_load((PRESETS.parent / chosen.measured).read_text())
    known = {move.id for axis in bench.catalogue.axes for move in axis.moves}
    measured = known & set(data["moves"])
    assert len(measured) > len(known) / 2
    for name in measured:
        for split in ("dev", "hidden"):
            assert set(data["moves"][name][split]) == set(chosen.domains)


# -- runs as loud as real ones ---------------------------------------------------------------------


def scatter(drawn: Surface, recipe: Recipe, runs: int = 60) -> tuple[float, float, float]:
    """Standard deviations of dev and hidden between runs of a recipe, and their correlation."""
    made = [World(drawn, 1).run(recipe, seed, 1) for seed in range(runs)]
    dev, hidden = np.array([run.dev for run in made]), np.array([run.hidden for run in made])
    return float(dev.std()), float(hidden.std()), float(np.corrcoef(dev, hidden)[0, 1])


def test_tiny_is_as_noisy_as_real_runs_and_more_so_at_a_higher_rate(bench: Bench) -> None:
    """Measured (docs/simulator.md): default 0.010, 0.009; at five times the rate 0.016, 0.017."""
    drawn = surface(bench, "tiny")
    quiet, loud = scatter(drawn, ()), scatter(drawn, (("learning_rate", "lr_x5"),))
    assert quiet[:2] == (pytest.approx(0.0105, abs=0.003), pytest.approx(0.0105, abs=0.003))
    assert loud[:2] == (pytest.approx(0.0165, abs=0.004), pytest.approx(0.0165, abs=0.005))


def test_loud_runs_are_lucky_on_dev_and_hidden_together(bench: Bench) -> None:
    dev, hidden, together = scatter(surface(bench, "loud"), ())
    assert 0.02 < dev < 0.034 and 0.018 < hidden < 0.03 and together > 0.35


def test_luck_has_no_mean(bench: Bench) -> None:
    drawn = surface(bench, "loud", domains=dict.fromkeys(preset("loud").domains, 0.5))
    made = [World(drawn, seed).run((), seed, 1).hidden for seed in range(200)]
    assert float(np.mean(made)) == pytest.approx(0.5, abs=0.006)


def test_a_share_of_moves_destroys_a_domain(bench: Bench) -> None:
    drawn = surface(bench, "collapse")
    fallen = [key for key, row in drawn.moves.items() if drawn.hidden[row].min() < -0.25]
    assert 0.05 < len(fallen) / len(drawn.moves) < 0.35


# -- the headroom ----------------------------------------------------------------------------------


def test_the_oracle_knows_the_distribution_and_spends_as_many_runs(bench: Bench) -> None:
    found = [study.play(task("oracle", seed, "tiny"), bench) for seed in range(1, 7)]
    theirs = [study.play(task("random", seed, "tiny"), bench) for seed in range(1, 7)]
    assert {item.runs for item in found} == {36}
    gain = float(np.mean([item.hidden for item in found]))
    assert gain > float(np.mean([item.hidden for item in theirs])) + 0.04
    assert found[0] == study.play(task("oracle", 1, "tiny"), bench)
