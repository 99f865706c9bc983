"""The argument vector that runs a command confined; pure but for looking which paths exist."""

import functools
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from aevo.records.job import Confinement, Kind
from aevo.sandbox import seccomp
from aevo.sandbox.grants import (
    ETC,
    ETC_NETWORK,
    SYS,
    SYS_LANDLOCK,
    SYSTEM,
    Access,
    SandboxError,
    device_nodes,
    granted,
    masked,
    within,
)
from aevo.sandbox.supervise import GIB

HERE = Path(__file__).resolve().parent
INSIDE, SUPERVISE = str(HERE / "inside.py"), str(HERE / "supervise.py")
# Ranks find each other on high ports. The metadata address, Slurm's REST and ssh do not live there.
LOWEST_PORT = 7100
TMP_BYTES = 4 * GIB  # of /tmp and /dev/shm each, where memory has no limit
NODES = ("null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts")


def wrap(
    argv: Sequence[str],
    cwd: str,
    env: Mapping[str, str],
    confinement: Confinement,
    kind: Kind,
    wall_s: float | None = None,
    account: int | None = None,
) -> list[str]:
    """The argument vector to run instead of `argv`. `none` returns it as it is.

    Start it with `env` as its environment and any working folder: inside, the working folder is
    `cwd` and the environment has the names of `env` and no others. Only names stand in the vector,
    since any user of the machine may read it.

    Args:
        wall_s: seconds after which the whole tree is ended.
        account: descriptor, passed to the process, to which the processor seconds of the whole
            tree are written at the end.

    Raises:
        SandboxError: the confinement contradicts itself, or a path it needs is missing.
    """
    if kind == "none":
        return list(argv)
    if kind == "landlock":
        body, options = _landlock(argv, cwd, env, confinement), 0
    else:
        body, options = _bubblewrap(argv, cwd, env, confinement)
    limits = _limits(confinement, options) | {"wall": wall_s, "account": account}
    return [*_python(), SUPERVISE, json.dumps(limits), "--", *body]


def _python() -> list[str]:
    return [sys.executable, "-I", "-S", "-B"]


def _limits(confinement: Confinement, options: int) -> dict[str, object]:
    def size(value: float | None) -> int | None:
        return None if value is None else int(value * GIB)

    return {
        "cpu": confinement.cpu_s,
        "total_cpu": confinement.total_cpu_s,
        "memory": size(confinement.memory_gb),
        "processes": confinement.processes,
        "file": size(confinement.file_gb),
        "disk": size(confinement.disk_gb),
        "log": size(confinement.log_gb),
        "open_files": confinement.open_files,
        "write": confinement.write,
        "devices": confinement.devices,
        "hidden": options,
    }


def _inside(
    argv: Sequence[str], cwd: str, env: Mapping[str, str], confinement: Confinement, **more: object
) -> list[str]:
    own = (socket.AF_UNIX, *seccomp.INTERNET)
    rules = {
        "kind": "inner",
        "cwd": cwd,
        "env": sorted(env),
        "processes": confinement.processes,
        "network": confinement.network,
        "lowest_port": LOWEST_PORT if confinement.network or confinement.loopback else None,
        "filter": seccomp.program(own, False, nameless=confinement.devices).hex(),
        **more,
    }
    return [*_python(), INSIDE, json.dumps(rules), "--", *argv]


def _tmp_bytes(confinement: Confinement) -> int:
    memory = confinement.memory_gb
    return TMP_BYTES if memory is None else max(1, int(memory * GIB / 2))


def _bubblewrap(
    argv: Sequence[str], cwd: str, env: Mapping[str, str], confinement: Confinement
) -> tuple[list[str], int]:
    """A root of its own: an empty tmpfs into which only what is granted is mounted."""
    out = [
        "--unshare-all",
        *(["--share-net"] if confinement.network else []),
        "--die-with-parent",
        "--new-session",
        "--cap-drop",
        "ALL",
        "--hostname",
        # Ranks of several nodes find each other by their names.
        socket.gethostname() if confinement.network else "sandbox",
        "--proc",
        "/proc",
        "--dev",
        "/dev",
    ]
    tmpfs = ["--tmpfs"]
    if _bwrap_version() >= (0, 7):
        tmpfs = ["--size", str(_tmp_bytes(confinement)), "--tmpfs"]
    out += [*tmpfs, "/dev/shm", *tmpfs, "/tmp"]
    for path in SYSTEM:
        if Path(path).is_symlink():
            out += ["--symlink", str(Path(path).readlink()), path]
        elif Path(path).exists():
            out += ["--ro-bind", path, path]
    for path in _system_files(confinement):
        out += ["--ro-bind", path, path]
    for path in device_nodes(confinement):
        out += ["--dev-bind", path, path]
    hidden = []
    for path, access in [*granted(cwd, confinement), (INSIDE, "read")]:
        if access == "write":
            out += ["--bind", path, path]
        elif access == "read":
            out += ["--ro-bind", path, path]
        elif Path(path).is_dir():
            out += ["--tmpfs", path]
            hidden.append(path)
        else:
            out += ["--ro-bind", "/dev/null", path]
    for path in masked():
        out += ["--ro-bind", "/dev/null", path]
    # The empty folders themselves live in memory: nobody shall fill them. And a file of /proc asks
    # who its owner is, not for a capability: as root, /proc/sys would be the machine's to write.
    for path in [*hidden, "/proc", "/dev", "/"]:
        out += ["--remount-ro", path]
    out += ["--chdir", cwd]
    return [_tool("bwrap"), *out, "--", *_inside(argv, cwd, env, confinement)], len(out)


def _system_files(confinement: Confinement) -> list[str]:
    etc = [f"/etc/{name}" for name in (*ETC, *(ETC_NETWORK if confinement.network else ()))]
    system = ["/sys"] if confinement.devices else list(SYS)  # NVML and NCCL read the topology
    return [path for path in [*etc, *system] if Path(path).exists()]


def _landlock(
    argv: Sequence[str], cwd: str, env: Mapping[str, str], confinement: Confinement
) -> list[str]:
    pairs = granted(cwd, confinement)
    hidden = [path for path, access in pairs if access == "hide"]
    paths: dict[str, list[str]] = {"list": [], "read": [], "write": [], "device": []}
    for path, access in pairs:
        _check_writable(path, access, pairs)
        if access != "hide":
            paths[access] += _carve(path, hidden)
            paths["list"] += [path] if _hides_files_alone(path, hidden) else []
    pci = [str(path) for name in SYS_LANDLOCK for path in Path("/sys").glob(name)]
    for path in (*SYSTEM, *pci, *_system_files(confinement), INSIDE):
        if Path(path).exists():
            paths["read"] += _carve(os.path.realpath(path), hidden)
    paths["read"].append("/proc")
    paths["device"] = [f"/dev/{name}" for name in NODES] + device_nodes(confinement)
    open_families = seccomp.INTERNET if confinement.network or confinement.loopback else ()
    private = seccomp.program(seccomp.INTERNET, False, False, confinement.devices)
    shared = seccomp.program(open_families, True, False, confinement.devices)
    if not shared:
        raise SandboxError(
            "this machine's type has no system call filter, which Landlock needs", "use bubblewrap"
        )
    return _inside(
        argv,
        cwd,
        env,
        confinement,
        kind="landlock",
        paths=paths,
        namespaces=True,
        tmp_bytes=_tmp_bytes(confinement),
        filter=private.hex(),
        filter_shared=shared.hex(),
        masked=masked(),
    )


def _carve(path: str, hidden: list[str]) -> list[str]:
    """`path` without what is hidden below it: Landlock grants whole trees, it subtracts nothing.
    What is created beside a hidden path later on is out of reach too."""
    if path in hidden:
        return []
    if not any(within(other, path) for other in hidden):
        return [path]
    return [
        found
        for child in sorted(Path(path).iterdir())
        if not child.is_symlink()
        for found in _carve(str(child), hidden)
    ]


def _hides_files_alone(path: str, hidden: list[str]) -> bool:
    """True if single files are hidden below `path`, and no folder: its folders may then be listed.

    A Landlock right holds for a whole tree, so this shows the names of the hidden files too. They
    are no secret, and Python finds no module in a folder that it cannot list.
    """
    inner = [other for other in hidden if other != path and within(other, path)]
    return bool(inner) and not any(Path(other).is_dir() for other in inner)


def _check_writable(path: str, access: str, pairs: list[tuple[str, Access]]) -> None:
    """Refuses what is less than writable inside of a writable folder.

    Raises:
        SandboxError: naming the path that cannot be taken back.
    """
    inner = [
        other for other, kind in pairs if other != path and within(other, path) and kind != "write"
    ]
    if access == "write" and inner:
        raise SandboxError(
            f"Landlock cannot take back {inner[0]} inside of writable {path}",
            "grant its neighbours one by one, or use bubblewrap",
        )


def _tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise SandboxError(f"{name} is not installed", f"install {name}, or choose another sandbox")
    return found


@functools.cache
def _bwrap_version() -> tuple[int, ...]:
    done = subprocess.run([_tool("bwrap"), "--version"], capture_output=True, text=True)
    words = done.stdout.split()
    numbers = words[-1].split(".") if words else []
    return tuple(int(number) for number in numbers if number.isdigit())
