"""The rules that cut text into words: one form for all spellings of a word, whatever the script."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.data.words import covered, fold, scripts, tokenize, word_rules


@given(st.text(st.characters(max_codepoint=127)))
def test_ascii_text_is_cut_into_lower_case_runs_of_letters_and_digits(text):
    assert tokenize(text) == re.findall(r"[^\W_]+", text.lower())


@given(st.text())
def test_composed_decomposed_and_folded_text_has_the_same_words(text):
    words = tokenize(text)
    assert words == tokenize(unicodedata.normalize("NFC", text)) == tokenize(unicodedata.normalize("NFD", text))
    assert all(word and not any(map(str.isspace, word)) for word in words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("साड़ी लाल", ["साड़ी", "लाल"]),
        ("শাড়ি", ["শাড়ি"]),  # Bengali, with a vowel sign
        ("ชุดนอน", ["ชุด", "ดน", "นอ", "อน"]),
        ("ទូរស័ព្ទ", ["ទូរ", "រស័", "ស័ព្ទ"]),
        ("红色连衣裙", ["红色", "色连", "连衣", "衣裙"]),
        ("茶", ["茶"]),
        ("ラーメン", ["ラー", "ーメ", "メン"]),
        ("ﾗｰﾒﾝ", ["ラー", "ーメ", "メン"]),
        ("iPhone手机壳 15", ["iphone", "手机", "机壳", "15"]),
        ("아이폰 케이스", ["아이폰", "케이스"]),
        ("ＬＥＤ　２０Ｗ", ["led", "20w"]),
        ("cafe\u0301 CAFÉ", ["café", "café"]),
        ("Straße STRASSE", ["strasse", "strasse"]),
        ("İstanbul istanbul", ["istanbul", "istanbul"]),
        ("tele\u00adphone", ["telephone"]),
        ("می\u200cخواهم", ["میخواهم"]),
        ("Lego™ 1½ 10² m²", ["lego", "1", "1", "2", "10", "2", "m2"]),
        ("二〇二四", ["二〇", "〇二", "二四"]),
        ("🍎!", []),
    ],
)
def test_words_of_many_scripts(text, words):
    assert tokenize(text) == [unicodedata.normalize("NFKC", word) for word in words]


def test_the_prefix_of_a_word_does_not_change_with_what_stands_beside_it():
    for neighbour in ("red", "红", "ชุด", "साड़ी"):
        assert tokenize(f"USB_c {neighbour}")[:2] == ["usb", "c"]


def test_scripts_are_counted_per_text_and_those_without_rules_are_named():
    texts = ["red", "红色 红", "テレビ", "красный", "𒀀𒁀", "ᬅᬓ"]
    found = scripts(texts)
    assert found == {"Han": 1, "Katakana": 1, "Cyrillic": 1, "Cuneiform": 1, "Balinese": 1}
    assert [name for name in found if not covered(name)] == ["Cuneiform", "Balinese"]


def test_the_record_names_rules_and_versions():
    assert set(word_rules()) == {"rules", "scripts in pairs", "normalisation", "scripts"}
    assert fold("ＣＡＦÉ ") == "café "
