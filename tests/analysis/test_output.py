"""The words beside the numbers of an analysis."""

import pandas as pd
import pytest

from bench.analysis.captions import caption
from bench.analysis.figures import draw
from bench.analysis.output import latex


def test_a_table_has_no_nan_and_no_p_of_zero() -> None:
    frame = pd.DataFrame({"model": ["A & B", "C"], "value": [0.0001, 1000.0], "mean": [0.25, None], "p": [0.0, None]})
    text = latex(frame)
    assert "nan" not in text and "<.001" in text.replace("\\ensuremath{<}", "<") and "0.0001" in text and "1000" in text
    assert r"A \& B" in text


@pytest.mark.parametrize("name", ["mi", "space", "gradients", "ablation", "sweep"])
def test_a_caption_says_which_data_and_fits(name: str) -> None:
    settings = {"dataset": ["ml-100k"], "seeds": [0, 1], "budget": "quick", "metric": "N@10"}
    text = caption(name, settings)
    assert text.endswith("MovieLens-100K (5-core); quick budget; seeds 0, 1.") and "{" not in text
    assert caption(name, settings | {"dataset": ["gone"], "seeds": [3]}).endswith("gone; quick budget; seed 3.")


def test_two_data_sets_are_apart_in_a_figure() -> None:
    rows = [
        {"dataset": dataset, "model": "unisar", "task": task, "variant": name, "key": key, "value": value, "mean": 0.5,
         "spread over seeds": 0.1, "difference": gap, "low": gap, "high": gap}
        for dataset in ("ml-100k", "kuaisar")
        for task in ("rec", "search")
        for name, key, value, gap in (("default", None, None, None), ("lr=1", "lr", 1.0, 0.1), ("lr=2", "lr", 2.0, 0.2))
    ]  # fmt: skip
    drawn = draw("sweep", {"sweep": pd.DataFrame(rows)}, {"metric": "N@10"}, "words")["sweep"]
    assert [axis.get_title() for axis in drawn.axes] == ["UniSAR on ml-100k", "UniSAR on kuaisar"]
    assert drawn.get_supxlabel() == "words"
