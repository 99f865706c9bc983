"""Memory and seconds of an evaluation: every adapter answers every item, greedily.

A decoding step reads the weights that its rows need once; where the host launches each layer by
itself (transformers without CUDA graphs) its time counts instead, if it is longer.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from aevo.config.schema import Config
from aevo.studies.scale.architecture import Architecture, layer, parameters, weights
from aevo.studies.scale.assumptions import Assumptions
from aevo.studies.scale.hardware import Gpu
from aevo.studies.scale.parallel import resources

FORWARD = 1 / 3  # of layer_ms
NUMBER_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "half": 2, "auto": 2}


@dataclass(frozen=True)
class Way:
    """How one of the substrate's `evaluate` commands decodes.

    Attributes:
        number_bytes: of a weight; tensor: GPUs that hold a copy of the model; engines: copies;
        rows: that a copy works on, 0: as many as fit; longest: tokens that an answer may have;
        share: of a GPU's memory that it may take; graphs: the host does not launch each layer.
    """

    number_bytes: int
    tensor: int
    engines: int
    rows: int
    longest: int
    share: float
    graphs: bool


def way(config: Config) -> Way:
    """How this configuration's evaluator decodes: transformers (eval/evaluate.py: one GPU, 32 rows,
    by default fp32 and 48 tokens), or evaluator=vllm by its options, engines on the first node."""
    options = config.evaluator.options
    if config.evaluator.name != "vllm":
        size = NUMBER_BYTES[str(options.get("dtype", "float32"))]
        return Way(size, 1, 1, 32, int(options.get("max_tokens", 48)), 1.0, False)
    gpus = max(resources(config, "evaluate").gpus, 1)
    tensor = int(options.get("tensor_parallel", 1))
    return Way(
        number_bytes=_vllm_bytes(options),
        tensor=tensor,
        engines=int(options.get("shards", 0)) or max(gpus // tensor, 1),
        rows=int(options.get("max_num_seqs", 0)),
        longest=int(options.get("max_tokens", 7680)),
        share=float(options.get("gpu_memory_utilization", 0.85)),
        graphs=True,
    )


def _vllm_bytes(options: Mapping[str, Any]) -> int:
    """Bytes of a weight in an engine, which may round the base's to 8 bits."""
    extra = json.loads(str(options.get("extra", "{}")))
    if extra.get("quantization") == "fp8":
        return 1
    return NUMBER_BYTES[str(options.get("dtype", "auto"))]


@dataclass(frozen=True)
class Evaluation:
    """One adapter on some items: `seconds` for `items` answers of `answer` tokens; `memory` is
    bytes that each of `used` GPUs needs, of `room` it may have; the job has `gpus`; `engines`
    read the weights."""

    answer: int
    longest: int
    memory: float
    room: float
    used: int
    gpus: int
    engines: int
    per_item: float

    def seconds(self, items: int) -> float:
        """For so many items, once the weights are in place."""
        return items * self.per_item


def of(config: Config, model: Architecture, gpu: Gpu, assumed: Assumptions) -> Evaluation:
    """The estimate for this configuration's evaluator."""
    chosen, asked = way(config), resources(config, "evaluate")
    if not chosen.rows:
        chosen = replace(chosen, rows=_fitting(model, chosen, gpu, assumed))
    answer = min(assumed.answer_tokens, chosen.longest)
    cache = chosen.rows * (assumed.prompt_tokens + answer) * _cache(model)
    state = chosen.rows * _state(model)
    held = parameters(model) * chosen.number_bytes + cache + state
    step = (
        (_read(model, chosen) + cache / 2 + 2 * state)
        / chosen.tensor
        / (gpu.bandwidth * assumed.decode_efficiency)
    )
    if not chosen.graphs:
        step = max(step, len(model.pattern) * assumed.layer_ms / 1000 * FORWARD)
    prefill = (
        2
        * _used(model)
        * assumed.prompt_tokens
        / chosen.tensor
        / (gpu.peak(chosen.number_bytes) * assumed.kernel_mfu)
    )
    return Evaluation(
        answer=answer,
        longest=chosen.longest,
        room=gpu.memory * chosen.share,
        memory=held / chosen.tensor * assumed.reserve + assumed.context_gb * 2**30,
        used=chosen.tensor * chosen.engines,
        gpus=asked.gpus * asked.nodes,
        engines=chosen.engines,
        per_item=(answer * step / chosen.rows + prefill) / chosen.engines,
    )


def _fitting(model: Architecture, chosen: Way, gpu: Gpu, assumed: Assumptions) -> int:
    """Rows that fit beside the weights, as eval/fitting.py has them: 8 to 512."""
    room = (gpu.memory * chosen.share - assumed.context_gb * 2**30) / assumed.reserve
    left = room * chosen.tensor - parameters(model) * chosen.number_bytes
    row = (assumed.prompt_tokens + assumed.answer_tokens) * _cache(model) + _state(model)
    return max(8, min(512, int(left / row) // 8 * 8))


def _read(model: Architecture, chosen: Way) -> float:
    """Bytes of weights that a step of all rows reads: of experts those that any row chose."""
    found = 0.0
    for weight in weights(model):
        copies = float(weight.count)
        if weight.split == "expert":
            copies *= 1 - (1 - weight.active / weight.count) ** chosen.rows
        found += (
            0
            if weight.group == "embedding"
            else (weight.inputs * weight.outputs * copies * chosen.number_bytes)
        )
    return found


def _cache(model: Architecture) -> int:
    """Bytes of keys and values of a token, in bf16."""
    return 2 * 2 * model.kv_heads * model.head_dim * model.layers("*")


def _state(model: Architecture) -> int:
    """Bytes of the Mamba layers' state of a row, in fp32."""
    return 4 * model.mamba.inner * model.mamba.state * model.layers("M") if model.mamba else 0


def _used(model: Architecture) -> int:
    return sum(weight.used for kind in model.pattern for weight in layer(model, kind))
