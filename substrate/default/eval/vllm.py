"""`--decoder vllm`: answers from vLLM engines, for many adapters of one base.

vLLM lives in an environment or container of its own and is called by command. What is asked goes
out as token ids, what is answered comes back as token ids (engine/vllm_engine.py says in what
files), so prompts, texts and scores are made here, for every decoder alike. In OUT/engine:

    prompts.jsonl, task-K.json   what engine K is asked
    canary/                      an adapter by which an engine proves itself (eval.canary)
    shard-K.jsonl, shard-K.log   what it has answered so far, and what it said
    answers.jsonl                what was answered before the present start

An answer is kept as soon as it is there and belongs to one adapter, base, item set and setting, not
to a shard: after a kill the missing ones alone are asked, on as many GPUs as there are then.

Greedy decoding in bf16 depends in its last bits on what else is in the batch, so answers of two
runs can differ where two tokens are about as likely; in fp32 that is rare.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from eval import fitting
from eval import shards as engines
from eval.adapter import Adapter, AdapterError
from eval.canary import PROMPTS, TOKENS, write_canary
from eval.errors import EvaluationError
from eval.files import lines_of, write

SCRIPT = Path(__file__).parent / "engine" / "vllm_engine.py"
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # MaxLoRARanks of vLLM 0.17.1, config/lora.py


@dataclass(frozen=True)
class Settings:
    """`--engine NAME=VALUE`; the defaults are the challenge's. Decoding is greedy (temperature 0,
    top_p 1); how long an answer may be is --max-new."""

    max_model_len: int = 8192  # tokens of prompt and answer; no more than the model's own limit
    max_num_seqs: int = 0  # answers an engine works on at once; 0: as many as fit its GPUs
    max_lora_rank: int = 32
    max_loras: int = 1  # adapters in an engine at once: 2 fill the gap when one's last answers run
    gpu_memory_utilization: float = 0.85
    tensor_parallel: int = 1  # GPUs an engine
    shards: int = 0  # engines; 0: as many as the GPUs here make
    dtype: str = "auto"  # auto: half precision, whatever the base has; float32 to compare
    prefix_caching: str = "auto"  # true | false; auto: where the architecture has hits
    chunked_prefill: bool = True
    enforce_eager: bool = False  # true: no compilation, no CUDA graphs; starts sooner, runs slower
    extra: Mapping[str, Any] = field(default_factory=dict)  # more arguments of vllm.LLM

    def meaning(self) -> dict[str, Any]:
        """What answers may depend on beyond rounding."""
        return {"max_model_len": self.max_model_len, "dtype": self.dtype, "extra": dict(self.extra)}


@dataclass(frozen=True)
class Asked:
    """An adapter whose answers are wanted (no folder: the base alone), and all that they follow
    from: base, items, adapter, settings."""

    name: str
    folder: Path | None
    origin: Mapping[str, Any]

    @property
    def key(self) -> str:
        """A short name for `origin`."""
        text = json.dumps(self.origin, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Answer:
    """New tokens for one item, without the end token; `end`: stop, or length (cut off)."""

    ids: list[int]
    end: str


@dataclass(frozen=True)
class Refusal:
    """What vLLM says of an adapter it does not take, one line."""

    reason: str


def parse_settings(pairs: Sequence[str]) -> Settings:
    """Settings from NAME=VALUE words.

    Raises:
        EvaluationError: an unknown name, or a value that is none; the line says what there is.
    """
    known = {f.name: f.default for f in fields(Settings)}
    given: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if name not in known or not equals:
            raise EvaluationError(f"--engine {pair}: NAME=VALUE, of {', '.join(known)}")
        try:
            given[name] = _value(name, text, known[name])
        except ValueError as error:
            raise EvaluationError(f"--engine {pair}: {error}") from error
    settings = Settings(**given)
    if settings.max_lora_rank not in RANKS:
        raise EvaluationError(f"--engine max_lora_rank={settings.max_lora_rank}: vLLM has "
                              f"{', '.join(map(str, RANKS))}")
    return settings


def _value(name: str, text: str, default: Any) -> Any:
    if name == "extra":
        value = json.loads(text or "{}")
        if not isinstance(value, dict):
            raise ValueError("a JSON object of arguments of vllm.LLM")
        return value
    if name == "prefix_caching" and text not in ("auto", "true", "false"):
        raise ValueError("auto, true or false")
    if isinstance(default, bool):
        if text not in ("true", "false"):
            raise ValueError("true or false")
        return text == "true"
    if isinstance(default, int | float):
        number = type(default)(text)
        if number < 0 or (number == 0 and name not in ("shards", "max_num_seqs")):
            raise ValueError("a positive number")
        return number
    return text


class VllmDecoder:
    """Answers of vLLM for a set of prompts.

    Args:
        command: what runs Python where vLLM is, in shell words.
        base: model folder.
        prompts: token ids by item.
        stop_ids: tokens that end an answer.
        max_new: tokens an answer may have.
        folder: OUT/engine.

    Raises:
        EvaluationError: no command, a prompt that is too long, too few GPUs.
    """

    def __init__(
        self, command: str, settings: Settings, base: Path, prompts: list[list[int]],
        stop_ids: Sequence[int], max_new: int, folder: Path,
    ) -> None:
        self.command = shlex.split(command)
        if not self.command:
            raise EvaluationError("--decoder vllm: no `command`; give the Python of an environment "
                                  "with vLLM, or what starts it in its container")
        self.settings, self.base, self.prompts = settings, base.resolve(), prompts
        self.stop_ids, self.max_new, self.folder = tuple(stop_ids), max_new, folder
        self.config = json.loads((base / "config.json").read_text(encoding="utf-8"))
        # vLLM refuses a longer `max_model_len` than the model is made for.
        limit = int(self.config.get("max_position_embeddings") or 1 << 30)
        self.max_len = min(settings.max_model_len, limit)
        longest = max(range(len(prompts)), key=lambda index: len(prompts[index]))
        if len(prompts[longest]) >= self.max_len:
            raise EvaluationError(
                f"the prompt of item {longest + 1} has {len(prompts[longest])} tokens and "
                f"max_model_len is {self.max_len}: raise it, or shorten the items"
            )
        self.devices = engines.device_groups(
            os.environ, settings.tensor_parallel, settings.shards, _device_count
        )
        self.version: str | None = None

    def check(self, adapter: Adapter) -> None:
        """Whether an adapter that fits the base fits these engines, too.

        Raises:
            AdapterError: it does not.
        """
        if adapter.rank > self.settings.max_lora_rank:
            raise AdapterError(
                f"rank {adapter.rank}: the engine's max_lora_rank is {self.settings.max_lora_rank}"
            )

    def answers(self, asked: Sequence[Asked]) -> dict[str, list[Answer] | Refusal]:
        """Answers to every prompt from every adapter, by name; those that are there are kept.

        Raises:
            EvaluationError: an engine ended early. Called again, it goes on from there.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        found = self._kept({entry.key for entry in asked})
        missing = {e.key: [i for i in range(len(self.prompts)) if (e.key, i) not in found]
                   for e in asked}
        refused: dict[str, str] = {}
        if any(missing.values()):
            shards = self._lay_out(asked, missing)
            engines.run([*self.command, str(SCRIPT)], shards, sum(map(len, missing.values())))
            rows = [row for shard in shards for row in engines.rows_of(shard.answers)]
            found |= _answers(rows)
            refused = {row["key"]: row["refused"] for row in rows if "refused" in row}
            self._tell(asked, rows)
        result: dict[str, list[Answer] | Refusal] = {}
        for entry in asked:
            if entry.key in refused:
                result[entry.name] = Refusal(f"vLLM: {refused[entry.key][:500]}")
                continue
            try:
                given = [found[entry.key, item] for item in range(len(self.prompts))]
            except KeyError as error:
                raise EvaluationError(f"{self.folder}: the engines are done and {entry.name} has "
                                      f"no answer to item {error.args[0][1]}") from error
            result[entry.name] = [Answer(_until(a.ids, self.stop_ids), a.end) for a in given]
        return result

    def tidy(self) -> None:
        """Removes what is of no use once the predictions are written; the logs stay."""
        for path in self.folder.glob("*.json*"):
            path.unlink()
        shutil.rmtree(self.folder / "canary", ignore_errors=True)

    def _kept(self, keys: set[str]) -> dict[tuple[str, int], Answer]:
        """Answers of earlier starts to what is asked now, gathered into one file."""
        together = self.folder / "answers.jsonl"
        parts = sorted(self.folder.glob("shard-*.jsonl"))
        rows = [row for path in [together, *parts] for row in engines.rows_of(path)]
        kept = {place: answer for place, answer in _answers(rows).items() if place[0] in keys}
        write(together, lines_of({"key": key, "item": item, **asdict(answer)}
                                 for (key, item), answer in kept.items()))
        for path in parts:
            path.unlink()
        return kept

    def _lay_out(
        self, asked: Sequence[Asked], missing: Mapping[str, list[int]]
    ) -> list[engines.Shard]:
        """Writes prompts and tasks; engine K takes every N-th item that is missing."""
        prompts = self.folder.resolve() / "prompts.jsonl"
        write(prompts, lines_of({"item": i, "ids": ids} for i, ids in enumerate(self.prompts)))
        canary = self._canary(asked)
        most = max(map(len, missing.values()))
        shards = []
        for number, devices in enumerate(self.devices[:most]):
            place = self.folder.resolve()
            shard = engines.Shard(number, place / f"task-{number}.json",
                                  place / f"shard-{number}.jsonl", place / f"shard-{number}.log",
                                  devices)
            work = [{"key": e.key, "name": e.name,
                     "items": missing[e.key][number :: len(self.devices)],
                     "path": None if e.folder is None else str(e.folder.resolve())} for e in asked]
            task = {
                "model": str(self.base), "engine": self._engine(asked),
                "sampling": {"temperature": 0.0, "top_p": 1.0, "max_tokens": self.max_new,
                             "stop_token_ids": list(self.stop_ids), "detokenize": False},
                "max_len": self.max_len, "at_once": self.settings.max_loras,
                "prompts": str(prompts), "answers": str(shard.answers), "canary": canary,
                "work": [entry for entry in work if entry["items"]],
            }
            write(shard.task, json.dumps(task, indent=1) + "\n")
            shards.append(shard)
        return shards

    def _canary(self, asked: Sequence[Asked]) -> dict[str, Any] | None:
        """What an engine proves itself by; None where no adapter is asked for. In half precision a
        text may change by itself where two tokens are about as likely, so that most must agree."""
        adapters = [entry.folder for entry in asked if entry.folder is not None]
        if not adapters:
            return None
        path = write_canary(self.folder.resolve() / "canary", adapters)
        agree = 1.0 if self.settings.dtype in ("float32", "float") else 0.75
        return {"path": str(path), "items": list(range(min(PROMPTS, len(self.prompts)))),
                "max_tokens": TOKENS, "agree": agree}

    def _engine(self, asked: Sequence[Asked]) -> dict[str, Any]:
        """Keyword arguments of vllm.LLM, beside `model`."""
        s = self.settings
        lora = {"enable_lora": True, "max_loras": s.max_loras, "max_lora_rank": s.max_lora_rank,
                "worker_extension_cls": "vllm_engine.Inspector"}
        return {
            # Tokens go in and out: vLLM's transformers need not know this tokenizer.
            "skip_tokenizer_init": True,
            "generation_config": "vllm",  # nothing of the model folder's sampling defaults
            "dtype": s.dtype, "seed": 0, "tensor_parallel_size": s.tensor_parallel,
            "gpu_memory_utilization": s.gpu_memory_utilization, "max_model_len": self.max_len,
            "max_num_seqs": self._at_once(), "enable_prefix_caching": self._keeps_prefixes(),
            "enable_chunked_prefill": s.chunked_prefill, "enforce_eager": s.enforce_eager,
            "disable_log_stats": True, **(lora if any(e.folder for e in asked) else {}), **s.extra,
        }

    def _at_once(self) -> int:
        s = self.settings
        if s.max_num_seqs:
            return s.max_num_seqs
        stored = fitting.stored_bytes(self.base) // (2 if s.extra.get("quantization") else 1)
        return fitting.at_once(self.config, stored, s.tensor_parallel, s.gpu_memory_utilization,
                               fitting.smallest_gpu)

    def _keeps_prefixes(self) -> bool:
        given = self.settings.prefix_caching
        return fitting.keeps_prefixes(self.config) if given == "auto" else given == "true"

    def _tell(self, asked: Sequence[Asked], rows: Sequence[dict[str, Any]]) -> None:
        names = {entry.key: entry.name for entry in asked}
        started = [row["started"] for row in rows if "started" in row]
        done = [row["done"] for row in rows if "done" in row]
        self.version = started[0]["vllm"]
        tokens, seconds = sum(d["tokens"] for d in done), max(d["seconds"] for d in done)
        print(f"vllm {self.version}: {len(done)} engine(s) ready after "
              f"{max(s['seconds'] for s in started):.0f} s; {tokens} tokens in {seconds:.1f} s, "
              f"{tokens / max(seconds, 1e-9):.0f} tokens/s", flush=True)
        for text in sorted({row["canary"] for row in rows if "canary" in row}):
            print(f"canary: {text}", flush=True)
        for key in sorted({row["key"] for row in rows if row.get("key") in names
                           and "unchecked" in row}):
            print(f"{names[key]}: this vLLM does not tell whether it uses every matrix of an "
                  "adapter", flush=True)


def _answers(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, int], Answer]:
    return {(row["key"], row["item"]): Answer(row["ids"], row["end"])
            for row in rows if "item" in row}


def _until(ids: list[int], ends: Sequence[int]) -> list[int]:
    return next((ids[:index] for index, token in enumerate(ids) if token in ends), ids)


def _device_count() -> int:
    import torch

    return torch.cuda.device_count()
