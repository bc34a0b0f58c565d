"""Compare every result with dvc.lock and with its manifest."""

import hashlib
import os
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from toygpt.data.token_files import read_manifest
from toygpt.doctor.finding import Finding, Line, number_of, readable_size
from toygpt.doctor.leftovers import work_in
from toygpt.pipeline import paths
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.measurements import outdated_measurements

# Of dvc.output and dvc.repo, which take long to import.
Output = Any
Repo = Any


def check_artifacts(root: Path) -> Iterator[Line]:
    """Hash every result again, and compare it with dvc.lock.

    DVC takes a file of the same size and time for unchanged: `dvc status` does not show
    a bit that flipped. DVC may even restore the damage: where the file system allows
    it, a result and its copy in DVC's cache are one file.
    """
    if work := work_in(root):
        yield f"{work} is at work: its results are examined when it is done"
        return
    if not (root / "dvc.lock").is_file():
        yield "not built yet; to build: `dvc repro`"
        return
    try:
        outdated = outdated_measurements(root)
    except InputError:  # `check_dvc` has a finding
        yield f"{paths.LOCK} cannot be read: see dvc above"
        return
    yield from _measurements(root, outdated)
    from dvc import repo as dvc_repo

    with dvc_repo.Repo(str(root)) as repo:
        outs = list(repo.index.outs)
        is_built = any(Path(out.fs_path).exists() for out in outs if out.use_cache)
        artifacts = Artifacts(root, repo)
        unbuilt = [out for out in outs if artifacts.is_not_built_here(out)]
        if unbuilt:
            names = ", ".join(map(artifacts.name_of, unbuilt)) if is_built else ""
            yield f"not built yet{names and ': '}{names}; to build: `dvc repro`"
        outs = [out for out in outs if out not in unbuilt]
        if not is_built:
            outs = [out for out in outs if Path(out.fs_path).exists()]
        findings = [
            finding
            for out in _slowly(outs)
            for finding in (*artifacts.check(out), *artifacts.check_cache(out))
        ]
        yield from findings
    if is_built and not findings:
        yield (
            f"{number_of(len(outs), 'result')} and DVC's copies of them, "
            f"{readable_size(artifacts.num_bytes)} hashed: all as dvc.lock has them"
        )
        yield from _manifests(root)


def _measurements(
    root: Path, outdated: Mapping[str, Sequence[Path]]
) -> Iterator[Finding]:
    """Find metrics and samples of another model than the one beside them.

    Args:
        root: The project's folder.
        outdated: Their paths, by stage.
    """
    # The stage alone, so that the model stays as it is; but there has to be a model.
    alone = "--single-item " if (root / paths.MODEL).is_dir() else ""
    for stage, results in outdated.items():
        yield Finding(
            f"{' and '.join(map(str, results))}: not measured on {paths.MODEL}, "
            f"according to {paths.LOCK}",
            f"dvc repro {alone}{stage}",
        )


def _slowly(outs: list[Output]) -> Iterator[Output]:
    """Show a progress bar in a terminal, if it takes long."""
    from tqdm import tqdm

    yield from tqdm(outs, "hashing", delay=2, leave=False, disable=None, unit="result")


def _manifests(root: Path) -> Iterator[Line]:
    """Check token files against their own manifests."""
    sound = []
    for folder, stage in ((paths.TOKENS, "tokenize"), (paths.SPLITS, "split")):
        if not (root / folder).is_dir():
            continue
        try:
            read_manifest(root / folder, made_by=stage)
        except InputError as error:
            problem = str(error).partition("run `")[0].rstrip(":; ")
            yield Finding(problem, _rerun(stage))
        else:
            sound.append(str(folder))
    if sound:
        yield f"{' and '.join(sound)} fit their manifests"


class Artifacts:
    """The results of the stages, compared with dvc.lock and DVC's cache."""

    def __init__(self, root: Path, repo: Repo) -> None:
        self.root = root
        self.repo = repo
        self.num_bytes = 0
        # By inode: a file that is the same one as in the cache is read once.
        self._digests: dict[tuple[int, int], str] = {}

    def name_of(self, out: Output) -> str:
        """Return the path of a result as dvc.yaml has it."""
        return os.path.relpath(out.fs_path, self.root)

    def is_not_built_here(self, out: Output) -> bool:
        """Return whether a result was never here, or is gone from the cache as well."""
        if not out.hash_info:
            return True
        if not out.use_cache:
            return False
        in_cache = Path(out.cache.oid_to_path(out.hash_info.value))
        return not Path(out.fs_path).exists() and not in_cache.exists()

    def check(self, out: Output) -> Iterator[Finding]:
        """Check whether a result is there, and the one of dvc.lock."""
        path, name = Path(out.fs_path), self.name_of(out)
        if not path.exists():
            yield Finding(f"{name} is missing", self._command(out))
            return
        if self._digest_of(path) == out.hash_info.value:
            return
        change = "changed by hand, or damaged"
        if path.is_dir() and (changed := self._changed_files(out)):
            change = f"{', '.join(changed)} {change}"
        stage = _stage_of(out)
        yield Finding(f"{name} is not what {stage} wrote: {change}", self._command(out))

    def check_cache(self, out: Output) -> Iterator[Finding]:
        """Check whether DVC's copy of a result is intact."""
        path = Path(out.fs_path)
        damaged, _ = self._cache_of(out)
        if damaged and path.exists() and self._digest_of(path) == out.hash_info.value:
            yield Finding(
                f"DVC's copy of {self.name_of(out)} is damaged, the one here is not",
                f"rm -f {' '.join(damaged)} && dvc commit {self.name_of(out)}",
            )

    def _command(self, out: Output) -> str:
        """Return the command that restores a result as dvc.lock has it."""
        name = shlex.quote(self.name_of(out))
        if not out.use_cache:
            committed = subprocess.run(
                ["git", "cat-file", "blob", f"HEAD:./{self.name_of(out)}"],
                cwd=self.root,
                capture_output=True,
            )
            if _md5(committed.stdout).hexdigest() == out.hash_info.value:
                return f"git checkout HEAD -- {name}"
            return _rerun(_stage_of(out))
        damaged, is_whole = self._cache_of(out)
        if damaged:
            return f"rm -f {' '.join(damaged)} && {_rerun(_stage_of(out))}"
        if not is_whole:
            return _rerun(_stage_of(out))
        # `dvc checkout` alone would keep a file of the same size and time.
        is_there = Path(out.fs_path).exists()
        return f"{f'rm -r {name} && ' if is_there else ''}dvc checkout {name}"

    def _changed_files(self, out: Output) -> list[str]:
        """Return the files that differ from DVC's cache, as far as it is intact."""
        expected = self._files_in_cache(out)
        found = self._tree_of(Path(out.fs_path))
        there = {key: entry.value for key, _, entry in found}
        if expected is None:
            return []
        keys = expected.keys() | there.keys()
        return sorted(
            "/".join(key) for key in keys if expected.get(key) != there.get(key)
        )

    def _cache_of(self, out: Output) -> tuple[list[str], bool]:
        """Return a result's damaged files in the cache, and whether that is whole."""
        if not out.use_cache:
            return [], True
        objects = {out.hash_info.value}
        if out.hash_info.isdir:
            objects |= set((self._files_in_cache(out) or {}).values())
        paths_of = {oid: Path(out.cache.oid_to_path(oid)) for oid in objects}
        there = {oid: path for oid, path in paths_of.items() if path.is_file()}
        damaged = [
            shlex.quote(os.path.relpath(path, self.root))
            for oid, path in sorted(there.items())
            if self._digest_of(path) != oid.removesuffix(".dir")
        ]
        return damaged, not damaged and len(there) == len(objects)

    def _files_in_cache(self, out: Output) -> dict[tuple[str, ...], str] | None:
        """Return the digest of each file of a directory, if DVC's cache has it."""
        from dvc_data.hashfile.tree import Tree

        path = Path(out.cache.oid_to_path(out.hash_info.value))
        oid = out.hash_info.value.removesuffix(".dir")
        if not path.is_file() or self._digest_of(path) != oid:
            return None
        tree = Tree.load(out.cache, out.hash_info)
        return {key: entry.value for key, _, entry in tree}

    def _digest_of(self, path: Path) -> str:
        if path.is_dir():
            tree = self._tree_of(path)
            tree.digest()
            return str(tree.hash_info.value)
        found = path.stat()
        inode = (found.st_dev, found.st_ino)
        if inode not in self._digests:
            with path.open("rb") as file:
                self._digests[inode] = hashlib.file_digest(file, _md5).hexdigest()
            self.num_bytes += found.st_size
        return self._digests[inode]

    def _tree_of(self, folder: Path) -> Any:
        """Return a folder's files and their digests, as DVC counts them."""
        from dvc.fs import LocalFileSystem
        from dvc_data.hashfile.hash_info import HashInfo
        from dvc_data.hashfile.meta import Meta
        from dvc_data.hashfile.tree import Tree

        tree: Any = Tree()  # type: ignore[no-untyped-call]
        for name in self.repo.dvcignore.find(LocalFileSystem(), str(folder)):
            file = Path(name)
            digest = HashInfo("md5", self._digest_of(file))
            tree.add(file.relative_to(folder).parts, Meta(), digest)
        return tree


def _stage_of(out: Output) -> str:
    return getattr(out.stage, "name", None) or out.stage.relpath


def _md5(data: bytes = b"") -> Any:
    return hashlib.md5(data, usedforsecurity=False)


def _rerun(stage: str) -> str:
    return f"dvc repro --force --single-item {stage}"
