"""The embedded default's sealed files, from inside: out of reach, and nothing else misses them."""

import sys
from pathlib import Path

import pytest

from aevo import sandbox
from aevo.substrate.frozen import DEFAULT, open_substrate
from aevo.work.shell import run_shell

pytestmark = pytest.mark.long(15)

STACK = open_substrate(DEFAULT)
# What only the sealed files say of the hidden distribution and of transfer.
TOLD = (
    "cipher: 2, equation: 1}",
    "operators: broad",
    "external score",
    "THE SHIFT",
    "hidden_unshifted",
)
ATTACKS = {
    "path": "cat {root}/eval/hidden.yaml {root}/eval/items.py {root}/axes.yaml",
    "folder": "cat {root}/eval/* {root}/*.yaml; cat {root}/eval/__pycache__/items*",
    "link": "ln -s {root}/eval data/e; cat data/e/hidden.yaml data/e/items.py; rm data/e",
    "hard_link": "ln {root}/eval/hidden.yaml data/h && cat data/h",
    "import": "python3 -c 'from eval.items import distribution as d; from puzzles import *; "
    'print(d(load_preset("tiny"), "hidden"))\'',
    "data": 'python3 -c \'import pkgutil; print(pkgutil.get_data("eval", "hidden.yaml"))\'',
    "preset": "python3 -c 'from puzzles import load_preset; print(load_preset(\"tiny\"))'",
    "texts": "cat {root}/puzzles/*.md {root}/puzzles/*.yaml {root}/substrate.yaml {root}/data/*",
    "search": "grep -rIs -e 'numeral: 2' -e hidden_unshifted {root} {twin} / --include=*.yaml "
    "--include=items.py --exclude-dir=proc --exclude-dir=sys --exclude-dir=usr",
    "twin": "cat {twin}/eval/hidden.yaml {twin}/eval/items.py {twin}/axes.yaml",
    "compiled": "python3 -m compileall -q {root}/eval; python3 -m zipfile -c h.zip {root}/eval; "
    "python3 -m zipfile -e h.zip out; cat out/*; rm -r h.zip out",
}


def inside(command: str, kind: sandbox.Kind, folder: Path) -> str:
    """What a worker's shell answers in a fork of the default, beside a readable twin of it."""
    twin, fork = folder / "twin", folder / "fork"
    if not fork.exists():
        STACK.fork(fork, [])
        for path in STACK.sealed:
            to = twin / path.relative_to(STACK.root)
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes(path.read_bytes())
    hide = [str(path) for path in (*STACK.sealed, *STACK.sealed_in(twin))]
    ended, said, _ = run_shell(
        command.replace("{root}", str(STACK.root)).replace("{twin}", str(twin)),
        fork,
        [str(STACK.root), str(twin)],
        hide,
        kind,
        60,
    )
    return f"{ended}\n{said}"


@pytest.mark.parametrize("kind", sandbox.offered())
@pytest.mark.parametrize("attack", sorted(ATTACKS))
def test_sealed(attack: str, kind: sandbox.Kind, tmp_path: Path) -> None:
    """See `ATTACKS`: nothing that only a sealed file says comes back."""
    said = inside(ATTACKS[attack], kind, tmp_path)
    assert not [text for text in TOLD if text in said], said[:500]


def test_the_words_are_those_of_the_sealed_files() -> None:
    """Else the attacks above could not fail."""
    text = "".join(path.read_text() for path in STACK.sealed if path.suffix != ".pyc")
    assert all(word in text for word in TOLD)


@pytest.mark.parametrize("kind", sandbox.offered())
def test_honest_work_misses_nothing(kind: sandbox.Kind, tmp_path: Path) -> None:
    """Data is built, and what training imports of the frozen part is there."""
    build = f"{sys.executable} -m data.build --recipe recipe.yaml --preset tiny --seed 1 --out d"
    said = inside(f"{build} && wc -l d/train.jsonl && ls {{root}}/eval {{root}}", kind, tmp_path)
    assert said.startswith("exit code 0") and "d/train.jsonl" in said and "metric.py" in said, said
    said = inside(
        f"{sys.executable} -c 'import train.loop, eval.adapter, eval.chat'", kind, tmp_path
    )
    assert said.startswith("exit code 0"), said
