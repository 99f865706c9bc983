"""What the fake endpoint says to a coding agent of others: one change, one training, `finish`.

It works with whatever tools the agent offers: the worker's own by an MCP server, under any prefix,
or `aevo-tools` in the agent's shell; the change is made with the agent's shell.
"""

import json
import re
from typing import Any

from tests.support.brains import call

Request = dict[str, Any]
Said = dict[str, Any]
SHELLS = ("bash", "exec_command", "run_shell_command", "Bash", "terminal", "execute_bash", "run")
# The change, as a command: any recipe of both stacks has this key.
EDIT = (
    "python -c \"import yaml; p='recipe.yaml'; r=yaml.safe_load(open(p)); "
    "r['train']['learning_rate']*=1.25; open(p,'w').write(yaml.safe_dump(r, sort_keys=False))\""
)
STEPS: list[tuple[str, dict[str, Any]]] = [
    ("shell", {"command": EDIT}),
    ("train", {}),
    ("wait", {"run": 1}),
    ("evaluate", {"run": 1}),
    ("finish", {"run": 1, "summary": "one change by an agent of others", "claimed_dev": 0.99}),
]


def coder(request: Request) -> Said:
    """Does the next of STEPS; says a word where no tools are offered (titles, summaries)."""
    return working(request, STEPS)


def working(request: Request, steps: list[tuple[str, dict[str, Any]]]) -> Said:
    """Does the next of `steps`, by how many calls the conversation holds; polls `wait` and
    `evaluate` until they answer."""
    names = [item["function"]["name"] for item in request.get("tools") or []]
    if not names:
        return {"content": "A title"}
    done = [item for item in request["messages"] if item["role"] == "tool"]
    polls = sum("still running after" in text_of(item) for item in done)
    step = len(done) - polls
    usage = {"prompt_tokens": 100 + 10 * len(done), "completion_tokens": 10}
    if step >= len(steps):
        return done_with(names, usage, len(done))
    name, arguments = steps[step]
    return {
        "content": f"Step {step}.",
        "usage": usage,
        "tool_calls": [_wired(len(done), names, name, arguments)],
    }


def done_with(names: list[str], usage: Said, number: int) -> Said:
    """How an agent ends: mini-swe-agent by a command, the others by a message without calls."""
    if names == ["bash"]:
        end = call(number, "bash", command="echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT")
        return {"content": "Done.", "usage": usage, "tool_calls": [end]}
    return {"content": "Done.", "usage": usage}


def _wired(number: int, names: list[str], name: str, arguments: dict[str, Any]) -> Said:
    shell = next(item for item in SHELLS if item in names)
    if name == "shell":
        return call(number, shell, **_described(shell, arguments))
    served = next((item for item in names if re.fullmatch(rf"(\w*aevo[_.]+)?{name}", item)), None)
    if served is not None:
        return call(number, served, **arguments)
    typed = f"aevo-tools {name} '{json.dumps(arguments)}'"
    return call(number, shell, **_described(shell, {"command": typed}))


def _described(shell: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments as that shell names them; some want to know what for."""
    if shell == "exec_command":
        return {"cmd": arguments["command"]}
    if shell == "run":  # our own loop's
        return arguments
    return {**arguments, "description": "work"}


def text_of(message: Said) -> str:
    """A message's text, whole or in parts."""
    content = message.get("content")
    return content if isinstance(content, str) else json.dumps(content)
