"""What the user reads of what was found, and of what was left out."""

import json
import os

import pytest

from toygpt.data.inventory import Inventory, Reason


def test_one_line_says_all_numbers() -> None:
    inventory = Inventory()
    inventory.num_files.update({".txt": 1_200, ".md": 3, "": 2, ".c": 1})
    for number in range(1_500):
        inventory.leave_out(Reason.EMPTY, f"{number}.txt")
    inventory.leave_out(Reason.NOT_UTF8, "a.txt")

    assert inventory.summary() == (
        "files read: 1,200 .txt, 3 .md, 2 without suffix, …; left out: 1,500 empty, "
        "1 not UTF-8"
    )
    metrics = inventory.metrics()
    assert len(metrics) == len(Reason)
    left_out = {key: number for key, number in metrics.items() if number}
    assert left_out == {"left_out_empty": 1_500, "left_out_not_utf8": 1}


def test_inventories_add_up_to_that_of_one_reader() -> None:
    """As values of JSON, in which they come from a worker."""
    whole, added = Inventory(), Inventory()
    for number in range(3):
        part = Inventory()
        for inventory in (whole, part):
            inventory.num_files.update({".txt": number, f".{number}": 1})
            inventory.followed.append(f"link {number}")
            inventory.leave_out(Reason.BINARY, f"{number}.bin")
            inventory.leave_out(Reason.BINARY, f"{number}.exe")
        added.add(json.loads(json.dumps(part.values())))

    assert added.values() == whole.values()
    assert (added.summary(), added.advice()) == (whole.summary(), whole.advice())


def test_where_nothing_was_left_out_there_is_nothing_to_say() -> None:
    assert Inventory().summary() == ""
    assert Inventory().advice() == []
    assert {*Inventory().metrics().values()} == {0}


def test_a_line_for_each_reason_names_the_first_and_what_can_be_done() -> None:
    inventory = Inventory()
    for name in ("a.pdf", "b.html", "c.epub", "d.epub"):
        inventory.leave_out(Reason.NO_READER, name)
    inventory.leave_out(Reason.UNMARKED_UTF16, "a.txt", "utf-16be")
    inventory.leave_out(Reason.HIDDEN, ".git")
    inventory.followed.append("linked")

    utf16, formats, links = inventory.advice()

    assert "a.txt (utf-16be); convert: iconv -f utf-16le -t utf-8" in utf16
    assert "a.pdf, b.html, c.epub, …; convert: pandoc" in formats
    assert "linked; DVC does not see" in links


@pytest.mark.parametrize("name", ["two\nlines", "\x1b[31mred", os.fsdecode(b"caf\xe9")])
def test_no_name_breaks_the_line_or_the_terminal(name: str) -> None:
    inventory = Inventory()
    inventory.leave_out(Reason.BINARY, name, note=name)
    inventory.followed.append(name)
    inventory.num_files[name] = 1

    for line in (inventory.summary(), *inventory.advice()):
        assert line.isprintable()
        line.encode()
