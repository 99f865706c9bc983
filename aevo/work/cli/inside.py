"""The first process of an agent in the sandbox; standard library only, and no import of aevo.

    python -I -S inside.py        with a unix socket to the worker as its standard input

It opens two ports of the loopback, one for the model and one for the tools, hands both listening
sockets to the worker over that unix socket, reads what to start from it, closes it, and then runs
the agent as its child. Who connects to a port speaks with the worker, which alone accepts: no
process in here carries anything, and nothing else leaves.
"""

import json
import os
import shlex
import signal
import socket
import stat
import subprocess
import sys

NOT_STARTED = 127


def listening() -> socket.socket:
    """A new port of the loopback."""
    server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    server.bind(("127.0.0.1", 0))
    server.listen(64)
    return server


def told(control: socket.socket) -> dict:
    """What the worker wants started: one JSON object, then the end."""
    parts = []
    while part := control.recv(1 << 16):
        parts.append(part)
    return json.loads(b"".join(parts))


def fill(text: str, words: dict) -> str:
    """The text with its words in braces filled in; other braces stay."""
    for name, value in words.items():
        text = text.replace("{" + name + "}", value)
    return text


def write(path: str, text: str) -> None:
    """Writes a file below a folder that is made where it is missing."""
    os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
    if os.path.islink(path):  # noqa: PTH114
        os.unlink(path)  # noqa: PTH108
    with open(path, "w") as file:  # noqa: PTH123
        file.write(text)


def main() -> int:
    """Starts the agent and waits for it; its exit code."""
    control = socket.socket(fileno=os.dup(0))
    model, tools = listening(), listening()
    socket.send_fds(control, [b"+"], [model.fileno(), tools.fileno()])
    given = told(control)
    control.close()
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    home = given["home"]
    command = f"{home}/bin/aevo-tools"
    words = {
        **given["words"],
        "home": home,
        "tools": command,
        "url": f"http://127.0.0.1:{model.getsockname()[1]}",
        "prompt_file": f"{home}/prompt.md",
    }
    client = [*given["python"], str(tools.getsockname()[1]), words["token"]]
    write(command, f'#!/bin/sh\nexec {shlex.join(client)} "$@"\n')
    os.chmod(command, stat.S_IRWXU)  # noqa: PTH101
    write(words["prompt_file"], words["prompt"])
    for name, text in given["files"].items():
        write(f"{home}/{name}", fill(text, words))
    model.close()
    tools.close()
    env = {**os.environ, **{name: fill(text, words) for name, text in given["env"].items()}}
    env["PATH"] = f"{home}/bin:{env.get('PATH', os.defpath)}"
    argv = [fill(word, words) for word in given["argv"]]
    typed = words["prompt"].encode() if given["stdin"] else b""
    try:
        child = subprocess.Popen(argv, env=env, stdin=subprocess.PIPE if typed else nothing)
    except OSError as error:
        print(f"{argv[0]}: {error.strerror}", file=sys.stderr)
        return NOT_STARTED
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    child.communicate(typed or None)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


if __name__ == "__main__":
    sys.exit(main())
