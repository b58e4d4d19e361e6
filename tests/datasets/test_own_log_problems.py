"""What is wrong with the content of own logs: all of it at once, by file, row and column."""

import gzip
import io

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from bench.cli.data_check import check
from bench.errors import RunError, UsageError

from .own_log_files import T0, events, load, notes, problems, tables, write

LINE_BREAK = "a line break inside {} (a quote that is not closed?)"
BAD = b"""user,item,time,task,query,session,extra
u1,i1,1732668760025,rec,,,x
u1,i2,1732668760,rec,,,x
u1,i9,-5,rec,,,x
u1,i1
u2,\xff,1732668760025,search,,s1,x
u2,i1,1.7e12,buy,,s1,x
u2,i1,1732668760025000,search,"q
1",s1,x
 ,i1,9732668760025,rec,q,,x

1.5e+12,i1,1732668760025,rec,,,x
u3,i1,1732668760,rec,,,x
u3 ,"i1
i2",1732668760025,rec,,,x
"""


def test_everything_that_is_wrong_is_said_at_once(tmp_path):
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "events.csv").write_bytes(BAD)
    (folder / "items.csv").write_text("item,text\ni1,one\ni2,two\ni1,three\n")
    (folder / "queries.csv.gz").write_bytes(gzip.compress(b"query,text\nq,hello\n" * 500)[:-15])
    (folder / "users.csv").write_text("user_id,age\nu1,3\n")
    (folder / "users.parquet").write_bytes(b"PAR1 no")
    assert problems(folder) == [
        "users: there are users.csv and users.parquet; keep one of them",
        "events.csv, row 6: the text is not UTF-8; convert the file",
        "events.csv, row 5: expected 7 values, found 2",
        f"events.csv, row 13, column item: {LINE_BREAK.format('an id')}: 'i1\\ni2'",
        f"events.csv, row 8, column query: {LINE_BREAK.format('a value')}: 'q\\n1'",
        "events.csv, row 9, column user: no value",
        "events.csv, row 13, column user: blanks around an id: 'u3 '",
        "events.csv, row 7, column task: unknown task (rec or search): 'buy'",
        "events.csv, row 6, column query: a search event without a query",
        "events.csv, row 9, column query: a rec event with a query: 'q'",
        "events.csv, row 7, column time: a number in exponent notation, which is rounded; needed are all digits: '1.7e12'",
        "events.csv, row 4, column time: negative time: '-5'",
        "events.csv, row 3, column time: seconds instead of milliseconds? (multiply by 1000): '1732668760' "
        "(2 such rows)",
        "events.csv, row 8, column time: microseconds instead of milliseconds? (divide by 1000): '1732668760025000'",
        "events.csv, row 9, column time: a time in the future: '9732668760025'",
        "events.csv, row 4, column item: unknown item, not in items.csv: 'i9' (3 such rows)",
        "items.csv, row 4, column item: duplicate id: 'i1'",
        "queries.csv.gz: truncated gzip file; copy it again",
        "users.csv, column user: the column is missing (is it 'user_id'? rename it); there are user_id, age",
    ]
    with pytest.raises(RunError) as caught:
        load(folder, tmp_path)
    assert "users.csv and users.parquet" in str(caught.value)
    (folder / "users.parquet").unlink()
    with pytest.raises(RunError) as caught:
        load(folder, tmp_path)
    message = str(caught.value)
    assert (
        "row 6" in message
        and "17 further problems" in message
        and f"bench data check {folder}" in message
        and "\n" not in message
    )
    assert not (tmp_path / "prepared").exists()


@pytest.mark.parametrize(
    ("column", "values", "what"),
    [
        ("time", [1.5e12, 1.6e12 + 0.5], "row 2, column time: no whole number"),
        ("time", [pd.Timestamp(T0, unit="ms"), None], "row 2, column time: no value"),
        ("user", [1.0, 2.0], "column user: wrong type double; needed is text or whole numbers"),
        ("user", ["a", None], "row 2, column user: no value"),
        ("time", [T0, None], "row 2, column time: no value"),
        ("item", [["a"], ["b"]], "column item: wrong type list"),
    ],
)
def test_wrong_types_of_parquet_columns(tmp_path, column, values, what):
    table = {"user": ["a", "b"], "item": ["x", "y"], "time": [T0, T0]} | {column: values}
    pq.write_table(pa.table(table), tmp_path / "events.parquet")
    assert len(problems(tmp_path)) == 1 and what in problems(tmp_path)[0]


def test_a_byte_order_mark_and_quoted_line_breaks_are_fine(tmp_path):
    text = "user,item,time\nu,i,1732668760025\nu,j,1732668760026\nu,k,1732668760027\n"
    (tmp_path / "events.csv").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    (tmp_path / "items.csv").write_text('item,text\ni,"two\nlines, one item"\nj,x\nk,y\nk,z\n')
    assert problems(tmp_path) == ["items.csv, row 5, column item: duplicate id: 'k'"]


def test_the_command_lists_problems_and_fails_or_says_how_to_go_on(tmp_path):
    write(tmp_path / "good", tables())
    done = CliRunner().invoke(check, [str(tmp_path / "good")])
    assert done.exit_code == 0 and "is in order" in done.stdout and f"--dataset log:{tmp_path / 'good'}" in done.stdout
    assert "note: features: items.feature:size, users.feature:age" in done.stdout
    (tmp_path / "good" / "items.csv").write_text("item\ni1\ni1\n")
    done = CliRunner().invoke(check, [str(tmp_path / "good")])
    assert (
        isinstance(done.exception, RunError) and "duplicate id" in done.stdout and "2 problems" in str(done.exception)
    )
    with pytest.raises(UsageError, match="no such folder"):
        CliRunner().invoke(check, [str(tmp_path / "none")], catch_exceptions=False)


def test_large_values_do_not_break_the_reader(tmp_path):
    """A caption longer than a block of the reader, with line breaks."""
    stream = io.StringIO()
    pd.DataFrame({"item": ["i"], "text": ["long\n" * 500_000]}).to_csv(stream, index=False)
    (tmp_path / "items.csv").write_text(stream.getvalue())
    (tmp_path / "events.csv").write_text(f"user,item,time\nu,i,{T0}\n")
    assert problems(tmp_path) == []


OPEN = "a quote that opens here is not closed"


def rows(*lines: str, header: str = "user,item,time,task,query,session") -> str:
    return "\n".join([header, *lines]) + "\n"


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        # To the end of the file.
        ((f'a,i1,{T0},search,"32 inch tv,', f"a,i2,{T0},rec,,", f"b,i2,{T0},rec,,"), f"row 2: {OPEN}: '\"32 inch tv,'"),
        # To the next quote, before and after well-formed and bare ones.
        (
            (
                f'a,i1,{T0},search,"7"" tab",',
                f'a,i2,{T0},search,5" tab,',
                f'a,i3,{T0},search,"tv,',
                f'b,i1,{T0},search,"tv",',
            ),
            f"row 4: {OPEN}: '\"tv,'",
        ),
        # The last value of the last row.
        ((f"a,i1,{T0},rec,,", f'a,i1,{T0},search,tv,"s1'), f"row 3: {OPEN}: '\"s1'"),
        # A row with line breaks is one row.
        ((f'a,i1,{T0},search,"t\nv",', f'"a,i2,{T0},rec,,'), f"row 3: {OPEN}: '\"a,i2,{T0},rec,,'"),
        # Closed later by the quote of another row.
        ((f'a,i1,{T0},search,"tv', f'a,i2,{T0},search,tv",s1'), f"row 2, column query: {LINE_BREAK.format('a value')}"),
        ((f'a,i1,{T0},rec,,"s', '1"'), f"row 2, column session: {LINE_BREAK.format('a value')}"),
        ((f'a,i1,"{T0}', '",rec,,'), f"row 2, column time: {LINE_BREAK.format('a time')}"),
        ((f'a,i1,{T0},"rec', '",,'), f"row 2, column task: {LINE_BREAK.format('a value')}"),
    ],
)
def test_open_quotes_and_line_breaks_inside_values_are_said_with_the_row(tmp_path, lines, problem):
    (tmp_path / "events.csv").write_text(rows(*lines))
    assert problems(tmp_path)[0].startswith(f"events.csv, {problem}"), problems(tmp_path)
    (tmp_path / "events.csv").write_bytes(b"\xef\xbb\xbf" + rows(*lines).replace("\n", "\r\n").encode())
    assert problems(tmp_path)[0].startswith(f"events.csv, {problem.split(':')[0]}"), problems(tmp_path)


def test_an_open_quote_in_the_file_of_items_is_found_where_it_opens(tmp_path):
    (tmp_path / "events.csv").write_text(rows(*(f"a,i{i},{T0},rec,," for i in range(5))))
    (tmp_path / "items.csv").write_text(
        'item,text\ni0,"two\nlines"\ni1,"32 inch tv\ni2,cup\ni3,"tea ""pot"""\ni4,tray\n'
    )
    assert problems(tmp_path) == [f"items.csv, row 3: {OPEN}: '\"32 inch tv'"]
    # The text is closed by a stray quote two rows on: nothing but the missing items tells.
    (tmp_path / "items.csv").write_text('item,text\ni0,"two\nlines"\ni1,"32 inch tv\ni2,cup\ni3,5"\ni4,tray\n')
    assert problems(tmp_path)[-1] == (
        "items.csv, row 3, column text: a quote that opens here is not closed, the text goes on into the row of item 'i2'"
    )


@pytest.mark.parametrize("text", ['a "b" c', 'say ""hi""', '5" tab', ' "x"', '""'])
def test_quotes_inside_bare_values_are_text(tmp_path, text):
    (tmp_path / "events.csv").write_text(rows(f"a,i,{T0},rec,,", f'b,"i",{T0},rec,,'))
    (tmp_path / "items.csv").write_text(f"item,text\ni,{text}\n")
    assert problems(tmp_path) == []


@pytest.mark.parametrize("ids", [["12345e67", "1e5", "00E12"], ["1.5e+12", "7"], ["1E5", "2", "3"], ["1.2E+07", "x"]])
def test_ids_that_merely_look_like_exponents_are_ids(tmp_path, ids):
    (tmp_path / "events.csv").write_text(rows(*(f"u,{item},{T0},rec,," for item in ids * 5)))
    assert not any("spreadsheet" in note for note in notes(tmp_path))


@pytest.mark.parametrize("column", ["item", "session"])
def test_numbers_that_a_spreadsheet_has_rounded_are_noted(tmp_path, column):
    values = ["1.23E+07", "1.24E+07", "1.24E+07", "11", "12"]
    lines = [f"u,{v},{T0},rec,," if column == "item" else f"u,i,{T0 + i},rec,,{v}" for i, v in enumerate(values)]
    (tmp_path / "events.csv").write_text(rows(*lines))
    assert any(note.startswith(f"events.csv, column {column}: ids such as '1.23E+07'") for note in notes(tmp_path))


@pytest.mark.parametrize(
    ("time", "what"),
    [
        ("1732668760025000000", "nanoseconds instead of milliseconds? (divide by 1,000,000): '1732668760025000000'"),
        ("1732668760025000", "microseconds instead of milliseconds? (divide by 1000)"),
        ("0", "time 0, which stands for a missing time"),
        ("", "no value"),
        ("1732668760.25", "seconds with a fraction; multiply by 1000 and round"),
        ("1732668760025.5", "no whole number of milliseconds"),
        ("1.73267E+12", "a number in exponent notation"),
        ("2024-06-03 10:00:00", "a date; needed are milliseconds since 1970 (UTC)"),
        ("99999999999999999999", "no whole number of milliseconds"),
        ("0x1934f2c4e19", "no whole number of milliseconds"),
    ],
)
def test_times_that_are_none_get_a_hint(tmp_path, time, what):
    (tmp_path / "events.csv").write_text(rows(f"u,i,{T0},rec,,", f"u,j,{time},rec,,"))
    assert [problem.split(", column time: ")[0] for problem in problems(tmp_path)] == ["events.csv, row 3"]
    assert problems(tmp_path)[0].split(", column time: ")[1].startswith(what)


def test_whole_numbers_may_be_written_with_a_point(tmp_path):
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv" / "events.csv").write_text(rows("u,i,1600033585575.0,rec,,", "u,j,1600033585576,rec,,"))
    table = pd.DataFrame({"user": "u", "item": ["i", "j"], "time": [1600033585575.0, 1600033585576.0]})
    write(tmp_path / "parquet", {"events": table}, "parquet")
    for form in ("csv", "parquet"):
        assert load(tmp_path / form, tmp_path).events.time.tolist() == [1600033585575, 1600033585576]


def test_one_missing_time_makes_one_row_wrong(tmp_path):
    table = events()
    stamps = pd.to_datetime(table["time"], unit="ms")
    for name, times in {"nat": stamps, "float": table["time"].astype(float)}.items():
        write(tmp_path / name, {"events": table.assign(time=times.where(table.index != 3))}, "parquet")
        assert problems(tmp_path / name) == ["events.parquet, row 4, column time: no value"]


@pytest.mark.parametrize(
    ("query", "hint"),
    [
        ("19.0", "(is '19.0' the '19' of that file? blanks, leading zeros or a decimal point alone tell them apart)"),
        ("0108775015", "(is '0108775015' the '108775015' of that file?"),
        (
            "Red",
            "(is 'Red' the 'red' of that file? upper and lower case or the width of letters alone tell them apart)",
        ),
    ],
)
def test_an_unknown_query_is_shown_beside_the_one_that_it_means(tmp_path, query, hint):
    (tmp_path / "events.csv").write_text(rows(f"u,i,{T0},search,19,", f"u,j,{T0},search,{query},"))
    (tmp_path / "queries.csv").write_text("query,text\n19,tea\n108775015,pot\nred,red\n")
    assert problems(tmp_path)[0].startswith(
        f"events.csv, row 3, column query: unknown query, not in queries.csv {hint}"
    )
    # Integers of Parquet against floats that pandas has made of them.
    (tmp_path / "queries.csv").unlink()
    write(tmp_path, {"queries": pd.DataFrame({"query": [19, 108775015]})}, "parquet")
    assert problems(tmp_path)[0].startswith("events.csv, row 3, column query: unknown query, not in queries.parquet")


def test_spellings_of_one_query_or_id_are_noted(tmp_path):
    lines = [f"u,{i},{T0},search,{q}," for i, q in enumerate(["iphone", "iphone ", " iphone", "red  cup", "Red cup"])]
    (tmp_path / "events.csv").write_text(rows(*lines, f"u,04,{T0},rec,,"))
    found = notes(tmp_path)
    assert any(
        "column query: 3 spellings count as different: ' iphone', 'iphone', 'iphone ' (2 such" in n for n in found
    )
    assert any("column item: 2 spellings count as different: '4', '04'" in note for note in found)
    (tmp_path / "events.csv").write_text(rows(f"u,Ab,{T0},search,cup,", f"u,aB,{T0},search,cups,"))
    assert not any("spellings" in note for note in notes(tmp_path))


def test_blanks_alone_are_no_query_and_no_session(tmp_path):
    (tmp_path / "events.csv").write_text(rows(f"u,i,{T0},rec, , ", f"u,j,{T0 + 1},rec,,"))
    log = load(tmp_path, tmp_path / "root")
    assert len(log.queries) == 0 and len(set(log.events.session)) == 2


def test_control_characters_do_not_reach_the_terminal(tmp_path):
    (tmp_path / "events.csv").write_text(rows(f"u,i,{T0},\x1b[31mrec,,"))
    assert "\x1b" not in "".join(problems(tmp_path)) and "\\x1b[31m" in problems(tmp_path)[0]
