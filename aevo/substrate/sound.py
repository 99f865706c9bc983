"""Does a substrate hang together? What would else show after a training, or never.

`python -m aevo.substrate freeze` refuses what is found here, all of it at once.
"""

import string
from collections.abc import Iterable
from typing import Any

from aevo.errors import AevoError, SubstrateError
from aevo.files.untrusted import IntegrityError, read_text, relative
from aevo.records.change import Change
from aevo.substrate.catalogue import Axis, Move, overlap, touches, whole
from aevo.substrate.frozen import Command, Substrate
from aevo.substrate.recipe import load_recipe

NEEDED = ("data", "train", "evaluate", "baseline")
GIVEN = ("items", "split")  # one of them draws the items


def check_sound(substrate: Substrate) -> None:
    """Refuses a substrate that contradicts itself.

    Raises:
        SubstrateError: with every fault.
    """
    found = faults(substrate)
    if found:
        raise SubstrateError(
            f"{substrate.root}: {'; '.join(found)}", "mend substrate.yaml and the catalogue"
        )


def faults(substrate: Substrate) -> list[str]:
    """What is wrong with a substrate, one line a fault."""
    file, found = substrate.file, list[str]()
    found += [
        f"{name} does not exist" for name in substrate.names if not (substrate.root / name).exists()
    ]
    if not _below(file.recipe, file.mutable):
        found.append(f"the recipe {file.recipe} is not mutable")
    found += _commands(substrate)
    try:
        recipe = load_recipe(substrate.root / file.recipe)
        axes = whole(substrate.catalogue).axes
    except AevoError as error:
        return [*found, error.what]
    for axis in axes:
        for move in axis.moves:
            where = f"{axis.id}/{move.id}"
            found += [f"{where} {fault}" for fault in _move(substrate, recipe, axis, move)]
    return found


def unknown_keys(substrate: Substrate, change: Change, recipe: dict[str, Any]) -> list[str]:
    """Recipe keys that a change sets, and that nothing reads as far as can be told: neither are
    they in `recipe`, nor optional, nor does the change touch code, which might."""
    if change.edits:
        return []
    return [
        key
        for key in change.set
        if not _known(recipe, key)
        and not any(overlap(key, other) for other in substrate.file.optional)
    ]


def _known(recipe: dict[str, Any], key: str) -> bool:
    """True for a key of the recipe, and for one inside of a mapping that is empty."""
    value: Any = recipe
    for part in key.split("."):
        if value == {} and value is not recipe:
            return True
        if not isinstance(value, dict) or part not in value:
            return False
        value = value[part]
    return True


def _commands(substrate: Substrate) -> list[str]:
    commands = substrate.file.commands
    found = [f"it has no command `{name}`" for name in NEEDED if name not in commands]
    if not any(name in commands for name in GIVEN):
        found.append("it has no command `items` (or `split`)")
    for name, given in commands.items():
        for template in [given] if isinstance(given, Command) else given.values():
            found += [
                f"command `{name}`: {word!r} is no word with placeholders"
                for word in template.argv
                if not _is_template(word)
            ]
    return found


def _is_template(word: str) -> bool:
    try:
        fields = [name for _, name, _, _ in string.Formatter().parse(word) if name is not None]
    except ValueError:  # a brace that is alone
        return False
    return all(name.isidentifier() for name in fields)


def _move(substrate: Substrate, recipe: dict[str, Any], axis: Axis, move: Move) -> Iterable[str]:
    if move.change.empty:
        yield "changes nothing"
    for key in touches(move.change):
        if axis.knobs and not any(overlap(key, knob) for knob in axis.knobs):
            yield f"touches {key}, which is none of its axis's knobs"
    for key in unknown_keys(substrate, move.change, recipe):
        yield f"sets {key}, which the recipe has not: name it in `optional` if the stack reads it"
    for edit in move.patch:
        if not _below(edit.file, substrate.file.mutable):
            yield f"patches {edit.file}, which is not mutable"
            continue
        try:
            relative(edit.file)
            path = substrate.root / edit.file
            count = read_text(path).count(edit.find) if path.exists() else 0
        except IntegrityError as error:
            yield error.what
            continue
        if edit.find and count != 1:
            yield f"patches a text that occurs {count} times in {edit.file}"
        elif not edit.find and path.exists():
            yield f"would make {edit.file}, which exists"


def _below(name: str, tops: Iterable[str]) -> bool:
    return any(name == top or name.startswith(f"{top}/") for top in tops)
