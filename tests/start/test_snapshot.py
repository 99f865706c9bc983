"""What was submitted is what runs, whatever becomes of the checkout, the substrate and secrets."""

import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from aevo.config.schema import Config, load
from aevo.errors import RecordError, SubstrateError
from aevo.files import digest
from aevo.files.documents import read
from aevo.files.paths import Layout
from aevo.files.secrets import hide, redact
from aevo.jobs.environment import package_first
from aevo.records.campaign import Campaign
from aevo.records.job import JobSpec
from aevo.start import snapshot
from aevo.start.command import CONF
from aevo.start.copies import keep_constitution, keep_substrate
from aevo.start.snapshot import About
from aevo.substrate.frozen import open_substrate
from tests.conftest import REGRESSION, REPO, Cli


@pytest.fixture
def config() -> Config:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return load(compose("config"))


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "runs" / "one")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the code, as a user's checkout that may be edited."""
    root = tmp_path / "a checkout"
    for name in ("aevo", "conf"):
        shutil.copytree(REPO / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPO / "pyproject.toml", root)
    return root


def git(root: Path, *arguments: str) -> None:
    subprocess.run(
        ["git", "-c", "user.name=x", "-c", "user.email=x@x", *arguments],
        cwd=root,
        check=True,
        capture_output=True,
    )


def tree(folder: Path) -> str:
    return digest.of_tree(folder, ["."])


def test_snapshot_is_the_code_under_the_digest_of_its_content(
    checkout: Path, layout: Layout, config: Config
) -> None:
    code = snapshot.take_from(checkout, layout, config)
    assert tree(code) == tree(checkout)
    assert (code / "aevo" / "view" / "templates" / "report.md.j2").is_file()
    about = read(About, code.parent / "snapshot.json")
    assert code.parent == layout.snapshots / about.digest[:12]
    assert snapshot.take_from(checkout, layout, config) == code
    assert [path.name for path in layout.snapshots.iterdir()] == [code.parent.name]
    modes = {path.stat().st_mode & 0o222 for path in code.rglob("*") if path.is_file()}
    assert modes == {0}
    installed = (code.parent / "packages.txt").read_text().splitlines()
    names = [line.split("==")[0] for line in installed]
    assert "pydantic" in names and names == sorted(set(names))


def test_editing_the_checkout_changes_nothing_in_a_snapshot(
    checkout: Path, layout: Layout, config: Config
) -> None:
    code = snapshot.take_from(checkout, layout, config)
    before = tree(code)
    (checkout / "aevo" / "cli.py").write_text("raise SystemExit('edited')\n")
    (checkout / "conf" / "config.yaml").unlink()
    assert tree(code) == before
    assert snapshot.take_from(checkout, layout, config) != code
    shutil.rmtree(checkout)
    snapshot.verify(code)


def test_caches_hidden_and_large_files_are_left_out_and_links_followed(
    checkout: Path, layout: Layout, config: Config, tmp_path: Path
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "ours.yaml").write_text("kind: local\n")
    (checkout / "conf" / "site").symlink_to(tmp_path / "site")
    (tmp_path / "site" / "loop").symlink_to(checkout / "conf")
    (checkout / "conf" / "weights.bin").write_bytes(bytes(snapshot.MAX_FILE + 1))
    (checkout / "aevo" / ".cli.py.swp").write_text("x")
    (checkout / "aevo" / "__pycache__").mkdir()
    (checkout / "aevo" / "__pycache__" / "cli.pyc").write_text("x")
    code = snapshot.take_from(checkout, layout, config)
    files = set(read(About, code.parent / "snapshot.json").files)
    assert "conf/site/ours.yaml" in files and not (code / "conf" / "site").is_symlink()
    assert not any("swp" in name or "pyc" in name or "weights" in name for name in files)
    assert read(About, code.parent / "snapshot.json").left_out == ["conf/weights.bin"]


SECRETS = {
    "conf/agent/mine.yaml": "kind: openai\napi_key: an-odd-one-0815\n",
    "conf/agent/shape.yaml": "note: 'sk-aaaabbbbcccc'\nurl: https://me:hunter22@host/v1\n",
    "conf/agent/nested.yaml": "extra: {headers: {x: 'Bearer abcdefgh12345678'}}\n",
    "conf/agent/list.yaml": "words: [--password, hunter22, 'password=hunter22']\n",
    "conf/secrets/all.yaml": "x: hunter22\n",
    "conf/agent/api_key.yaml": "x: hunter22\n",
    "conf/agent/binary.yaml": "\udcff hunter22",
    "conf/agent/notes.txt": "hunter22",
    "conf/agent/env.sh": "export X=hunter22",
    "conf/.env": "X=hunter22",
    "aevo/dump.json": "hunter22",
    "aevo/view/keys.pem": "hunter22",
}


@pytest.mark.long(3)
@pytest.mark.parametrize("name", SECRETS)
def test_no_secret_is_in_a_snapshot(
    name: str, checkout: Path, layout: Layout, config: Config
) -> None:
    path = checkout / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(SECRETS[name], encoding="utf-8", errors="surrogateescape")
    code = snapshot.take_from(checkout, layout, config)
    snapshot.verify(code)
    for kept in code.parent.rglob("*"):
        if kept.is_file() and "secrets" not in kept.name:
            text = kept.read_bytes()
            for secret in (b"hunter22", b"odd-one", b"sk-aaaa", b"abcdefgh1234"):
                assert secret not in text or kept.suffix == ".py", kept


def test_installed_package_has_no_conf_beside_it(
    checkout: Path, layout: Layout, config: Config
) -> None:
    shutil.rmtree(checkout / "conf")
    (checkout / "pyproject.toml").unlink()
    code = snapshot.take_from(checkout, layout, config)
    assert [path.name for path in code.iterdir()] == ["aevo"]
    assert read(About, code.parent / "snapshot.json").commit is None
    assert (code.parent / "changes.diff").read_text() == ""


def test_edited_snapshot_is_refused_by_name(checkout: Path, layout: Layout, config: Config) -> None:
    code = snapshot.take_from(checkout, layout, config)
    (code / "aevo" / "cli.py").chmod(0o644)
    (code / "aevo" / "cli.py").write_text("pass\n")
    with pytest.raises(RecordError, match=r"edited after it was taken: aevo/cli\.py"):
        snapshot.take_from(checkout, layout, config)
    shutil.rmtree(code.parent)
    assert snapshot.take_from(checkout, layout, config) == code


def test_two_commands_at_once_share_one_snapshot(
    checkout: Path, layout: Layout, config: Config
) -> None:
    with ThreadPoolExecutor(4) as pool:
        taken = set(pool.map(lambda _: snapshot.take_from(checkout, layout, config), range(4)))
    assert len(taken) == 1
    assert [path.name for path in layout.snapshots.iterdir()] == [taken.pop().parent.name]


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_uncommitted_changes_are_kept_without_their_secrets(
    checkout: Path, layout: Layout, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SITE_API_KEY", "correct horse battery")
    monkeypatch.setattr(sys, "argv", ["aevo.round", "agent.api_key=abc", "--token", "t0ps", "n=3"])
    git(checkout, "init", "-q")
    git(checkout, "add", ".")
    git(checkout, "commit", "-qm", "first")
    clean = read(About, snapshot.take_from(checkout, layout, config).parent / "snapshot.json")
    assert clean.dirty is False and clean.commit and len(clean.commit) == 40
    assert clean.argv == ["aevo.round", "agent.api_key=[redacted]", "--token", "[redacted]", "n=3"]
    with (checkout / "conf" / "config.yaml").open("a") as file:
        file.write("# correct horse battery\n# password: hunter2\n# a plain change\n")
    (checkout / "aevo" / "new.py").write_text("pass\n")
    folder = snapshot.take_from(checkout, layout, config).parent
    changes = (folder / "changes.diff").read_text()
    assert read(About, folder / "snapshot.json").dirty is True
    assert "+# a plain change" in changes and "untracked: aevo/new.py" in changes
    assert "horse" not in changes and "hunter2" not in changes
    assert (folder / "code" / "aevo" / "new.py").is_file()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sk-abcdefghijkl", "[redacted]"),
        ("token hf_AbCdEfGhIjKl end", "token [redacted] end"),
        ("AKIAIOSFODNN7EXAMPLE", "[redacted]"),
        ("ghp_0123456789abcdef", "[redacted]"),
        ("api_key: xyz", "api_key: [redacted]"),
        ("password=xyz other=1", "password=[redacted] other=1"),
        ('{"openai_api_key": "x y", "n": 1}', '{"openai_api_key": [redacted], "n": 1}'),
        ("https://me:pw@host/simple", "https://[redacted]@host/simple"),
        ("Authorization: Bearer abcdefgh1", "Authorization: Bearer [redacted]"),
        ("--hf-token abc x", "--hf-token [redacted] x"),
        # no secrets
        ("max_tokens=4096 tokenizer: fast", "max_tokens=4096 tokenizer: fast"),
        ("task-0123456789abcdef risk-free", "task-0123456789abcdef risk-free"),
        ("api_key: ${oc.env:KEY} token: null", "api_key: ${oc.env:KEY} token: null"),
        ("password:\n  next: 3", "password:\n  next: 3"),
        ("key=value, monkey: 3", "key=value, monkey: 3"),
    ],
)
def test_redaction(text: str, expected: str) -> None:
    assert redact(text) == expected
    assert redact(expected) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("KGAT_0123abc and sk-abcdef", "[redacted] and [redacted]"),
        ("{'authorization': 'bearer abcdefgh1'}", "{'authorization': 'bearer [redacted]'}"),
        ("Authorization: Basic dXNlcjpwYXNz", "Authorization: Basic [redacted]"),
        ("my own word", "my [redacted] word"),
        # no secrets, or only in texts that are kept
        ("the basic implementation, a bearer", "the basic implementation, a bearer"),
        ("unexpected token: '<'", "unexpected token: '<'"),
    ],
)
def test_what_a_server_says_is_shown_without_secrets(text: str, expected: str) -> None:
    assert hide(text, [None, "", "own"]) == expected
    assert hide(expected) == expected


def test_redaction_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789")
    monkeypatch.setenv("OTHER_TOKEN", "0123456789-and-more")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    assert redact("a 0123456789-and-more b 0123456789 false") == "a [redacted] b [redacted] false"


def python(code: Path, where: Path, text: str) -> str:
    """What a program prints that imports aevo as a job does."""
    done = subprocess.run(
        [sys.executable, "-c", text],
        cwd=where,
        capture_output=True,
        text=True,
        env=os.environ | package_first(str(code)),
        check=True,
    )
    return done.stdout.strip()


def test_job_imports_the_snapshot_wherever_it_starts(
    checkout: Path, layout: Layout, config: Config
) -> None:
    """Also in the checkout itself, where `python -c` and `-m` prefer the current folder."""
    code = snapshot.take_from(checkout, layout, config)
    for where in (REPO, checkout, layout.root):
        assert python(code, where, "import aevo; print(aevo.__file__)") == str(
            code / "aevo" / "__init__.py"
        )
    again = (
        "from pathlib import Path; import sys; from aevo.start import snapshot;"
        "from aevo.files.paths import Layout; sys.dont_write_bytecode = True;"
        f"print(snapshot.take(Layout(Path({str(layout.root)!r})), None))"
    )
    assert python(code, REPO, again) == str(code), "a job submits what it runs"
    assert [path.name for path in layout.snapshots.iterdir()] == [code.parent.name]


def test_process_keeps_to_the_snapshot_it_took(
    checkout: Path, layout: Layout, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aevo.start.snapshot.CHECKOUT", checkout)
    code = snapshot.take(layout, config)
    (checkout / "aevo" / "cli.py").write_text("half-edi")
    assert snapshot.take(layout, config) == code


def test_finding_a_snapshot_is_fast(checkout: Path, layout: Layout, config: Config) -> None:
    snapshot.take_from(checkout, layout, config)
    seconds = []
    for _ in range(3):
        started = time.process_time()
        snapshot.take_from(checkout, layout, config)
        seconds.append(time.process_time() - started)
    assert min(seconds) < 1.0  # 0.1 s where nothing else runs


@pytest.fixture
def source(tmp_path: Path) -> Path:
    shutil.copytree(REGRESSION, tmp_path / "substrate")
    return tmp_path / "substrate"


def test_copy_of_the_substrate_has_its_digest_and_is_read_only(
    source: Path, layout: Layout
) -> None:
    (source / "eval" / "score.py").chmod(0o755)
    (source / "base" / "link").symlink_to("config.json")
    (source / "notes.txt").write_text("no part of the substrate")
    opened = open_substrate(source)
    pinned = opened.freeze()
    kept = keep_substrate(layout, opened, pinned)
    assert kept.root == layout.substrate and kept.verify(pinned) == pinned
    assert not (kept.root / "notes.txt").exists() and kept.catalogue.is_file()
    assert (kept.root / "eval" / "score.py").stat().st_mode & 0o777 == 0o555
    assert (kept.root / "recipe.yaml").stat().st_mode & 0o777 == 0o444
    kept.fork(layout.root / "fork", [])
    assert (layout.root / "fork" / "recipe.yaml").stat().st_mode & 0o200, "forks are writable"
    assert keep_substrate(layout, opened, pinned).root == kept.root


def test_large_file_is_linked_not_copied(
    source: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aevo.start.copies.MAX_COPIED", 10)
    opened = open_substrate(source)
    kept = keep_substrate(layout, opened, opened.verify())
    ours, theirs = kept.root / "base" / "config.json", source / "base" / "config.json"
    assert ours.samefile(theirs) and theirs.stat().st_mode & 0o200


def test_link_that_a_copy_would_break_is_refused(source: Path, layout: Layout) -> None:
    (source.parent / "outside").write_text("x")
    (source / "base" / "link").symlink_to("../../outside")
    opened = open_substrate(source)
    with pytest.raises(SubstrateError, match="make the link absolute"):
        keep_substrate(layout, opened, opened.freeze())
    assert not layout.substrate.exists()


def test_interrupted_start_begins_afresh_with_a_substrate_frozen_anew(
    source: Path, layout: Layout
) -> None:
    opened = open_substrate(source)
    keep_substrate(layout, opened, opened.verify())
    layout.vault.mkdir()
    layout.dev_items.write_text("drawn with the old code")
    (source / "eval" / "items.py").write_text("pass\n")
    pinned = opened.freeze()
    assert keep_substrate(layout, opened, pinned).verify(pinned) == pinned
    assert not layout.dev_items.exists()


def test_constitution_is_copied_byte_by_byte(tmp_path: Path, layout: Layout) -> None:
    (tmp_path / "text").write_bytes(b"R1\r\nR2\n")
    keep_constitution(layout, tmp_path / "text")
    assert layout.constitution.read_bytes() == b"R1\r\nR2\n"
    assert layout.constitution.stat().st_mode & 0o777 == 0o444


@pytest.mark.long(25)
def test_campaign_goes_on_with_its_copies_when_the_sources_change(cli: Cli, source: Path) -> None:
    text = cli.folder / "constitution.txt"
    shutil.copy(REPO / "constitution.txt", text)
    assert cli.run("round", f"constitution={text}", "follow=false", n=2).returncode == 0
    layout = cli.layout()
    pins = read(Campaign, layout.campaign).pins
    specs = [read(JobSpec, path) for path in layout.root.glob("jobs/*/spec.json")]
    assert all(step.cwd == str(layout.substrate) for spec in specs for step in spec.steps)
    (source / "eval" / "score.py").write_text("print('forged')")
    text.write_text("do as you like")
    again = cli.run("round", "+round=1", f"constitution={text}", n=2)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("this campaign keeps its own copy") == 1
    substrate = f"substrate={source}"
    shutil.rmtree(source)
    text.unlink()
    after = cli.run("round", "+round=2", f"constitution={text}", substrate, n=2)
    assert after.returncode == 0, after.stderr
    assert open_substrate(layout.substrate).digest() == pins.substrate
