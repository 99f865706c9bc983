"""The tools of a worker: files of its fork, a shell, training, evaluation, finish.

Arguments are pydantic models, so that a model gets a JSON schema and a mistaken call gets a
message that says what was wrong. No tool raises for what the model did: it reads the error and
mends it. Each call may be repeated after a crash and then has the same effect.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from aevo.errors import AevoError
from aevo.files import digest
from aevo.files.documents import problems, write_text
from aevo.files.untrusted import read_text, visible_files
from aevo.llm.model import ToolSchema
from aevo.records.change import Change, Edit
from aevo.records.manifest import Claims
from aevo.records.trace import ToolCall, Turn
from aevo.substrate.frozen import Substrate
from aevo.substrate.recipe import apply
from aevo.work import searching
from aevo.work.answers import Evaluation
from aevo.work.arguments import (
    ApplyMove,
    Arguments,
    Ask,
    EditFile,
    Finish,
    ListFiles,
    Logs,
    Nothing,
    OfRun,
    ReadFile,
    ReadKnowledge,
    Search,
    Shell,
    WriteFile,
)
from aevo.work.broker import Broker
from aevo.work.metered import metered

FINISHED = "finished"  # the answer to an accepted `finish`
EDITS = ("write_file", "edit_file", "apply_move")  # if one fails, the rest of its turn does not run
DIGITS = 4  # of a score, as an agent sees it
MAX_OUTPUT = 12_000  # characters a tool returns; the middle of longer output is left out
MOST_FILES = 2000  # that are listed or searched
MOST_FOUND = 200  # lines that a search returns
SEARCH_S = 20.0  # a search that takes longer is given up


class ToolFailure(AevoError):
    """A tool call that cannot be done; its text goes back to the model."""


class Toolbox:
    """The tools of one candidate, bound to its fork and broker. Of the substrate they show what is
    not sealed."""

    def __init__(self, fork: Path, substrate: Substrate, broker: Broker) -> None:
        self.fork, self.frozen = fork.resolve(), substrate.root.resolve()
        self.mutable = substrate.file.mutable
        self.sealed = {path.resolve() for path in substrate.sealed}
        self.broker = broker
        self.finish_call: Finish | None = None
        self._tools: dict[str, tuple[type[Arguments], Callable[[Any], str], str]] = {
            "list_files": (
                ListFiles,
                self._list,
                "List files of your fork (or of the frozen substrate, under `frozen/`).",
            ),
            "read_file": (ReadFile, self._read, "Read a text file."),
            "search": (Search, self._search, "Search files for a regular expression."),
            "write_file": (WriteFile, self._write, "Write a whole file of your fork."),
            "edit_file": (EditFile, self._edit, "Replace one exact piece of a file of your fork."),
            "apply_move": (
                ApplyMove,
                self._apply,
                "Make a catalogue move of your axis in your "
                "fork: its recipe keys and its patches, exactly.",
            ),
            "run": (
                Shell,
                self._run,
                "Run a shell command in your fork; returns exit code and "
                "output. Scratch space is $TMPDIR.",
            ),
            "check": (
                Nothing,
                self._check,
                "Check your fork before a run counts: the recipe parses, Python files compile, "
                "the data build, and a few steps train where this machine can. Free; `train` does "
                "it too.",
            ),
            "train": (
                Nothing,
                self._train,
                "Build data and train with your fork as it is now, as "
                "a job. Returns the run's number at once.",
            ),
            "wait": (OfRun, self._wait, "Wait until a training run has ended; returns its status."),
            "stop": (
                OfRun,
                self._stop,
                "End a training run that is hopeless. It counts for the part that it ran.",
            ),
            "logs": (Logs, self._logs, "The end of a training run's log and metrics."),
            "evaluate": (
                OfRun,
                self._evaluate,
                "Score every checkpoint of a finished run on dev, "
                "as a trusted job. Returns scores by domain.",
            ),
            "finish": (Finish, self._finish, "End your work and say what you found."),
        }
        desk = broker.desk
        if desk.teacher is not None or desk.library.folder is not None:
            self._tools["ask"] = (
                Ask,
                self._ask,
                f"Ask the operator's library{' and a teacher' if desk.teacher else ''} a question "
                f"of method ({desk.budget} questions in all, reading included).",
            )
        if desk.library.folder is not None:
            self._tools["read"] = (
                ReadKnowledge,
                self._read_knowledge,
                "Read a file of the library that `ask` named. Costs a question.",
            )

    def recall_finish(self, turns: list[Turn]) -> bool:
        """True if the conversation holds an accepted `finish`; sets `finish_call` from it."""
        accepted = {turn.tool_call_id for turn in turns if turn.content == FINISHED}
        for turn in turns:
            for call in turn.tool_calls:
                if call.name == "finish" and call.id in accepted:
                    self.finish_call = Finish.model_validate(call.arguments)
        return self.finish_call is not None

    def schemas(self) -> list[ToolSchema]:
        """All tools as a model sees them."""
        return [
            ToolSchema(name=name, description=text, parameters=kind.model_json_schema())
            for name, (kind, _, text) in self._tools.items()
        ]

    def call(self, call: ToolCall) -> str:
        """Runs one call; the result, or what was wrong with the call, as text."""
        if call.name not in self._tools:
            return f"error: there is no tool `{call.name}`; tools: {', '.join(self._tools)}"
        kind, function, _ = self._tools[call.name]
        try:
            return shorten(function(kind.model_validate(call.arguments)))
        except ValidationError as error:
            return f"error: arguments of {call.name}: {problems(error)}"
        except (AevoError, OSError, UnicodeError) as error:
            return f"error: {error}"

    def _list(self, given: ListFiles) -> str:
        top = self._readable(given.path)
        if not top.is_dir():
            raise ToolFailure(f"{given.path} is not a folder")
        paths = self._below(top)
        lines = [f"{path.lstat().st_size:>8} {self._shown(path)}" for path in paths]
        if len(lines) >= MOST_FILES:
            lines.append(f"[… only {MOST_FILES} files are listed …]")
        return "\n".join(lines)

    def _read(self, given: ReadFile) -> str:
        lines = read_text(self._readable(given.path)).splitlines(keepends=True)
        last = given.first_line - 1 + given.lines
        shown = list(enumerate(lines[:last], start=1))[given.first_line - 1 :]
        text = "".join(f"{number:>5}\t{line}" if given.numbers else line for number, line in shown)
        if len(lines) <= last and shown:
            return text
        return f"{text}[… {given.path} has {len(lines)} lines; read on with first_line …]"

    def _search(self, given: Search) -> str:
        top = self._readable(given.path)
        files = self._below(top) if top.is_dir() else [top]
        found = _search(given.pattern, files)
        lines = [f"{self._shown(files[index])}:{number}: {line}" for index, number, line in found]
        if len(lines) >= MOST_FOUND:
            lines.append(f"[… only {MOST_FOUND} lines are shown; narrow pattern or path …]")
        return "\n".join(lines) or "no match"

    def _write(self, given: WriteFile) -> str:
        write_text(self._writable(given.path), given.content)
        return f"{given.path} written ({len(given.content)} characters)"

    def _edit(self, given: EditFile) -> str:
        path = self._writable(given.path)
        text = read_text(path)
        if text.count(given.find) == 0 and given.replace and text.count(given.replace) == 1:
            return f"{given.path} has this edit already"
        if text.count(given.find) != 1:
            raise ToolFailure(f"`find` occurs {text.count(given.find)} times in {given.path}")
        write_text(path, text.replace(given.find, given.replace))
        return f"{given.path} edited"

    def _apply(self, given: ApplyMove) -> str:
        moves = {move.id: move for move in self.broker.moves()}
        if given.move not in moves:
            raise ToolFailure(
                f"your axis has no move {given.move}; "
                f"it has: {', '.join(moves) or 'none of the catalogue'}"
            )
        move, substrate = moves[given.move], self.broker.substrate
        substrate.plain_files(self.fork)
        left = [edit for edit in move.patch if self._to_make(edit)]
        apply(Change(set=move.set, edits=left), self.fork, substrate.file.recipe)
        return f"{move.id} applied: {move.change.summary()}"

    def _to_make(self, edit: Edit) -> bool:
        """False for an edit that was made already, by a call that a crash cut short.

        Raises:
            ToolFailure: it does not fit the file as it is now.
        """
        path = self._writable(edit.file)
        text = path.read_text() if path.is_file() else ""
        if edit.find and text.count(edit.find) == 0 and text.count(edit.replace) == 1:
            return False
        if edit.find and text.count(edit.find) != 1:
            raise ToolFailure(
                f"the patch of {edit.file} does not fit your fork any more; "
                "undo what you changed there"
            )
        return True

    def _run(self, given: Shell) -> str:
        return metered(self.broker, self.fork, given.command, given.timeout_s)

    def _check(self, given: Nothing) -> str:
        return self.broker.check()

    def _train(self, given: Nothing) -> str:
        return self.broker.train().model_dump_json()

    def _wait(self, given: OfRun) -> str:
        return self.broker.wait(given.run).model_dump_json()

    def _stop(self, given: OfRun) -> str:
        return self.broker.stop(given.run)

    def _logs(self, given: Logs) -> str:
        return self.broker.logs(given.run, given.lines)

    def _evaluate(self, given: OfRun) -> str:
        return json.dumps(in_short(self.broker.evaluate(given.run)))

    def _ask(self, given: Ask) -> str:
        return self.broker.desk.ask(given.question)

    def _read_knowledge(self, given: ReadKnowledge) -> str:
        return self.broker.desk.read(given.file, given.first_line, given.lines)

    def _finish(self, given: Finish) -> str:
        self.broker.check_choice(given.run, given.checkpoint)
        return FINISHED

    def _readable(self, name: str) -> Path:
        """A path of the fork, or below `frozen/` one of the substrate's frozen files."""
        if name == "frozen" or name.startswith("frozen/"):
            path = _inside(self.frozen, name.removeprefix("frozen").lstrip("/") or ".")
            if path in self.sealed:
                raise ToolFailure(f"{name} is sealed: no worker may read it")
            return path
        return _inside(self.fork, name)

    def _below(self, top: Path) -> list[Path]:
        """The files below a readable folder. Sealed ones are left out, and links: a worker may have
        made them, and they would be followed with our rights, not with its own."""
        if top.is_relative_to(self.fork):
            return visible_files(top, MOST_FILES)
        return [
            path
            for path in digest.files_below(top, ["."])
            if not path.is_symlink() and path not in self.sealed
        ]

    def _writable(self, name: str) -> Path:
        if name.startswith("frozen/"):  # a link in the fork once a shell ran, and never followed
            raise ToolFailure(f"{name} is not mutable; mutable: {', '.join(self.mutable)}")
        path = _inside(self.fork, name)
        relative = path.relative_to(self.fork).as_posix()
        if not any(relative == item or relative.startswith(item + "/") for item in self.mutable):
            raise ToolFailure(f"{name} is not mutable; mutable: {', '.join(self.mutable)}")
        return path

    def _shown(self, path: Path) -> str:
        if path.is_relative_to(self.fork):
            return path.relative_to(self.fork).as_posix()
        return f"frozen/{path.relative_to(self.frozen).as_posix()}"


def claims(call: Finish | None, reason: str) -> Claims:
    """What the agent said at the end; if it never finished, `reason` says why."""
    if call is None:
        return Claims(summary="", failure_modes=[f"the agent did not finish: {reason}"])
    return Claims(
        summary=call.summary,
        claimed_dev=call.claimed_dev,
        findings=call.findings,
        failure_modes=call.failure_modes,
    )


def in_short(found: Evaluation) -> dict[str, Any]:
    """What an agent needs of scores: figures in four digits, no digests."""
    scores = {
        name: {
            "dev": score.dev and round(score.dev, DIGITS),
            "n": score.n,
            "domains": {
                domain: round(item.accuracy, DIGITS) for domain, item in score.domains.items()
            },
            **({"error": score.error} if score.error else {}),
        }
        for name, score in found.scores.items()
    }
    return {
        "run": found.run,
        "criterion": found.criterion,
        "selected": found.selected,
        "scores": scores,
    }


def shorten(text: str) -> str:
    """At most MAX_OUTPUT characters; head and tail are kept."""
    if len(text) <= MAX_OUTPUT:
        return text
    half = MAX_OUTPUT // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half} characters left out …]\n{text[-half:]}"


def _inside(root: Path, name: str) -> Path:
    """`root/name` with links resolved; refused if that leads out of `root`."""
    if not name.isprintable() or len(name) > 1000:
        raise ToolFailure(f"{ascii(name)[:300]} is no name of a file")
    path = Path(os.path.realpath(root / name))  # resolve() raises for links in a circle
    if not path.is_relative_to(root.resolve()):
        raise ToolFailure(f"{name} is outside of your fork")
    return path


def _search(pattern: str, files: list[Path]) -> list[tuple[int, int, str]]:
    """Index of the file, number and text of each line that matches; see `aevo.work.searching`.

    Raises:
        ToolFailure: it is no regular expression, or takes too long or too much memory.
    """
    given = {"pattern": pattern, "files": [str(path) for path in files], "most": MOST_FOUND}
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", searching.__file__],
            timeout=SEARCH_S,
            input=json.dumps(given).encode(),
            capture_output=True,
        )
    except subprocess.TimeoutExpired as error:
        raise ToolFailure(f"the search took more than {SEARCH_S:g} s", "simplify it") from error
    if done.returncode != 0:
        raise ToolFailure("the search took too long or too much memory", "simplify the expression")
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise ToolFailure(answer["error"])
    return [(index, number, line) for index, number, line in answer["found"]]
