"""Each sandbox that holds on this machine, against what it is there to prevent."""

import contextlib
import fcntl
import json
import os
import platform
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from aevo.files.untrusted import remove_tree
from aevo.sandbox import (
    STOPPED,
    Confinement,
    Kind,
    SandboxError,
    irregular,
    offered,
    probe,
    require,
    supervise,
    usage,
    wrap,
)
from aevo.sandbox import probe as probe_function
from aevo.sandbox.grants import granted
from tests.conftest import until

KINDS = offered()
MIB = 1 / 1024  # of a GiB
pytestmark = [
    pytest.mark.skipif(not KINDS, reason="no sandbox holds on this machine"),
    pytest.mark.long(30),
]


@dataclass
class Cage:
    """A working folder that may be written and, beside it, what must stay out of reach."""

    kind: Kind
    top: Path
    bare: bool = False  # Landlock as it is where the kernel grants no namespace
    env: dict[str, str] = field(default_factory=dict)

    @property
    def work(self) -> Path:
        return self.top / "my work"

    @property
    def vault(self) -> Path:
        return self.top / "vault"

    def argv(self, *argv: str, **limits: Any) -> list[str]:
        confinement = Confinement(
            write=[str(self.work)],
            read=[str(self.top / "base")],
            hide=[str(self.top), str(Path.home())],
            **limits,
        )
        words = wrap(argv, str(self.work), self.env, confinement, self.kind)
        if self.bare:
            words = [word.replace('"namespaces": true', '"namespaces": false') for word in words]
        return words

    def start(self, *argv: str, **limits: Any) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            self.argv(*argv, **limits),
            cwd="/",
            env=self.env,
            text=True,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *argv: str, **limits: Any) -> "subprocess.CompletedProcess[str]":
        process = self.start(*argv, **limits)
        try:
            out, error = process.communicate(timeout=200)
        finally:
            process.kill()
        return subprocess.CompletedProcess(argv, process.returncode, out, error)

    def python(self, code: str, *words: object, **limits: Any) -> str:
        """Output of a program that must end well."""
        done = self.run(sys.executable, "-c", code, *map(str, words), **limits)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def refused(self, statement: str, *words: object, **limits: Any) -> str:
        """The name of the OSError that a statement raises inside."""
        lines = [
            "import os, sys, socket, pathlib",
            "words = sys.argv[1:]",
            "try:",
            f"    {statement}",
            "except OSError as error:",
            "    print(type(error).__name__, error.errno)",
            "else:",
            "    print('worked')",
        ]
        found = self.python("\n".join(lines), *words, **limits)
        assert found != "worked", statement
        return found


@pytest.fixture(params=[*KINDS, *(["bare landlock"] if "landlock" in KINDS else [])])
def cage(request: pytest.FixtureRequest, tmp_path: Path) -> Cage:
    for name in ("my work", "vault", "base"):
        (tmp_path / name).mkdir()
    (tmp_path / "vault" / "secret").write_text("the answers")
    (tmp_path / "base" / "weights").write_text("base")
    env = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path / "my work")}
    kind = request.param.removeprefix("bare ")
    return Cage(kind, tmp_path, kind != request.param, env)


def test_python_numpy_and_granted_paths_work(cage: Cage) -> None:
    code = """
import numpy, os, multiprocessing.synchronize, socket, sys, tempfile
if sys.argv[2] == "False": multiprocessing.Lock()  # bare Landlock has no /dev/shm
socket.socketpair(); tempfile.TemporaryFile()
open("out file", "w").write(open(sys.argv[1]).read() + str(int(numpy.ones(3).sum())))
os.mkdir("d"); os.rename("out file", "d/out"); os.chmod("d/out", 0o600); os.symlink("out", "d/l")
print(os.getcwd(), os.getuid())
"""
    said = cage.python(code, cage.top / "base" / "weights", cage.bare)
    assert said == f"{cage.work} {os.getuid()}"
    assert (cage.work / "d" / "out").read_text() == "base3"


def test_nothing_else_can_be_read_or_written(cage: Cage) -> None:
    secret = cage.vault / "secret"
    before = secret.stat()
    for path in (
        secret,
        cage.work / ".." / "vault" / "secret",
        Path.home() / ".profile",
        "/etc/shadow",
        "/etc/slurm/slurm.conf",
    ):
        cage.refused("open(words[0]).read()", path)
    for folder in (cage.vault, cage.top / "base", Path.home(), Path("/"), Path("/usr")):
        if folder.is_relative_to("/tmp") and folder == Path.home():
            continue  # bubblewrap has a /tmp of its own there
        cage.refused("open(words[0] + '/made', 'w')", folder)
    cage.run("touch", str(cage.top / "made"))  # with bubblewrap in a /tmp of its own
    assert sorted(path.name for path in cage.top.iterdir()) == ["base", "my work", "vault"]
    cage.refused("os.truncate(words[0], 0)", secret)
    cage.refused("os.truncate(words[0], 0)", cage.top / "base" / "weights")
    cage.refused("os.remove(words[0])", cage.top / "base" / "weights")
    cage.refused("os.rename(words[0], 'mine')", secret)
    cage.refused("os.listdir(words[0])", cage.vault)
    cage.run("chmod", "777", str(secret), str(cage.top / "base" / "weights"))
    after = secret.stat()
    assert (after.st_mode, after.st_mtime, after.st_size) == (
        before.st_mode,
        before.st_mtime,
        before.st_size,
    )
    if cage.kind == "bubblewrap":  # Landlock forbids to read, not to see that there is something
        cage.refused("os.stat(words[0])", secret)


def test_links_lead_nowhere(cage: Cage) -> None:
    secret = cage.vault / "secret"
    cage.refused("os.symlink(words[0], 'link'); open('link').read()", secret)
    cage.refused("os.link(words[0], 'hard')", secret)
    cage.refused("os.link(words[0], 'hard')", cage.top / "base" / "weights")
    cage.refused("os.symlink(words[0], 'out'); open('out/made', 'w')", cage.vault)
    cage.refused("os.open(words[0], os.O_RDONLY, dir_fd=os.open('..', os.O_PATH))", "vault/secret")
    assert not (cage.vault / "made").exists()


def test_other_processes_keep_their_secrets(cage: Cage) -> None:
    with subprocess.Popen(["sleep", "60"], env={"KEY": "hidden value"}) as other:
        try:
            pids = (other.pid, os.getpid(), os.getppid())
            code = """
import os, signal, sys
for pid in sys.argv[1:]:
    for name in ("environ", "root/etc/passwd", "mem", "fd", "cwd", "maps"):
        try:
            path = f"/proc/{pid}/{name}"
            found = os.listdir(path) if name in ("fd", "cwd") else open(path, "rb").read(1)
            print(path, found)
        except OSError:
            pass
    try:
        os.kill(int(pid), signal.SIGKILL)
    except OSError:
        pass
text = b""
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        text += open(f"/proc/{pid}/environ", "rb").read()
    except OSError:
        pass
print(text.count(b"hidden"))
"""
            assert cage.python(code, *pids).splitlines()[-1] == "0"
            assert other.poll() is None
        finally:
            other.kill()


def test_the_machine_itself_is_out_of_reach(cage: Cage) -> None:
    """A file of /proc asks who its owner is, and root inside is root outside: core_pattern would be
    a program that the kernel runs for it. So nothing of /proc or /sys opens for writing, and what
    tells of the machine's memory, log, keys and timers tells nothing."""
    assert (
        cage.python(
            "import os, stat\n"
            "for top in ('/proc', '/sys'):\n"
            "    for folder, folders, files in os.walk(top):\n"
            "        if folder == '/proc':\n"
            "            folders[:] = [name for name in folders if not name.isdigit()]\n"
            "        for name in files:\n"
            "            path = os.path.join(folder, name)\n"
            "            if os.path.islink(path) or not stat.S_ISREG(os.lstat(path).st_mode):\n"
            "                continue\n"
            "            try:\n"
            "                os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))\n"
            "                print(path)\n"
            "            except OSError:\n"
            "                pass\n"
        )
        == ""
    )
    if not cage.bare:
        assert cage.python(
            "for name in ('kcore', 'kmsg', 'keys', 'timer_list'):\n"
            "    try:\n"
            "        print(open('/proc/' + name, 'rb').read(10))\n"
            "    except OSError:\n"
            "        print(b'')"
        ) == "\n".join(["b''"] * 4)


def test_the_environment_is_what_was_given(cage: Cage) -> None:
    code = (
        "print({k: v for k, v in (l.split(b'=', 1) for l in open('/proc/self/environ', 'rb')"
        ".read().strip(b'\\0').split(b'\\0'))} == {k.encode(): v.encode() for k, v in "
        "__import__('json').loads(__import__('sys').argv[1]).items()})"
    )
    argv = cage.argv(sys.executable, "-c", code, json.dumps(cage.env))
    extra = {**cage.env, "API_KEY": "secret", "SLURM_CONF": "/x", "LC_CTYPE": "C.UTF-8"}
    for env in (cage.env, extra):
        assert subprocess.run(argv, env=env, capture_output=True, text=True).stdout == "True\n"
    assert "secret" not in " ".join(cage.argv("true"))


def test_no_network(cage: Cage) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as abstract,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram,
    ):
        port, name = server.getsockname()[1], f"aevo-test-{os.getpid()}"
        abstract.bind(f"\0{name}")
        abstract.listen()
        datagram.bind(("127.0.0.1", 0))
        cage.refused("socket.create_connection(('127.0.0.1', int(words[0])), 2)", port)
        cage.refused("socket.create_connection(('169.254.169.254', 80), 2)")
        cage.refused("socket.socket(socket.AF_UNIX).connect('\\0' + words[0])", name)
        cage.refused("socket.socket(socket.AF_VSOCK)")
        cage.refused("socket.socket(socket.AF_PACKET, socket.SOCK_RAW)")
        cage.run(
            sys.executable,
            "-c",
            "import socket, sys; socket.socket(2, 2).sendto(b'x', ('127.0.0.1', int(sys.argv[1])))",
            str(datagram.getsockname()[1]),
        )
        for listening in (server, abstract, datagram):
            listening.settimeout(0)
            with pytest.raises(BlockingIOError):
                listening.recv(1) if listening is datagram else listening.accept()


@pytest.mark.parametrize("network", [False, True])
def test_munge_and_other_socket_files_are_out_of_reach(cage: Cage, network: bool) -> None:
    # Beside the campaign, not named in `hide`: what is not granted does not need to be known.
    path = cage.top / "munge.socket.2"
    with socket.socket(socket.AF_UNIX) as munge:
        here = Path.cwd()
        os.chdir(cage.top)  # such a name is at most 108 bytes long
        try:
            munge.bind(path.name)
        finally:
            os.chdir(here)
        munge.listen()
        munge.settimeout(0)
        cage.refused(
            "os.chdir('..'); socket.socket(socket.AF_UNIX).connect('munge.socket.2')",
            network=network,
        )
        with pytest.raises(BlockingIOError):
            munge.accept()


def test_ranks_reach_each_other_but_no_service(cage: Cage) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, low_port() as low:
        port = server.getsockname()[1]
        assert port >= 7100, "ports that the system gives are those of ranks"
        code = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])), 60)"
        cage.python(code, port, network=True)
        server.settimeout(60)
        server.accept()[0].close()
        cage.refused(
            "socket.create_connection(('127.0.0.1', int(words[0])), 2)",
            low.getsockname()[1],
            network=True,
        )
        cage.refused("socket.create_connection(('169.254.169.254', 80), 2)", network=True)


def low_port() -> socket.socket:
    """A service at a port as Slurm's, which nobody else has."""
    for port in range(6817 if os.getuid() else 817, 7100):
        with contextlib.suppress(OSError):
            return socket.create_server(("127.0.0.1", port))
    raise AssertionError("no free port below 7100")


def test_loopback_of_its_own(cage: Cage) -> None:
    if cage.bare:
        pytest.skip("there is no network at all")
    code = (
        "import socket; s = socket.create_server(('127.0.0.1', 0)); "
        "socket.create_connection(s.getsockname()); print('met')"
    )
    assert cage.python(code) == "met"


@pytest.mark.parametrize("network", [False, True])
def test_gloo_speaks_over_loopback(cage: Cage, network: bool) -> None:
    if cage.bare and not network:
        pytest.skip("there is no network at all")
    cage.env["GLOO_SOCKET_IFNAME"] = "lo"
    code = (
        "import torch, torch.distributed as dist; "
        "dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1); "
        "one = torch.ones(1); dist.all_reduce(one); print(one.item())"
    )
    assert cage.python(code, network=network) == "1.0"


def test_escape_hatches_of_the_kernel_are_shut(cage: Cage) -> None:
    if platform.machine() != "x86_64":
        pytest.skip("numbers of x86_64")
    code = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
for number, *words in ((165, b"tmpfs", b"/tmp", b"tmpfs", 0, None), (272, 0x10000000), (425, 8, 0),
                       (250, 0, -3, 0), (321, 0, 0, 0), (56, 0x10000011, 0, 0, 0, 0),
                       (16, 0, 0x5412, b"x"), (161, b"/"), (304, -100, b"", 0),
                       (29, 0, 4096, 0o1600), (64, 0, 1, 0o1600), (68, 0, 0o1600),
                       (240, b"q", 0o102, 0o600, None), (447, 0), (72, 0, 1024, 1),
                       (72, 0, 1026, 1), (85, b"s1", 0o4755), (133, b"s2", 0o104755, 0),
                       (259, -100, b"s3", 0o102755, 0), (257, -100, b".", 0o20200002, 0o4755)):
    if libc.syscall(number, *words) >= 0 or ctypes.get_errno() not in (1, 25):
        print(number, os.strerror(ctypes.get_errno()))
status = open("/proc/self/status").read()
for line in ("CapEff:\\t0000000000000000", "CapPrm:\\t0000000000000000", "NoNewPrivs:\\t1"):
    if line not in status:
        print(line)
if libc.syscall(319, b"x", 0) >= 0:
    print("memfd_create")
open("f", "w")
try:
    os.chmod("f", 0o4755)
except OSError:
    pass
print(*[name for name in os.listdir() if os.stat(name).st_mode & 0o6000])
"""
    assert cage.python(code) == ""


def test_a_fork_bomb_is_stopped(cage: Cage) -> None:
    began = time.monotonic()
    code = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    done = cage.run(sys.executable, "-S", "-c", code, processes=64)
    assert done.returncode == STOPPED, done.stderr
    assert "more than 64 processes" in done.stderr
    assert time.monotonic() - began < 30
    assert not _cousins(str(cage.work))


def test_processes_that_run_away_are_counted_and_ended(cage: Cage) -> None:
    code = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(600)
    os._exit(0)
time.sleep(0.3)
"""
    cage.python(code)
    assert not _cousins(str(cage.work))


def _cousins(word: str) -> list[str]:
    """Live processes whose command line or working folder has `word`."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            here = path.joinpath("cwd").readlink()
        except OSError:
            continue
        if str(here).startswith(word) and int(path.name) != os.getpid():
            found.append(path.name)
    return found


def test_limits_of_size(cage: Cage) -> None:
    grow = "f = open('big', 'wb')\nfor _ in range(64): f.write(bytes(1 << 20)); f.flush()"
    done = cage.run(sys.executable, "-c", grow, file_gb=8 * MIB)
    assert "File too large" in done.stderr
    assert (cage.work / "big").stat().st_size == 8 << 20
    many = (
        "import time\nfor i in range(40): open(str(i), 'wb').write(bytes(1 << 20))\ntime.sleep(60)"
    )
    done = cage.run(sys.executable, "-c", many, disk_gb=16 * MIB)
    assert (done.returncode, done.stderr) == (
        STOPPED,
        "aevo sandbox: stopped: more than 0.015625 GiB written\n",
    )
    gone = (
        "import os, time\nf = open('gone', 'wb'); os.remove('gone')\n"
        "for i in range(40): f.write(bytes(1 << 20)); f.flush()\ntime.sleep(60)"
    )
    assert cage.run(sys.executable, "-c", gone, disk_gb=16 * MIB).returncode == STOPPED


def test_a_flood_of_output_is_stopped(cage: Cage) -> None:
    log = cage.top / "log"
    with log.open("w") as file:
        code = subprocess.call(
            cage.argv("yes", log_gb=8 * MIB), stdout=file, stderr=file, env=cage.env
        )
    assert code == STOPPED


def test_limit_of_memory(cage: Cage) -> None:
    one = cage.run(sys.executable, "-c", "bytearray(3 << 30)", memory_gb=0.125)
    assert "MemoryError" in one.stderr
    several = (
        "import os, time\n[os.fork() for _ in range(2)]\nb = bytearray(b'x') * (60 << 20)\n"
        "time.sleep(60)"
    )
    done = cage.run(sys.executable, "-c", several, memory_gb=0.125)
    assert (done.returncode, done.stderr) == (
        STOPPED,
        "aevo sandbox: stopped: more than 0.125 GiB of memory\n",
    )


# Memory that is no process's own; each line holds several hundred MiB.
HELD = {
    "files without a name": "f = open('/dev/shm/x', 'wb'); os.unlink('/dev/shm/x')\n"
    "for _ in range(400): f.write(bytes(1 << 20)); f.flush()",
    "buffers of sockets": "for _ in range(1500):\n a, b = socket.socketpair(); kept += [a, b]\n"
    " a.setblocking(False); a.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)\n"
    " try:\n  while True: a.send(bytes(65536))\n except BlockingIOError: pass",
}


def test_processes_of_others_can_be_set_nothing(cage: Cage) -> None:
    """A limit on its processor time would end a trusted process; a priority would starve it."""
    code = """
import os, resource, sys
pid = int(sys.argv[1])
for what in (lambda: resource.prlimit(pid, resource.RLIMIT_CPU, (1, 1)),
             lambda: os.setpriority(os.PRIO_PROCESS, pid, 15),
             lambda: os.setpriority(os.PRIO_USER, 0, 15),
             lambda: os.sched_setaffinity(pid, {0}),
             lambda: os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))):
    try:
        what()
    except OSError:
        pass
resource.setrlimit(resource.RLIMIT_NOFILE, (50, 50)); os.setpriority(os.PRIO_PROCESS, 0, 16)
os.sched_setaffinity(0, os.sched_getaffinity(0)); print(os.getpriority(os.PRIO_PROCESS, 0) == 16)
"""
    with subprocess.Popen(["sleep", "60"]) as other:

        def known() -> list[object]:
            limit = resource.prlimit(other.pid, resource.RLIMIT_CPU)
            mask, policy = os.sched_getaffinity(other.pid), os.sched_getscheduler(other.pid)
            return [limit, mask, policy, os.getpriority(os.PRIO_PROCESS, other.pid)]

        before = known()
        try:
            assert cage.python(code, other.pid) == "True"
            assert known() == before
        finally:
            other.kill()


@pytest.mark.parametrize("what", HELD)
def test_memory_that_no_process_shows_is_counted(cage: Cage, what: str) -> None:
    if cage.bare or (cage.kind == "landlock" and "sockets" in what):
        pytest.skip("there is none")
    code = f"import os, socket, time\nkept = []\n{HELD[what]}\ntime.sleep(60)"
    done = cage.run(sys.executable, "-c", code, memory_gb=0.125, devices=True)
    assert "GiB of memory" in done.stderr or "No space left" in done.stderr, done.stderr


@pytest.mark.parametrize("name", ["\\xff\\xfe)", "\\n\\xc3", ") R 1"])
def test_a_process_of_any_name_is_watched_and_ended(cage: Cage, name: str) -> None:
    code = (
        f"import ctypes, os, time; ctypes.CDLL(None).prctl(15, b'{name}', 0, 0, 0)\n"
        "if os.fork() == 0: os.setsid(); time.sleep(600)\ntime.sleep(1.2); print('lived')"
    )
    assert cage.python(code, processes=16, memory_gb=1) == "lived"
    assert not _cousins(str(cage.work))


UNCOUNTED = {
    "too deep": "for _ in range(17): os.mkdir('d' * 250); os.chdir('d' * 250)\n"
    "open('x', 'wb').write(bytes(1 << 20))",
    "no rights": "os.mkdir('d'); f = open('d/x', 'wb'); os.mkdir('d/e'); os.chmod('d', 0)\n"
    "f.write(bytes(1 << 20)); f.close()",
}


@pytest.mark.parametrize("how", UNCOUNTED)
def test_what_cannot_be_counted_ends_the_command(cage: Cage, how: str) -> None:
    if how == "no rights" and (os.geteuid() == 0 or cage.bare):
        pytest.skip("root looks into it; without namespaces no mode is changed")
    code = f"import os, time\n{UNCOUNTED[how]}\ntime.sleep(60)"
    done = cage.run(sys.executable, "-c", code, disk_gb=1)
    assert (done.returncode, done.stderr) == (
        STOPPED,
        "aevo sandbox: stopped: a folder that cannot be looked into\n",
    )
    remove_tree(cage.work)
    assert not cage.work.exists()


def test_landlock_does_not_tell_what_happens_elsewhere(cage: Cage) -> None:
    if platform.machine() != "x86_64":
        pytest.skip("numbers of x86_64")
    code = (
        "import ctypes, sys; libc = ctypes.CDLL(None); handle = libc.inotify_init1(0)\n"
        "print(libc.inotify_add_watch(handle, sys.argv[1].encode(), 0xFFF))"
    )
    assert cage.python(code, cage.vault) == "-1"


def test_limit_of_processor_time(cage: Cage) -> None:
    done = cage.run(sys.executable, "-S", "-c", "while True: pass", cpu_s=1)
    assert done.returncode == 128 + signal.SIGXCPU


def test_descriptors_stay_outside_and_leases_live_as_long_as_the_command(cage: Cage) -> None:
    lock = cage.top / "alive.lock"
    handle = os.open(lock, os.O_RDWR | os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_EX)
    argv = cage.argv("bash", "-c", "ls -l /proc/$$/fd | grep -c lock; read -r word; exit 0")
    with subprocess.Popen(
        argv,
        pass_fds=[handle],
        env=cage.env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        os.close(handle)
        assert process.stdout is not None
        assert process.stdout.readline() == "0\n"
        assert not _free(lock)
        process.communicate("go\n")
    assert _free(lock)
    code = "import os; print([n for n in os.listdir('/proc/self/fd') if int(n) > 2][1:])"
    assert cage.python(code) == "[]"


def _free(lock: Path) -> bool:
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_exit_codes_and_signals(cage: Cage) -> None:
    for code in (0, 7, 255):
        assert cage.run("bash", "-c", f"exit {code}").returncode == code
    assert cage.run("bash", "-c", "kill -SEGV $$").returncode == 128 + signal.SIGSEGV
    missing = cage.run("no-such-command")
    assert missing.returncode == 127 and "no-such-command" in missing.stderr
    process = cage.start(
        "bash", "-c", "trap 'echo saved; exit 3' USR2; echo up; while true; do sleep 0.05; done"
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    os.killpg(process.pid, signal.SIGUSR2)
    out, error = process.communicate(timeout=200)
    assert (process.returncode, out, error) == (3, "saved\n", "")


@pytest.mark.parametrize("whom", ["supervisor", "caller"])
def test_the_command_dies_with_its_parent(cage: Cage, whom: str) -> None:
    beat = cage.work / "beat"
    argv = cage.argv("bash", "-c", "setsid sleep 61 & touch beat; sleep 61")
    call = (
        "import subprocess, sys; p = subprocess.Popen(sys.argv[1:]); print(p.pid, flush=True);"
        "p.wait()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", call, *argv], stdout=subprocess.PIPE, text=True, env=cage.env
    ) as caller:
        assert caller.stdout is not None
        pid = int(caller.stdout.readline())
        until(beat.exists)
        os.kill(pid if whom == "supervisor" else caller.pid, signal.SIGKILL)
        caller.wait()
    until(lambda: not _cousins(str(cage.work)), 30)


def test_cost(cage: Cage, capsys: pytest.CaptureFixture[str]) -> None:
    argv = cage.argv("true")
    times = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run(argv, env=cage.env, check=True)
        times.append(time.perf_counter() - began)
    with capsys.disabled():
        print(f" [{'bare ' * cage.bare}{cage.kind}: `true` in {1000 * min(times):.0f} ms]", end="")
    assert min(times) < 2


def test_the_longest_path_decides(tmp_path: Path) -> None:
    for name in ("campaign/c00/out", "campaign/c01"):
        (tmp_path / name).mkdir(parents=True)
    top = str(tmp_path)
    pairs = dict(
        granted(
            f"{top}/campaign/c00",
            Confinement(
                read=[top], hide=[f"{top}/campaign", "/nowhere"], write=[f"{top}/campaign/c00/out"]
            ),
        )
    )
    assert {path.removeprefix(top): access for path, access in pairs.items() if top in path} == {
        "": "read",
        "/campaign": "hide",
        "/campaign/c00": "read",
        "/campaign/c00/out": "write",
    }


def test_a_hidden_folder_inside_of_a_granted_one(cage: Cage) -> None:
    (cage.vault / "open").mkdir()
    (cage.vault / "open" / "brief").write_text("brief")
    confinement = Confinement(
        read=[str(cage.top), str(cage.vault / "open")],
        hide=[str(cage.vault)],
        write=[str(cage.work)],
    )
    script = 'cat "$1/base/weights" "$1/vault/open/brief"; cat "$1/vault/secret" || echo no'
    argv = wrap(
        ["bash", "-c", script, "-", str(cage.top)], str(cage.work), cage.env, confinement, cage.kind
    )
    done = subprocess.run(argv, env=cage.env, capture_output=True, text=True)
    assert done.stdout == "basebriefno\n", done.stderr


def test_a_hidden_file_inside_of_a_granted_folder(cage: Cage) -> None:
    """Its neighbours can be listed, read and imported; its content is out of reach."""
    package = cage.top / "base" / "package"
    package.mkdir()
    for name in ("__init__", "shown", "sealed"):
        (package / f"{name}.py").write_text(f"print('this is {name}')\n")
    confinement = Confinement(
        read=[str(cage.top / "base")], write=[str(cage.work)], hide=[str(package / "sealed.py")]
    )
    script = (
        "ls base/package; cd base; \"$2\" -B -c 'import package.shown'; "
        "\"$2\" -B -c 'import package.sealed'; cat package/sealed.py; "
        'ln package/sealed.py "$1/own"; ln -s "$PWD/package/sealed.py" "$1/link"; '
        'cat "$1/own" "$1/link"; echo >> package/sealed.py'
    )
    words = ["bash", "-c", f"cd '{cage.top}'; {script}", "-", str(cage.work), sys.executable]
    argv = wrap(words, str(cage.work), cage.env, confinement, cage.kind)
    done = subprocess.run(argv, env=cage.env, capture_output=True, text=True)
    assert "shown.py" in done.stdout and "this is shown" in done.stdout, done.stderr
    assert "this is sealed" not in done.stdout + done.stderr
    assert (package / "sealed.py").read_text() == "print('this is sealed')\n"


def test_bad_confinements_are_named(tmp_path: Path) -> None:
    for wrong in (Confinement(write=[str(tmp_path / "missing")]), Confinement(read=["relative"])):
        with pytest.raises(SandboxError, match=r"missing|relative"):
            wrap(["true"], str(tmp_path), {}, wrong, KINDS[0])
    (tmp_path / "in").mkdir()
    with pytest.raises(SandboxError, match="Landlock cannot take back"):
        wrap(
            ["true"],
            str(tmp_path),
            {},
            Confinement(write=[str(tmp_path)], read=[str(tmp_path / "in")]),
            "landlock",
        )


def test_require(monkeypatch: pytest.MonkeyPatch) -> None:
    assert require("none") == "none"
    assert require("auto") == probe() == KINDS[0]
    with pytest.raises(SandboxError, match="no longer offered") as caught:
        require("container")
    assert caught.value.code == 8 and "\n" not in str(caught.value)


@pytest.fixture
def no_kind(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    module = sys.modules[probe_function.__module__]
    monkeypatch.setattr(module, "failure", lambda kind: "not here")
    yield


def test_nothing_confines_is_one_line(no_kind: None) -> None:
    assert probe() == "none"
    with pytest.raises(SandboxError, match="bubblewrap: not here; landlock: not here") as caught:
        require("auto")
    assert "sandbox=none" in caught.value.mend and "\n" not in str(caught.value)


def test_usage_does_not_follow_links(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/usr")
    (tmp_path / "file").write_bytes(bytes(100_000))
    assert 100_000 <= usage([str(tmp_path)]) < 200_000


def test_what_a_command_leaves_behind_is_judged_before_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "fine").write_text("x")
    (tmp_path / "sub").mkdir()
    assert irregular(tmp_path) == []
    (tmp_path / "sub" / "result.json").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "pipe")
    os.link(tmp_path / "fine", tmp_path / "twin")
    assert irregular(tmp_path) == ["fine", "pipe", "sub/result.json", "twin"]


def test_tree_by_parents_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(["bash", "-c", "sleep 30; true"]) as child:
        found: Callable[[], list[int]] = lambda: supervise.tree(child.pid)  # noqa: E731
        until(lambda: len(found()) == 2, 20)
        assert sorted(found()) == sorted(supervise._tree_by_parent(child.pid))
        for pid in found():
            os.kill(pid, signal.SIGKILL)
