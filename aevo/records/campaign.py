"""campaign.yaml: what a campaign pins when it starts, and every job checks before it acts."""

from typing import Any

from aevo.files.documents import Part, Record


class Pins(Part):
    """Digests (sha256, hex) of everything that must never change during a campaign."""

    substrate: str
    constitution: str
    base: str
    dev_items: str
    hidden_items: str | None = None
    rows: str | None = None


class Campaign(Record):
    """Written once by the first command that names the campaign.

    `config` is the resolved configuration of that command; `keys that are pinned` in it may not be
    changed by later commands (see `aevo.config.schema.PINNED`). `substrate_path` and
    `constitution_path` are the campaign's own copies (`aevo.start.copies`), `base_path` is where
    the base checkpoint lies, and `source_path` the operator's substrate that was copied. `data`
    says in one line where items and rows come from, and `rows_path` is the folder of the real
    training rows, if there are any.
    """

    name: str
    created: str
    pins: Pins
    substrate_path: str
    constitution_path: str
    base_path: str
    source_path: str | None = None
    data: str = "generator"
    rows_path: str | None = None
    config: dict[str, Any]
    versions: dict[str, str]

    @property
    def trainer(self) -> str:
        """Name of the pinned trainer; empty where the configuration names none."""
        return str(self.config.get("trainer", {}).get("name", ""))

    @property
    def preset(self) -> str:
        """The pinned benchmark's preset; empty where the configuration names none."""
        return str(self.config.get("model", {}).get("preset", ""))
