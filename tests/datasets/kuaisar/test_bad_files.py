"""Files that cannot be read are named with line and column."""

import zipfile

import pandas as pd
import pytest

from bench.data import sources
from bench.errors import RunError

from .release_files import FILES, change, records


@pytest.mark.parametrize(
    ("name", "column", "value", "message"),
    [
        ("rec_inter.csv", "click", "yes", "'yes' is not an integer"),
        ("rec_inter.csv", "click", "-1", "-1 is negative"),
        ("rec_inter.csv", "item_id", "", "is empty"),
        ("rec_inter.csv", "item_id", "1.03656e+11", "written with an exponent"),
        ("rec_inter.csv", "timestamp", "1.684742e+12", "written with an exponent"),
        ("rec_inter.csv", "timestamp", "1684742000", "looks like seconds"),
        ("rec_inter.csv", "timestamp", "1684742000000000", "looks like microseconds"),
        ("rec_inter.csv", "timestamp", "-5", "is a negative time"),
        ("rec_inter.csv", "timestamp", "9684742000000", "lies in the future"),
        ("rec_inter.csv", "timestamp", "1684742000001", "2023-05-22 15:53:20.001 in Beijing, but the row says"),
        ("rec_inter.csv", "time", "yesterday", "'yesterday' is not a time"),
        ("src_inter.csv", "keyword", "[1, two]", "is not a list of token ids"),
        ("src_inter.csv", "click_cnt", "-2", "-2 is negative"),
        ("src_inter.csv", "search_session_id", "x", "'x' is not an integer"),
        ("src_inter.csv", "item_type", "\udcff\udcfe", "is not UTF-8 text"),
        ("user_features.csv", "onehot_feat1", "a", "'a' is not an integer"),
    ],
)
def test_bad_cell_names_file_line_and_column(place, name, column, value, message):
    change(place.folder / name, 50, column, value)
    with pytest.raises(RunError) as caught:
        place()
    text = str(caught.value)
    assert f"{place.folder / name}, line 50, column {column}: " in text and message in text and "\n" not in text
    assert not list((place.root / "prepared").glob("*"))


@pytest.mark.parametrize("first", [True, False])
def test_bad_cell_in_the_first_row(place, first):
    change(place.folder / "rec_inter.csv", 2 if first else 3, "item_id", "1.03656e+11")
    with pytest.raises(RunError, match=f"line {2 if first else 3}, column item_id: '1.03656e"):
        place()


def test_lines_are_counted_with_the_breaks_inside_fields(place):
    path = place.folder / "item_features.csv"
    table = records(path)
    kept = place().items.id[1:].tolist()
    table[2]["caption"] = "[1,\n2,\n3]"
    row = next(number for number, record in enumerate(table) if number > 2 and record["item_id"] in kept)
    table[row]["caption"] = "[1, oops]"
    for record in table[3:row]:
        record["caption"] = record["caption"].replace("\n", " ")
    pd.DataFrame(table).to_csv(path, index=False)
    with pytest.raises(
        RunError, match=rf"item_features.csv, line {row + 2 + 2}, column caption: '\[1, oops\]' is not a list"
    ):
        place()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("no column", "rec_inter.csv, line 1: no column timestamp; it has user_id"),
        ("no spelling", "src_inter.csv, line 1: no column search_session_source or search_source"),
        ("empty", "rec_inter.csv is empty"),
        ("header", "rec_inter.csv has a header and no rows"),
        ("cut line", "rec_inter.csv, line 50: 3 fields, the header has 12"),
        ("open quote", "src_inter.csv, line"),
        ("no file", "lacks user_features.csv"),
        ("item twice", "column item_id: the item has an earlier row with other facts"),
        ("user twice", "user_features.csv, line 122, column user_id: user 1 has a second row"),
    ],
)
def test_bad_file(place, damage, message):
    rec, src = place.folder / "rec_inter.csv", place.folder / "src_inter.csv"
    if damage == "no column":
        rec.write_text(rec.read_text().replace("timestamp", "when", 1))
    elif damage == "no spelling":
        src.write_text(src.read_text().replace("search_session_source", "origin", 1))
    elif damage == "empty":
        rec.write_text("")
    elif damage == "header":
        rec.write_text(rec.read_text().splitlines()[0] + "\n")
    elif damage == "cut line":
        lines = rec.read_text().split("\n")
        lines[49] = ",".join(lines[49].split(",")[:3])
        rec.write_text("\n".join(lines))
    elif damage == "open quote":
        src.write_text(src.read_text().rstrip("\n") + '\n1,2,"3')
    elif damage == "no file":
        (place.folder / "user_features.csv").unlink()
    elif damage == "item twice":
        items = place.folder / "item_features.csv"
        table = pd.read_csv(items, dtype=str, keep_default_na=False)
        table = pd.concat([table, table.assign(author_id="123456")])
        table.to_csv(items, index=False)
    else:
        users = place.folder / "user_features.csv"
        users.write_text(users.read_text() + "1,0,0,0,0\n")
    with pytest.raises(RunError) as caught:
        place()
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_repeated_equal_item_rows_are_one(place, plain):
    path = place.folder / "item_features.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    pd.concat([table, table]).to_csv(path, index=False)
    assert place().fingerprint == plain.fingerprint


@pytest.mark.parametrize(
    "outside", ["../rec_inter.csv", "KuaiSAR_v2/../../evil.csv", "/etc/evil.csv", "C:\\\\evil.csv"]
)
def test_a_zip_with_a_path_outside_of_it_is_refused(place, outside):
    path = place.root / "kuaisar" / "KuaiSAR_v2.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in FILES:
            archive.write(place.folder / name, f"KuaiSAR_v2/{name}")
            (place.folder / name).unlink()
        archive.writestr(outside, "user_id\n1\n")
    before = sorted(place.root.parent.rglob("*.csv"))
    with pytest.raises(RunError) as caught:
        place()
    assert str(path) in str(caught.value) and "a path outside of it" in str(caught.value)
    assert sorted(place.root.parent.rglob("*.csv")) == before and not (place.root / "prepared").exists()


@pytest.mark.parametrize("damage", ["cut", "flip", "member", "not a zip"])
def test_bad_zip(place, damage):
    path = place.root / "kuaisar" / "KuaiSAR_v2.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in FILES[: 3 if damage == "member" else 4]:
            archive.write(place.folder / name, f"KuaiSAR_v2/{name}")
        middle = archive.getinfo("KuaiSAR_v2/rec_inter.csv").compress_size // 2
    for name in FILES:
        (place.folder / name).unlink()
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :])
    elif damage == "not a zip":
        path.write_text("<html>404</html>")
    with pytest.raises(RunError) as caught:
        place()
    assert "KuaiSAR_v2.zip" in str(caught.value) and "download it again" in str(caught.value)


def test_missing_files_say_where_to_get_them(tmp_path):
    with pytest.raises(RunError, match=r"no KuaiSAR_v2/ and no KuaiSAR_v2.zip in .*kuaisar; download .*8181109"):
        sources.load("kuaisar", {}, tmp_path)


def test_an_encrypted_zip_says_so(place):
    path = place.root / "kuaisar" / "KuaiSAR_v2.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in FILES:
            archive.write(place.folder / name, f"KuaiSAR_v2/{name}")
            (place.folder / name).unlink()
    content = bytearray(path.read_bytes())
    # Bit 0 of a member's flags, in its own header and in the directory at the end.
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = -1
        while (at := content.find(mark, at + 1)) >= 0:
            content[at + offset] |= 1
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"KuaiSAR_v2\.zip is encrypted") as caught:
        place()
    assert "\n" not in str(caught.value)
