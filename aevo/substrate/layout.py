"""Setting keys in a recipe's text, so that its comments and its layout stay.

A worker quotes the recipe to edit it: one that is written anew after each promotion would have it
quote what is not there any more. A key that is there gets its new value in its place, a new one a
line at the end of its section.
"""

from typing import Any

import yaml

from aevo.files.keys import set_key


def with_keys(text: str, keys: dict[str, Any]) -> str:
    """The text with dotted `keys` set, as far as there is a place for each: the caller reads it
    again and compares."""
    for key, value in keys.items():
        text = _placed(text, key.split("."), value)
    return text


def _placed(text: str, path: list[str], value: Any) -> str:
    """The text with one key set; unchanged where it has no place for it."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return text
    section = root
    while isinstance(section, yaml.MappingNode):
        known = {
            key.value: (key, node)
            for key, node in section.value
            if isinstance(key, yaml.ScalarNode)
        }
        if path[0] not in known:
            return _added(text, section, path, value)
        key, node = known[path[0]]
        if len(path) == 1:
            return _replaced(text, key, node, value)
        section, path = node, path[1:]
    return text


def _replaced(text: str, key: yaml.Node, node: yaml.Node, value: Any) -> str:
    end = node.end_mark.index
    while end > node.start_mark.index and text[end - 1].isspace():
        end -= 1  # a block ends where the next one begins
    if node.start_mark.line != key.start_mark.line:  # a block below its key goes onto its line
        return f"{text[: key.end_mark.index]}: {_flow(value)}{text[end:]}"
    return text[: node.start_mark.index] + _flow(value) + text[end:]


def _added(text: str, section: yaml.MappingNode, path: list[str], value: Any) -> str:
    """A line at the end of a section in block style; of one on one line, the section anew."""
    if section.flow_style or not section.value:
        start, end = section.start_mark.index, section.end_mark.index
        whole = yaml.safe_load(text[start:end]) or {}
        set_key(whole, ".".join(path), value)
        return text[:start] + _flow(whole) + text[end:]
    for name in reversed(path[1:]):
        value = {name: value}
    last = section.value[-1][1].end_mark.index
    while last > 0 and text[last - 1].isspace():
        last -= 1
    end = text.find("\n", last)  # behind a comment on that line
    end = len(text) if end < 0 else end
    indent = " " * section.value[0][0].start_mark.column
    return f"{text[:end]}\n{indent}{_flow(path[0])}: {_flow(value)}{text[end:]}"


def _flow(value: Any) -> str:
    """A value on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=1 << 20, sort_keys=False)
    return text.strip().removesuffix("...").strip()
