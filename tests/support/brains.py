"""What the fake endpoint says: small scripts in place of a language model."""

import json
import re
from typing import Any

import yaml

Request = dict[str, Any]
Said = dict[str, Any]
TAUGHT = {"prompt_tokens": 40, "completion_tokens": 4}  # what the teacher's answer costs
MOVE = re.compile(r"^- (\w+): (.*) \(.*\)$", re.MULTILINE)


def call(number: int, name: str, **arguments: Any) -> Said:
    """One tool call."""
    return {"id": f"call-{number}-{name}", "name": name, "arguments": arguments}


def researcher(request: Request) -> Said:
    """A worker that reads its recipe, makes the first listed move in it, trains, evaluates and
    finishes; as the anchor it only trains and evaluates. What it does depends on the conversation
    alone, so it is the same after any restart."""
    messages = request["messages"]
    step = sum(
        item["role"] == "assistant" and (item.get("content") or "").startswith("Step")
        for item in messages
    )  # what a fault said in its place is no step
    task = next(item["content"] for item in messages if item["role"] == "user")
    usage = {"prompt_tokens": 100 + 10 * step, "completion_tokens": 10}
    return {"content": f"Step {step}.", "usage": usage, "tool_calls": _next(step, task, messages)}


def _next(step: int, task: str, messages: list[Said]) -> list[Said]:
    if "You are the anchor" in task:
        runs = int(re.search(r"\((\d+) runs\)", task).group(1))  # type: ignore[union-attr]
        plan = [call(n, "train") for n in range(runs)]
        plan += [call(n, name, run=n + 1) for n in range(runs) for name in ("wait", "evaluate")]
        plan.append(call(runs, "finish", run=1, summary="the standing recipe, untouched"))
        return [plan[step]] if step < len(plan) else []
    move = MOVE.search(task)
    if step == 0:
        return [call(0, "list_files"), call(0, "read_file", path="recipe.yaml", numbers=False)]
    if step == 1:
        return [call(1, "write_file", path="recipe.yaml", content=_changed(messages, move))]
    plan = [
        call(2, "run", command="ls && cat recipe.yaml | head -3"),
        call(3, "train"),
        call(4, "wait", run=1),
        call(5, "evaluate", run=1),
        call(
            6,
            "finish",
            run=1,
            move=move.group(1) if move else None,
            summary="one move of the axis",
            claimed_dev=0.99,
            findings=["it trained"],
            failure_modes=[],
        ),
    ]
    return [plan[step - 2]] if step - 2 < len(plan) else []


def _changed(messages: list[Said], move: "re.Match[str] | None") -> str:
    """The recipe with the move made; unchanged if there is none or it is an edit of code."""
    text = next(
        item["content"]
        for item in messages
        if item["role"] == "tool" and item["tool_call_id"].endswith("read_file")
    )
    recipe = yaml.safe_load(text)
    for key, value in re.findall(r"([a-z_.]+)=([^;]+)", move.group(2) if move else ""):
        place, names = recipe, key.split(".")
        for name in names[:-1]:
            place = place.setdefault(name, {})
        place[names[-1]] = yaml.safe_load(value)
    return str(yaml.safe_dump(recipe, sort_keys=False))


def curious(request: Request) -> Said:
    """The researcher, which first asks the operator's library and a teacher; and the teacher."""
    if request["messages"][0]["content"].startswith("You advise"):
        return {"content": "Cool for the last fifth.", "usage": TAUGHT}
    said = researcher(request)
    if said["content"] == "Step 0.":
        said["tool_calls"] += [
            call(0, "ask", question="how should a schedule decay?"),
            call(0, "read", file="schedules.md"),
        ]
    return said


def finishes(request: Request) -> Said:
    """A worker that gives up at once."""
    return {"tool_calls": [call(0, "finish", summary=json.dumps(len(request["messages"])))]}
