"""Tables of labels are read as they stand, or refused with the row named; nothing is lost on the way."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fthnet_kit.calibration import label_table
from fthnet_kit.calibration.label_table import read_table
from fthnet_kit.calibration.labelled_images import LabelledImage, of_split, read_image_set
from fthnet_kit.edge.errors import InputError

PATIENTS = 20
NAMES = [f"{number:02}_{eye}.png" for number in range(PATIENTS) for eye in ("OD", "OS")]
HEADER = ["file_name", "meanOpinionScore", "split", "patient"]
Row = list[Any]


def plain(index: int) -> Row:
    return [NAMES[index], 20 + 2 * index, "train" if index < 32 else "val", f"{index // 2:02}"]


def csv_text(rows: Iterable[Row]) -> str:
    return "".join(",".join(map(str, row)) + "\n" for row in rows)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Photographs of both eyes of 20 patients; no table reads them."""
    for name in NAMES:
        (tmp_path / name).touch()
    return tmp_path


def read_csv(folder: Path, text: str, **columns: str) -> list[LabelledImage]:
    (folder / "scores.csv").write_text(text, encoding="utf-8")
    return read_image_set(folder, **columns)


def write_xlsx(folder: Path, change: Callable[[Any], None] = lambda book: None) -> Path:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in (HEADER, *map(plain, range(40))):
        book.active.append(row)
    change(book)
    book.save(folder / "scores.xlsx")
    return folder / "scores.xlsx"


def change_part(book: Path, part: str, change: Callable[[bytes], bytes]) -> None:
    with zipfile.ZipFile(book) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts[part] = change(parts[part])
    with zipfile.ZipFile(book, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def test_every_row_of_a_plain_table_is_read(folder: Path) -> None:
    images = read_csv(folder, csv_text([HEADER, *map(plain, range(40))]))
    assert [image.mos for image in images] == [20 + 2 * index for index in range(40)]
    assert [image.path.name for image in images] == NAMES
    assert len(of_split(images, "val")) == 8
    assert len({image.group for image in images}) == PATIENTS


@given(data=st.data())
def test_a_quote_that_is_not_closed_never_loses_rows(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """One quote, or two in different rows, at the beginning or end of cells."""
    path = tmp_path_factory.mktemp("quotes") / "t.csv"
    rows = [["file_name", "meanOpinionScore", "comment"], *([f"{n}.png", "50", "ok"] for n in range(12))]
    places = data.draw(st.sets(st.integers(1, 12), min_size=1, max_size=2))
    for place in places:
        column = data.draw(st.integers(0, 2))
        cell = rows[place][column]
        rows[place][column] = data.draw(st.sampled_from([f'"{cell}', f'{cell}"', f'{cell}""', '"']))
    path.write_text(csv_text(rows))
    try:
        table = read_table(path, ())
    except InputError as error:
        assert f"{path}, row {min(places) + 1}" in str(error) or f"{path}, row {max(places) + 1}" in str(error)
        assert "\n" not in str(error)
    else:
        assert [number for number, _ in table.rows] == list(range(2, 14))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*map(plain, range(5)), [*plain(5), "hazy"]], "row 7: expected 4 cells, as in the header, found 5"),
        ([*map(plain, range(5)), plain(5)[:3]], "row 7: expected 4 cells, as in the header, found 3"),
        ([["00_OD.png", 50, '"tr"ain', "00"]], "row 2: expected a row of a CSV table, found a quote"),
        ([["00_OD.png", "82,5", "train", "00"]], "row 2: expected 4 cells, as in the header, found 5"),
        ([["00_OD.png", '"82,5"', "train", "00"]], "row 2: expected a number from 0 to 100 .* found '82,5'"),
        ([["00_OD.png", "82%", "train", "00"]], "row 2: expected a number from 0 to 100 .* found '82%'"),
        ([["00_OD.png", "8_2", "train", "00"]], "row 2: expected a number from 0 to 100 .* found '8_2'"),
        ([plain(0), ["00_OS.png", 22, "", "00"]], "row 3: expected a split, found none"),
        ([plain(0), ["00_OS.png", 22, "train", ""]], "row 3: expected a patient, found none"),
        ([plain(0), ["./00_OD.png", 22, "train", "00"]], r"row 3: duplicate file_name './00_OD.png', already in row 2"),
    ],
)
def test_rows_that_can_be_read_in_two_ways_are_refused(folder: Path, rows: list[Row], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_csv(folder, csv_text([HEADER, *rows]))
    assert "\n" not in str(caught.value)


def test_empty_cells_beyond_the_header_and_empty_rows_do_not_count(folder: Path) -> None:
    text = csv_text([HEADER, [*plain(0), "", " "], [], ["", "", "", ""], plain(1)])
    assert [image.mos for image in read_csv(folder, text)] == [20, 22]


@pytest.mark.parametrize("labels", [(0, 1, 2), (0.2, 0.5, 0.98), (1, 3, 5)])
def test_labels_of_another_scale_are_refused(folder: Path, labels: tuple[float, ...]) -> None:
    rows = [[name, label] for name, label in zip(NAMES, labels, strict=False)]
    with pytest.raises(InputError, match=rf"none above {max(labels)}; bring labels .* to 0-100"):
        read_csv(folder, csv_text([HEADER[:2], *rows]))
    rows[0][1] = 5.5
    assert len(read_csv(folder, csv_text([HEADER[:2], *rows]))) == 3


@pytest.mark.parametrize(
    "header",
    [
        ["File_Name", "MeanOpinionScore", "Split", "Patient"],
        ["file name", "mean_opinion_score", "SPLIT", "patient_id"],
        ["filename", "meanopinionscore", " split ", "PatientID"],
        ["FILE-NAME", "Mean Opinion Score", "Split", "Subject ID"],
    ],
)
def test_columns_are_found_however_they_are_written(folder: Path, header: list[str]) -> None:
    images = read_csv(folder, csv_text([header, *map(plain, range(40))]))
    assert len(of_split(images, "val")) == 8
    assert len({image.group for image in images}) == PATIENTS


@pytest.mark.parametrize(
    ("extra", "named"),
    [("patient_id", "patient, patient_id"), ("Split", "split, Split"), ("File Name", "file_name, File Name")],
)
def test_two_columns_that_mean_the_same_are_refused(folder: Path, extra: str, named: str) -> None:
    rows = [[*plain(index), plain(index)[0]] for index in range(4)]
    with pytest.raises(InputError, match=f"expected one column .*, found {named}"):
        read_csv(folder, csv_text([[*HEADER, extra], *rows]))
    assert len(read_csv(folder, csv_text([[*HEADER, "comment"], *rows]))) == 4


def test_the_group_column_as_written_is_the_one_that_is_meant(folder: Path) -> None:
    text = csv_text([[*HEADER[:3], "patient_id", "Patient"], *([*plain(index), "one"] for index in range(4))])
    assert [image.group for image in read_csv(folder, text, group_column="Patient")] == ["one"] * 4
    assert [image.group for image in read_csv(folder, text, group_column="patient_id")] == ["00", "00", "01", "01"]


def test_the_group_column_that_is_asked_for_must_be_there(folder: Path) -> None:
    text = csv_text([[*HEADER[:3], "visit"], *map(plain, range(4))])
    assert [image.group for image in read_csv(folder, text, group_column="Visit")] == ["00", "00", "01", "01"]
    with pytest.raises(InputError, match="expected a column patient, found file_name, meanOpinionScore, split, visit"):
        read_csv(folder, text, group_column="patient")
    assert [image.group for image in read_csv(folder, text)] == NAMES[:4]


def test_folds_are_read_beside_patients(folder: Path) -> None:
    text = csv_text([[*HEADER, "fold"], *([*plain(index), index % 2] for index in range(4))])
    assert [image.fold for image in read_csv(folder, text, fold_column="fold")] == ["0", "1", "0", "1"]
    with pytest.raises(InputError, match="row 3: expected a fold, found none"):
        read_csv(folder, csv_text([[*HEADER, "fold"], [*plain(0), 1], [*plain(1), ""]]), fold_column="fold")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("00", "00"),
        ("7", "007"),
        ("7", "7.0"),
        ("p 7", "P7"),
        ("P-007", "p_7"),
        ("Jane Doe", "jane  doe"),
        ("Ａ1", "a1"),
        ("0", "000"),
    ],
)
def test_one_patient_is_never_on_both_sides(folder: Path, one: str, other: str) -> None:
    rows = [["00_OD.png", 50, "train", one], ["00_OS.png", 50, "val", other]]
    with pytest.raises(InputError, match=r"row 3: expected .* in one split, found 'val' here and 'train' in row 2"):
        read_csv(folder, csv_text([HEADER, *rows]))
    unsplit = read_csv(folder, csv_text([[*HEADER[:2], "patient"], *([r[0], r[1], r[3]] for r in rows)]))
    assert unsplit[0].group == unsplit[1].group == one
    assert unsplit[0].split == unsplit[1].split


@pytest.mark.parametrize(
    ("one", "other"),
    [("1", "10"), ("1-11", "11-1"), ("1-11", "111"), ("p1", "p2"), ("1.5", "15"), ("A+", "A*"), ("-", "--")],
)
def test_different_patients_stay_apart(folder: Path, one: str, other: str) -> None:
    rows = [["00_OD.png", 50, "train", one], ["00_OS.png", 50, "val", other]]
    assert len({image.group for image in read_csv(folder, csv_text([HEADER, *rows]))}) == 2


def test_a_folder_may_hold_hidden_and_lock_files(folder: Path) -> None:
    for name in ("._scores.csv", ".~lock.scores.csv", "~$scores.xlsx"):
        (folder / name).write_bytes(b"\0")
    assert len(read_csv(folder, csv_text([HEADER, plain(0)]))) == 1


def test_an_encoding_other_than_utf8_is_named(folder: Path) -> None:
    (folder / "scores.csv").write_bytes(csv_text([HEADER, [*plain(0)[:3], "Müller"]]).encode("latin-1"))
    with pytest.raises(InputError, match="in UTF-8, found another encoding"):
        read_image_set(folder)


@pytest.mark.parametrize("dimension", ["A1:D21", "A1:B41", "A1", "A1:XFD1048576", "B2:D41"])
def test_xlsx_is_read_whole_whatever_dimensions_it_claims(folder: Path, dimension: str) -> None:
    book = write_xlsx(folder)
    change_part(book, "xl/worksheets/sheet1.xml", lambda xml: xml.replace(b"A1:D41", dimension.encode()))
    images = read_image_set(folder)
    assert [image.mos for image in images] == [20 + 2 * index for index in range(40)]
    assert len(of_split(images, "val")) == 8


def test_xlsx_percent_is_refused_and_a_percent_sign_in_quotes_is_not(folder: Path) -> None:
    def in_percent(book: Any) -> None:
        book.active["B4"].value = 0.82
        book.active["B4"].number_format = "0.0%"

    def shown_after(book: Any) -> None:
        book.active["B4"].number_format = '0"%"'

    write_xlsx(folder, in_percent)
    with pytest.raises(InputError, match="row 4: expected a number from 0 to 100 in meanOpinionScore, found '82%'"):
        read_image_set(folder)
    write_xlsx(folder, shown_after)
    assert read_image_set(folder)[2].mos == 24


def test_xlsx_formulas_that_were_never_computed_are_refused(folder: Path) -> None:
    def row_of_formulas(book: Any) -> None:
        for cell in book.active[5]:
            cell.value = f'="{cell.value}"'

    write_xlsx(folder, row_of_formulas)
    with pytest.raises(InputError, match="row 5: expected a value, found a formula that was never computed"):
        read_image_set(folder)


def test_xlsx_merged_patients_are_refused(folder: Path) -> None:
    write_xlsx(folder, lambda book: book.active.merge_cells("D2:D3"))
    with pytest.raises(InputError, match="row 3: expected a patient, found none"):
        read_image_set(folder)


def test_xlsx_with_several_sheets_gives_the_one_with_the_columns(folder: Path) -> None:
    def with_notes(book: Any) -> None:
        book.create_sheet("notes", 0).append(["taken in May"])
        book.active = 0

    def with_a_copy(book: Any) -> None:
        book.copy_worksheet(book.active).title = "old"

    write_xlsx(folder, with_notes)
    assert len(read_image_set(folder)) == 40
    write_xlsx(folder, with_a_copy)
    with pytest.raises(InputError, match=r"expected one sheet .* found Sheet, old of 2 sheets"):
        read_image_set(folder)


def test_xlsx_cell_beyond_the_header_is_refused(folder: Path) -> None:
    write_xlsx(folder, lambda book: book.active.__setitem__("F9", "x"))
    with pytest.raises(InputError, match="row 9: expected 4 cells, as in the header, found 6"):
        read_image_set(folder)


def test_what_is_no_workbook_is_one_line(folder: Path) -> None:
    book = write_xlsx(folder)
    whole = book.read_bytes()
    for content in (b"", b"file_name,meanOpinionScore\n", whole[: len(whole) // 2]):
        book.write_bytes(content)
        with pytest.raises(InputError, match="expected an XLSX workbook, found something else") as caught:
            read_image_set(folder)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("element", [b"<row/>", b"<row><c/><c/></row>", b"<row r='99999999'><c><v>1</v></c></row>"])
def test_a_small_file_that_unpacks_to_a_huge_table_is_refused(folder: Path, element: bytes) -> None:
    book = write_xlsx(folder)
    many = element * (1 if b"r=" in element else 1_100_000)
    change_part(book, "xl/worksheets/sheet1.xml", lambda xml: xml.replace(b"</sheetData>", many + b"</sheetData>"))
    expected = "expected at most 200000 rows" if b"r=" in element else "expected a workbook of at most 32 MiB"
    with pytest.raises(InputError, match=expected):
        read_image_set(folder)


def test_limits_hold_for_csv_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_table, "MOST_ROWS", 30)
    with pytest.raises(InputError, match="expected at most 30 rows"):
        read_csv(folder, csv_text([HEADER, *map(plain, range(40))]))
    with pytest.raises(InputError, match="expected at most 1000 columns, found 1004"):
        read_csv(folder, csv_text([[*HEADER, *range(1000)]]))
