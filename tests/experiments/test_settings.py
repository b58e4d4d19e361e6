"""Complete settings of a model: defaults, what is published for the data set, the budget, what the user set."""

import pytest

from bench.errors import UsageError
from bench.experiments.settings import Overrides, data_names, model_config
from bench.ranker import registry


def config(dataset="ml-100k", budget="quick", *pairs):
    return model_config(registry.get("unisar"), "unisar", budget, Overrides.parse(list(pairs)), dataset)


@pytest.mark.parametrize("budget", ["quick", "full"])
def test_published_settings_hold_on_their_data_set_in_both_budgets(budget):
    assert (config("ml-100k", budget).clip, config("ml-100k", budget).batch_size) == (1.0, 256)
    assert (config("kuaisar", budget).clip, config("kuaisar", budget).batch_size) == (0.0, 1024)
    assert config("amazon-kindle", budget).search_weight == 0.01


def test_quick_bounds_the_steps_alone_and_the_user_has_the_last_word():
    quick, full = config(), config(budget="full")
    assert quick.max_steps and not full.max_steps
    full.max_steps = quick.max_steps
    assert quick == full
    mine = config("kuaisar", "quick", "unisar.search_weight=0.5", "train.epochs=7", "unisar.epochs=9")
    assert (mine.search_weight, mine.batch_size, mine.epochs) == (0.5, 1024, 9)


def test_a_model_and_a_source_of_one_name_are_told_apart_by_the_colon():
    given = Overrides.parse(
        ["hem.lr=0.1", "hem:.text=true", "hem:/data/phones.seed=3", "amazon.text=false", "amazon:.mode=mirror"]
    )
    assert given.of_data("hem:/data/phones") == {"text": True, "seed": 3}
    assert given.of_data("amazon:Books") == {"text": False, "mode": "mirror"}
    assert model_config(registry.get("hem"), "hem", "quick", given).lr == 0.1
    assert data_names("hem:x") == ["hem:", "hem:x"] and data_names("ml-100k")[0] == "ml-100k"
    Overrides.parse(["hem:.text=true"]).check([], ["hem:x"])
    with pytest.raises(UsageError, match="unknown name in --set 'hem'"):
        Overrides.parse(["hem.text=true"]).check([], ["hem:x"])
