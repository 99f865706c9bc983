"""Lets vLLM answer prompts, in vLLM's own environment: one process a GPU or tensor-parallel group.

    /path/to/vllm-env/bin/python vllm_engine.py TASK.json [--watch-stdin]

This file needs vLLM and the standard library and nothing of the stack around it; eval.vllm starts
it and makes sense of what it leaves. Written after the API of vLLM 0.17.1 (`LLM`, `LLMEngine.
add_request`, `step`, `add_lora`, `remove_lora`, `LoRARequest`, `TokensPrompt`, `SamplingParams`),
which is the same in 0.27.1, where it was run.

TASK.json:
    model, engine   model folder and further keyword arguments of `vllm.LLM`
    sampling        keyword arguments of `SamplingParams`; `max_tokens` is cut to what fits
    max_len         tokens of prompt and answer together
    at_once         adapters whose prompts are in the engine together (`max_loras`)
    prompts         file of {"item": number, "ids": [token, ...]} lines
    answers         file to write, new: lines as below, on disk before more is asked of the engine
    work            [{"key", "name", "path" (null: the base alone), "items": [number, ...]}, ...]
    canary          null, or {"path", "items", "max_tokens", "agree"}: a loud adapter. Before the
                    work base and canary answer in turn, twice, and the base once more after it: the
                    canary must change half of the texts, both must answer as before (`agree`: share
                    of texts). Else the engine ends with an error, its answers taken back

Lines of `answers`:
    {"started": {"vllm": version, "seconds": s}}
    {"key", "item", "ids", "end": "stop" | "length"}   one answer; `ids` may end in a stop token
    {"key", "refused": reason}                         vLLM does not take this adapter
    {"key", "unchecked": true}     this vLLM does not tell whether it uses all of the adapter
    {"canary": remark}             how that went
    {"done": {"tokens": n, "seconds": s}}              last

With --watch-stdin the process and everything it started ends when its standard input does: its
starter may be killed without a chance to say so, and a GPU must not stay taken.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Loaded adapters of experts changed the base: vllm-project/vllm#42008.
BROKEN = ((0, 20), (0, 22, 1))
Task = dict[str, Any]
Row = dict[str, Any]


class Inspector:
    """Becomes a base class of vLLM's worker (`worker_extension_cls`), to look inside of it."""

    model_runner: Any

    def unused_lora_modules(self, adapter: int) -> list[str] | None:
        """Modules of a loaded adapter that no layer of the model takes up: vLLM leaves them out
        without a word. None: this version keeps its adapters elsewhere.
        """
        worker_manager = getattr(self.model_runner, "lora_manager", None)
        manager = getattr(worker_manager, "_adapter_manager", None)
        layers = getattr(manager, "modules", None)
        if manager is None or not layers or not hasattr(manager, "get_adapter"):
            return None
        loaded = getattr(manager.get_adapter(adapter), "loras", None)
        if not isinstance(loaded, dict):
            return None
        return sorted(set(loaded) - set(layers))


def end_with_stdin() -> None:
    """Waits for the end of standard input, then kills this process group. The starter gives every
    engine a session of its own, so nobody else is in it."""
    while os.read(0, 4096):
        pass
    os.killpg(0, signal.SIGKILL)


def appender(path: Path) -> Callable[[list[Row]], None]:
    """A function that appends rows to a new file and returns when they are on disk."""
    handle = path.open("x", encoding="utf-8")

    def append(rows: list[Row]) -> None:
        if rows:
            handle.write("".join(json.dumps(row) + "\n" for row in rows))
            handle.flush()
            os.fsync(handle.fileno())

    return append


def read_prompts(path: Path) -> dict[int, list[int]]:
    """Token ids by the item's number."""
    with path.open(encoding="utf-8") as lines:
        return {row["item"]: row["ids"] for row in map(json.loads, lines)}


def load_adapter(llm: Any, request: Any, key: str) -> list[Row]:
    """Hands an adapter to the engine; the rows that say what is not as it should be.

    vLLM reads an adapter again with its first prompt, where a fault would end the whole engine;
    asked for ahead, the fault is told and the engine lives.
    """
    try:
        llm.llm_engine.add_lora(request)
        unused = llm.collective_rpc("unused_lora_modules", args=(request.lora_int_id,))
    except Exception as error:  # what fails in the worker comes as a bare one
        if type(error).__name__ == "EngineDeadError":
            raise
        return [{"key": key, "refused": " ".join(str(error).split())}]
    if unused[0] is None:
        return [{"key": key, "unchecked": True}]
    if unused[0]:
        llm.llm_engine.remove_lora(request.lora_int_id)
        shown = ", ".join(unused[0][:3]) + (" ..." if len(unused[0]) > 3 else "")
        reason = f"{len(unused[0])} of its modules vLLM leaves out: {shown}"
        return [{"key": key, "refused": reason}]
    return []


def submit(llm: Any, task: Task, entry: Row, request: Any, prompts: dict[int, list[int]]) -> None:
    """Queues an adapter's prompts; the id of a request is the key, a space, the item."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    for item in entry["items"]:
        ids = prompts[item]
        most = min(task["sampling"]["max_tokens"], task["max_len"] - len(ids))
        params = SamplingParams(
            **{**task["sampling"], "max_tokens": most}, output_kind=RequestOutputKind.FINAL_ONLY
        )
        llm.llm_engine.add_request(
            f"{entry['key']} {item}", {"prompt_token_ids": ids}, params, lora_request=request
        )


def finished(llm: Any) -> Iterator[list[Row]]:
    """Steps the engine until nothing is left in it; after each step the answers that ended."""
    engine = llm.llm_engine
    while engine.has_unfinished_requests():
        rows = []
        for output in engine.step():
            if output.finished:
                key, _, item = output.request_id.partition(" ")
                answer = output.outputs[0]
                rows.append({"key": key, "item": int(item), "ids": list(answer.token_ids),
                             "end": answer.finish_reason})
        yield rows


def work_off(llm: Any, task: Task, append: Callable[[list[Row]], None]) -> int:
    """Answers everything in `work`, adapter after adapter; returns the number of new tokens."""
    from vllm.lora.request import LoRARequest

    prompts = read_prompts(Path(task["prompts"]))
    tokens = 0
    numbered = list(enumerate(task["work"], 1))
    for start in range(0, len(numbered), task["at_once"]):
        loaded = []
        for number, entry in numbered[start : start + task["at_once"]]:
            request = None
            if entry["path"] is not None:
                request = LoRARequest(entry["name"], number, entry["path"])
                remarks = load_adapter(llm, request, entry["key"])
                append(remarks)
                if any("refused" in row for row in remarks):
                    continue
                loaded.append(number)
            submit(llm, task, entry, request, prompts)
        for rows in finished(llm):
            append(rows)
            tokens += sum(len(row["ids"]) for row in rows)
        for number in loaded:
            llm.llm_engine.remove_lora(number)
    return tokens


def refuse_broken(version: str) -> None:
    """Ends with a version whose answers are known to be wrong once an adapter was loaded.

    Raises:
        RuntimeError: it is one.
    """
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
    if BROKEN[0] <= numbers <= BROKEN[1]:
        raise RuntimeError(f"vLLM {version}: from 0.20 to 0.22.1 a loaded adapter may change the "
                           "base (vllm-project/vllm#42008); install another version")


class Canary:
    """A loud adapter and the base, asked in turn; what they answered first must stay."""

    def __init__(self, llm: Any, task: Task) -> None:
        from vllm.lora.request import LoRARequest

        self.llm, self.given = llm, task["canary"]
        self.task = {**task, "sampling": {**task["sampling"],
                                          "max_tokens": self.given["max_tokens"]}}
        self.prompts = read_prompts(Path(task["prompts"]))
        self.number = len(task["work"]) + 1
        self.request = LoRARequest("canary", self.number, self.given["path"])
        self.base: list[list[int]] = []
        self.asked = 0

    def prove(self) -> str:
        """Base, canary, base, canary; returns a remark.

        Raises:
            RuntimeError: the engine is not to be believed.
        """
        self.base = self._answers(None)
        remarks = load_adapter(self.llm, self.request, "canary")
        refused = next((row["refused"] for row in remarks if "refused" in row), None)
        if refused is not None:
            return f"nothing proven, vLLM does not take it: {refused}"
        loud = self._answers(self.request)
        changed = len(loud) - self._same(loud, self.base)
        if changed < len(loud) / 2:
            raise RuntimeError(f"canary: a loud adapter changed {changed} of {len(loud)} texts: "
                               "this vLLM does not apply adapters")
        self.base_stays("after an adapter was loaded")
        if not self._agree(self._answers(self.request), loud):
            raise RuntimeError("canary: an adapter answers otherwise after the base was asked")
        self.llm.llm_engine.remove_lora(self.number)
        return f"a loud adapter changed {changed} of {len(loud)} texts, the base stayed"

    def base_stays(self, when: str) -> None:
        """Asks the base again.

        Raises:
            RuntimeError: it answers otherwise.
        """
        if not self._agree(self._answers(None), self.base):
            raise RuntimeError(f"canary: the base answers otherwise {when}: this vLLM mixes "
                               "adapters into it")

    def _answers(self, request: Any) -> list[list[int]]:
        self.asked += 1
        entry = {"key": f"canary-{self.asked}", "items": self.given["items"]}
        submit(self.llm, self.task, entry, request, self.prompts)
        found = {row["item"]: row["ids"] for rows in finished(self.llm) for row in rows}
        return [found[item] for item in self.given["items"]]

    def _same(self, one: list[list[int]], other: list[list[int]]) -> int:
        return sum(a == b for a, b in zip(one, other, strict=True))

    def _agree(self, one: list[list[int]], other: list[list[int]]) -> bool:
        return self._same(one, other) >= self.given["agree"] * len(one)


def work_proven(llm: Any, task: Task, append: Callable[[list[Row]], None]) -> int:
    """`work_off` between two looks at the canary, if there is one.

    Raises:
        RuntimeError: the engine is not to be believed; its answers are off the disk.
    """
    if task.get("canary") is None:
        return work_off(llm, task, append)
    canary = Canary(llm, task)
    append([{"canary": canary.prove()}])
    tokens = work_off(llm, task, append)
    try:
        canary.base_stays("after the work")
    except RuntimeError:
        os.truncate(task["answers"], 0)
        raise
    return tokens


def main(argv: list[str]) -> int:
    """Command line; returns the exit status. A failure is vLLM's own traceback."""
    if not 1 <= len(argv) <= 2 or argv[0] in ("-h", "--help") or argv[1:] not in (
        [], ["--watch-stdin"]
    ):
        print(__doc__)
        return 0 if argv[:1] in (["-h"], ["--help"]) else 2
    if len(argv) == 2:
        threading.Thread(target=end_with_stdin, daemon=True).start()
    task = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    begun = time.monotonic()
    import vllm

    refuse_broken(vllm.__version__)
    llm = vllm.LLM(model=task["model"], **task["engine"])
    append = appender(Path(task["answers"]))
    ready = time.monotonic()
    append([{"started": {"vllm": vllm.__version__, "seconds": round(ready - begun, 3)}}])
    tokens = work_proven(llm, task, append)
    append([{"done": {"tokens": tokens, "seconds": round(time.monotonic() - ready, 3)}}])
    return 0


if __name__ == "__main__":  # vLLM starts workers that import this file again
    sys.exit(main(sys.argv[1:]))
