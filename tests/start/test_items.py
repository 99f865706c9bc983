"""The seed of the items: an integer, one for rules, a secret for language models."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from aevo.config.schema import Config, load
from aevo.errors import JobError, RecordError
from aevo.files.paths import Layout
from aevo.jobs.foreground import run_here
from aevo.records.job import Step
from aevo.start import items
from aevo.start.command import CONF
from aevo.substrate.frozen import DEFAULT, open_substrate
from tests.conftest import REGRESSION

MODEL = ("agent=openai", "agent.base_url=http://127.0.0.1:1/v1", "agent.model=m")


def configuration(*overrides: str) -> Config:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return load(
            compose("config", overrides=["model.dev_items=24", "model.hidden_items=24", *overrides])
        )


def drawn(root: Path, *overrides: str) -> tuple[bytes, bytes]:
    layout = Layout(root)
    items.draw(configuration(*overrides), layout, open_substrate(DEFAULT))
    return layout.dev_items.read_bytes(), layout.hidden_items.read_bytes()


def test_rules_draw_with_a_known_seed_and_an_integer_holds_for_any_agent(tmp_path: Path) -> None:
    plain = drawn(tmp_path / "a")
    assert plain == drawn(tmp_path / "b", "seed=7")
    assert plain == drawn(tmp_path / "c", f"model.items_seed={items.SCRIPTED_SEED}", *MODEL)
    assert plain != drawn(tmp_path / "d", "model.items_seed=2")
    assert not list(tmp_path.glob("*/vault/items-seed"))


def test_a_language_model_gets_a_secret_of_the_campaigns_own(tmp_path: Path) -> None:
    first, other = drawn(tmp_path / "a", *MODEL), drawn(tmp_path / "b", *MODEL)
    assert not set(first[0].splitlines()) & set(first[1].splitlines())
    assert first != other and first != drawn(tmp_path / "c")
    layout = Layout(tmp_path / "a")
    assert int(layout.items_seed.read_text()) != int(Layout(tmp_path / "b").items_seed.read_text())
    assert layout.items_seed.stat().st_mode & 0o777 == 0o600
    assert layout.vault.stat().st_mode & 0o777 == 0o700
    assert {path.name for path in layout.vault.iterdir()} == {
        "items-seed",
        "dev.jsonl",
        "hidden.jsonl",
    }


def test_a_start_that_was_killed_goes_on_with_the_same_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, config, stack = Layout(tmp_path), configuration(*MODEL), open_substrate(DEFAULT)

    def killed(step: Step) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(items, "run_here", killed)
    with pytest.raises(KeyboardInterrupt):
        items.draw(config, layout, stack)
    seed = layout.items_seed.read_text()
    monkeypatch.undo()
    items.draw(config, layout, stack)
    whole = layout.dev_items.read_bytes(), layout.hidden_items.read_bytes()
    layout.hidden_items.unlink()
    items.draw(config, layout, stack)
    assert whole == (layout.dev_items.read_bytes(), layout.hidden_items.read_bytes())
    assert layout.items_seed.read_text() == seed


def test_the_secret_is_in_no_command_line_and_no_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[Step] = []

    def note(step: Step) -> None:
        steps.append(step)
        run_here(step)

    monkeypatch.setattr(items, "run_here", note)
    drawn(tmp_path, *MODEL)
    seed = Layout(tmp_path).items_seed.read_text().strip()
    assert len(steps) == 2 and all(step.env[items.VARIABLE] == seed for step in steps)
    assert not any(seed in word for step in steps for word in step.argv)
    kept: dict[str, Any] = configuration(*MODEL).model_dump(mode="json")
    assert kept["model"]["items_seed"] is None and seed not in str(kept)


def test_a_stack_that_blurts_the_secret_out_is_not_quoted(tmp_path: Path) -> None:
    shutil.copytree(REGRESSION, tmp_path / "stack")
    (tmp_path / "stack" / "eval" / "items.py").write_text(
        "import os, sys\nsys.exit('seed ' + os.environ['ITEMS_SEED'])\n"
    )
    layout = Layout(tmp_path / "campaign")
    with pytest.raises(JobError, match=r"seed \(secret\)") as caught:
        items.draw(configuration(*MODEL), layout, open_substrate(tmp_path / "stack"))
    assert layout.items_seed.read_text().strip() not in str(caught.value)


def test_a_spoilt_seed_is_named(tmp_path: Path) -> None:
    drawn(tmp_path, *MODEL)
    layout = Layout(tmp_path)
    layout.items_seed.write_text("")
    layout.dev_items.unlink()
    with pytest.raises(RecordError, match="items-seed holds no seed"):
        drawn(tmp_path, *MODEL)
