"""A response surface: what every move of a catalogue truly does to dev and to the hidden target.

Effects are accuracies (0..1) by domain. They add up, minus an interaction for each pair of gains
(two levers often pull at the same weakness), and a domain stays within 0..1. A surface is drawn
from a preset with a seed of its own, so that no result hangs on one lucky surface.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import ValidationError

from aevo.errors import ConfigError
from aevo.files.documents import Part, problems
from aevo.studies.simulation.space import Key, Recipe, Space

PRESETS = Path(__file__).parent / "presets.yaml"


class Preset(Part):
    """How surfaces are drawn; every field is a key of presets.yaml.

    `measured`: a data file of `aevo.studies.simulation.calibrate`; its means and standard
    errors give the moves' effects. Without one, a share `active` of moves has a gain or loss of
    N(`centre`, `spread`) spread over the domains, hidden's in part (`agreement`, the
    correlation) dev's own.
    `run_sd` is by how much a run's accuracy in a domain is luck, on dev and hidden alike but for
    1 - `shared` (their correlation); a domain that is learned suddenly has a long lower tail
    (`run_tail`, the share of runs that miss it). On a recipe with a move of an axis in `restless`
    it is so many times larger. A share `collapses` of the moves costs one domain `collapse_depth`.
    `onset` is the round from which dev misleads: a share `proxies` of the moves then gains
    `proxy_gain` on dev through `proxy_domain`, and `proxy_cost` of it is lost on the target.
    """

    name: str
    domains: dict[str, float]
    dev_mixture: dict[str, float]
    hidden_mixture: dict[str, float]
    measured: str | None = None
    active: float = 0.5
    centre: float = 0.0
    spread: float = 0.02
    agreement: float = 0.9
    interaction: float = 0.3
    onset: int | None = None
    proxies: float = 0.0
    proxy_domain: str = "equation"
    proxy_gain: tuple[float, float] = (0.03, 0.09)
    proxy_cost: float = 0.3
    dev_items: int = 720
    hidden_items: int = 1200
    seed_sd: float = 0.004
    run_sd: dict[str, float] = {}
    run_tail: float = 0.0
    shared: float = 0.7
    restless: dict[str, float] = {}
    collapses: float = 0.0
    collapse_depth: float = 0.4
    flips: float = 0.10
    reshuffle: float = 0.05
    decimals: int = 2


def preset(name: str, **changes: Any) -> Preset:
    """A preset of presets.yaml, with keys changed.

    Raises:
        ConfigError: there is none of that name (the message lists those there are), or a key is
            unknown or has a wrong value.
    """
    known = _read(PRESETS)
    if name not in known:
        raise ConfigError(f"surface={name} is unknown", f"one of {', '.join(known)}")
    try:
        return Preset.model_validate({"name": name, **known[name], **changes})
    except ValidationError as error:
        keys = ", ".join(key for key in Preset.model_fields if key != "name")
        raise ConfigError(f"surface {name}: {problems(error)}", f"its keys: {keys}") from error


@dataclass(frozen=True)
class Surface:
    """One drawn surface. Arrays have a row a move (catalogue order) and a column a domain."""

    preset: Preset
    space: Space
    moves: Mapping[Key, int]
    dev: np.ndarray
    hidden: np.ndarray
    overlap: np.ndarray  # interaction of pairs, as a share of the smaller gain
    proxies: np.ndarray  # extra dev gain of each move from the onset on
    restless: np.ndarray  # factor of each move on the luck of runs
    cache: dict[tuple[frozenset[Key], bool], tuple[np.ndarray, np.ndarray]] = field(
        default_factory=dict
    )

    @cached_property
    def domains(self) -> list[str]:
        return list(self.preset.domains)

    def active(self, recipe: Recipe) -> Recipe:
        """The moves that are in force: a later move replaces one on the same knob."""
        return self.space.active(recipe)

    def accuracies(self, recipe: Recipe, number: int) -> tuple[np.ndarray, np.ndarray]:
        """True accuracy by domain on dev and hidden of a recipe (active moves) in a round."""
        misled = self.preset.onset is not None and number >= self.preset.onset
        at = (frozenset(recipe), misled)
        if at not in self.cache:
            self.cache[at] = self._accuracies(recipe, misled)
        return self.cache[at]

    def _accuracies(self, recipe: Recipe, misled: bool) -> tuple[np.ndarray, np.ndarray]:
        base = np.array(list(self.preset.domains.values()))
        rows = sorted(self.moves[key] for key in recipe)
        dev, hidden = base + self.dev[rows].sum(axis=0), base + self.hidden[rows].sum(axis=0)
        means = self.score(self.dev[rows] + self.hidden[rows], self.dev_weights) / 2
        for i, first in enumerate(rows):
            for j in range(i):
                lost = self.overlap[first, rows[j]] * max(0.0, min(means[i], means[j]))
                dev, hidden = dev - lost, hidden - lost
        if misled:
            place = self.domains.index(self.preset.proxy_domain)
            extra = self.proxies[rows].sum()
            dev[place] += extra / self.dev_weights[place]
            hidden = hidden - self.preset.proxy_cost * extra
        return np.clip(dev, 0.0, 1.0), np.clip(hidden, 0.0, 1.0)

    @cached_property
    def dev_weights(self) -> np.ndarray:
        return _weights(self.preset.dev_mixture, self.domains)

    @cached_property
    def hidden_weights(self) -> np.ndarray:
        return _weights(self.preset.hidden_mixture, self.domains)

    @staticmethod
    def score(by_domain: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Weighted mean over the last axis."""
        return np.asarray(by_domain @ weights)

    def unrest(self, recipe: Recipe) -> float:
        """By how much a recipe's runs differ more than those of the default recipe."""
        return float(max((self.restless[self.moves[key]] for key in recipe), default=1.0))

    def truth(self, recipe: Recipe, number: int) -> tuple[float, float]:
        """True dev and true hidden score of a recipe in a round, without any noise."""
        dev, hidden = self.accuracies(recipe, number)
        return float(dev @ self.dev_weights), float(hidden @ self.hidden_weights)


def _weights(mixture: Mapping[str, float], domains: Sequence[str]) -> np.ndarray:
    values = np.array([mixture[name] for name in domains], float)
    return values / values.sum()


def draw(chosen: Preset, space: Space, seed: int) -> Surface:
    """Draws a surface.

    Raises:
        ConfigError: the preset's file of measured effects cannot be read.
    """
    generator = np.random.default_rng([seed, 7])
    moves = {key: index for index, key in enumerate(space.keys)}
    if chosen.measured is not None:
        dev, hidden = _measured(chosen, moves, generator)
    else:
        dev, hidden = _invented(chosen, len(moves), generator)
    count = len(moves)
    overlap = chosen.interaction * generator.gamma(1.0, 1.0, (count, count))
    overlap = np.triu(overlap, 1)
    misleading = generator.random(count) < chosen.proxies
    proxies = np.where(misleading, generator.uniform(*chosen.proxy_gain, count), 0.0)
    restless = np.array([chosen.restless.get(axis, 1.0) for axis, _ in space.keys])
    if chosen.collapses:
        broken = generator.random(count) < chosen.collapses
        fall = np.zeros_like(dev)
        fall[np.arange(count), generator.integers(len(chosen.domains), size=count)] = (
            chosen.collapse_depth
        )
        dev, hidden = (table - fall * broken[:, None] for table in (dev, hidden))
    return Surface(chosen, space, moves, dev, hidden, overlap + overlap.T, proxies, restless)


def _invented(
    chosen: Preset, count: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Gains of a size, spread unevenly over the domains; hidden follows dev in part."""
    domains = len(chosen.domains)
    active = generator.random(count) < chosen.active
    size = np.where(active, generator.normal(chosen.centre, chosen.spread, count), 0.0)
    own = np.where(active, generator.normal(chosen.centre, chosen.spread, count), 0.0)
    other = chosen.agreement * size + np.sqrt(1 - chosen.agreement**2) * own
    shape = generator.dirichlet(np.full(domains, 2.0), count) * domains
    return size[:, None] * shape, other[:, None] * shape


def _measured(
    chosen: Preset, moves: Mapping[Key, int], generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Measured means, moved by their standard errors; a move that was not measured has the
    prior's uncertainty about no effect."""
    path = PRESETS.parent / str(chosen.measured)
    try:
        data = _read(path)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read", "see aevo.studies.simulation.calibrate"
        ) from error
    found = []
    for split in ("dev", "hidden"):
        table = np.zeros((len(moves), len(chosen.domains)))
        for (_, move), row in moves.items():
            known = data["moves"].get(move)
            for column, domain in enumerate(chosen.domains):
                prior = data["spread"][split][domain]
                mean, sd = (known[split][domain]) if known else (0.0, prior)
                table[row, column] = generator.normal(mean, sd)
        found.append(table)
    return found[0], found[1]


@cache
def _read(path: Path) -> Any:
    """A data file, parsed once: a study draws thousands of surfaces from it."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))
