"""A coding agent of others in a worker's place: Claude Code, Codex, Gemini CLI, any command.

    session.py    starts it in the sandbox, watches it, asks again, ends it
    inside.py     the first process in the sandbox: hands out two loopback ports, then starts it
    client.py     `aevo-tools` in the sandbox: an MCP server on stdio, or one call by a shell
    desk.py       its calls of the tools, each on record once, long ones in pieces
    tools.py      the tools as an MCP server, by the package `mcp`
    proxy.py      the only way to a model: adds the key, counts, refuses what is spent
    requests.py   which requests may pass; told.py what an answer cost
    streams/      what each one says on its standard output, as turns of the trace

Guaranteed: the agent, its shell and all it starts run in the sandbox, in the fork, without a
network; it reaches the model at the endpoint through the proxy and the tools of
`aevo.work.tools`, and nothing else. The key never enters the sandbox. What the agent says is
material: only calls that came over the tools' own socket count as calls. Killed at any instant, a
worker goes on from its trace. Not guaranteed: what of a transcript was not read yet when a worker
was killed is in the file of the session's output alone.
"""
