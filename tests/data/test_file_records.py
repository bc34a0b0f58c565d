"""Files known by their records: unchanged, complete, and no others beside them."""

from pathlib import Path

import pytest

from toygpt.data.file_records import (
    check_digests,
    check_names_and_sizes,
    record_files,
)
from toygpt.pipeline.errors import InputError


def write_files(folder: Path, count: int = 5) -> list[Path]:
    paths = [folder / f"{number}.bin" for number in range(count)]
    for path in paths:
        path.write_text(f"contents of {path.name}")
    return paths


@pytest.mark.parametrize("num_processes", [1, 2, 3, 5, 7])
def test_a_damaged_file_is_found_by_exactly_one_of_the_processes_that_share_the_check(
    tmp_path: Path, num_processes: int
) -> None:
    paths = write_files(tmp_path)
    files = record_files(tmp_path, "*.bin")

    for damaged in paths:
        before = damaged.read_text()
        damaged.write_text(before.replace("c", "k"))
        complaints = []
        for number in range(num_processes):
            check_names_and_sizes(tmp_path, files, made_by="split")
            try:
                check_digests(
                    tmp_path, files, made_by="split", share=(number, num_processes)
                )
            except InputError as error:
                complaints.append(str(error))
        damaged.write_text(before)
        assert complaints == [
            f"{damaged} is damaged: its contents are not what split wrote; run `dvc "
            f"repro --force --single-item split`"
        ]


def test_names_and_sizes_are_known_without_reading(tmp_path: Path) -> None:
    first, second, *_ = write_files(tmp_path)
    files = record_files(tmp_path, "*.bin")
    (tmp_path / "notes.txt").touch()  # of another kind
    check_names_and_sizes(tmp_path, files, made_by="split")

    (tmp_path / "9.bin").touch()
    with pytest.raises(InputError, match=r"9\.bin is not in .*, but left from another"):
        check_names_and_sizes(tmp_path, files, made_by="split")
    first.write_text("short")
    with pytest.raises(InputError, match=r"0\.bin is damaged: 5 bytes instead of 17"):
        check_names_and_sizes(tmp_path, files, made_by="split")
    second.unlink()
    first.unlink()
    with pytest.raises(InputError, match=r"0\.bin is missing: run `dvc repro --force"):
        check_names_and_sizes(tmp_path, files, made_by="split")
