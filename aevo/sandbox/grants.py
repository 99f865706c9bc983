"""What one command may touch, and the folders that any command needs to run at all."""

import os
import stat
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from aevo.errors import AevoError
from aevo.files import digest
from aevo.records.job import Confinement

Access = Literal["read", "write", "hide"]

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
# Of /etc only what a linker, TLS, and name look-ups read: never /etc/slurm, /etc/munge, keys.
ETC = (
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "ssl/certs",
    "ssl/openssl.cnf",
    "pki/tls/certs",
    "pki/ca-trust/extracted",
    "crypto-policies",
    "alternatives",
    "passwd",
    "group",
    "hosts",
    "localtime",
    "timezone",
    "nsswitch.conf",
    "mime.types",
)
ETC_NETWORK = ("resolv.conf", "host.conf", "gai.conf", "protocols", "services", "libibverbs.d")
SYS = ("/sys/devices/system/cpu", "/sys/devices/system/node")
# gloo (torch.distributed on CPU) reads the class of every PCI device: it does without the list, as
# in bubblewrap, but not with one that may not be read.
SYS_LANDLOCK = ("bus/pci/devices", "devices/pci*")
# What these say is the machine's: its memory, its log, its users' keys, its processes' timers.
PROC_MASKED = (
    "kcore",
    "kmsg",
    "keys",
    "key-users",
    "timer_list",
    "timer_stats",
    "sched_debug",
    "latency_stats",
)
DEVICES = (
    "nvidia[0-9]*",
    "nvidiactl",
    "nvidia-uvm",
    "nvidia-uvm-tools",
    "nvidia-modeset",
    "nvidia-caps",
    "nvidia-caps-imex-channels",
    "nvidia-nvswitch*",
    "kfd",
    "dri",
)
DEVICES_NETWORK = ("infiniband", "gdrdrv")


class SandboxError(AevoError):
    """Nothing here confines a command, or a confinement contradicts itself."""

    code = 8


def python_paths() -> list[str]:
    """The running interpreter's folders, as they are named and as they resolve, and those that
    packages are installed in beside it (`pip install --user`, a `.pth` file, a module's)."""
    named = {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix}
    hops = []
    hop = Path(sys.executable)
    while hop.is_symlink():
        hop = Path(os.path.normpath(hop.parent / hop.readlink()))
        hops.append(str(hop))
    found = [*named, *(os.path.realpath(path) for path in named)]
    packages = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    return outermost([*found, *hops, *packages, *(os.path.realpath(path) for path in packages)])


def outermost(paths: Iterable[str]) -> list[str]:
    """The paths that lie in no other of them, in order of their names."""
    found: list[str] = []
    for path in sorted(set(paths)):
        if not any(within(path, other) for other in found):
            found.append(path)
    return found


def within(path: str, folder: str) -> bool:
    """True if `path` is `folder` or lies below it, by name."""
    return folder == "/" or path == folder or path.startswith(folder + "/")


def granted(cwd: str, confinement: Confinement) -> list[tuple[str, Access]]:
    """Every path of the confinement with what it grants, outer ones first.

    A path is granted by its own name and by the one it resolves to, so that a program that
    resolves links finds itself at home. `hide` is left out where nothing visible surrounds it.

    Raises:
        SandboxError: a path is not absolute, or a `write` path or `cwd` does not exist.
    """
    found: dict[str, Access] = {}
    order: list[tuple[Access, list[str]]] = [
        ("hide", confinement.hide),
        ("read", [*python_paths(), *confinement.read]),
        ("write", confinement.write),
    ]
    for access, paths in order:  # the same path named twice: what grants more holds
        for path in paths:
            _check(path, must_exist=access == "write")
            found.update(dict.fromkeys(_names(path), access))
    _check(cwd, must_exist=True)
    for name in _names(cwd):
        around = [path for path in found if within(name, path)]
        if not around or found[max(around, key=len)] == "hide":
            found[name] = "read"
    return [
        (path, access)
        for path, access in sorted(found.items())
        if access != "hide" or _surrounded(path, found)
    ]


def _check(path: str, must_exist: bool) -> None:
    if not Path(path).is_absolute():
        raise SandboxError(f"the path {path!r} of a confinement is not absolute")
    if must_exist and not Path(path).exists():
        raise SandboxError(
            f"{path} does not exist, so no command can run with it", "create it first"
        )


def _names(path: str) -> list[str]:
    return [os.path.normpath(path), os.path.realpath(path)] if Path(path).exists() else []


def _surrounded(path: str, found: dict[str, Access]) -> bool:
    visible = [other for other, access in found.items() if access != "hide"]
    return any(within(path, other) for other in [*visible, *SYSTEM, "/etc", "/sys", "/dev"])


def device_nodes(confinement: Confinement) -> list[str]:
    """The device files that the command may use beside /dev/null and its like."""
    patterns = [
        *(DEVICES if confinement.devices else ()),
        *(DEVICES_NETWORK if confinement.devices and confinement.network else ()),
    ]
    return sorted(str(path) for pattern in patterns for path in Path("/dev").glob(pattern))


def masked() -> list[str]:
    """The files of /proc that tell nothing inside."""
    return [f"/proc/{name}" for name in PROC_MASKED if Path("/proc", name).exists()]


def irregular(folder: Path) -> list[str]:
    """What below `folder` is neither a folder nor a plain file with one name, in order.

    A confined command can leave a link to a file that it may not read; a trusted reader that
    follows it would read that file on its behalf, or wait on a pipe for ever.
    """
    found = []
    for top, folders, files in digest.walk(folder):
        for name in (*folders, *files):
            path = Path(top, name)
            mode = path.lstat()
            plain = stat.S_ISREG(mode.st_mode) and mode.st_nlink == 1
            if not plain and not stat.S_ISDIR(mode.st_mode):
                found.append(path.relative_to(folder).as_posix())
    return sorted(found)
