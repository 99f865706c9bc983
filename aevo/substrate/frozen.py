"""The immutable reference substrate: freeze, verify, fork, diff (paper section 3, pillar 1).

    python -m aevo.substrate verify|freeze [PATH]
    python -m aevo.substrate fork DEST [PATH]
    python -m aevo.substrate diff FORK [PATH]

A substrate is any folder with a `substrate.yaml`; aevo knows nothing else of it and never imports
it. `substrate.lock` holds the digest of every file; an edited substrate is refused, by name.
"""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from aevo.config.schema import Config
from aevo.errors import SubstrateError
from aevo.files import digest
from aevo.files.documents import Part, Record, read, whole_folder, write_yaml
from aevo.files.paths import CHECKOUT
from aevo.files.untrusted import IntegrityError, plain_tree
from aevo.records.change import Change
from aevo.records.job import Step
from aevo.substrate import recipe as change
from aevo.text import listed

DEFAULT = CHECKOUT / "substrate" / "default"
LOCK = "substrate.lock"


class Command(Part):
    """A command of the substrate: where it runs and its argument vector with {placeholders}."""

    cwd: Literal["fork", "substrate"]
    argv: list[str]
    distributed: bool = False


class SubstrateFile(Record):
    """substrate.yaml. `sealed` are frozen paths that worker-written code and agents cannot see,
    `optional` recipe keys that the stack reads and recipe.yaml need not have, `trial` recipe keys
    with which a training takes a few rows and steps, to be tried for free."""

    name: str
    recipe: str
    catalogue: str
    mutable: list[str]
    frozen: list[str]
    sealed: list[str] = []
    optional: list[str] = []
    trial: dict[str, Any] = {}
    commands: dict[str, Command | dict[str, Command]]


class Lock(Record):
    """substrate.lock: the Merkle digest, and its leaves so that a change can be named."""

    digest: str
    files: dict[str, str]


@dataclass(frozen=True)
class Substrate:
    """An opened substrate; `open_substrate` is how to get one."""

    root: Path
    file: SubstrateFile

    @property
    def names(self) -> list[str]:
        """Everything that the digest covers."""
        return [*self.file.mutable, *self.file.frozen]

    @property
    def lock(self) -> Path:
        return self.root / LOCK

    @property
    def catalogue(self) -> Path:
        return self.root / self.file.catalogue

    @property
    def sealed(self) -> list[Path]:
        """The sealed files that there are, byte code made of them included."""
        return self.sealed_in(self.root)

    def sealed_in(self, root: Path) -> list[Path]:
        """What the sealed files are in another copy of this substrate."""
        found = digest.files_below(root, self.file.sealed)
        return sorted(
            [
                *found,
                *(
                    code
                    for path in found
                    if path.suffix == ".py"
                    for code in path.parent.glob(f"__pycache__/{path.stem}.*")
                ),
            ]
        )

    def digest(self) -> str:
        """The Merkle digest of the files as they are now."""
        return digest.of_tree(self.root, self.names)

    def freeze(self) -> str:
        """Writes the lock for the files as they are; the operator's act after an audit.

        Raises:
            SubstrateError: a sealed path is missing, a link, or not frozen.
        """
        self._check_sealed()
        files = digest.entries(self.root, self.names)
        lock = Lock(digest=digest.of_value(files), files=files)
        write_yaml(self.lock, lock, "Written by `python -m aevo.substrate freeze`; do not edit.")
        return lock.digest

    def verify(self, pinned: str | None = None) -> str:
        """Checks the files against the lock, and against `pinned` where given; returns the digest.

        Raises:
            SubstrateError: naming the files that were added, removed or changed, or a sealed path
                that would hide nothing.
        """
        self._check_sealed()
        lock = read(Lock, self.lock)
        files = digest.entries(self.root, self.names)
        changed = sorted(
            name for name in {*files, *lock.files} if files.get(name) != lock.files.get(name)
        )
        if changed:
            raise SubstrateError(
                f"{len(changed)} file(s) of the frozen substrate {self.root} were edited: "
                f"{listed(changed)}",
                "restore them, or, if the edit is meant, run `python -m aevo.substrate freeze` "
                "and start a new campaign",
            )
        if pinned is not None and lock.digest != pinned:
            raise SubstrateError(
                f"{self.root} is not the substrate this campaign started with "
                f"({lock.digest[:12]} now, {pinned[:12]} pinned)",
                "restore it, or start a new campaign with campaign=NAME",
            )
        return lock.digest

    def _check_sealed(self) -> None:
        """A sealed path that hides nothing, or that a fork holds a copy of, is a mistake."""
        for name in self.file.sealed:
            reason = None
            if not any(name == item or name.startswith(f"{item}/") for item in self.file.frozen):
                reason = "is not below a frozen path"
            elif not (self.root / name).exists():
                reason = "does not exist"
            elif any(path.is_symlink() for path in digest.files_below(self.root, [name])):
                reason = "holds a link, which would be hidden while what it leads to is not"
            if reason is not None:
                raise SubstrateError(
                    f"{self.root}/substrate.yaml: sealed path {name} {reason}",
                    "name files or folders of the substrate itself",
                )

    def fork(self, destination: Path, standing: list[Change], source: Path | None = None) -> None:
        """Copies the mutable files (of `source`, another fork, where given) to `destination` and
        applies the standing recipe, at once or not at all.

        Frozen files are not copied: commands find them in the substrate. An existing destination
        is left as it is (a restarted worker goes on in its fork).
        """
        if destination.exists():
            return
        with whole_folder(destination) as staging:
            self.copy(source or self.root, staging)
            for item in standing:
                change.apply(item, staging, self.file.recipe)

    def copy(self, source: Path, destination: Path) -> None:
        """Copies the mutable files of a fork (or of the substrate) to a new folder.

        Raises:
            SubstrateError: the source holds something that is not a regular file.
        """
        destination.mkdir(parents=True)
        for path in self.plain_files(source):
            target = destination / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            target.chmod(path.stat().st_mode | 0o200)  # a campaign's substrate is read-only

    def plain_files(self, fork: Path) -> list[Path]:
        """The mutable files of a fork, before anything of them is read: a link would be followed
        with our rights, not with those of the worker who made it.

        Raises:
            SubstrateError: the fork holds something that is not a regular file, or takes up more
                room than a fork may (`aevo.files.untrusted.Room`).
        """
        try:
            return plain_tree(fork, self.file.mutable)
        except IntegrityError as error:
            raise SubstrateError(error.what, error.mend or "remove it from the fork") from error

    def recipe_sha256(self, fork: Path) -> str:
        """Identifies what a run trains with: all mutable files, the recipe by value."""
        self.plain_files(fork)
        others = digest.entries(fork, self.file.mutable)
        others.pop(self.file.recipe, None)
        recipe = change.load_recipe(fork / self.file.recipe)
        return digest.of_value({"recipe": recipe, "files": others})

    def diff(self, fork: Path, base: Path | None = None) -> Change:
        """The change from the substrate (or from `base`, another fork) to `fork`."""
        return change.between(base or self.root, fork, self.file.mutable, self.file.recipe)

    def variants(self, name: str) -> list[str]:
        """Names of the ways to run a command; empty where there is one way only."""
        found = self.file.commands.get(name)
        return list(found) if isinstance(found, dict) else []

    def distributed(self, name: str, variant: str) -> bool:
        """Whether a command (this way of it, where there are several) is started once per rank."""
        found = self.file.commands[name]
        return (found[variant] if isinstance(found, dict) else found).distributed

    def command(
        self,
        name: str,
        fork: Path | None = None,
        adapters: dict[str, Path] | None = None,
        variant: str | None = None,
        **values: Any,
    ) -> Step:
        """Fills in a command of substrate.yaml; a pure function of its arguments.

        Args:
            variant: which of several ways to run it; None: the first.

        Raises:
            SubstrateError: substrate.yaml has no such command, or uses an unknown placeholder.
        """
        if name not in self.file.commands:
            raise SubstrateError(f"{self.root}/substrate.yaml has no command `{name}`")
        template = self.file.commands[name]
        if isinstance(template, dict):
            chosen = variant or next(iter(template), "")
            if chosen not in template:
                raise SubstrateError(
                    f"{self.root}/substrate.yaml has no `{name}` named {chosen}",
                    f"it has {', '.join(template)}",
                )
            template = template[chosen]
        words = {"python": sys.executable, **{key: str(value) for key, value in values.items()}}
        argv: list[str] = []
        for word in template.argv:
            if word == "{adapters}":
                for label, path in (adapters or {}).items():
                    argv += ["--adapter", f"{label}={path}"]
                continue
            try:
                argv.append(word.format(**words))
            except (KeyError, IndexError, ValueError, AttributeError) as error:
                raise SubstrateError(
                    f"{self.root}/substrate.yaml: command `{name}` uses unknown {word!r}",
                    f"known: {', '.join(sorted(words))}",
                ) from error
        if template.cwd == "fork" and fork is None:
            raise SubstrateError(f"command `{name}` needs a fork to run in")
        cwd = fork if template.cwd == "fork" and fork is not None else self.root
        return Step(
            argv=argv,
            cwd=str(cwd),
            env={"PYTHONPATH": str(self.root)},
            distributed=template.distributed,
        )


def source_of(config: Config) -> Substrate:
    """The operator's substrate that a configuration names, not a campaign's copy of it."""
    return open_substrate(Path(config.substrate) if config.substrate else DEFAULT)


def open_substrate(root: Path) -> Substrate:
    """Opens the substrate at `root`.

    Raises:
        SubstrateError: there is no substrate.yaml; RecordError: it does not validate.
    """
    path = root / "substrate.yaml"
    if not path.is_file():
        raise SubstrateError(f"{root} has no substrate.yaml", "give the path of a substrate")
    return Substrate(root.resolve(), read(SubstrateFile, path))
