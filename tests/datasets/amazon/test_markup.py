"""Markup in product metadata is no text, closed or not."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.datasets.amazon.markup import clean
from bench.datasets.amazon.metadata import read_metadata
from bench.datasets.amazon.text import item_texts, product_parts

CASES = {
    '<span class="a-size-medium a-color-secondary a-text-normal"': "",
    '<span class="a-size-large product-title-word-break': "",
    "<span": "",
    "<span id=productTitle>Red  <b>Kettle</b>": "Red Kettle",
    "Red Kettle <span class=": "Red Kettle",
    "Red Kettle </span": "Red Kettle",
    'class="a-size-large">Red Kettle</span>': "Red Kettle",
    "&lt;span class=&quot;a-size-base": "",
    "&amp;lt;i&amp;gt;Red&amp;lt;/i&amp;gt; Kettle": "Red Kettle",
    "Salt &amp;amp; Pepper": "Salt & Pepper",
    '<a title="a > b" href="x">Red Kettle</a>': "Red Kettle",
    "<!-- hidden -->Red Kettle<!-- more": "Red Kettle",
    "<style>.a { color: red }</style>Red Kettle<script>var x = 1;": "Red Kettle",
    "var aPageStart = (new Date()).getTime();": "",
    ".a-box-inner{background-color:#fff}": "",
    '"></div>': "",
    "I <3 kettles": "I <3 kettles",
    "less < more > most": "less < more > most",
    "Less <than zero": "Less <than zero",
    "Kettle <big": "Kettle",
    "a<b": "a",
    "水壶 <br>红": "水壶 红",
    "  Red\n\tKettle ": "Red Kettle",
    "": "",
}


@pytest.mark.parametrize("text", CASES)
def test_markup_is_no_text(text):
    assert clean(text) == CASES[text]


def test_hostile_markup_takes_linear_time():
    """Doubling the length doubles the time at most a few times over; an exponential pattern would never end."""
    assert clean("<a " + '"' * 3000) == "" and clean("<a " + "' \"" * 2000 + ">x") == "x"


@given(st.text(alphabet="abc 12<>\"'=/!-&;", max_size=60))
def test_cleaning_is_quick_on_anything_and_leaves_single_blanks(text):
    left = clean(text)
    assert left == " ".join(left.split()) and (not left or any(map(str.isalnum, left)))


@given(st.text(alphabet=st.characters(exclude_characters="<>&={}().#"), max_size=40))
def test_text_without_markup_is_as_it_is(text):
    assert clean(text) in (" ".join(text.split()), "")


def test_coverage_counts_what_is_left(tmp_path):
    titles = ['<span class="a-size-medium"', "Red Kettle", "<b>Blue</b> Kettle", "&lt;span id=x", ""]
    descriptions = [["<div"], ["<p>Boils"], [], ["</td>"], ["<br />"]]
    lines = [
        json.dumps({"asin": f"B{n}", "title": title, "description": text, "category": ["Home", f"<span{n}", "x"]})
        for n, (title, text) in enumerate(zip(titles, descriptions, strict=True))
    ]
    path = tmp_path / "meta_X.json"
    path.write_text("\n".join(lines) + "\n")
    metadata = read_metadata(path, {f"B{n}" for n in range(5)})
    assert metadata.counts["titles that are markup alone"] == 2
    assert metadata.counts["descriptions that are markup alone"] == 3
    assert all(product.paths == [["Home"]] for product in metadata.products.values())
    parts = [product_parts(metadata.products[f"B{n}"]) for n in range(5)]
    made = item_texts(parts, ("title", "description"), lambda word: word)
    assert made.coverage == {"title": 0.4, "description": 0.2, "none": 0.6}
    assert not {"span", "class", "div", "td"} & {word for words in made.words for word in words}


def test_escaped_markup_ends_a_category_list(tmp_path):
    path = tmp_path / "meta_X.json"
    path.write_text(json.dumps({"asin": "B1", "category": ["Home", "&lt;/span&gt;", "Boils in 1 minute"]}) + "\n")
    metadata = read_metadata(path, {"B1"})
    assert metadata.products["B1"].paths == [["Home"]]
    assert metadata.counts["category lists cut at markup or a sentence"] == 1
