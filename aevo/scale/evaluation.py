"""Memory and seconds of an evaluation: every adapter answers every item, greedily.

A decoding step reads the weights that its rows need once; where the host launches each layer by
itself (transformers without CUDA graphs) its time counts instead, if it is longer.
"""

from dataclasses import dataclass

from aevo.config import Config
from aevo.scale.architecture import Architecture, layer, parameters, weights
from aevo.scale.assumptions import Assumptions
from aevo.scale.hardware import Gpu
from aevo.scale.layout import resources

FORWARD = 1 / 3  # of layer_ms


@dataclass(frozen=True)
class Way:
    """How one of the substrate's `evaluate` commands decodes.

    Attributes:
        number_bytes: of a weight; parallel: over all GPUs of a node, or on one; rows: at a time;
        longest: tokens that an answer may have; graphs: the host does not launch each layer.
    """

    number_bytes: int
    parallel: bool
    rows: int
    longest: int
    graphs: bool


# eval/evaluate.py: fp32, one GPU, 32 rows, --max-new 48. vLLM: the challenge's settings.
HF = Way(4, False, 32, 48, False)
WAYS = {"auto": HF, "hf": HF, "vllm": Way(2, True, 64, 7680, True)}


@dataclass(frozen=True)
class Evaluation:
    """One adapter on some items: `seconds` for `items` answers of `answer` tokens; `memory` is
    bytes of a GPU, of `used` out of `gpus` of the job."""

    answer: int
    memory: float
    used: int
    gpus: int
    per_item: float

    def seconds(self, items: int) -> float:
        """For so many items, once the weights are in place."""
        return items * self.per_item


def of(config: Config, model: Architecture, gpu: Gpu, assumed: Assumptions) -> Evaluation:
    """The estimate for this configuration's evaluator."""
    way = WAYS.get(config.evaluator.name, HF)
    asked = resources(config, "evaluate")
    used = max(asked.gpus, 1) if way.parallel else 1
    answer = min(assumed.answer_tokens, way.longest)
    held = parameters(model) * way.number_bytes
    cache = way.rows * (assumed.prompt_tokens + answer) * _cache(model)
    state = way.rows * _state(model)
    memory = (held + cache + state) / used * assumed.reserve + assumed.context_gb * 2**30
    step = (_read(model, way) + cache / 2 + 2 * state) / used / (
        gpu.bandwidth * assumed.decode_efficiency)
    if not way.graphs:
        step = max(step, len(model.pattern) * assumed.layer_ms / 1000 * FORWARD)
    prefill = 2 * _used(model) * assumed.prompt_tokens / used / (
        gpu.peak(way.number_bytes) * assumed.kernel_mfu)
    return Evaluation(answer, memory, used, asked.gpus * asked.nodes,
                      answer * step / way.rows + prefill)


def _read(model: Architecture, way: Way) -> float:
    """Bytes of weights that a step of all rows reads: of experts those that any row chose."""
    found = 0.0
    for weight in weights(model):
        chosen = float(weight.count)
        if weight.split == "expert":
            chosen *= 1 - (1 - weight.active / weight.count) ** way.rows
        found += 0 if weight.group == "embedding" else (
            weight.inputs * weight.outputs * chosen * way.number_bytes)
    return found


def _cache(model: Architecture) -> int:
    """Bytes of keys and values of a token, in bf16."""
    return 2 * 2 * model.kv_heads * model.head_dim * model.layers("*")


def _state(model: Architecture) -> int:
    """Bytes of the Mamba layers' state of a row, in fp32."""
    return 4 * model.mamba.inner * model.mamba.state * model.layers("M") if model.mamba else 0


def _used(model: Architecture) -> int:
    return sum(weight.used for kind in model.pattern for weight in layer(model, kind))
