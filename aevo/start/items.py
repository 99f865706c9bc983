"""The dev and hidden items: drawn once, when a campaign starts, into its vault.

The generators lie open to worker-written code, which needs them to build its data. Whoever knows
the seed too can draw the very items with their answers, inside of a training, where no search of
its data sees them. So there is one rule for the seed (`model.items_seed`):

    an integer              that seed, for every campaign that is given it: the user's choice
    null, agent=scripted    SCRIPTED_SEED: rules never draw items, and campaigns stay comparable
    null, a language model  a secret of 128 random bits, the campaign's own

The secret is in `vault/items-seed`, which its user alone may read, and nowhere else: not in the
configuration that campaign.yaml, plans and rounds keep, not in a command line or the environment of
a job, not in a log. The command that draws gets it in the variable ITEMS_SEED, which other users of
the machine cannot read and a sandbox cannot see; it runs before the campaign has any job.

Where the user gave data of his own (`model.source`), the stack's `split` takes dev and hidden from
it instead, with the same seed, and leaves the other rows where worker-written code may read them.
Neither the file nor the vault is ever readable to that code: what it trains on is all that it sees.
"""

import json
import secrets
from pathlib import Path

from aevo.config.schema import Config, ScriptedAgent
from aevo.errors import ConfigError, JobError, RecordError
from aevo.files.documents import write_once
from aevo.files.paths import Layout
from aevo.jobs.foreground import run_here
from aevo.records.job import Step
from aevo.substrate.frozen import Substrate

SCRIPTED_SEED = 1
VARIABLE = "ITEMS_SEED"


def prepare(config: Config, layout: Layout, substrate: Substrate) -> str:
    """Puts dev and hidden into the vault; one line that says where they come from.

    Raises:
        ConfigError: `model.source` with a stack that cannot split it.
        JobError: the substrate's command failed.
        RecordError: the secret seed cannot be written, or is not one.
    """
    source = present(config, substrate)
    if source is not None:
        return split(config, layout, substrate, source)
    if layout.source_report.exists():  # an earlier start, interrupted, when the file was there
        for path in (layout.source_report, layout.dev_items, layout.hidden_items):
            path.unlink(missing_ok=True)
    draw(config, layout, substrate)
    if config.model.source is None:
        return "generator"
    return (
        f"generator, for {config.model.source} is not there: dev, hidden and training rows are "
        "synthetic (to use the real ones, put the file there and start another campaign)"
    )


def present(config: Config, substrate: Substrate) -> Path | None:
    """The user's own data, if the configuration names a file that is there.

    Raises:
        ConfigError: this stack has no command to split it.
    """
    if config.model.source is None or not Path(config.model.source).exists():
        return None
    if "split" not in substrate.file.commands:
        raise ConfigError(
            f"model.source={config.model.source}: {substrate.root}/substrate.yaml "
            "has no command `split`",
            "give model.source=null",
        )
    return Path(config.model.source)


def split(config: Config, layout: Layout, substrate: Substrate, source: Path) -> str:
    """Splits the user's own data; one line that says how. Run again it does the same again.

    Raises:
        JobError: the substrate's command failed; RecordError: as for `draw`.
    """
    model = config.model
    _open_vault(layout)
    _run(
        config,
        layout,
        substrate.command(
            "split",
            source=source,
            preset=model.preset,
            dev=model.dev_items,
            hidden=model.hidden_items,
            vault=layout.vault,
            rows=layout.rows,
            report=layout.source_report,
        ),
    )
    try:
        report = json.loads(layout.source_report.read_text())
        sides = ", ".join(f"{count} {side}" for side, count in report["split"].items())
        return (
            f"{source}: {report['rows']} rows, {report['usable']} usable, split into {sides} "
            f"({layout.source_report} says what became of each)"
        )
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise RecordError(
            f"{layout.source_report} is no report of a split ({error})",
            "mend the command `split` of the substrate",
        ) from error


def draw(config: Config, layout: Layout, substrate: Substrate) -> None:
    """Draws the sets that are missing, into the vault.

    Raises:
        JobError: the substrate's command failed.
        RecordError: the secret seed cannot be written, or is not one.
    """
    _open_vault(layout)
    model = config.model
    hidden = "hidden" if config.leaderboard.shift else "hidden_unshifted"
    for path, split, count in (
        (layout.dev_items, "dev", model.dev_items),
        (layout.hidden_items, hidden, model.hidden_items),
    ):
        if path.exists():
            continue
        _run(
            config,
            layout,
            substrate.command("items", preset=model.preset, split=split, n=count, out=path),
        )


def _open_vault(layout: Layout) -> None:
    layout.vault.mkdir(parents=True, exist_ok=True)
    layout.vault.chmod(0o700)


def _run(config: Config, layout: Layout, step: Step) -> None:
    """Runs a command with the seed; what it says in an error is not quoted with a secret one."""
    seed = str(_seed(config, layout))
    try:
        run_here(step.model_copy(update={"env": step.env | {VARIABLE: seed}}))
    except JobError as error:
        secret = config.model.items_seed is None and not isinstance(config.agent, ScriptedAgent)
        if secret:
            raise JobError(error.what.replace(seed, "(secret)"), error.mend) from None
        raise


def _seed(config: Config, layout: Layout) -> int:
    given = config.model.items_seed
    if given is not None:
        return given
    if isinstance(config.agent, ScriptedAgent):  # by name: what is not rules is not trusted
        return SCRIPTED_SEED
    return _secret(layout.items_seed)


def _secret(path: Path) -> int:
    """The campaign's secret seed, drawn if there is none; the same for two commands at once."""
    if not path.exists():
        write_once(path, f"{secrets.randbits(128)}\n".encode(), 0o600)
    text = path.read_text().strip()
    if not text.isdecimal():
        raise RecordError(f"{path} holds no seed", "delete the vault and run the command again")
    return int(text)
