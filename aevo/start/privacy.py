"""Who else on the machine may look into a campaign: nobody, or one group."""

import os
import shutil
from pathlib import Path

from aevo.errors import ConfigError

VARIABLE = "AEVO_GROUP"  # the group that may read campaigns; unset: none


def close_to_others(folder: Path) -> None:
    """Makes a campaign's folder its user's alone, or readable for the group in AEVO_GROUP, and what
    this process and its children write too, whatever umask they were started with.

    Guarantees: no other user enters the folder, so none reads or writes anything below it. Not
    prevented: root, and whoever is in that group.

    Raises:
        ConfigError: there is no such group, or the folder is another user's.
    """
    group = os.environ.get(VARIABLE)
    os.umask(0o027 if group else 0o077)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if group:
            shutil.chown(folder, group=group)
        folder.chmod(0o2750 if group else 0o700)
    except LookupError as error:
        raise ConfigError(
            f"{VARIABLE}={group} is no group of this machine",
            "name one that you are in, or unset it",
        ) from error
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be closed to others ({error.strerror})",
            "give runs=PATH a folder of your own",
        ) from error
