"""Starting a campaign: pin what must not change, have the items drawn, write round 1's policy.

Every step looks for its result first, so a start that was interrupted goes on where it was. The
campaign keeps copies of its substrate and constitution: what becomes of the checkout afterwards
neither changes nor stops it.
"""

import sys
import time
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from aevo.config.schema import Config
from aevo.errors import AevoError, ConfigError, SubstrateError
from aevo.files import digest
from aevo.files.documents import finished, read, write_yaml
from aevo.files.keys import flatten
from aevo.files.paths import CHECKOUT, Layout
from aevo.jobs.foreground import run_here
from aevo.jobs.submit import submit
from aevo.plan.graph import baseline_job
from aevo.plan.setup import OpenCampaign, catalogue_of
from aevo.policy import document
from aevo.records.campaign import Campaign, Pins
from aevo.records.change import Change
from aevo.records.policy import Policy, Provenance, StandingChange
from aevo.start import items, snapshot
from aevo.start.copies import MAX_COPIED, keep_constitution, keep_substrate
from aevo.start.preflight import can_run
from aevo.start.privacy import close_to_others
from aevo.substrate.frozen import Substrate, source_of
from aevo.substrate.offered import check_choices
from aevo.text import one_line

CONSTITUTION = CHECKOUT / "constitution.txt"
# A base checkpoint above this size is hashed once, when the campaign starts, not by every command.
MAX_HASHED = 4 * 2**30
PACKAGES = (
    "aevo",
    "torch",
    "transformers",
    "peft",
    "submitit",
    "hydra-core",
    "pydantic",
    "numpy",
    "scipy",
    "pandas",
)


def open_campaign(config: Config) -> OpenCampaign:
    """The campaign that `config` names: opened and checked, or started.

    Raises:
        ConfigError: a pinned key differs from the campaign's.
        SubstrateError: the substrate, constitution or base is not the pinned one.
    """
    layout = Layout(config.root)
    can_run(config)
    close_to_others(layout.root)
    if finished(Campaign, layout.campaign):
        record = read(Campaign, layout.campaign)
        _check_pinned(config, record, layout)
        _note_changed_source(config, record, layout)
    else:
        record = _start(config, layout)
    campaign = OpenCampaign.of(config, layout, record)
    verify(campaign)
    if config.model.source is not None:
        print(f"data: {record.data}", flush=True)
    _first_policy(campaign)
    # row 0 of the report
    submit(baseline_job(campaign, str(snapshot.take(layout, config))), config.cluster)
    return campaign


def verify(opened: OpenCampaign) -> None:
    """Checks substrate, base, constitution and real rows, the campaign's own, against its pins.

    Raises:
        SubstrateError: one of them was edited since the campaign started.
    """
    campaign = opened.record
    opened.verify()
    base = Path(campaign.base_path)
    if _size(base) <= MAX_HASHED and digest.of_tree(base, ["."]) != campaign.pins.base:
        raise SubstrateError(
            f"{base} is not the base checkpoint this campaign started with",
            "restore it, or start a new campaign with campaign=NAME",
        )
    rows = campaign.rows_path
    if rows is not None and digest.of_tree(Path(rows), ["."]) != campaign.pins.rows:
        raise SubstrateError(
            f"{rows} does not hold the rows this campaign was given at its start",
            "restore them, or start a new campaign with campaign=NAME",
        )
    path = Path(campaign.constitution_path)
    if not path.is_file() or digest.of_file(path) != campaign.pins.constitution:
        raise SubstrateError(
            f"{path} is not the constitution this campaign started with",
            "restore it, or start a new campaign with campaign=NAME",
        )


def _start(config: Config, layout: Layout) -> Campaign:
    source, constitution = _sources(config)
    check_choices(source, config.trainer, config.evaluator, config.model.train)
    pinned = source.verify()
    if not constitution.is_file():
        raise ConfigError(f"constitution={constitution} is no file", "give the path of one")
    substrate = keep_substrate(layout, source, pinned)
    keep_constitution(layout, constitution)
    base = _base(config, substrate, source)
    data = items.prepare(config, layout, substrate)
    rows = layout.rows if layout.source_report.exists() else None
    campaign = Campaign(
        name=config.campaign,
        created=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        pins=Pins(
            substrate=pinned,
            constitution=digest.of_file(layout.constitution),
            base=digest.of_tree(base, ["."]),
            dev_items=digest.of_file(layout.dev_items),
            hidden_items=digest.of_file(layout.hidden_items),
            rows=None if rows is None else digest.of_tree(rows, ["."]),
        ),
        substrate_path=str(substrate.root),
        constitution_path=str(layout.constitution),
        base_path=str(base),
        source_path=str(source.root),
        data=data,
        rows_path=None if rows is None else str(rows),
        config=config.model_dump(mode="json"),
        versions=_versions(),
    )
    write_yaml(layout.campaign, campaign, "What this campaign pinned when it started.")
    return campaign


def _sources(config: Config) -> tuple[Substrate, Path]:
    """What the command names: the operator's substrate and constitution, not the copies."""
    return source_of(config), Path(config.constitution or CONSTITUTION).resolve()


def _note_changed_source(config: Config, campaign: Campaign, layout: Layout) -> None:
    """One line if the operator's substrate or constitution is no longer what the campaign runs.

    A note, never an error: they may be edited, moved or gone.
    """
    if Path(campaign.substrate_path) != layout.substrate:
        return  # a campaign of an earlier version, which has no copies
    changed = []
    try:
        source, constitution = _sources(config)
        small = _size(source.root, source.names) <= MAX_COPIED
        if small and source.digest() != campaign.pins.substrate:
            changed.append(str(source.root))
        if constitution.is_file() and digest.of_file(constitution) != campaign.pins.constitution:
            changed.append(str(constitution))
    except (AevoError, OSError):
        return
    if changed:
        print(
            f"note: {' and '.join(changed)} changed since the start; this campaign keeps its "
            f"own copy in {layout.root}",
            flush=True,
        )


def _check_pinned(config: Config, campaign: Campaign, layout: Layout) -> None:
    given, fixed = config.pinned(), Config.model_validate(campaign.config).pinned()
    changed = [
        f"{key} (was {one_line(str(fixed[key]), 60)}, given {one_line(str(given[key]), 60)})"
        for key in given
        if given[key] != fixed[key]
    ]
    if changed:
        raise ConfigError(
            f"{layout.root} was started with other pinned settings: {', '.join(changed)}",
            "give the same, or start another campaign with campaign=NAME",
        )


def _base(config: Config, substrate: Substrate, source: Substrate) -> Path:
    """The base checkpoint's folder; made by the substrate's `prepare` if it does not ship.

    A relative path names a folder of the campaign's copy, or, if the substrate's digest does not
    cover it, one of the source, which is pinned by a digest of its own.
    """
    inside = substrate.root / config.model.base  # an absolute path stands for itself
    base = inside if inside.exists() else source.root / config.model.base
    if config.model.prepare is not None and not (base / "config.json").exists():
        print(f"preparing {config.model.name} in {base} (once) …", flush=True)
        base.parent.mkdir(parents=True, exist_ok=True)
        run_here(substrate.command("prepare", model=config.model.prepare, out=base))
    if not (base / "config.json").is_file():
        raise ConfigError(
            f"model.base={base} holds no checkpoint (config.json is missing)",
            "put one there in HF layout, or give model.base=PATH",
        )
    return base


def _first_policy(campaign: OpenCampaign) -> None:
    layout, config = campaign.layout, campaign.config
    if finished(Policy, layout.policy(1)):
        return
    worker = config.worker
    first = document.first_policy(
        config.policy, catalogue_of(campaign.record), worker.n - 1, worker.trainings
    )
    if config.model.recipe:
        standing = StandingChange(
            id=f"model-{config.model.name}",
            axis="operator",
            change=Change(set=flatten(config.model.recipe)),
            provenance=Provenance(round=0, figure=f"operator's settings for {config.model.name}"),
        )
        first = first.model_copy(update={"standing": [standing]})
    document.write(layout, first)


def _versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _size(folder: Path, names: Iterable[str] = (".",)) -> int:
    return sum(path.stat().st_size for path in digest.files_below(folder, names))
