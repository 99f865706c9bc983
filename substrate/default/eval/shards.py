"""Engine processes of an evaluation: which devices each gets, starting, watching, ending them.

One process a shard, each a session of its own whose standard input is a pipe from here: when this
process ends, however it ends, the engines see the end of the pipe and end too.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.errors import EvaluationError

POLL_S = 0.2
EXIT_S = 20.0  # what an engine may take to end after its last answer before it is killed
PROGRESS_S = 30.0
# Of the environment around: another Python's paths, and places in another program's group of ranks.
DROPPED = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "RANK", "LOCAL_RANK", "WORLD_SIZE",
           "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TRANSFORMERS_VERBOSITY")
# No network, no byte code beside the frozen files, and workers that do not inherit our threads.
SET = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1",
       "VLLM_DO_NOT_TRACK": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1",
       "VLLM_WORKER_MULTIPROC_METHOD": "spawn"}

# What engines die of, as vLLM 0.17 and 0.27 say it, and what mends it.
TOO_SMALL = "raise tensor_parallel, or lower max_model_len or max_num_seqs"
CAUSES = (
    (r"No module named 'vllm'", "`command` must be the Python of an environment with vLLM in it"),
    (r"^.*(?:OutOfMemoryError|CUDA out of memory).*$", f"the GPU is too small: {TOO_SMALL}"),
    (r"^.*Free memory on device.*less than desired.*$",
     "something else holds memory of the GPU: end it, or lower gpu_memory_utilization"),
    (r"^.*(?:No available memory for the cache blocks|KV cache is needed).*$",
     f"the GPU is too small: {TOO_SMALL}"),
)
FAULT = re.compile(r"^(?:\([^)]*\) )?(?:ERROR \d\d-\d\d [\d:]+ \[[^]]*\] )?"
                   r"(?:[\w.]+\.)?(\w*(?:Error|Exception)): (.+)$", re.MULTILINE)
SECOND_HAND = ("Engine core initialization failed", "EngineCore encountered an issue",
               "WorkerProc initialization failed", "Executor failed")


@dataclass
class Shard:
    """One engine: its task and the files beside it."""

    number: int
    task: Path
    answers: Path
    log: Path
    devices: str | None  # CUDA_VISIBLE_DEVICES; None: as it is around us
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def done(self) -> bool:
        """Whether its last line is written."""
        return any("done" in row for row in rows_of(self.answers)[-1:])


def device_groups(
    around: Mapping[str, str], tensor_parallel: int, shards: int, count: Callable[[], int]
) -> list[str | None]:
    """CUDA_VISIBLE_DEVICES of each engine: what Slurm (or the user) gave, in groups of
    `tensor_parallel`; `shards` engines, 0: as many as fit. Where nothing is said every device that
    `count` finds; where there is none an engine is left to its own devices, as on CPU.

    Raises:
        EvaluationError: fewer devices than asked for.
    """
    given = around.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        devices = [str(index) for index in range(count())]
    else:
        devices = [name.strip() for name in given.split(",") if name.strip()]
    if not devices:
        return [None] * max(1, shards)
    wanted = (shards or max(1, len(devices) // tensor_parallel)) * tensor_parallel
    if wanted > len(devices):
        raise EvaluationError(
            f"{wanted} GPUs are needed (shards {shards or 1} x tensor_parallel {tensor_parallel}) "
            f"and {len(devices)} are here ({', '.join(devices)}): ask for more "
            "(model.evaluate.gpus=N) or lower them"
        )
    return [",".join(devices[i : i + tensor_parallel]) for i in range(0, wanted, tensor_parallel)]


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file that an engine appends to; a torn last one is left out."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return []
    lines = text[: text.rfind(b"\n") + 1].splitlines()
    return [json.loads(line) for line in lines if line]


def environment(around: Mapping[str, str], devices: str | None) -> dict[str, str]:
    """What an engine's process is given."""
    kept = {name: value for name, value in around.items() if name not in DROPPED}
    chosen = {} if devices is None else {"CUDA_VISIBLE_DEVICES": devices}
    return kept | SET | chosen


def run(command: Sequence[str], shards: Sequence[Shard], total: int) -> None:
    """Runs the engines until all are done; `total` is how many answers are expected.

    Raises:
        EvaluationError: one could not be started, or ended early; the others are ended then, and
            what was answered stays.
    """
    try:
        for shard in shards:
            shard.process = start(command, shard)
        told = ""
        for _ in _until_done(shards):
            news = f"vllm: {_progress(shards)} of {total} answers"
            if news != told:
                print(news, flush=True)
            told = news
    finally:
        for shard in shards:
            stop(shard)


def start(command: Sequence[str], shard: Shard) -> subprocess.Popen[bytes]:
    """Starts one engine, its output going to its log.

    Raises:
        EvaluationError: there is no such program.
    """
    argv = [*command, str(shard.task), "--watch-stdin"]
    with shard.log.open("ab") as log:
        log.write(f"$ {' '.join(argv)}  CUDA_VISIBLE_DEVICES={shard.devices}\n".encode())
        log.flush()
        try:
            return subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True, env=environment(os.environ, shard.devices),
            )
        except OSError as error:
            raise EvaluationError(
                f"`command`: {command[0]}: {error.strerror}; give the Python of vLLM's environment"
            ) from error


def stop(shard: Shard) -> None:
    """Ends an engine and everything it started."""
    process = shard.process
    if process is None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin is not None:
        process.stdin.close()


def _until_done(shards: Sequence[Shard]) -> Iterator[None]:
    """Returns when all are done; yields now and then, to tell how far they are."""
    told, ended = time.monotonic(), dict[int, float]()
    while len(ended) < len(shards) or _running(shards, ended):
        for shard in shards:
            if shard.number not in ended:
                alive = shard.process is not None and shard.process.poll() is None
                if shard.done:  # looked at after the process: its last line is there by then
                    ended[shard.number] = time.monotonic()
                elif not alive:
                    raise EvaluationError(failure(shard))
        if time.monotonic() - told > PROGRESS_S:
            told = time.monotonic()
            yield
        time.sleep(POLL_S)


def _running(shards: Sequence[Shard], ended: Mapping[int, float]) -> bool:
    """Whether an engine that is done still winds down, within its time."""
    return any(shard.process is not None and shard.process.poll() is None
               and time.monotonic() - ended[shard.number] < EXIT_S for shard in shards)


def _progress(shards: Sequence[Shard]) -> str:
    rows = [row for shard in shards for row in rows_of(shard.answers)]
    ready = sum("started" in row for row in rows)
    return f"{ready} of {len(shards)} engines ready, {sum('item' in row for row in rows)}"


def failure(shard: Shard) -> str:
    """Why an engine ended before its work, in one line with the place of its log."""
    code = shard.process.returncode if shard.process is not None else None
    ending = f"status {code}" if code is None or code >= 0 else signal.Signals(-code).name
    where = f"engine {shard.number}" + (f" (GPU {shard.devices})" if shard.devices else "")
    text = shard.log.read_text(encoding="utf-8", errors="replace")
    return f"{where} ended with {ending}: {diagnosis(text)}; log: {shard.log}"


def diagnosis(log: str) -> str:
    """The cause of an engine's end in its log, and what mends it where that is known."""
    last = log[log.rfind("\n$ ") + 1 :]  # of the latest start
    for pattern, mend in CAUSES:
        found = re.search(pattern, last, re.MULTILINE)
        if found:
            fault = FAULT.search(found.group(0))
            return f"{_short(fault.group(2) if fault else found.group(0))}: {mend}"
    faults = [f"{kind}: {text}" for kind, text in FAULT.findall(last)
              if not text.startswith(SECOND_HAND)]
    lines = [line for line in last.splitlines() if line.strip()]
    return _short(faults[-1] if faults else lines[-1] if len(lines) > 1 else "no word of why")


def _short(text: str) -> str:
    return " ".join(text.split())[:300]
