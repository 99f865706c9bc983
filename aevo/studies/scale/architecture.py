"""The architecture of a model as numbers, and from them every weight that it has.

Those of models whose checkpoints are large ship in `architectures.yaml`, which says where its
figures come from; `hf_config` reads those of a checkpoint at hand.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, PositiveInt

from aevo.errors import ConfigError
from aevo.files.documents import Part

SHIPPED = Path(__file__).with_name("architectures.yaml")

Split = Literal["tensor", "whole", "expert"]


class Mamba(Part):
    """A Mamba-2 mixer."""

    heads: PositiveInt
    head_dim: PositiveInt
    state: PositiveInt
    groups: PositiveInt
    conv: PositiveInt = 4
    chunk: PositiveInt = 128

    @property
    def inner(self) -> int:
        """Width of x and z."""
        return self.heads * self.head_dim

    @property
    def convolved(self) -> int:
        """Channels of the convolution: x, B and C."""
        return self.inner + 2 * self.groups * self.state


class Experts(Part):
    """A mixture of experts; `latent` is the width that routed experts have, null: the model's."""

    count: PositiveInt
    active: PositiveInt
    ffn: PositiveInt
    shared_ffn: PositiveInt
    latent: PositiveInt | None = None


class Architecture(Part):
    """One model. `pattern` has a letter a layer (M: Mamba-2, E: experts, *: attention, -: MLP), as
    has `mtp`, the block of multi-token prediction that the checkpoint carries beside them; it runs
    `mtp_passes` times where it is trained."""

    name: str
    family: Literal["nemotron_h", "llama"]
    pattern: str = Field(pattern=r"^[ME*-]+$")
    mtp: str = Field(default="", pattern=r"^[ME*-]*$")
    mtp_passes: int = Field(default=0, ge=0)
    hidden: PositiveInt
    vocab: PositiveInt
    tied: bool = False
    heads: PositiveInt
    kv_heads: PositiveInt
    head_dim: PositiveInt
    ffn: PositiveInt | None = None
    mamba: Mamba | None = None
    experts: Experts | None = None
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    source: str
    unverified: list[str] = []

    @property
    def bytes(self) -> int:
        """Of a parameter in the checkpoint."""
        return 4 if self.dtype == "float32" else 2

    def layers(self, kind: str) -> int:
        """How many layers of a kind there are, without multi-token prediction."""
        return self.pattern.count(kind)


@dataclass(frozen=True)
class Weight:
    """Equal matrices or vectors of a layer.

    Attributes:
        group: what it belongs to, for tables;
        leaf: its module's last name, by which an adapter can name it; None: it carries none;
        inputs, outputs: of the matrix; a vector has one input;
        split: `tensor` over the tensor-parallel ranks, `expert` over those that share the experts,
            or `whole` on each of them;
        count, active: how many there are, and how many of them one token goes through.
    """

    group: str
    leaf: str | None
    inputs: int
    outputs: int
    split: Split = "tensor"
    count: int = 1
    active: int = 1

    @property
    def parameters(self) -> int:
        return self.inputs * self.outputs * self.count

    @property
    def used(self) -> int:
        """Parameters that one token goes through."""
        return self.inputs * self.outputs * self.active


def layer(model: Architecture, kind: str) -> list[Weight]:
    """The weights of one layer of a kind, its norm included.

    Raises:
        ConfigError: the pattern has a kind of which the architecture gives no figures.
    """
    makers = {"M": _mamba, "*": _attention, "-": _mlp, "E": _experts}
    return [_vector("norm", model.hidden), *makers[kind](model)]


def ends(model: Architecture) -> tuple[list[Weight], list[Weight]]:
    """What stands before the layers, and what after them."""
    head = Weight("head", "lm_head", model.hidden, model.vocab, count=0 if model.tied else 1)
    return (
        [Weight("embedding", None, model.vocab, model.hidden, active=0)],
        [_vector("norm", model.hidden), head],
    )


def prediction(model: Architecture) -> list[Weight]:
    """The block of multi-token prediction: two norms and a matrix join the hidden state and the
    next token's embedding, then its layers, then a norm; embedding and head are the model's."""
    if not model.mtp:
        return []
    found = [_vector("norm", 3 * model.hidden), Weight("mtp", None, 2 * model.hidden, model.hidden)]
    return found + [weight for kind in model.mtp for weight in layer(model, kind)]


def weights(model: Architecture) -> Iterator[Weight]:
    """All weights, without multi-token prediction."""
    before, after = ends(model)
    yield from before
    for kind in model.pattern:
        yield from layer(model, kind)
    yield from after


def parameters(model: Architecture, mtp: bool = False) -> int:
    """Elements of the checkpoint's tensors; with `mtp` those of multi-token prediction, too."""
    extra = prediction(model) if mtp else []
    return sum(weight.parameters for weight in [*weights(model), *extra])


def active(model: Architecture, embeddings: bool = True) -> int:
    """Parameters that a token goes through; `embeddings`: with those of embedding and head, as
    model cards count."""
    found = sum(weight.used for weight in weights(model) if weight.group != "head")
    before, after = ends(model)
    return found + sum(
        weight.parameters
        for weight in [*before, *after]
        if embeddings and weight.group in ("embedding", "head")
    )


def _vector(group: str, size: int, split: Split = "whole") -> Weight:
    return Weight(group, None, 1, size, split)


def _mamba(model: Architecture) -> list[Weight]:
    mixer = _given(model, model.mamba, "mamba")
    rows = mixer.inner + mixer.convolved + mixer.heads
    return [
        Weight("mamba", "in_proj", model.hidden, rows),
        Weight("mamba", "out_proj", mixer.inner, model.hidden),
        Weight("mamba", None, mixer.conv + 1, mixer.convolved),  # convolution and its bias
        Weight("mamba", None, 3, mixer.heads),  # A, D, bias of dt
        _vector("mamba", mixer.inner, "tensor"),  # gated norm
    ]


def _attention(model: Architecture) -> list[Weight]:
    wide, narrow = model.heads * model.head_dim, model.kv_heads * model.head_dim
    return [
        Weight("attention", "q_proj", model.hidden, wide),
        Weight("attention", "k_proj", model.hidden, narrow),
        Weight("attention", "v_proj", model.hidden, narrow),
        Weight("attention", "o_proj", wide, model.hidden),
    ]


def _mlp(model: Architecture) -> list[Weight]:
    ffn = _given(model, model.ffn, "ffn")
    gate = [Weight("mlp", "gate_proj", model.hidden, ffn)] if model.family == "llama" else []
    return [
        *gate,
        Weight("mlp", "up_proj", model.hidden, ffn),
        Weight("mlp", "down_proj", ffn, model.hidden),
    ]


def _experts(model: Architecture) -> list[Weight]:
    own = _given(model, model.experts, "experts")
    width, count, used = own.latent or model.hidden, own.count, own.active
    found = [
        Weight("router", None, model.hidden, count, "whole"),
        _vector("router", count),  # correction bias
        Weight("routed experts", "up_proj", width, own.ffn, "expert", count, used),
        Weight("routed experts", "down_proj", own.ffn, width, "expert", count, used),
        Weight("shared experts", "up_proj", model.hidden, own.shared_ffn),
        Weight("shared experts", "down_proj", own.shared_ffn, model.hidden),
    ]
    if own.latent:
        found += [
            Weight("latent", None, model.hidden, own.latent, "whole"),
            Weight("latent", None, own.latent, model.hidden, "whole"),
        ]
    return found


def _given(model: Architecture, value: Any, key: str) -> Any:
    if value is None:
        raise ConfigError(f"architecture {model.name}: the pattern needs `{key}`")
    return value


def known(name: str) -> Architecture:
    """The architecture that ships for a model of conf/model.

    Raises:
        ConfigError: none does.
    """
    found = _shipped()
    if name not in found:
        raise ConfigError(
            f"model={name}: no architecture ships for it",
            f"set model.base to the checkpoint; known are {', '.join(found)}",
        )
    return Architecture.model_validate({"name": name, **found[name]})


@functools.cache
def _shipped() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(SHIPPED.read_text())
    return found
