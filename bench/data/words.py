"""From text to words: the rules that every data set with readable text shares.

ASCII text becomes lower-case runs of letters and digits. Other text is brought to one form first (Unicode NFKC, case
folding, no invisible characters), so that composed and decomposed, full-width and half-width spellings meet. A word is
a run of letters and digits with the marks that belong to them. Scripts that put no blanks between words become
overlapping pairs of characters (a character with its marks counts as one), as search engines index them.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import cache
from itertools import pairwise

# Scripts that are written without blanks between words.
UNSPACED = (
    "Han", "Hiragana", "Katakana", "Bopomofo", "Yi",
    "Thai", "Lao", "Khmer", "Myanmar", "New_Tai_Lue", "Tai_Le", "Tai_Tham", "Tai_Viet",
)  # fmt: skip
# Scripts whose words stand between blanks or punctuation, as far as Unicode recommends them for identifiers (UAX 31,
# table 5). Letters of any other script still become words between blanks, but nothing says that this is right.
SPACED = (
    "Latin", "Greek", "Cyrillic", "Armenian", "Hebrew", "Arabic", "Devanagari", "Bengali", "Gurmukhi", "Gujarati",
    "Oriya", "Tamil", "Telugu", "Kannada", "Malayalam", "Sinhala", "Thaana", "Georgian", "Ethiopic", "Hangul",
    "Tibetan",
)  # fmt: skip

_ASCII_WORD = re.compile(r"[^\W_]+", re.ASCII)
# Signs of a trade name are no part of it, although NFKC writes them as letters.
_TRADE_SIGNS = str.maketrans({"™": " ", "℠": " "})


def tokenize(text: str) -> list[str]:
    """The words of a text in their order, repeats included.

    Args:
        text: any text; ASCII text takes the short way and needs no tables of Unicode.
    """
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    rules = _rules()
    words = []
    for word in rules.word.findall(fold(text)):
        if word.isascii() or not rules.unspaced.search(word):
            words.append(word)
        else:
            for run in rules.runs.findall(word):
                words += _pairs(rules.character.findall(run)) if rules.unspaced.match(run) else [run]
    return words


def fold(text: str) -> str:
    """The form in which two spellings of a text are equal: NFKC, case folding, without invisible characters."""
    if text.isascii():
        return text.lower()
    rules = _rules()
    # NFKC would glue what stands apart: "1½" would become "11⁄2", "10²" the number 102.
    text = rules.digit_gap.sub(" ", text.translate(_TRADE_SIGNS))
    text = unicodedata.normalize("NFKC", text).casefold()
    # The Turkish capital İ folds to an i with a dot of its own.
    return unicodedata.normalize("NFKC", rules.invisible.sub("", text)).replace("i\u0307", "i")


def word_rules() -> dict[str, str]:
    """What a manifest says of the words of a Log, versions included: another version of Unicode may cut differently."""
    import regex

    return {
        "rules": "NFKC, case folding; runs of letters and digits with their marks; pairs of characters without blanks",
        "scripts in pairs": ", ".join(UNSPACED),
        "normalisation": f"Unicode {unicodedata.unidata_version}",
        "scripts": f"regex {regex.__version__}",
    }


def scripts(texts: Iterable[str]) -> Counter[str]:
    """How many of the texts hold letters of a script beyond ASCII, by script.

    A script outside `UNSPACED` and `SPACED` is called by the first word of its characters' Unicode names.
    """
    rules = _rules()
    found: Counter[str] = Counter()
    for text in texts:
        if not text.isascii():
            found.update({_script(letter) for letter in set(rules.letter.findall(unicodedata.normalize("NFKC", text)))})
    return found


def covered(script: str) -> bool:
    """Whether the rules know how the words of a script are told apart."""
    return script in UNSPACED or script in SPACED


class _Rules:
    """The compiled expressions; `regex` knows scripts, marks and grapheme clusters, which `re` does not."""

    def __init__(self) -> None:
        import regex

        unspaced = "".join(rf"\p{{Script={name}}}" for name in UNSPACED)
        # The prolonged sound mark belongs to two scripts, so to none in Unicode's own count.
        letter = rf"[{unspaced}ー--\p{{M}}--\p{{Nd}}--\p{{P}}--\p{{S}}]"
        self.word = regex.compile(r"(?:[\p{L}\p{N}]\p{M}*)+")
        self.unspaced = regex.compile(letter, regex.VERSION1)
        self.runs = regex.compile(rf"(?:{letter}\p{{M}}*)+|(?:(?!{letter})[\p{{L}}\p{{N}}]\p{{M}}*)+", regex.VERSION1)
        self.character = regex.compile(r"\X")
        self.invisible = regex.compile(r"\p{Default_Ignorable_Code_Point}+")
        self.digit_gap = regex.compile(r"(?<=\p{N})(?=\p{No})")
        self.letter = regex.compile(r"[\p{L}--\p{ASCII}--\p{Script=Common}]", regex.VERSION1)
        names = "|".join(rf"(?P<{name}>\p{{Script={name}}})" for name in (*UNSPACED, *SPACED))
        self.script = regex.compile(names)


@cache
def _rules() -> _Rules:
    return _Rules()


@cache
def _script(letter: str) -> str:
    match = _rules().script.match(letter)
    if match is not None:
        return str(match.lastgroup)
    return unicodedata.name(letter, "unnamed").split()[0].capitalize()


def _pairs(characters: list[str]) -> list[str]:
    """Overlapping pairs of neighbours; a character that stands alone is a word itself."""
    if len(characters) < 2:
        return characters
    return [first + second for first, second in pairwise(characters)]
