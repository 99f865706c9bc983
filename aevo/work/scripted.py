"""The scripted model: rules in place of a language model, through the same interface.

It works its axis the way a careful junior would: read the recipe, make one change from the
catalogue, check it cheaply, train, react to failure, evaluate every checkpoint, report. It is
honest search and named as such: it sees what any model in its place would see, and no more.

Each policy of behaviour is a generator of tool calls that receives their results. `complete`
replays it over the conversation, so the model has no state and continues any trace.
"""

import json
import random
from collections.abc import Generator, Sequence
from typing import Any

from aevo.files.keys import get_key, set_key
from aevo.llm.model import Reply, ToolSchema
from aevo.records.trace import ToolCall, Turn
from aevo.substrate import recipe as change
from aevo.substrate.catalogue import Move

Action = tuple[str, dict[str, Any]]
Script = Generator[Action, str, None]
Sub = Generator[Action, str, Any]


class ScriptedModel:
    """Acts for one candidate.

    Args:
        moves: catalogue moves of the axis that are still worth trying; empty for the anchor.
        replicates: training runs that one recipe gets, one per seed: an anchor's, or an explorer's
            whose change is to be measured on several.
        recipe: name of the recipe file.
        check: shell command that builds a data set from the fork into $TMPDIR, as a cheap test.
        seed: decides which move comes first.
    """

    def __init__(
        self, moves: Sequence[Move], replicates: int, recipe: str, check: str, seed: int
    ) -> None:
        self.moves, self.replicates = list(moves), replicates
        self.recipe, self.check, self.seed = recipe, check, seed

    @property
    def name(self) -> str:
        return "scripted"

    def complete(self, turns: list[Turn], tools: list[ToolSchema]) -> Reply:
        """Replays the script over the tool results so far and returns its next call."""
        results = [turn.content for turn in turns if turn.role == "tool"]
        script = self._explorer() if self.moves else self._anchor()
        action = next(script)
        for result in results:
            action = script.send(result)
        name, arguments = action
        call = ToolCall(id=f"call-{len(results) + 1}", name=name, arguments=arguments)
        return Reply(turn=Turn(role="assistant", content="", tool_calls=[call]))

    def _anchor(self) -> Script:
        yield "read_file", {"path": self.recipe, "numbers": False}
        runs = []
        failures: list[str] = []
        for _ in range(self.replicates):
            started = _parse((yield "train", {}), failures)
            if started is not None:
                runs.append(started["run"])
        scored: list[tuple[int, Any]] = []
        for run in runs:
            status = _parse((yield "wait", {"run": run}), failures)
            if status is None or not status["checkpoints"]:
                failures.append(f"run {run}: {status and status['failure']}")
                continue
            evaluation = _parse((yield "evaluate", {"run": run}), failures)
            if evaluation is not None and evaluation["selected"] is not None:
                scored.append((run, evaluation))
        if not scored:
            yield "finish", {"summary": "no run of the anchor worked", "failure_modes": failures}
            return
        run, evaluation = scored[0]
        yield (
            "finish",
            {
                "run": run,
                "checkpoint": evaluation["selected"],
                "failure_modes": failures,
                "summary": f"standing recipe untouched, {len(scored)} seeds",
                "claimed_dev": _dev(evaluation),
                "findings": [_by_domain(evaluation)],
            },
        )

    def _explorer(self) -> Script:
        yield "list_files", {"path": "."}
        original = yield "read_file", {"path": self.recipe, "lines": 2000, "numbers": False}
        failures: list[str] = []
        for move in order_of_trial(self.moves, self.seed):
            undo: dict[str, str] = {self.recipe: original}
            problem = yield from self._apply(move, original, undo)
            if problem is None:
                problem = yield from self._test_build()
            if problem is None:
                problem = yield from self._train_and_finish(move, failures)
                if problem is None:
                    return
            failures.append(f"{move.id}: {problem}")
            for path, content in undo.items():
                yield "write_file", {"path": path, "content": content}
        yield (
            "finish",
            {
                "summary": "no move of the axis could be trained and scored",
                "failure_modes": failures,
            },
        )

    def _apply(self, move: Move, original: str, undo: dict[str, str]) -> Sub:
        """Makes the move's edits; None, or what went wrong."""
        if move.set:
            data = change.parse_recipe(original, self.recipe)
            for key, value in move.set.items():
                set_key(data, key, value)
            result = yield "write_file", {"path": self.recipe, "content": change.dump_recipe(data)}
            if result.startswith("error:"):
                return result
        for edit in move.patch:
            if edit.file not in undo:
                undo[edit.file] = yield (
                    "read_file",
                    {"path": edit.file, "lines": 2000, "numbers": False},
                )
            result = yield (
                "edit_file",
                {"path": edit.file, "find": edit.find, "replace": edit.replace},
            )
            if result.startswith("error:"):
                return result
        return None

    def _test_build(self) -> Sub:
        """Builds the data set in the shell: a broken recipe or pipeline shows in a second."""
        result = yield "run", {"command": self.check, "timeout_s": 300}
        return None if result.startswith("exit code 0") else _last_line(result)

    def _train_and_finish(self, move: Move, failures: list[str]) -> Sub:
        """Trains, mends a diverged run once, evaluates, finishes; None, or why it could not."""
        started = _parse((yield "train", {}), failures)
        status = started and _parse((yield "wait", {"run": started["run"]}), failures)
        if started is None or status is None:
            return "it could not be trained"
        run = started["run"]
        if status["status"] == "failed":
            log = yield "logs", {"run": run}
            return f"run {run} failed: {_last_line(log)}"
        if status["status"] == "refused":
            return f"run {run} was refused: {status['failure']}"
        if status["status"] != "ok":
            failures.append(f"{move.id}: run {run} {status['status']}")
            run, status = yield from self._mend(move, run, status, failures)
        if not status["checkpoints"]:
            return f"run {run} left no checkpoint: {status['failure']}"
        evaluation = _parse((yield "evaluate", {"run": run}), failures)
        if evaluation is None or evaluation["selected"] is None:
            return f"no checkpoint of run {run} could be scored"
        yield from self._again(run, failures)
        result = yield (
            "finish",
            {
                "run": run,
                "checkpoint": evaluation["selected"],
                "move": move.id,
                "summary": f"{move.id}: {' '.join(move.why.split())}",
                "claimed_dev": _dev(evaluation),
                "failure_modes": failures,
                "findings": [_by_domain(evaluation)],
            },
        )
        return result if result.startswith("error:") else None

    def _again(self, run: int, failures: list[str]) -> Sub:
        """Measures the same fork on further seeds, where its axis asks for them."""
        for _ in range(self.replicates - 1):
            started = _parse((yield "train", {}), failures)
            status = started and _parse((yield "wait", {"run": started["run"]}), failures)
            if started is None or status is None or not status["checkpoints"]:
                failures.append(f"run {run} could not be repeated on another seed")
                return
            _parse((yield "evaluate", {"run": started["run"]}), failures)

    def _mend(self, move: Move, run: int, status: Any, failures: list[str]) -> Sub:
        """Trains a diverged recipe once more at half the learning rate; the run to go on with."""
        mended = yield from self._halve_learning_rate()
        again = _parse((yield "train", {}), failures) if mended else None
        if again is not None:
            retried = _parse((yield "wait", {"run": again["run"]}), failures)
            if retried is not None and retried["status"] == "ok":
                failures.append(f"{move.id}: halving the learning rate mended it")
                return again["run"], retried
        return run, status

    def _halve_learning_rate(self) -> Sub:
        text = yield "read_file", {"path": self.recipe, "lines": 2000, "numbers": False}
        data = change.parse_recipe(text, self.recipe)
        rate = get_key(data, "train.learning_rate")
        if not isinstance(rate, int | float):
            return False
        set_key(data, "train.learning_rate", rate / 2)
        yield "write_file", {"path": self.recipe, "content": change.dump_recipe(data)}
        return True


def order_of_trial(moves: Sequence[Move], seed: int) -> list[Move]:
    """The order in which the scripted worker tries moves; only a failure leads to the second."""
    ordered = list(moves)
    random.Random(seed).shuffle(ordered)
    return ordered


def _parse(result: str, failures: list[str]) -> dict[str, Any] | None:
    """A tool's JSON answer; an error goes to `failures` and is None."""
    if result.startswith("error:"):
        failures.append(result)
        return None
    data: dict[str, Any] = json.loads(result)
    return data


def _dev(evaluation: dict[str, Any]) -> float | None:
    score = evaluation["scores"].get(evaluation["selected"])
    return None if score is None else score["dev"]


def _by_domain(evaluation: dict[str, Any]) -> str:
    score = evaluation["scores"].get(evaluation["selected"])
    if score is None:
        return "no checkpoint was selected"
    domains = ", ".join(f"{name} {item:.2f}" for name, item in score["domains"].items())
    return f"dev by domain at {evaluation['selected']}: {domains}"


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no output"
