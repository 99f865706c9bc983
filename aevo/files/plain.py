"""The one parser of data that a worker, its code or a model wrote: YAML or JSON in, plain values
out, or a refusal.

A plain value is null, true or false, an integer of at most 63 bits, a finite number, text without
surrogates and control characters, a list of plain values, or a mapping of texts to plain values.
Nothing else that YAML or Python's JSON knows exists here: no dates, binaries, sets, merges, tags,
infinities, keys of other types or keys that occur twice. Guarantees: any bytes give a plain value
or a `FormError`, never another exception; time and memory are bounded by `Limits`, whatever aliases
say; what `of_value` says of two plain values is equal only if they are, to type and byte.
"""

import json
import math
import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import yaml
from yaml.constructor import SafeConstructor
from yaml.events import (
    AliasEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from yaml.nodes import ScalarNode
from yaml.resolver import Resolver

from aevo.errors import AevoError
from aevo.files.untrusted import shown

# What text may hold beside what is printable.
LINES = frozenset("\t\n\r")
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff]")
BIGGEST = 2**63 - 1
DIGITS = 40  # of a number's text; the longest exact double needs fewer


class FormError(AevoError):
    """Data that is no plain value, or too much of it; the text goes back to who wrote it."""

    code = 9


@dataclass(frozen=True)
class Limits:
    """How much data may be: bytes of its text, values in all, how deep they nest, characters of
    one text and of one key."""

    bytes: int = 256 << 10
    nodes: int = 20_000
    depth: int = 32
    text: int = 64 << 10
    key: int = 200


def from_json(data: bytes, where: str, limits: Limits | None = None, nan: bool = False) -> Any:
    """The plain value of a JSON text.

    Args:
        where: names the text in errors.
        nan: NaN and infinities, which Python writes, are null instead of refused.

    Raises:
        FormError: it is none, or above the limits.
    """
    limits = limits or Limits()
    text = _decoded(data, where, limits)

    def constant(word: str) -> None:
        if not nan:
            raise FormError(f"{where} holds {word}", "numbers must be finite")

    try:
        value = json.loads(
            text,
            parse_constant=constant,
            object_pairs_hook=_once(where),
            parse_int=lambda word: _integer(word, where),
        )
    except FormError:
        raise
    except (ValueError, RecursionError) as error:
        raise FormError(f"{where} is not JSON ({shown(error)})") from error
    return check(value, where, limits)


def from_yaml(data: bytes | str, where: str, limits: Limits | None = None) -> Any:
    """The plain value of a YAML text, read as `yaml.safe_load` reads it where that is plain.

    Raises:
        FormError: it is none, or above the limits.
    """
    limits = limits or Limits()
    if isinstance(data, str):
        data = data.encode("utf-8", errors="surrogatepass")
    text = _decoded(data, where, limits)
    try:
        return check(_Builder(where, limits).build(text), where, limits)
    except FormError:
        raise
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise FormError(f"{where} is not YAML ({shown(' '.join(str(error).split()))})") from error


def check(value: Any, where: str, limits: Limits | None = None) -> Any:
    """The value as it is, if it is plain.

    Raises:
        FormError: naming the first thing in it that is not.
    """
    limits = limits or Limits()
    pending, count = [(value, 0)], 0
    while pending:
        item, depth = pending.pop()
        count += 1
        if count > limits.nodes:
            raise FormError(f"{where} holds more than {limits.nodes} values")
        if depth > limits.depth:
            raise FormError(f"{where} nests deeper than {limits.depth}")
        if isinstance(item, dict):
            for key in item:
                _check_key(key, where, limits)
            pending += [(below, depth + 1) for below in item.values()]
        elif isinstance(item, list):
            pending += [(below, depth + 1) for below in item]
        else:
            _check_leaf(item, where, limits)
    return value


def is_plain(value: Any) -> bool:
    """True if `check` would accept it."""
    try:
        check(value, "")
    except FormError:
        return False
    return True


def _check_key(key: Any, where: str, limits: Limits) -> None:
    if type(key) is not str or not key.isprintable() or len(key) > limits.key:
        raise FormError(
            f"{where}: the key {shown(key)} is no printable text of at most "
            f"{limits.key} characters",
            "put it in quotes",
        )


def _check_leaf(item: Any, where: str, limits: Limits) -> None:
    if item is None or type(item) is bool:
        return
    if type(item) is int and abs(item) <= BIGGEST:
        return
    if type(item) is float and math.isfinite(item):
        return
    if type(item) is not str:
        raise FormError(
            f"{where} holds {shown(item)[:60]}, which is no finite number, text, true, "
            "false or null",
            "put texts in quotes",
        )
    if len(item) > limits.text:
        raise FormError(f"{where} holds a text of more than {limits.text} characters")
    if CONTROL.search(item):
        raise FormError(
            f"{where} holds a text with control characters or half a character: {shown(item)[:60]}"
        )


def _decoded(data: bytes, where: str, limits: Limits) -> str:
    if len(data) > limits.bytes:
        raise FormError(f"{where} is larger than {limits.bytes} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormError(f"{where} is not text (UTF-8)") from error


def _integer(word: str, where: str) -> int:
    if len(word) > DIGITS:
        raise FormError(f"{where} holds a number of {len(word)} digits")
    return int(word)


def _once(where: str) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise FormError(f"{where} names a key twice")
        return found

    return build


@dataclass
class _Open:
    """A list or mapping that is being read; `key` waits for its value, `nodes` counts with what
    aliases repeat."""

    value: Any
    anchor: str | None
    nodes: int = 1
    key: str | None = None
    height: int = 0


class _Builder:
    """Makes one value of YAML's events, without recursion, counting aliases in full."""

    def __init__(self, where: str, limits: Limits) -> None:
        self.where, self.limits = where, limits
        self.anchors: dict[str, tuple[Any, int, int]] = {}  # value, nodes, height
        self.stack: list[_Open] = []
        self.done: list[Any] = []
        self.count = 0
        self.scalars, self.resolver = SafeConstructor(), Resolver()

    def build(self, text: str) -> Any:
        """The value of the one document in `text`; None for an empty one."""
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            self._take(event)
        if len(self.done) > 1:
            raise FormError(f"{self.where} holds more than one document")
        return self.done[0] if self.done else None

    def _take(self, event: Event) -> None:
        if isinstance(event, ScalarEvent):
            self._put(self._scalar(event), event.anchor, 1, 0)
        elif isinstance(event, AliasEvent):
            if event.anchor not in self.anchors:
                raise FormError(
                    f"{self.where}: the alias {shown(event.anchor)} names nothing that is complete"
                )
            value, nodes, height = self.anchors[event.anchor]
            self._count(nodes)
            self._put(deepcopy(value), None, nodes, height)
        elif isinstance(event, SequenceStartEvent | MappingStartEvent):
            self._open(event)
        elif isinstance(event, SequenceEndEvent | MappingEndEvent):
            done = self.stack.pop()
            self._put(done.value, done.anchor, done.nodes, done.height)

    def _open(self, event: SequenceStartEvent | MappingStartEvent) -> None:
        wanted = "map" if isinstance(event, MappingStartEvent) else "seq"
        if event.tag not in (None, "!", f"tag:yaml.org,2002:{wanted}"):
            raise FormError(f"{self.where} holds the tag {shown(event.tag)}")
        self._count(1)
        if len(self.stack) >= self.limits.depth:
            raise FormError(f"{self.where} nests deeper than {self.limits.depth}")
        self.stack.append(_Open({} if wanted == "map" else [], event.anchor))

    def _put(self, value: Any, anchor: str | None, nodes: int, height: int) -> None:
        if anchor is not None:
            self.anchors[anchor] = (value, nodes, height)
        if not self.stack:
            self.done.append(value)
            return
        top = self.stack[-1]
        top.nodes += nodes
        top.height = max(top.height, height + 1)
        if isinstance(top.value, list):
            top.value.append(value)
        elif top.key is None:
            top.key = self._key(value, top.value)
        else:
            top.value[top.key], top.key = value, None

    def _key(self, value: Any, known: dict[str, Any]) -> str:
        _check_key(value, self.where, self.limits)
        if value in known:
            raise FormError(f"{self.where} names the key {shown(value)} twice")
        return str(value)

    def _count(self, nodes: int) -> None:
        self.count += nodes
        if self.count > self.limits.nodes:
            raise FormError(f"{self.where} holds more than {self.limits.nodes} values")

    def _scalar(self, event: ScalarEvent) -> Any:
        self._count(1)
        tag = event.tag
        if tag is None or tag == "!":
            tag = self.resolver.resolve(ScalarNode, event.value, event.implicit)
        kind = tag.removeprefix("tag:yaml.org,2002:")
        node = ScalarNode(f"tag:yaml.org,2002:{kind}", event.value)
        if kind == "str":
            return event.value
        if kind not in ("null", "bool", "int", "float") or ":" in event.value:
            raise FormError(
                f"{self.where} holds {shown(event.value)[:60]}, a {shown(kind)[:30]}",
                "put it in quotes if it is text",
            )
        if len(event.value) > DIGITS:
            raise FormError(f"{self.where} holds a number of {len(event.value)} digits")
        if kind == "null":
            return None
        make = {
            "bool": self.scalars.construct_yaml_bool,
            "int": self.scalars.construct_yaml_int,
            "float": self.scalars.construct_yaml_float,
        }[kind]
        try:
            return make(node)
        except (KeyError, IndexError) as error:
            raise FormError(f"{self.where}: {shown(event.value)[:60]} is no {kind}") from error
