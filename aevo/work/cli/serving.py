"""Servers on sockets out of an agent's sandbox, which listen already; one thread a connection."""

import socket
import sys
import threading
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import Any


class Tcp(ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no error of ours."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class Http(Tcp, ThreadingHTTPServer):
    def server_bind(self) -> None:
        return None


def serve(kind: type[Tcp], port: socket.socket, handler: Callable[..., BaseRequestHandler]) -> Tcp:
    """A server on a socket that listens already, in a thread of its own."""
    server = kind(("127.0.0.1", 0), handler, bind_and_activate=False)
    server.socket.close()
    server.socket = port
    server.server_name, server.server_port = "localhost", 0  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server
