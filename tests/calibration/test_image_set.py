"""Folders in FQS form: what is right is read, what is wrong is one line."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from fthnet_kit.calibration.labelled_images import of_split, read_image_set, read_image_sets
from fthnet_kit.edge.errors import InputError

HEADER = "file_name,meanOpinionScore,split,patient\n"
GOOD = "a.png,50,train,p1\nb.png,12.5,val,p2\nc.png,90,train,p1\n"


def make(folder: Path, table: str, *, name: str = "scores.csv", below: str = "images") -> Path:
    (folder / below).mkdir(parents=True, exist_ok=True)
    for image in "abc":
        cv2.imwrite(str(folder / below / f"{image}.png"), np.zeros((4, 4, 3), np.uint8))
    (folder / name).write_text(table, encoding="utf-8")
    return folder


def test_a_folder_is_read(tmp_path: Path) -> None:
    images = read_image_set(make(tmp_path, HEADER + GOOD))
    assert [(i.path.name, i.mos, i.split, i.group) for i in images] == [
        ("a.png", 50, "train", "p1"),
        ("b.png", 12.5, "val", "p2"),
        ("c.png", 90, "train", "p1"),
    ]
    assert len(read_image_sets([tmp_path, tmp_path])) == 6


def test_images_may_lie_beside_the_table_and_a_byte_order_mark_is_no_matter(tmp_path: Path) -> None:
    assert len(read_image_set(make(tmp_path, "\ufeff" + HEADER + GOOD, below="."))) == 3


def test_xlsx(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    make(tmp_path, "")
    (tmp_path / "scores.csv").unlink()
    book = openpyxl.Workbook()
    for row in (["file_name", "meanOpinionScore", "split"], ["a.png", 61.5, "train"], ["b.png", 23, "val"]):
        book.active.append(row)
    book.save(tmp_path / "scores.xlsx")
    assert [i.mos for i in read_image_set(tmp_path)] == [61.5, 23]


def test_without_a_split_groups_stay_together(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    rows = []
    for index in range(200):
        cv2.imwrite(str(images / f"{index}.png"), np.zeros((2, 2, 3), np.uint8))
        rows.append(f"{index}.png,50,{index // 4}")
    (tmp_path / "scores.csv").write_text("file_name,meanOpinionScore,patient\n" + "\n".join(rows))
    found = read_image_set(tmp_path)
    assert found == read_image_set(tmp_path)
    assert 4 <= len(of_split(found, "val")) <= 60
    assert not {i.group for i in of_split(found, "val")} & {i.group for i in of_split(found, "train")}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (HEADER + "z.png,50,train,p\n", "row 2: expected the image z.png"),
        (HEADER + GOOD + "a.png,40,train,p\n", "row 5: duplicate file_name 'a.png', already in row 2"),
        (HEADER + "a.png,101,train,p\n", "between 0 and 100, found 101"),
        (HEADER + "a.png,-1,train,p\n", "between 0 and 100"),
        (HEADER + "a.png,nan,train,p\n", "expected a number from 0 to 100"),
        (HEADER + "a.png,good,train,p\n", "expected a number"),
        (HEADER + "a.png,50,test,p\n", "expected split 'train' or 'val'"),
        (HEADER + ",50,train,p\n", "expected a file_name"),
        ("name,score\na.png,5\n", "expected a column file_name"),
        (HEADER, "expected at least one row"),
        ("", "expected a column"),
    ],
)
def test_wrong_tables(tmp_path: Path, table: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_image_set(make(tmp_path, table))
    assert "\n" not in str(caught.value)


def test_missing_folder_table_or_split(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a folder in FQS form"):
        read_image_set(tmp_path / "none")
    with pytest.raises(InputError, match="expected one score table"):
        read_image_set(tmp_path)
    with pytest.raises(InputError, match="split 'val': expected at least one photograph"):
        of_split(read_image_set(make(tmp_path, HEADER + "a.png,50,train,p\n")), "val")


def test_the_development_sets_are_in_that_form(data: Path) -> None:
    fundus = read_image_set(data / "fundus")
    assert len(of_split(fundus, "train")) == 1329
    assert len(of_split(fundus, "val")) == 160
    assert len(read_image_set(data / "fqs_sample")) == 5
