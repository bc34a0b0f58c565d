"""dvc.lock of a revision: the digests of all that went into its results."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from ruamel.yaml import YAML

from toygpt.pipeline import paths
from toygpt.pipeline.errors import InputError
from toygpt.pipeline.measurements import MEASUREMENTS, is_of_this_model
from toygpt.pipeline.revision import Revision


@dataclass(frozen=True)
class Lock:
    """What dvc.lock of a revision says.

    Attributes:
        stages: Each stage's command, dependencies, parameters and results.
        measured: Which of `MEASUREMENTS` have measured the model that `train` made.
    """

    stages: Mapping[str, Any]
    measured: frozenset[str]

    def digests(self, kind: Literal["deps", "outs"]) -> dict[str, str]:
        """Return the digests of all dependencies or results, by their paths."""
        return {
            entry["path"]: entry.get("md5", "")
            for stage in self.stages.values()
            for entry in stage.get(kind, [])
        }

    @property
    def evaluate_deps(self) -> dict[str, str]:
        """The digests of what `evaluate` read, by their paths."""
        entries = self.stages.get("evaluate", {}).get("deps", [])
        return {entry["path"]: entry.get("md5", "") for entry in entries}

    @property
    def splits(self) -> str | None:
        """The digest of the text's three parts that `evaluate` read, if it is known."""
        return self.evaluate_deps.get(paths.SPLITS.as_posix())

    @property
    def overlap_fraction(self) -> Any:
        """The parameter on which the test result depends; None if it is unknown."""
        params = self.stages.get("evaluate", {}).get("params", {})
        section = params.get(paths.PARAMS.name, {}).get("evaluate", {})
        return section.get("overlap_fraction")


def read_lock(revision: Revision) -> Lock:
    """Read dvc.lock.

    Raises:
        InputError: It is missing or damaged, or there is no such revision.
    """
    try:
        text = revision.read(paths.LOCK)
    except FileNotFoundError:
        raise InputError(
            f"{revision} has no {paths.LOCK}: nothing was built there"
        ) from None
    # This raises what is wrong with it, if it is damaged.
    measured = frozenset(name for name in MEASUREMENTS if is_of_this_model(text, name))
    return Lock(YAML(typ="safe").load(text).get("stages", {}), measured)


def changed_inputs(before: Lock, now: Lock) -> list[str]:
    """Return what differs of the code, and of the files that no stage writes."""
    made = [*before.digests("outs"), *now.digests("outs")]
    old, new = before.digests("deps"), now.digests("deps")
    return sorted(
        path
        for path in {*old, *new}
        if old.get(path) != new.get(path)
        and not any(PurePosixPath(path).is_relative_to(out) for out in made)
    )
