"""The tools of a worker as an MCP server, on connections out of an agent's sandbox.

A connection begins with a line that lets it in; then both sides speak MCP as on stdio, one JSON
message a line, by the package `mcp`. Nothing else passes: no resources, no prompts, no files.
"""

import hmac
import socketserver
from io import BufferedIOBase, TextIOWrapper
from typing import Any

from aevo.work.cli.desk import Desk

LET_IN_S = 30.0  # for the line that lets a connection in
TOKEN_BYTES = 200
LONGEST = 8 << 20  # bytes of a message; one that is longer ends its connection


def handler(desk: Desk, token: str) -> type[socketserver.StreamRequestHandler]:
    """The class that serves one connection."""
    return type("Connection", (_Connection,), {"desk": desk, "token": token})


class _Connection(socketserver.StreamRequestHandler):
    desk: Desk
    token: str

    def handle(self) -> None:
        self.connection.settimeout(LET_IN_S)
        given = self.rfile.readline(TOKEN_BYTES).strip()
        if not hmac.compare_digest(given, self.token.encode()):
            return
        self.connection.settimeout(None)
        serve(self.rfile, self.wfile, self.desk)


class _Bounded(BufferedIOBase):
    """A stream of lines that ends where one is too long: whoever reads lines reads them whole."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.length = stream, 0

    def readable(self) -> bool:
        return True

    def read1(self, size: int = -1) -> bytes:
        """The next bytes; none at the end."""
        data: bytes = self.stream.read1(size)
        last = data.rfind(b"\n")
        self.length = len(data) - last - 1 if last >= 0 else self.length + len(data)
        return data if self.length <= LONGEST else b""


def serve(incoming: Any, outgoing: Any, desk: Desk) -> None:
    """Speaks MCP on a pair of binary streams until the client ends it."""
    import anyio
    from mcp.server.stdio import stdio_server

    server = _server(desk)

    async def run() -> None:
        bounded: Any = _Bounded(incoming)  # has all that is asked of it
        read = anyio.wrap_file(TextIOWrapper(bounded, encoding="utf-8", errors="replace"))
        write = anyio.wrap_file(TextIOWrapper(outgoing, encoding="utf-8", write_through=True))
        async with stdio_server(read, write) as (received, sent):
            await server.run(received, sent, server.create_initialization_options())

    anyio.run(run)


def _server(desk: Desk) -> Any:
    import anyio
    from mcp.server.lowlevel import Server
    from mcp_types import CallToolResult, ListToolsResult, TextContent, Tool

    async def list_tools(context: Any, params: Any) -> ListToolsResult:
        desk.connected.set()
        return ListToolsResult(
            tools=[
                Tool(name=tool.name, description=tool.description, input_schema=tool.parameters)
                for tool in desk.schemas()
            ]
        )

    async def call_tool(context: Any, params: Any) -> CallToolResult:
        desk.connected.set()
        text = await anyio.to_thread.run_sync(desk.call, params.name, params.arguments or {})
        return CallToolResult(
            content=[TextContent(type="text", text=text)], is_error=text.startswith("error:")
        )

    return Server("aevo", on_list_tools=list_tools, on_call_tool=call_tool)
