"""The simulation: reproducible, of the size asked for, and with the structure that it says: no more and no less."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.data import sources
from bench.data.batch import Batches
from bench.data.catalog import Catalog
from bench.data.history import Window
from bench.data.log import Log
from bench.data.split import LogSplit, split
from bench.data.training import TrainData
from bench.datasets.simulated.source import Parameters, full_size, oracle, write_raw
from bench.datasets.simulated.structure import POOL, Structure, query_words
from bench.errors import UsageError
from bench.evaluation.candidates import draw
from bench.evaluation.leaks import counters
from bench.evaluation.metrics import PRIMARY
from bench.evaluation.ranks import Ranks
from bench.evaluation.scoring import RowValidation, rank
from bench.ranker import registry
from bench.ranker.contract import Context

# Mean and variance of N@10 of a row whose positive has a uniform rank among 100.
GAINS = np.r_[1 / np.log2(np.arange(1, 11) + 1), np.zeros(90)]
CHANCE, VARIANCE = GAINS.mean(), GAINS.var()
NOTHING = {"taste": 0, "transition": 0, "relevance": 0, "popularity": 0}
SMALL = {"users": 250, "items": 1_200, "events": 36_000, "topics": 8}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """(strengths) -> (log, split, candidates), prepared once."""
    root = tmp_path_factory.mktemp("simulated")

    @cache
    def make(*options: tuple[str, float]) -> tuple[Log, LogSplit]:
        log = sources.load("simulated", {**SMALL, **dict(options)}, root)
        return log, split(log, "last-day")

    return lambda **options: make(*sorted(options.items()))


def parameters_of(log: Log) -> Parameters:
    settings = log.manifest["config"]
    return Parameters(**{name: settings[name] for name in Parameters.model_fields})


def ranks_of_oracle(log: Log, parts: LogSplit) -> Ranks:
    return rank(oracle(log, parameters_of(log)), Batches(parts), draw(parts), Window())


def ranks_of(name: str, log: Log, parts: LogSplit) -> Ranks:
    entry, cls = registry.entries()[name], registry.get(name)
    batches = Batches(parts)
    model = cls(cls.Config(), Context(Catalog(log), seed=0, tasks=entry.tasks))
    model.fit(TrainData(batches, entry.tasks, 0), RowValidation(batches, entry.tasks, model.window))
    return rank(model.score, batches, draw(parts, "test", entry.tasks), model.window)


def trivial() -> list[str]:
    return [name for name, entry in registry.entries().items() if entry.group == "trivial"]


def interval(ranks: Ranks, task: str) -> tuple[float, float]:
    """Mean N@10 over users, and how far 95 % of scorers without knowledge stay from chance.

    Exact for scores without ties and too wide for others. The interval of the sample would not do: where a scorer
    separates one row in thirty, the few hits make mean and standard deviation large or small together.
    """
    kept = ranks.only(task)
    rows = np.unique(kept.user, return_counts=True)[1]
    return kept.mean(PRIMARY), float(1.96 * np.sqrt(VARIANCE * (1 / rows).sum()) / len(rows))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_oracle_beats_every_trivial_model(prepared):
    log, parts = prepared()
    best = ranks_of_oracle(log, parts)
    others = {name: ranks_of(name, log, parts) for name in trivial()}
    assert {"popularity", "matcher", "item-knn", "query-popularity"} <= others.keys()
    for task in ("rec", "search"):
        for name, ranks in others.items():
            if task in ranks.tasks:
                users, ours = best.only(task).per_user(PRIMARY)
                _, theirs = ranks.only(task).per_user(PRIMARY)
                gain = ours - theirs
                assert gain.mean() > 2.5 * gain.std(ddof=1) / np.sqrt(len(users)), (
                    task,
                    name,
                    ours.mean(),
                    theirs.mean(),
                )
    matcher, popularity = (others[name].only("search") for name in ("matcher", "popularity"))
    gain = matcher.per_user(PRIMARY)[1] - popularity.per_user(PRIMARY)[1]
    assert gain.mean() > 2.5 * gain.std(ddof=1) / np.sqrt(len(gain))


def test_without_strengths_everything_is_at_chance(prepared):
    inside, seen = [], []
    for seed in range(3):
        log, parts = prepared(**NOTHING, seed=seed)
        for name in trivial():
            ranks = ranks_of(name, log, parts)
            for task in ranks.tasks:
                mean, half = interval(ranks, task)
                seen.append((seed, name, task, mean, half))
                inside.append(abs(mean - CHANCE) <= half)
        assert interval(ranks_of_oracle(log, parts), "rec")[0] == pytest.approx(CHANCE)
    outside = [entry for entry, good in zip(seen, inside, strict=True) if not good]
    # Chance falls outside of 5 % of the intervals; scorers of one log are not independent of each other.
    assert len(outside) <= 0.1 * len(inside), outside
    assert np.mean([mean for *_, mean, _ in seen]) == pytest.approx(CHANCE, abs=0.003)


@pytest.mark.parametrize(
    ("strength", "value", "above", "at_chance"),
    [
        ("taste", 0.9, {("oracle", "rec"), ("item-knn", "rec")}, {("oracle", "search"), ("matcher", "search")}),
        ("transition", 0.9, {("oracle", "rec")}, {("oracle", "search"), ("popularity", "rec")}),
        (
            "relevance",
            0.9,
            {("oracle", "search"), ("matcher", "search")},
            {("oracle", "rec"), ("popularity", "search")},
        ),
        (
            "popularity",
            1.0,
            {("oracle", "rec"), ("popularity", "rec"), ("popularity", "search")},
            {("matcher", "search")},
        ),
    ],
)
def test_each_strength_alone_does_what_it_says(prepared, strength, value, above, at_chance):
    log, parts = prepared(**(NOTHING | {strength: value}))
    ranks = {
        name: ranks_of_oracle(log, parts) if name == "oracle" else ranks_of(name, log, parts)
        for name, _ in above | at_chance
    }
    for name, task in above:
        mean, half = interval(ranks[name], task)
        assert mean - half > CHANCE, (name, task, mean, half)
    for name, task in at_chance:
        mean, half = interval(ranks[name], task)
        assert abs(mean - CHANCE) <= 1.5 * half, (name, task, mean, half)


def topical(log: Log, task: int) -> float:
    """Share of a task's clicks in the topic of what the user clicked in the other task before, counted in the Log."""
    structure, events = Structure(parameters_of(log)), log.events
    topic = structure.topic[np.asarray(log.items.id[1:], dtype=np.int64) - 1][events.item - 1]
    rows = np.arange(len(events))
    last = np.maximum.accumulate(np.where(events.task != task, rows, -1))
    known = (events.task == task) & (last >= 0) & (events.user[last] == events.user)
    return float((topic[known] == topic[last[known]]).mean())


@pytest.mark.parametrize(
    ("direction", "rec", "search"), [("both", True, True), ("to-rec", True, False), ("to-search", False, True)]
)
def test_one_behaviour_takes_the_topic_of_the_other(prepared, direction, rec, search):
    chance = pytest.approx(1 / SMALL["topics"], abs=0.03)
    settings = NOTHING | {"relevance": 1.0, "direction": direction}
    strong, none = (prepared(**(settings | {"transition": strength}))[0] for strength in (0.8, 0))
    for task, follows in ((0, rec), (1, search)):
        assert topical(none, task) == chance
        # A search follows one of the clicks of a delivery, which have one time, and the Log may put another one last.
        assert topical(strong, task) > 0.35 if follows else topical(strong, task) == chance


def test_vague_queries_say_nothing_of_the_clicks_and_change_nothing_else(prepared):
    settings = NOTHING | {"relevance": 1.0}
    clear, vague, one = (
        prepared(**(settings | {"vague": share, "vague_intents": of}))[0]
        for share, of in ((0.0, 0), (1.0, 0), (1.0, 1))
    )
    agree = []
    for log in (clear, vague, one):
        structure, events = Structure(parameters_of(log)), log.events
        intent = structure.intent[np.asarray(log.items.id[1:], dtype=np.int64) - 1][events.item - 1]
        word = np.asarray(log.words.id[1:], dtype=np.int64)
        first = word[log.queries.words.values[log.queries.words.offsets[1:-1]] - 1]
        asked = ((first - 1_000_000) // POOL)[events.query - 1]
        agree.append(float((intent == asked)[events.task == 1].mean()))
        assert (set(asked[events.task == 1].tolist()) == {0}) == (log is one)
        for name in ("user", "item", "time", "task"):
            assert (getattr(clear.events, name) == getattr(log.events, name)).all()
    assert agree[0] == 1 and agree[1:] == pytest.approx([1 / 32] * 2, abs=0.01)
    with pytest.raises(UsageError, match="vague"):
        oracle(vague, parameters_of(vague))


def test_no_leaks(prepared):
    _, parts = prepared()
    found = counters(Batches(parts), draw(parts))
    assert all(value == 0 for name, value in found.items() if name.startswith("zero:")), found


def test_labelled_simulated(prepared):
    log, _ = prepared()
    entry = sources.entry("simulated")
    assert entry.title == "Simulated" and "simulated" in entry.synthetic
    assert log.manifest["synthetic"] == entry.synthetic and log.name == "simulated"


def test_files_have_the_size_asked_for_and_depend_on_the_seed_alone(tmp_path):
    size = Parameters(users=70, items=300, events=2_001, search_share=0.3, topics=4)
    for name, parameters in (("a", size), ("b", size), ("c", Parameters(**{**vars(size), "seed": 1}))):
        write_raw(tmp_path / name, parameters)
    content = {name: {path.name: path.read_bytes() for path in sorted((tmp_path / name).iterdir())} for name in "abc"}
    assert content["a"] == content["b"]
    assert all(content["a"][name] != content["c"][name] for name in content["a"])
    lines = {name: text.count(b"\n") - 1 for name, text in content["a"].items()}
    assert lines["rec_inter.csv"] == 1401 and lines["src_inter.csv"] == 600 and lines["user_features.csv"] == 70
    assert lines["item_features.csv"] > 300, "some captions hold line breaks"
    assert [path for path in Path(tmp_path).iterdir() if path.name.startswith(".")] == []


def test_queries_are_distinct_words_of_one_intent():
    intent, number = np.repeat(np.arange(30), 20), np.tile(np.arange(20), 30)
    words, lengths = query_words(intent, number)
    assert set(lengths) == {1, 2, 3, 4}
    assert ((words - 1_000_000) // POOL == intent[:, None]).all()
    assert (np.diff(np.sort(words, axis=1), axis=1) > 0).all()


def test_draws_follow_the_weights():
    structure = Structure(Parameters(items=400, topics=3, intents=2, popularity=1.0))
    rng = np.random.default_rng(0)
    low, high = np.full(200_000, 2), np.full(200_000, 4)
    drawn = np.bincount(structure.draw(rng, low, high), minlength=400) / 200_000
    allowed = (structure.intent >= 2) & (structure.intent < 4)
    expected = np.where(allowed, structure.weight, 0) / structure.weight[allowed].sum()
    assert np.abs(drawn - expected).max() < 0.005 and drawn[expected == 0].sum() == 0


def test_full_size_has_the_counts_of_the_release():
    full = full_size()
    assert (full.users, full.items, full.events) == (25_877, 6_890_707, 19_664_885)
    assert round(full.events * full.search_share) == 5_059_169


def test_impossible_settings_are_refused(tmp_path):
    with pytest.raises(UsageError, match="cannot fill 2000 intents"):
        sources.load("simulated", {"items": 100, "topics": 500}, tmp_path)
    with pytest.raises(UsageError, match="taste"):
        sources.load("simulated", {"taste": 2}, tmp_path)
