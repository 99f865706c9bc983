"""Which sandbox holds on this machine: each is tried, none is believed."""

import functools
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from aevo.records.job import Confinement, Kind, Setting
from aevo.sandbox.grants import SandboxError
from aevo.sandbox.wrapping import wrap

ORDER: tuple[Kind, ...] = ("bubblewrap", "landlock")
_TIME_S = 60.0
# Every line must hold: what is granted works, and what is not fails.
_TRIAL = """
import os, socket, sys
allowed, forbidden, port = sys.argv[1:]
open(allowed + "/made", "w").write("x")
def fails(function, *arguments):
    try:
        function(*arguments)
    except OSError:
        return
    sys.exit(f"{function.__name__}{arguments} is not prevented")
fails(open, forbidden + "/secret")
fails(open, forbidden + "/made", "w")
fails(open, allowed + "/../forbidden/made", "w")
fails(os.truncate, forbidden + "/secret", 0)
fails(os.listdir, forbidden)
for name in ("kernel/core_pattern", "kernel/modprobe", "vm/drop_caches", "../sysrq-trigger"):
    fails(os.open, "/proc/sys/" + name, os.O_WRONLY)
fails(socket.create_connection, ("127.0.0.1", int(port)), 2)
"""


@functools.cache
def failure(kind: Kind) -> str | None:
    """Why `kind` does not confine here; None if it does. Tried once for each process."""
    with (
        tempfile.TemporaryDirectory(prefix="aevo-probe-") as folder,
        socket.create_server(("127.0.0.1", 0)) as server,
    ):
        allowed, forbidden = Path(folder).resolve() / "allowed", Path(folder) / "forbidden"
        allowed.mkdir()
        forbidden.mkdir()
        (forbidden / "secret").write_text("secret")
        argv = [
            sys.executable,
            "-I",
            "-S",
            "-c",
            _TRIAL,
            str(allowed),
            str(forbidden),
            str(server.getsockname()[1]),
        ]
        confinement = Confinement(write=[str(allowed)], processes=None)
        env = {"PATH": os.environ.get("PATH", os.defpath)}
        try:
            done = subprocess.run(
                wrap(argv, str(allowed), env, confinement, kind),
                env=env,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_TIME_S,
                stdin=subprocess.DEVNULL,
            )
        except SandboxError as error:
            return error.what
        except subprocess.TimeoutExpired:
            return f"no answer within {_TIME_S:.0f} s"
        if (forbidden / "secret").read_text() != "secret" or (forbidden / "made").exists():
            return "a forbidden file was written"
        if done.returncode != 0 or not (allowed / "made").exists():
            said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            return said[-1]
    return None


def offered() -> list[Kind]:
    """The kinds that confine here, best first."""
    return [kind for kind in ORDER if failure(kind) is None]


def probe() -> Kind:
    """The best kind that confines here, `none` if nothing does. Kinds after it are not tried."""
    return next((kind for kind in ORDER if failure(kind) is None), "none")


def require(setting: Setting) -> Kind:
    """The kind to use for a user's setting; `none` only if the user wrote so.

    Raises:
        SandboxError: nothing confines here, or not what the user asks for.
    """
    if setting == "none":
        return "none"
    if setting == "container":
        raise SandboxError(
            "sandbox=container is no longer offered: it never passed this trial",
            "use sandbox=auto, which tries bubblewrap and Landlock",
        )
    if setting != "auto":
        why = failure(setting)
        if why is None:
            return setting
        raise SandboxError(
            f"the sandbox {setting} does not hold on this machine ({why})",
            "use sandbox=auto, or sandbox=none to run worker-written code unconfined",
        )
    found = probe()
    if found != "none":
        return found
    reasons = "; ".join(f"{kind}: {failure(kind)}" for kind in ORDER)
    raise SandboxError(
        f"nothing here can confine worker-written code ({reasons})",
        "install bubblewrap, or set sandbox=none to run it unconfined at your own risk",
    )
