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
"""

import os
import secrets
import uuid
from pathlib import Path

from aevo.agent.settings import EndpointSettings
from aevo.config import Config
from aevo.errors import JobError, RecordError
from aevo.jobs.here import run_here
from aevo.layout import Layout
from aevo.substrate import Substrate

SCRIPTED_SEED = 1
VARIABLE = "ITEMS_SEED"


def draw(config: Config, layout: Layout, substrate: Substrate) -> None:
    """Draws the sets that are missing, into the vault.

    Raises:
        JobError: the substrate's command failed.
        RecordError: the secret seed cannot be written, or is not one.
    """
    layout.vault.mkdir(parents=True, exist_ok=True)
    layout.vault.chmod(0o700)
    model, seed = config.model, str(_seed(config, layout))
    hidden = "hidden" if config.leaderboard.shift else "hidden_unshifted"
    for path, split, count in ((layout.dev_items, "dev", model.dev_items),
                               (layout.hidden_items, hidden, model.hidden_items)):
        if path.exists():
            continue
        step = substrate.command("items", preset=model.preset, split=split, n=count, out=path)
        step = step.model_copy(update={"env": step.env | {VARIABLE: seed}})
        try:
            run_here(step)
        except JobError as error:
            if model.items_seed is None:
                raise JobError(error.what.replace(seed, "(secret)"), error.mend) from None
            raise


def _seed(config: Config, layout: Layout) -> int:
    given = config.model.items_seed
    if given is not None:
        return given
    if not isinstance(config.agent, EndpointSettings):
        return SCRIPTED_SEED
    return _secret(layout.items_seed)


def _secret(path: Path) -> int:
    """The campaign's secret seed, drawn if there is none; the same for two commands at once."""
    if not path.exists():
        staging = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
        try:
            with os.fdopen(os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600),
                           "w") as file:
                file.write(f"{secrets.randbits(128)}\n")
                file.flush()
                os.fsync(file.fileno())
            path.hardlink_to(staging)
        except FileExistsError:
            pass  # another command was first: its seed holds
        except OSError as error:
            raise RecordError(f"cannot write {path} ({error.strerror or error})",
                              "free space or mend permissions and run the same command again"
                              ) from error
        finally:
            staging.unlink(missing_ok=True)
    text = path.read_text().strip()
    if not text.isdecimal():
        raise RecordError(f"{path} holds no seed", "delete the vault and run the command again")
    return int(text)
