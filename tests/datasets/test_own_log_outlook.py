"""What `check` says beforehand is what split and candidates do: acts, test rows, negatives, unclicked items, words."""

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.cli.data_check import check
from bench.data import sources
from bench.data.batch import Batches
from bench.data.few_users import few_test_users
from bench.data.history import Window
from bench.data.split import split
from bench.data.training import TrainData
from bench.datasets.own_log.check import inspect
from bench.datasets.own_log.outlook import outline
from bench.errors import RunError, UsageError
from bench.evaluation import leaks
from bench.evaluation.candidates import draw
from bench.evaluation.scoring import RowValidation
from bench.experiments.job import execute
from bench.experiments.plan import plan
from bench.experiments.prepared_data import cautions, open_candidates, open_data
from bench.experiments.run import RunRequest
from bench.experiments.settings import Overrides

from .own_log_files import NOW, T0, load, notes, write

DAY_MS = 86_400_000


def one_task(rows: list[tuple[str, str]], step: int = 60_000) -> pd.DataFrame:
    """Clicks of (user, item), one a minute."""
    table = pd.DataFrame(rows, columns=["user", "item"])
    return table.assign(time=T0 + step * np.arange(len(table)))


def heavy_log(heavy: int = 1, light: int = 9, items: int = 120, touched: int = 119) -> pd.DataFrame:
    """Users who touched nearly all items (h0, h1, ...), beside users who touched four (u0, u1, ...)."""
    rows = [(f"h{user}", f"i{item}") for user in range(heavy) for item in range(touched)]
    rows += [(f"u{user}", f"i{(7 * user + 31 * n) % items}") for user in range(light) for n in range(4)]
    return one_task([*rows, ("u0", f"i{items - 1}")])


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1, 86_400_000]))
def test_the_outline_is_split_as_the_log_itself(tmp_path_factory, seed, unit):
    rng = np.random.default_rng(seed)
    n = 150
    search = rng.random(n) < 0.5
    table = pd.DataFrame(
        {
            "user": rng.integers(0, 9, n),
            "item": [f"i{item}" for item in rng.integers(0, 40, n)],
            "time": (T0 + rng.integers(0, 10**9, n)) // unit * unit,
            "query": np.where(search, [f"q{q}" for q in rng.integers(0, 4, n)], ""),
            "session": [f"s{s}" if s < 5 else "" for s in rng.integers(0, 9, n)],
            "event": [f"e{e}" if e < 5 else "" for e in rng.integers(0, 40, n)],
        }
    )
    folder = write(tmp_path_factory.mktemp("log"), {"events": pd.concat([table, table.iloc[:4]])})
    source = sources.open_source(f"log:{folder}")
    log, inspection = source.prepare(source.raw_files()), inspect(folder, NOW)
    sketch = outline(inspection.codes, len(log.items))
    for name in ("leave-one-out", "global-time"):
        assert split(sketch, name).counts() == split(log, name).counts()
    counts = split(log).counts()
    for task in log.tasks:
        assert any(note.startswith(f"{task}: {counts[f'test/{task}']:,} test rows") for note in inspection.notes)


def test_clicks_of_one_session_are_one_event_for_check_and_split(tmp_path):
    rows = [(f"u{user}", f"i{n}", "search", "tea", "s1") for user in range(40) for n in range(3)]
    table = pd.DataFrame(rows, columns=["user", "item", "task", "query", "session"]).assign(time=T0 + np.arange(120))
    write(tmp_path, {"events": table})
    found = CliRunner().invoke(check, [str(tmp_path)])
    assert found.exit_code == 0 and "no test rows under the split leave-one-out, because" in found.output
    assert "three events" in found.output and "is in order" not in found.output
    # The same clicks as rows of their own are three events.
    write(tmp_path, {"events": table.assign(session="")})
    assert "search: 40 test rows under the split leave-one-out" in notes(tmp_path)


@pytest.mark.parametrize("case", ["two events each", "one time"])
def test_a_log_without_test_rows_says_why_and_which_split_has_some(tmp_path, case):
    n = 2 if case == "two events each" else 1
    table = one_task([(f"u{user}", f"i{user % 30 + 40 * k}") for k in range(n) for user in range(100)])
    write(tmp_path, {"events": table if n == 2 else table.assign(time=T0)})
    found = notes(tmp_path)
    assert any(note.startswith("no test rows under the split leave-one-out, because") for note in found)
    assert any(note.startswith("--split global-time would give") for note in found) == (n == 2)


def test_few_test_users_are_said_by_check_and_by_run(tmp_path):
    write(tmp_path / "log" / "small", {"events": one_task([("u", f"i{n}") for n in range(6)] + [("v", "i9")])})
    said = "rec: test rows of 1 user only; differences between models are mostly chance at that size"
    assert said in notes(tmp_path / "log" / "small")
    prepared = open_data("log:small", root=tmp_path)
    assert cautions(prepared, []) == [f"log:small: {said}"]
    table = one_task([(f"u{user}", f"i{user % 7 + 10 * n}") for user in range(101) for n in range(3)])
    assert few_test_users(split(load(write(tmp_path / "large", {"events": table}), tmp_path))) == []


def test_users_without_enough_negatives_are_left_out_counted_and_named(tmp_path):
    write(tmp_path / "log" / "heavy", {"events": heavy_log()})
    assert any(
        note.startswith("1 of 10 test rows have fewer than 99 items left that their user never touched (users h0;")
        for note in notes(tmp_path / "log" / "heavy")
    )
    prepared = open_data("log:heavy", root=tmp_path)
    drawn = open_candidates(prepared, "uniform", ("rec",), 0)
    users = prepared.log.users.id[prepared.log.events.user[drawn.rows]]
    assert sorted(users) == [f"u{user}" for user in range(9)] and drawn.meta["left_out"] == {"rows": 1, "users": "h0"}
    counters = leaks.candidate_counters(prepared.split, drawn)
    assert counters["rows left out, too few items that their users never touched"] == 1
    assert counters["users of the rows left out"] == "h0" and counters[leaks.FALSE_NEGATIVES] == 0
    assert any("leave out 1 test rows" in line and "h0" in line for line in cautions(prepared, [drawn]))
    assert len(draw(prepared.split, strategy="full")) == 10
    # Popularity draws from the items with training events alone; who has seen most of them is left out, too.
    popular = draw(prepared.split, strategy="popularity", negatives=60)
    assert popular.meta["left_out"]["users"] == "h0" and len(popular) == 9


def test_many_users_are_counted_and_a_catalogue_that_is_too_small_is_refused(tmp_path):
    log = load(write(tmp_path / "many", {"events": heavy_log(heavy=30, light=60)}), tmp_path)
    left_out = draw(split(log)).meta["left_out"]
    assert left_out["rows"] == 30 and left_out["users"].endswith("and 10 more") and "h0" in left_out["users"]
    log = load(write(tmp_path / "tiny", {"events": heavy_log(heavy=0, items=60)}), tmp_path)
    with pytest.raises(UsageError, match=r"catalogue of \d+ items is too small to draw from, use --candidates full"):
        draw(split(log))


def test_training_leaves_out_rows_without_enough_negatives(tmp_path):
    log = load(write(tmp_path / "a", {"events": heavy_log()}), tmp_path)
    train = TrainData(Batches(split(log)), ("rec",), 0)
    window = Window(rec=5, search=5, clicks=1)
    stream = train.events(16, negatives=4, window=window)
    users = np.concatenate([batch.user.numpy() for batch in stream.batches(0, stream.steps_per_pass)])
    assert set(log.users.id[users]) == {f"u{user}" for user in range(9)}
    assert train.left_out == 117 == train.only("rec").left_out and train.left_out + len(users) == len(train)
    with pytest.raises(RunError, match="too small to draw negatives from"):
        train.events(16, negatives=120, window=window)


def test_validation_leaves_out_single_rows_and_ranks_all_where_most_would_go(tmp_path):
    parts = split(load(write(tmp_path / "a", {"events": heavy_log()}), tmp_path))
    candidates = RowValidation(Batches(parts), ("rec",), Window()).candidates
    assert candidates.label == "uniform-99" and len(candidates) == 9
    assert candidates.meta["left_out"] == {"rows": 1, "users": "h0"}
    for heavy, label, rows in ((9, "uniform-99", 9), (10, "full", 19)):
        parts = split(load(write(tmp_path / str(heavy), {"events": heavy_log(heavy=heavy)}), tmp_path))
        candidates = RowValidation(Batches(parts), ("rec",), Window()).candidates
        assert (candidates.label, len(candidates)) == (label, rows)


def test_the_record_counts_the_rows_that_training_and_validation_left_out(tmp_path):
    write(tmp_path / "log" / "heavy", {"events": heavy_log()})
    overrides = Overrides({"lightgcn": {"max_steps": 2, "batch_size": 8, "negatives": 4}})
    planned = plan(
        RunRequest("lightgcn,popularity", dataset=["log:heavy"], data=tmp_path, out=tmp_path / "out", trivial=False,
                   threads=1, overrides=overrides)
    )  # fmt: skip
    trained, counted = (execute(job).record for job in planned[0].jobs)
    assert trained.fit["training_rows_left_out"] == 117 and "training_rows_left_out" not in counted.fit
    assert trained.evidence["validation rows left out"] == "1 (users h0)"


def test_preferred_items_may_use_up_what_is_left(tmp_path):
    """A row with preferred negatives needs fewer others: 100 items left are enough for 99, whatever is preferred."""
    rows = [("h", f"i{n}", "") for n in range(20)] + [("h", f"i{n}", "tea") for n in range(20, 26)]
    rows += [(f"u{n % 7}", f"i{n}", "tea") for n in range(26, 126)]
    table = pd.DataFrame(rows, columns=["user", "item", "query"]).assign(time=T0 + np.arange(126))
    parts = split(load(write(tmp_path / "a", {"events": table}), tmp_path))
    drawn = draw(parts, tasks=("search",), strategy="same-query")
    assert "left_out" not in drawn.meta and leaks.candidate_counters(parts, drawn)[leaks.FALSE_NEGATIVES] == 0
    assert all(len(set(row)) == 100 and row.min() > 0 for row in drawn.items)


def test_items_that_nobody_clicked_are_candidates_unless_a_setting_says_no(tmp_path):
    events = one_task([(f"u{user}", f"i{(user + n) % 10}") for user in range(10) for n in range(4)])
    items = pd.DataFrame({"item": [f"i{n}" for n in range(15)], "text": [f"thing {n}" for n in range(15)]})
    folder = write(tmp_path / "a", {"events": events, "items": items})
    log = load(folder, tmp_path)
    assert len(log.items) == 15 and log.items.text[log.items.id.tolist().index("i12")] == "thing 12"
    assert log.manifest["remarks"] == ["5 items that nobody clicked are candidates, too"]
    assert any(note.startswith("5 items that nobody clicked are candidates") for note in notes(folder))
    full = draw(split(log), strategy="full")
    assert full.items is None and (log.events.item[full.rows] - 1 == full.position).all()
    clicked = load(folder, tmp_path, unclicked_items=False)
    assert len(clicked.items) == 10 and clicked.manifest["remarks"][0].startswith(
        "5 items that nobody clicked are left out"
    )
    assert len(load(folder, tmp_path, core=2).items) == 10


def test_the_time_zone_is_a_setting_and_utc_by_default(tmp_path):
    folder = write(tmp_path / "a", {"events": one_task([("u", f"i{n}") for n in range(5)])})
    assert load(folder, tmp_path).manifest["time_zone"] == "UTC"
    assert load(folder, tmp_path, time_zone="America/New_York").manifest["time_zone"] == "America/New_York"
    for wrong in ("Mars/Olympus", "../../etc/passwd", ""):
        with pytest.raises(UsageError, match=r"time_zone: .*no time zone of that name"):
            sources.load(f"log:{folder}", {"time_zone": wrong}, root=tmp_path)


def test_words_of_other_scripts_stand_in_the_log_and_in_what_check_says(tmp_path):
    queries = ["红色连衣裙", "साड़ी", "ชุดนอน", "ᬅᬓ", "🍎", "cafe\u0301", "café"]
    table = one_task([("u", f"i{n}") for n in range(len(queries))]).assign(query=queries)
    write(tmp_path / "a", {"events": table})
    log = load(tmp_path / "a", tmp_path)
    words = {key: log.words.id[log.queries.words[row]].tolist() for row, key in enumerate(log.queries.id) if row}
    assert words["红色连衣裙"] == ["红色", "色连", "连衣", "衣裙"] and len(words["साड़ी"]) == 1
    assert words["cafe\u0301"] == words["café"] == ["café"]
    assert log.manifest["words"]["rules"].startswith("NFKC") and log.manifest["words"]["words of one's own"] == "none"
    found = notes(tmp_path / "a")
    assert any(n.startswith("queries: 14.3% of the texts hold Thai, 14.3% of the texts hold Han; pairs") for n in found)
    assert any("hold Balinese, whose words no rule here covers" in note for note in found)
    assert any("14.3% of the texts hold no word, such as '🍎'" in note for note in found)
    # Words of one's own need no rule.
    own = pd.DataFrame({"query": queries, "words": "w1"})
    assert not any("of the texts hold" in note for note in notes(write(tmp_path / "a", {"queries": own})))
