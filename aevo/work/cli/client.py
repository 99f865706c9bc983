"""`aevo-tools` in an agent's sandbox; standard library only, and no import of aevo.

    aevo-tools                          serves the tools to an MCP client on stdio
    aevo-tools list                     names and arguments of the tools
    aevo-tools TOOL [NAME=VALUE ...]    one call; a value is JSON or, if it is none, text
    aevo-tools TOOL '{"run": 1}'        the same

Its first two arguments, a port of the loopback and a word to be let in with, are filled in by
`inside.py`. Exit code: 0, 1 where the tool answered with an error, 2 where it cannot be reached.
"""

import json
import os
import socket
import sys
import threading

CONNECT_S = 10.0
USAGE = "usage: aevo-tools [list | TOOL [NAME=VALUE ...]]"


def connect(port: int, token: str) -> socket.socket:
    """A connection to the worker, let in."""
    link = socket.create_connection(("127.0.0.1", port), CONNECT_S)
    link.settimeout(None)
    link.sendall(token.encode() + b"\n")
    return link


def bridge(link: socket.socket) -> None:
    """Carries bytes between stdio and the worker until one side ends."""

    def outward() -> None:
        while data := os.read(0, 1 << 16):
            link.sendall(data)
        link.shutdown(socket.SHUT_WR)

    threading.Thread(target=outward, daemon=True).start()
    while data := link.recv(1 << 16):
        while data:
            data = data[os.write(1, data) :]


class Client:
    """The few requests of the protocol that one call needs."""

    def __init__(self, link: socket.socket) -> None:
        self.file, self.number = link.makefile("rwb"), 0
        hello = {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "aevo-tools", "version": "1"},
        }
        self.ask("initialize", hello)
        self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def send(self, message: dict) -> None:
        self.file.write(json.dumps(message).encode() + b"\n")
        self.file.flush()

    def ask(self, method: str, params: dict) -> dict:
        """The result of a request; raises ConnectionError where none comes."""
        self.number += 1
        self.send({"jsonrpc": "2.0", "id": self.number, "method": method, "params": params})
        while line := self.file.readline():
            answer = json.loads(line)
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise ConnectionError(answer["error"].get("message", "refused"))
                return answer["result"]
        raise ConnectionError("the worker ended the connection")


def arguments(words: list) -> dict:
    """The arguments of a call; raises ValueError for what is none."""
    if len(words) == 1 and words[0].lstrip().startswith("{"):
        return json.loads(words[0])
    found = {}
    for word in words:
        name, equals, text = word.lstrip("-").partition("=")
        if not equals:
            raise ValueError(f"{word} is not NAME=VALUE")
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found


def describe(tools: list) -> str:
    """The tools, one a line."""
    lines = []
    for tool in tools:
        schema = tool["inputSchema"]
        needed = schema.get("required", [])
        names = [name if name in needed else f"[{name}]" for name in schema.get("properties", {})]
        lines.append(f"{' '.join([tool['name'], *names])}: {tool['description']}")
    return "\n".join(lines)


def main(words: list) -> int:
    """The command line; its exit code."""
    port, token, *words = words
    try:
        link = connect(int(port), token)
        if not words:
            bridge(link)
            return 0
        if words[0] in ("-h", "--help"):
            print(USAGE)
            return 0
        client = Client(link)
        if words[0] == "list":
            print(describe(client.ask("tools/list", {})["tools"]))
            return 0
        call = {"name": words[0], "arguments": arguments(words[1:])}
        answer = client.ask("tools/call", call)
        print("\n".join(part.get("text", "") for part in answer["content"]))
        return 1 if answer.get("isError") else 0
    except OSError as error:
        print(f"aevo-tools: the tools cannot be reached ({error})", file=sys.stderr)
    except ValueError as error:
        print(f"aevo-tools: {error}\n{USAGE}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
