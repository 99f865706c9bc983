"""What is measured is what is recorded: the change that a record keeps must make the very fork.

A promotion stacks the recorded change onto the standing recipe, for every later trial. So a fork
may only be trained if that change, written as JSON and read again, turns the standing files into
the fork's, byte for byte, and its recipe value for value. What cannot be told by a change (a file
deleted, a key removed beside sections, a key with a dot in its name) is refused before it costs a
training. Not compared: whether a file may be executed.
"""

import tempfile
from pathlib import Path

from aevo.errors import SubstrateError
from aevo.files import digest
from aevo.records.change import Change
from aevo.substrate.frozen import Substrate
from aevo.substrate.recipe import apply, load_recipe


def recorded_change(substrate: Substrate, fork: Path, standing: Path) -> Change:
    """The change from `standing` to `fork`, as a record will keep it.

    Raises:
        SubstrateError: the fork holds what no change can tell, or is not plain.
    """
    substrate.plain_files(fork)
    change = substrate.diff(fork, standing)
    try:
        kept = Change.model_validate_json(change.model_dump_json())
    except ValueError as error:  # pydantic's, of what JSON has no word for
        raise SubstrateError(
            f"the change of {fork.name} cannot be recorded ({' '.join(str(error).split())[:200]})"
        ) from error
    with tempfile.TemporaryDirectory(prefix="aevo-replay-") as scratch:
        replayed = Path(scratch) / "fork"
        substrate.copy(standing, replayed)
        apply(kept, replayed, substrate.file.recipe)
        odd = _differences(substrate, replayed, fork)
    if odd:
        raise SubstrateError(
            f"what this fork changes cannot be recorded as a change: {', '.join(odd[:5])}",
            "delete no file and remove no key: empty the file, give the key a value; no key may "
            "have a dot in its name",
        )
    return kept


def _differences(substrate: Substrate, replayed: Path, fork: Path) -> list[str]:
    """What a replayed change makes other than the fork has it."""
    recipe = substrate.file.recipe
    sides = []
    for tree in (replayed, fork):
        leaves = digest.entries(tree, substrate.file.mutable)
        sides.append({name: leaf[2:] for name, leaf in leaves.items() if name != recipe})
    odd = sorted(
        name for name in {*sides[0], *sides[1]} if sides[0].get(name) != sides[1].get(name)
    )
    values = [digest.of_value(load_recipe(tree / recipe)) for tree in (replayed, fork)]
    return odd if values[0] == values[1] else [recipe, *odd]
