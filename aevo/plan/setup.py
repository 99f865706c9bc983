"""What the jobs of a campaign are made from, opened once: every step and job builder takes this
value, and none resolves substrate, base or real rows for itself."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from aevo.config.schema import Config
from aevo.files.documents import read
from aevo.files.paths import Layout
from aevo.records.campaign import Campaign
from aevo.substrate.catalogue import Catalogue
from aevo.substrate.catalogue import load as load_catalogue
from aevo.substrate.frozen import Substrate, open_substrate


@dataclass(frozen=True)
class Setup:
    """As one command or round sees it: with its own configuration. Of a campaign that has not
    started it is a forecast, which nothing was verified of."""

    layout: Layout
    name: str
    config: Config
    substrate: Substrate
    base: str
    rows: str | None

    @property
    def sealed(self) -> list[str]:
        """The files that no worker may read; known once the campaign has started."""
        return []


@dataclass(frozen=True)
class OpenCampaign(Setup):
    """A campaign that has started: its record says what it pinned."""

    record: Campaign

    @classmethod
    def of(cls, config: Config, layout: Layout, record: Campaign) -> Self:
        """The campaign under a command's configuration.

        Raises:
            SubstrateError: its substrate is gone.
        """
        return cls(
            layout,
            record.name,
            config,
            open_substrate(Path(record.substrate_path)),
            record.base_path,
            record.rows_path,
            record,
        )

    @classmethod
    def read(cls, layout: Layout, number: int | None = None) -> Self:
        """The campaign as round `number` was configured (deadlines, patience, resources may differ
        from round to round); as it started, without a number.

        Raises:
            RecordError: no campaign or no such round; SubstrateError: its substrate is gone.
        """
        record = read(Campaign, layout.campaign)
        config = (
            Config.model_validate(record.config)
            if number is None
            else read(Config, layout.round(number).config)
        )
        return cls.of(config, layout, record)

    @property
    def sealed(self) -> list[str]:
        """In the campaign's copy of the substrate, and in the operator's, which may lie in a folder
        that every program needs (an environment's `src`). The user's own data is one too: dev and
        hidden are in it."""
        source, own = self.record.source_path, self.config.model.source
        twins = self.substrate.sealed_in(Path(source)) if source else []
        return [str(path) for path in (*self.substrate.sealed, *twins, *([own] if own else []))]

    def verify(self) -> None:
        """Checks the substrate against the campaign's pin.

        Raises:
            SubstrateError: it was edited since the campaign started.
        """
        self.substrate.verify(self.record.pins.substrate)


def catalogue_of(record: Campaign) -> Catalogue:
    """The axes that a campaign's search may take: those for real rows only where there are some,
    those of a trainer only where it trains, those of a benchmark only where it is asked."""
    return load_catalogue(
        open_substrate(Path(record.substrate_path)).catalogue,
        real=record.rows_path is not None,
        trainer=record.trainer,
        preset=record.preset,
    )
