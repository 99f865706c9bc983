"""A stand-in for vLLM 0.17.1 that answers through transformers; for tests, found by PYTHONPATH.

What eval/engine/vllm_engine.py uses of vLLM's offline API, with its signatures and ways to fail:
`LLM`, `LLMEngine` (v1/engine/llm_engine.py), `SamplingParams`, `LoRARequest`, `TokensPrompt` as a
dict, a worker that takes an extension class. An adapter is merged into the weights for its
requests.

Environment: STAND_IN_LOG, a file that gets one line of JSON for each start and each request;
STAND_IN_HOLD, a file that stops every engine after its first step for as long as it exists;
STAND_IN_UNSUPPORTED, a module's name that adapters may not have; STAND_IN_LEFT_OUT, one that is
silently left out; STAND_IN_FAULT, the text of the failure that ends the engine's start;
STAND_IN_WRONG, how it answers wrongly: `deaf` applies no adapter, `stained` leaves an adapter in
the base, `late` does so when it is taken off; STAND_IN_VERSION, the version that it claims.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from vllm.lora.request import LoRARequest
from vllm.sampling_params import SamplingParams

__all__ = ["LLM", "LoRARequest", "SamplingParams"]
__version__ = os.environ.get("STAND_IN_VERSION", "0.17.1")

# Of vllm/engine/arg_utils.py, EngineArgs: what `LLM` passes on from **kwargs. Others are refused.
ENGINE_ARGS = {
    "max_model_len",
    "max_num_seqs",
    "enable_prefix_caching",
    "enable_chunked_prefill",
    "disable_log_stats",
    "generation_config",
    "enable_lora",
    "max_loras",
    "max_lora_rank",
    "max_cpu_loras",
    "worker_extension_cls",
    "mamba_ssm_cache_dtype",
    "kv_cache_dtype",
    "max_num_batched_tokens",
}
PREFIX = "base_model.model."
WRONG = os.environ.get("STAND_IN_WRONG")


def _log(**what: Any) -> None:
    path = os.environ.get("STAND_IN_LOG")
    if path:
        with Path(path).open("a") as handle:
            handle.write(json.dumps(what) + "\n")


@dataclass
class CompletionOutput:
    """One answer."""

    index: int
    text: str
    token_ids: list[int]
    finish_reason: str | None


@dataclass
class RequestOutput:
    """A request's state."""

    request_id: str
    finished: bool
    outputs: list[CompletionOutput]


@dataclass
class _Request:
    request_id: str
    ids: list[int]
    params: SamplingParams
    adapter: int


class LLM:
    """`vllm.LLM`: keyword arguments as there, one process."""

    def __init__(
        self,
        model: str,
        *,
        skip_tokenizer_init: bool = False,
        trust_remote_code: bool = False,
        tensor_parallel_size: int = 1,
        dtype: str = "auto",
        seed: int = 0,
        gpu_memory_utilization: float = 0.9,
        enforce_eager: bool = False,
        **kwargs: Any,
    ) -> None:
        unknown = set(kwargs) - ENGINE_ARGS
        if unknown:
            raise TypeError(
                f"EngineArgs.__init__() got an unexpected keyword argument '{min(unknown)}'"
            )
        _log(
            start=os.environ.get("CUDA_VISIBLE_DEVICES"),
            pid=os.getpid(),
            eager=enforce_eager,
            tensor_parallel=tensor_parallel_size,
            gpu=gpu_memory_utilization,
            **kwargs,
        )
        fault = os.environ.get("STAND_IN_FAULT")
        if fault:  # as in the log of a real engine, whose worker is another process
            print(
                f"(EngineCore_DP0 pid=7) ERROR 11-23 17:42:08 [core.py:1100] {fault}",
                file=sys.stderr,
            )
            raise RuntimeError(
                "Engine core initialization failed. See root cause above. Failed core proc(s): {}"
            )
        self.llm_engine = LLMEngine(model, dtype, kwargs)

    def collective_rpc(
        self,
        method: str,
        timeout: float | None = None,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> list[Any]:
        """Calls a method of the worker, by name."""
        return [getattr(self.llm_engine.worker, method)(*args, **(kwargs or {}))]


class LLMEngine:
    """`vllm.v1.engine.llm_engine.LLMEngine` with its core, scheduler and worker."""

    def __init__(self, model: str, dtype: str, engine: dict[str, Any]) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(1)
        self.torch, self.engine = torch, engine
        self.model: Any = AutoModelForCausalLM.from_pretrained(
            model, dtype=torch.float32 if dtype == "float32" else torch.bfloat16
        ).eval()
        limit = self.model.config.max_position_embeddings
        if engine["max_model_len"] > limit:
            raise ValueError(
                f"User-specified max_model_len ({engine['max_model_len']}) is greater "
                f"than the derived max_model_len (max_position_embeddings={limit})"
            )
        self.waiting: list[_Request] = []
        self.loaded: OrderedDict[int, SimpleNamespace] = OrderedDict()
        layers = {name for name, _ in self.model.named_modules()}
        layers -= {
            name for name in layers if name.endswith(os.environ.get("STAND_IN_LEFT_OUT", "-"))
        }
        manager = SimpleNamespace(modules=dict.fromkeys(layers), get_adapter=self.loaded.get)
        bases: list[type] = []
        if "worker_extension_cls" in engine:
            module, _, name = engine["worker_extension_cls"].rpartition(".")
            bases.append(getattr(importlib.import_module(module), name))
        self.worker = type("Worker", tuple(bases), {})()
        self.worker.model_runner = SimpleNamespace(
            lora_manager=SimpleNamespace(_adapter_manager=manager)
        )

    def add_lora(self, lora_request: LoRARequest) -> bool:
        """Loads an adapter; the worker's refusal comes as a bare Exception."""
        try:
            return self._load(lora_request)
        except ValueError as error:
            raise Exception(f"Call to add_lora method failed: {error}") from error

    def remove_lora(self, lora_id: int) -> bool:
        if WRONG == "late" and (taken := self.loaded.get(lora_id)) and hasattr(self, "stepped"):
            self._stain(taken.updates)
        return self.loaded.pop(lora_id, None) is not None

    def _stain(self, updates: dict[str, Any]) -> None:
        with self.torch.inference_mode():
            for name, update in updates.items():
                self.model.get_parameter(name).add_(100 * update)

    def add_request(
        self,
        request_id: str,
        prompt: dict[str, Any],
        params: SamplingParams,
        arrival_time: float | None = None,
        lora_request: LoRARequest | None = None,
    ) -> str:
        """Queues a prompt."""
        if not isinstance(request_id, str):
            raise TypeError(f"request_id must be a string, got {type(request_id)}")
        ids = prompt["prompt_token_ids"]
        if len(ids) >= self.engine["max_model_len"]:
            raise ValueError(
                f"The decoder prompt (length {len(ids)}) is longer than the maximum "
                f"model length of {self.engine['max_model_len']}."
            )
        if lora_request is not None and lora_request.lora_int_id not in self.loaded:
            self._load(lora_request)
        adapter = 0 if lora_request is None else lora_request.lora_int_id
        self.waiting.append(_Request(request_id, ids, params, adapter))
        return request_id

    def has_unfinished_requests(self) -> bool:
        return bool(self.waiting)

    def step(self) -> list[RequestOutput]:
        """Answers up to `max_num_seqs` prompts of one adapter and one length."""
        hold = os.environ.get("STAND_IN_HOLD")
        while hold and hasattr(self, "stepped") and Path(hold).exists():
            time.sleep(0.05)
        first = self.waiting[0]
        if not first.request_id.startswith("canary"):
            self.stepped = True
        batch = [
            r for r in self.waiting if r.adapter == first.adapter and len(r.ids) == len(first.ids)
        ][: self.engine["max_num_seqs"]]
        self.waiting = [r for r in self.waiting if r not in batch]
        for request in batch:
            _log(asked=request.request_id)
        return self._answer(batch, first)

    def _answer(self, batch: list[_Request], first: _Request) -> list[RequestOutput]:
        torch, most = self.torch, max(r.params.max_tokens for r in batch)
        ids = torch.tensor([r.ids for r in batch])
        updates = self.loaded[first.adapter].updates if first.adapter and WRONG != "deaf" else {}
        before = {name: self.model.get_parameter(name).detach().clone() for name in updates}
        with torch.inference_mode():
            for name, update in updates.items():
                self.model.get_parameter(name).add_(update)
            out = self.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=most,
                do_sample=False,
                eos_token_id=first.params.stop_token_ids,
                pad_token_id=first.params.stop_token_ids[0],
            )
            for name, weight in before.items() if WRONG != "stained" else ():
                self.model.get_parameter(name).copy_(weight)
        return [
            self._output(r, row)
            for r, row in zip(batch, out[:, ids.shape[1] :].tolist(), strict=True)
        ]

    def _output(self, request: _Request, row: list[int]) -> RequestOutput:
        """vLLM keeps the token that ended an answer."""
        ends = [i for i, token in enumerate(row) if token in request.params.stop_token_ids]
        row = row[: ends[0] + 1] if ends else row[: request.params.max_tokens]
        answer = CompletionOutput(0, "", row, "stop" if ends else "length")
        return RequestOutput(request.request_id, True, [answer])

    def _load(self, request: LoRARequest) -> bool:
        from safetensors.torch import load_file

        folder = Path(request.lora_path)
        config = json.loads((folder / "adapter_config.json").read_text())
        if config["r"] > self.engine["max_lora_rank"]:
            raise ValueError(
                f"LoRA rank {config['r']} is greater than max_lora_rank "
                f"{self.engine['max_lora_rank']}."
            )
        tensors = load_file(folder / "adapter_model.safetensors")
        modules = {name.removeprefix(PREFIX).rpartition(".lora_")[0] for name in tensors}
        bad = sorted(m for m in modules if m.endswith(os.environ.get("STAND_IN_UNSUPPORTED", "-")))
        if bad:
            raise ValueError(
                f"While loading {folder}, expected target modules in ... but received "
                f"{bad}. Please verify that the loaded LoRA module is correct"
            )
        scale = config["lora_alpha"] / config["r"]
        updates = {
            f"{m}.weight": scale
            * (tensors[f"{PREFIX}{m}.lora_B.weight"] @ tensors[f"{PREFIX}{m}.lora_A.weight"])
            for m in modules
        }
        self.loaded[request.lora_int_id] = SimpleNamespace(
            loras=dict.fromkeys(modules), updates=updates
        )
        while len(self.loaded) > self.engine["max_loras"]:
            self.loaded.popitem(last=False)
        return True
