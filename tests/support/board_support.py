"""A campaign with real adapters and an export command, for the boards outside of it."""

import hashlib
import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir
from safetensors.numpy import save_file

from aevo.config.schema import Config, load
from aevo.evaluate.adapters import CONFIG, WEIGHTS, identities
from aevo.files.documents import read, write_json, write_text, write_yaml
from aevo.files.paths import Layout
from aevo.leaderboard.external import Clock
from aevo.records.campaign import Campaign
from aevo.records.manifest import Manifest
from aevo.start.command import CONF
from aevo.substrate.frozen import Command, Substrate, SubstrateFile
from tests.support.builders import World, catalogue, start_campaign, write_round

EXPORT = """\
import sys, zipfile
from pathlib import Path
adapter, out = map(Path, sys.argv[1:])
out.parent.mkdir(parents=True, exist_ok=True)
with zipfile.ZipFile(out.with_suffix(".part"), "w") as archive:
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
        archive.writestr(info, (adapter / name).read_bytes())
out.with_suffix(".part").rename(out)
"""
MODULE = "backbone.layers.0.mixer.in_proj"
NOON = 1_800_014_400.0 - 1_800_014_400.0 % 86400 + 43200  # some UTC day, 12:00


@dataclass
class FakeClock:
    """Time that passes only when somebody waits."""

    time: float = NOON
    waits: list[float] = field(default_factory=list)

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.time += seconds

    @property
    def clock(self) -> Clock:
        return Clock(self.now, self.sleep)


@cache
def configuration(*overrides: str) -> Config:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return load(compose("config", overrides=list(overrides)))


def make_campaign(root: Path, world: World, *overrides: str) -> Layout:
    """A campaign whose first round's candidates have all ended, each with a LoRA of its own."""
    layout = start_campaign(root, n_axes=5)
    substrate, base = root.parent / "substrate", root.parent / "base"
    base.mkdir()
    save_file({f"{MODULE}.weight": np.zeros((6, 4), np.float32)}, base / "model.safetensors")
    write_text(base / "config.json", "{}")
    write_text(substrate / "export.py", EXPORT)
    write_text(substrate / "recipe.yaml", "{}\n")
    write_yaml(substrate / "axes.yaml", catalogue())
    write_yaml(
        substrate / "substrate.yaml",
        SubstrateFile(
            name="built",
            recipe="recipe.yaml",
            catalogue="axes.yaml",
            mutable=["recipe.yaml"],
            frozen=["axes.yaml", "export.py"],
            commands={
                "export": Command(
                    cwd="substrate", argv=["{python}", "export.py", "{adapter}", "{out}"]
                )
            },
        ),
    )
    pinned = Substrate(substrate, read(SubstrateFile, substrate / "substrate.yaml")).freeze()
    campaign = read(Campaign, layout.campaign)
    write_yaml(
        layout.campaign,
        campaign.model_copy(
            update={
                "pins": campaign.pins.model_copy(update={"substrate": pinned}),
                "base_path": str(base),
                "config": configuration(*overrides).model_dump(mode="json"),
            }
        ),
    )
    add_round(layout, 1, world)
    return layout


def add_round(layout: Layout, number: int, world: World) -> None:
    """A round whose workers have ended, with one seed of the anchor: what a board does with an
    entry is asked here, not which seeds are submitted."""
    write_round(layout, number, world)
    write_yaml(
        layout.round(number).config, Config.model_validate(read(Campaign, layout.campaign).config)
    )
    for path in sorted(layout.round(number).root.glob("c*/manifest.json")):
        manifest = read(Manifest, path)
        assert manifest.selected is not None
        run = layout.round(number).candidate(manifest.candidate).run(1)
        seed = 100 * number + int(manifest.candidate[1:])
        sha = write_adapter(run.adapter(manifest.selected.checkpoint), seed)
        selected = manifest.selected.model_copy(update={"adapter_sha256": sha})
        update = {"selected": selected, "runs": manifest.runs[:1]}
        write_json(path, manifest.model_copy(update=update))


def write_adapter(
    folder: Path, seed: int, rank: int = 2, module: str = MODULE, value: float | None = None
) -> str:
    """A LoRA of `module`; returns the digest by which an evaluation names it."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(rank, 4)).astype(np.float32)
    if value is not None:
        a[0, 0] = value
    b = rng.normal(size=(6, rank)).astype(np.float32)
    save_file(
        {
            f"base_model.model.{module}.lora_A.weight": a,
            f"base_model.model.{module}.lora_B.weight": b,
        },
        folder / WEIGHTS,
    )
    write_text(
        folder / CONFIG,
        json.dumps(
            {
                "peft_type": "LORA",
                "r": rank,
                "lora_alpha": 2 * rank,
                "bias": "none",
                "target_modules": [module.rpartition(".")[2]],
            }
        ),
    )
    sha = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    return identities(sha, rank, 2.0)[1]
