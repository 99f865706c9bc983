"""What a campaign would ship: of all adapters it trained, the one of highest expected score.

    python -m aevo.release [runs/<campaign>] [--top 5] [--out submission.zip]

Promotion and release answer different questions. A promotion is what every later trial stands on,
so it takes a test that is rarely wrong. A release ends the search: a change that is not proven but
more likely good than bad is worth shipping. So each candidate's effect is shrunk by the spread of
true effects (empirical Bayes: the best of many flatters), added to the level of the standing recipe
it was trained on, and the largest sum wins, whatever its p. The best leaderboard score of a
campaign, by contrast, is the luckiest of many.

Reads records only, also of an unfinished campaign. `--out` writes the substrate's submission
archive of the first one, judged like any other (docs/leaderboards.md).
"""

import argparse
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from aevo import cli
from aevo import policy as policies
from aevo.collector import entry_of
from aevo.errors import ConfigError, RecordError
from aevo.layout import Layout
from aevo.leaderboard.archive import ArchiveError, Rules, pack
from aevo.leaderboard.board import Entry
from aevo.records.campaign import Campaign
from aevo.records.change import Change
from aevo.records.evidence import CandidateSummary, Evidence
from aevo.records.io import read
from aevo.records.manifest import Manifest
from aevo.records.policy import Policy
from aevo.substrate import open_substrate
from aevo.trajectory import latest_campaign

WIDTH = 200  # of the table where it goes into a file or pipe


@dataclass(frozen=True)
class Finished:
    """A round that ended: the policy it ran under, and its evidence."""

    policy: Policy
    evidence: Evidence


@dataclass(frozen=True)
class Option:
    """A trained candidate that could be shipped (accuracies, 0..1).

    `expected` is its score over the default recipe's, on whatever `basis` the campaign trusts in
    the end; `step` the part of it that its own change is thought to add to the standing recipe it
    was trained on, with standard error `se`. `standing` are that recipe's changes.
    """

    round: int
    candidate: str
    expected: float
    step: float
    se: float
    basis: str
    change: Change
    standing: tuple[str, ...]

    @property
    def recipe(self) -> str:
        """The default recipe's changes in words."""
        own = [] if self.change.empty else [self.change.summary()]
        return " + ".join([*self.standing, *own]) or "the default recipe"


def options(rounds: Sequence[Finished], ending: Policy) -> list[Option]:
    """Every scored candidate, the best first; of equals the latest, and there the anchor.

    Args:
        rounds: from the first on, without a gap.
        ending: the policy that the last of them led to. Where it no longer takes dev as evidence,
            effects are those on the leaderboard alone, for the rounds before too.
    """
    external = ending.divergence_known
    found = []
    for one, level in zip(rounds, levels(rounds, external), strict=True):
        standing = tuple(item.change.summary() for item in one.policy.standing)
        for item in one.evidence.candidates:
            if item.status != "ok" or item.dev is None:
                continue
            step, se, basis = expected(item, one.evidence, external)
            found.append(Option(one.evidence.round, item.candidate, level + step, step, se, basis,
                                item.change, standing))
    return sorted(found, key=lambda item: (-item.expected, -item.round, item.candidate))


def expected(
    item: CandidateSummary, evidence: Evidence, external: bool
) -> tuple[float, float, str]:
    """What a candidate's change is thought to add: posterior mean and standard deviation where true
    effects spread around none, and what that rests on."""
    effect = item.external if external else item.effect
    if item.change.empty:
        return 0.0, 0.0, "the standing recipe"
    if effect is None:
        return 0.0, evidence.calibration.spread, "not on the leaderboard"
    spread = evidence.calibration.spread
    trust = spread**2 / (spread**2 + effect.se**2)
    return trust * effect.gain, trust**0.5 * effect.se, effect.basis


def levels(rounds: Sequence[Finished], external: bool) -> list[float]:
    """Expected score of each round's standing recipe over the first round's."""
    found = [0.0]
    for one, after in itertools.pairwise(rounds):
        found.append(found[-1] + _moved(one, after, external))
    return found


def _moved(one: Finished, after: Finished, external: bool) -> float:
    """What the standing recipe gained from one round to the next: as the next anchor and the trial
    together say (R6), else as the trial promised; less what a demoted change had gained."""
    before = {item.id for item in one.policy.standing}
    entered = [item for item in after.policy.standing if item.id not in before]
    left = before - {item.id for item in after.policy.standing}
    gained = 0.0
    held, gone = after.evidence.patterns.stacked, one.evidence.patterns.stacked
    if entered and held is not None:
        gained += held.kept
    else:
        by_name = {item.candidate: item for item in one.evidence.candidates}
        trials = [by_name.get(item.provenance.candidate or "") for item in entered]
        gained += sum(expected(item, one.evidence, external)[0] for item in trials if item)
    if left and gone is not None:
        gained -= gone.kept
    return gained


def read_options(layout: Layout) -> list[Option]:
    """The options of a campaign on disk, as far as its rounds have ended; empty before that.

    Raises:
        RecordError: a record is corrupt.
    """
    rounds: list[Finished] = []
    for files in layout.rounds():
        if not files.evidence.exists() or not layout.policy(files.number + 1).exists():
            break
        rounds.append(Finished(policies.read(layout, files.number), read(Evidence, files.evidence)))
    return options(rounds, policies.read(layout, len(rounds) + 1)) if rounds else []


def entry(layout: Layout, option: Option) -> Entry:
    """The option's adapter as it was scored on dev.

    Raises:
        RecordError: its manifest or adapter is missing.
    """
    files = layout.round(option.round)
    manifest = read(Manifest, files.candidate(option.candidate).manifest)
    found = entry_of(files, manifest)
    if found is None:
        raise RecordError(f"{option.candidate} of round {option.round} has no adapter any more",
                          "restore its run's folder, or take another of --top")
    return found


def export(layout: Layout, option: Option, out: Path) -> Path:
    """Writes the option's submission archive by the substrate's export command.

    Raises:
        ConfigError: the substrate has none, or `out` is there already.
        RecordError: the adapter is missing, or not what was scored.
    """
    campaign = read(Campaign, layout.campaign)
    substrate = open_substrate(Path(campaign.substrate_path))
    if "export" not in substrate.file.commands:
        raise ConfigError(f"{substrate.root}/substrate.yaml has no command `export`",
                          "leave out --out, and take the adapter's folder")
    if out.exists():
        raise ConfigError(f"{out} exists", "remove it, or give --out another name")
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    try:
        pack(substrate, entry(layout, option), Path(campaign.base_path), out.absolute(),
             Rules(lora=False))
    except ArchiveError as error:
        raise RecordError(f"round {option.round} {option.candidate}: {error}") from error
    return out


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m aevo.release",
                                     description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("campaign", nargs="?", type=Path, help="a campaign folder; default: the "
                        "one below runs/ that changed last")
    parser.add_argument("--top", type=int, default=5, help="how many to list (default: 5)")
    parser.add_argument("--out", type=Path, help="write the first one's submission archive there")
    given = parser.parse_args(arguments)
    layout = Layout(given.campaign or latest_campaign(Path("runs")))
    if not layout.campaign.is_file():
        raise RecordError(f"{layout.root} is not a campaign folder (it has no campaign.yaml)",
                          "name one, as in: python -m aevo.release runs/<campaign>")
    found = read_options(layout)
    if not found:
        raise RecordError(f"no round of {layout.root} has ended yet",
                          f"python -m aevo.status {layout.root} says how far it is")
    _show(found[:max(given.top, 1)])
    print(f"adapter: {entry(layout, found[0]).adapter}")
    if given.out is not None:
        print(f"archive: {export(layout, found[0], given.out)}")


def _show(found: Sequence[Option]) -> None:
    shown = Table("round", "candidate", "expected", "by its own change", "basis", "recipe")
    for item in found:
        own = "" if item.change.empty else f"{item.step:+.4f} ± {item.se:.4f}"
        shown.add_row(str(item.round), item.candidate, f"{item.expected:+.4f}", own, item.basis,
                      item.recipe)
    Console(width=None if sys.stdout.isatty() else WIDTH).print(shown)


if __name__ == "__main__":
    cli.run(main)
