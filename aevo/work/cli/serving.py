"""Servers on sockets out of an agent's sandbox, which listen already; one thread a connection."""

import socket
import sys
import threading
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import Any

MOST_OPEN = 32  # connections at a time: each has a thread, and may hold a body
MOST_SHOWN = 20  # errors that are shown


class Tcp(ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, *given: Any, **more: Any) -> None:
        self._free, self._shown = threading.Semaphore(MOST_OPEN), 0
        super().__init__(*given, **more)

    def process_request(self, request: Any, client_address: Any) -> None:
        """One more than may be open is closed at once: who opens many must not keep us from
        opening a file."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no error of ours; one that sends nonsense fills no log."""
        self._shown += 1
        if not isinstance(sys.exception(), OSError) and self._shown <= MOST_SHOWN:
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
