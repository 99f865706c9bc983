"""Tables of what a worker can leave behind, and how many cases a property is tried on."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, settings

# A slice by default; AEVO_CASES=10000 for the whole.
CASES = settings(
    max_examples=int(os.environ.get("AEVO_CASES", "100")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(path.parent)  # the name of a socket is short
        try:
            server.bind(path.name)
        finally:
            os.chdir(here)


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


def _twin(path: Path) -> None:
    path.with_name("twin-of").write_text("x: 1\n")
    path.hardlink_to(path.with_name("twin-of"))


def _write(path: Path, data: bytes, mode: int = 0o644) -> None:
    path.write_bytes(data)
    path.chmod(mode)


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


# Each makes, at a path that is free, something that a trusted reader must refuse at once.
KINDS: dict[str, Callable[[Path], None]] = {
    "pipe": os.mkfifo,
    "socket": _socket,
    "twin": _twin,
    "loop": _loop,
    "sparse": _sparse,
    "folder": Path.mkdir,
    "device link": lambda path: path.symlink_to("/dev/zero"),
    "link": lambda path: path.symlink_to("/etc/passwd"),
    "dangling": lambda path: path.symlink_to("nowhere"),
    "binary": lambda path: _write(path, b"\xff\xfe\x00" * 10),
}
if os.geteuid() == 0:
    KINDS["device"] = lambda path: os.mknod(path, 0o20666, os.makedev(1, 5))
else:
    KINDS["unreadable"] = lambda path: _write(path, b"x: 1\n", 0)

# Texts of recipe and records that are no plain data, by what is wrong with them.
BOMB = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(24)
)
YAML_FORMS = {
    "alias bomb": BOMB,
    "recursive alias": "a: &a [*a]\n",
    "date": "a: 2026-01-01\n",
    "time": "a: 2026-01-01T00:00:00Z\n",
    "no date": "a: 2026-99-99\n",
    "binary": "a: !!binary aGk=\n",
    "set": "a: !!set {x, y}\n",
    "omap": "a: !!omap [x: 1]\n",
    "python": "a: !!python/object/apply:os.system [id]\n",
    "own tag": "a: !x 1\n",
    "infinity": "a: .inf\n",
    "minus infinity": "a: -.inf\n",
    "nan": "a: .nan\n",
    "overflow": "a: 1.0e+999\n",
    "400 digits": f"a: {'9' * 400}\n",
    "64 bits": f"a: {2**63}\n",
    "hex": f"a: 0x{'f' * 32}\n",
    "sexagesimal": "a: 1:30\n",
    "key of int": "1: a\n",
    "key of bool": "yes: a\n",
    "key of null": "~: a\n",
    "key of list": "[a, b]: c\n",
    "keys of two types": "a: 1\n2: b\n",
    "key twice": "a: 1\na: 2\n",
    "merge": "a: &a {x: 1}\nb: {<<: *a}\n",
    "surrogate": 'a: "\\ud800"\n',
    "nul": 'a: "\\0"\n',
    "escape": 'a: "\\e[2J"\n',
    "key with escape": '"a\\eb": 1\n',
    "deep": f"a: {'[' * 200}{']' * 200}\n",
    "very deep": "[" * 100_000,
    "many": "a: [" + "1," * 30_000 + "]\n",
    "long": f"a: {'x' * 70_000}\n",
    "large": "# " + "x" * 300_000 + "\n",
    "two documents": "a: 1\n---\nb: 2\n",
    "torn": "a: [1, 2\n",
    "tab": "a:\n\t- x\n",
    "directive": "%YAML 9.9\n---\na: 1\n",
    "unknown alias": "a: *b\n",
    "invalid octal": "a: !!int 0o9x\n",
    "no bool": "a: !!bool maybe\n",
    "no float": "a: !!float x\n",
    "no int": "a: !!int ''\n",
}
JSON_FORMS = {
    "overflow": '{"a": 1e999}',
    "400 digits": f"[{'9' * 400}]",
    "5000 digits": "9" * 5000,
    "64 bits": f"[{2**63}]",
    "surrogate": '{"a": "\\ud800"}',
    "key of half a character": '{"\\udc00": 1}',
    "nul": '{"a": "\\u0000"}',
    "escape": '{"a": "\\u001b[2J"}',
    "twice": '{"a": 1, "a": 2}',
    "deep": "[" * 100 + "]" * 100,
    "very deep": "[" * 100_000,
    "many": "[" + "1," * 30_000 + "1]",
    "long": f'"{"x" * 70_000}"',
    "torn": '{"a": ',
    "empty": "",
    "large": " " * 300_000 + "1",
    "infinity": '{"a": Infinity}',
    "nan": "NaN",
}
