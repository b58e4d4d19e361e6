"""Words of product text, reviews and queries: one normal form for all of them, so that they can meet.

Ai et al. (SIGIR 2017) delete what is not a letter, lower-case and stem with Krovetz's stemmer; their published queries
show it ("Self-Help" is "selfhelp", "Children's" is "children").
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bench.errors import RunError

Stem = Callable[[str], str]

# English function words; used only when asked for. The published queries were made without a list.
_FUNCTION_WORDS = """a an and are as at be but by for from has have he her his i if in into is it its me my no not of on
or our she so that the their them then there these they this to was we were what when which who will with you your"""
STOP_WORDS = frozenset(_FUNCTION_WORDS.split())
_NOT_LETTERS = re.compile(r"[^\w\s]|[\d_]")
_JOINERS = re.compile(r"[-'’]")
_ENDINGS = (("es", ""), ("d", ""), ("ed", ""), ("ing", ""), ("ing", "e"), ("er", ""), ("ers", ""))
_ITEMS_AT_ONCE = 2048
_GAPS = re.compile(r"[\W\d_]+")


def path_words(levels: Iterable[str]) -> list[str]:
    """Words of a category path: levels joined with blanks, everything but letters deleted, lower case."""
    return _NOT_LETTERS.sub("", " ".join(levels)).lower().split()


def text_words(text: str) -> list[str]:
    """Words of running text.

    A hyphen or an apostrophe joins, as in paths; other marks part words: "end.Then" is two words.
    """
    return _GAPS.sub(" ", _JOINERS.sub("", text)).lower().split()


def s_stem(word: str) -> str:
    """Plural endings of words with more than three letters: the S stemmer (Harman, JASIS 1991), and "es" after a hiss.

    The rule of our own keeps query texts readable: "brushes" is "brush", not "brushe".
    """
    if len(word) > 3:
        if word.endswith(("ches", "shes", "sses", "xes")):
            return word[:-2]
        if word.endswith("ies") and word[-4] not in "ae":
            return word[:-3] + "y"
        if word.endswith("es") and word[-3] not in "aeo":
            return word[:-1]
        if word.endswith("s") and word[-2] not in "us":
            return word[:-1]
    return word


def stemmer(name: str) -> Stem:
    """`s` (the S stemmer), `krovetz` (the one of the published queries) or `none`.

    Raises:
        RunError: krovetz without its package.
    """
    if name == "s":
        return s_stem
    if name == "none":
        return lambda word: word
    try:
        from krovetzstemmer import Stemmer
    except ImportError:
        raise RunError(
            "stem=krovetz needs the package krovetzstemmer (pip install krovetzstemmer; it is compiled, so a C++ "
            "compiler must be there); stem=s needs nothing"
        ) from None
    return Stemmer().stem


def aligned(words: Iterable[str], vocabulary: set[str]) -> list[str]:
    """Words in the form in which a foreign vocabulary holds them.

    Published queries are stemmed by a dictionary ("wired" is "wire", "parts" stays). Of the forms of a word (itself,
    its S stem, then without one of _ENDINGS) the first that the vocabulary knows is taken, else its S stem.
    """
    known: dict[str, str] = {}
    out = []
    for word in words:
        if word not in known:
            forms = [word, s_stem(word)]
            forms += [word.removesuffix(end) + more for end, more in _ENDINGS if len(word) > 4 and word.endswith(end)]
            known[word] = next((form for form in forms if form in vocabulary), forms[1])
        out.append(known[word])
    return out


@dataclass(frozen=True)
class WordCounts:
    """How often each word occurs in the reviews of each item.

    `words` (W,) str; the other arrays (n,), one entry per pair, sorted by item and word.
    """

    words: np.ndarray
    item: np.ndarray
    word: np.ndarray
    count: np.ndarray

    def vocabulary(self, minimum: int) -> set[str]:
        """Words with at least `minimum` occurrences in all."""
        total = np.bincount(self.word, weights=self.count, minlength=len(self.words))
        return set(self.words[total >= minimum].tolist())

    def top(self, n_items: int, limit: int, minimum: int) -> list[list[str]]:
        """For each item the `limit` words that tell it most from others: count times log(items / items with the word).

        Words with fewer than `minimum` occurrences in all are left out; equal scores are in alphabetical order.
        """
        total = np.bincount(self.word, weights=self.count, minlength=len(self.words))
        spread = np.bincount(self.word, minlength=len(self.words))
        rarity = np.log(len(np.unique(self.item)) / np.maximum(spread, 1))
        rarity[total < minimum] = 0
        alphabetical = np.empty(len(self.words), dtype=np.int64)
        alphabetical[np.argsort(self.words, kind="stable")] = np.arange(len(self.words))
        lists: list[list[str]] = []
        # Pairs are sorted by item; a block of items at a time keeps the sort in the processor's cache.
        for low in range(0, n_items, _ITEMS_AT_ONCE):
            start, stop = np.searchsorted(self.item, [low, min(low + _ITEMS_AT_ONCE, n_items)])
            item, word = self.item[start:stop], self.word[start:stop]
            score = self.count[start:stop] * rarity[word]
            item, word, score = item[score > 0], word[score > 0], score[score > 0]
            order = np.lexsort((alphabetical[word], -score, item))
            item, word = item[order], word[order]
            best = np.arange(len(item)) - np.searchsorted(item, item) < limit
            item, texts = item[best], self.words[word[best]]
            bounds = np.searchsorted(item, np.arange(low, min(low + _ITEMS_AT_ONCE, n_items) + 1))
            lists += [texts[first:last].tolist() for first, last in pairwise(bounds)]
        return lists


def count_words(
    pieces: Iterator[tuple[np.ndarray, pa.Array]], stem: Stem, leave_out: frozenset[str] = frozenset()
) -> WordCounts:
    """Count the words of reviews by item, a piece of the file at a time; Python sees each distinct word only.

    Args:
        pieces: (n,) item numbers and (n,) string arrays.
        stem: brings a word into its normal form.
        leave_out: stop words.
    """
    codes: dict[str, int] = {}
    seen: dict[str, int] = {}  # raw word -> code of its stem, -1 = left out
    pairs, counts = [], []
    for item, texts in pieces:
        owner, raw = _words(texts)
        encoded = raw.dictionary_encode()
        distinct = encoded.dictionary.to_pylist()
        for word in distinct:
            if word not in seen:
                seen[word] = -1 if word in leave_out else codes.setdefault(stem(word), len(codes))
        code = np.asarray([seen[word] for word in distinct], dtype=np.int64)[encoded.indices.to_numpy()]
        key = (item[owner][code >= 0] << 32) | code[code >= 0]
        pair, count = np.unique(key, return_counts=True)
        pairs.append(pair)
        counts.append(count)
    every, amount = np.concatenate([np.zeros(0, np.int64), *pairs]), np.concatenate([np.zeros(0, np.int64), *counts])
    # The pieces are sorted runs, which a stable sort only has to merge.
    order = np.argsort(every, kind="stable")
    every, amount = every[order], amount[order]
    starts = np.flatnonzero(np.r_[True, every[1:] != every[:-1]]) if len(every) else np.zeros(0, np.int64)
    count = np.add.reduceat(amount, starts) if len(every) else amount
    words = np.asarray([*codes, None], dtype=object)[:-1]
    return WordCounts(words, every[starts] >> 32, every[starts] & 0xFFFFFFFF, count)


def _words(texts: pa.Array) -> tuple[np.ndarray, pa.Array]:
    """`text_words` of (n,) texts in Arrow: (words,) number of the text, (words,) word."""
    plain = pc.utf8_lower(pc.replace_substring_regex(texts, r"&#?\w{1,8};", " "))
    plain = pc.replace_substring_regex(pc.replace_substring_regex(plain, r"[-'’]", ""), r"[^\p{L}\s]+", " ")
    lists = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(plain))
    owner, words = pc.list_parent_indices(lists).to_numpy(), pc.list_flatten(lists)
    real = pc.not_equal(words, "")
    return owner[real.to_numpy(zero_copy_only=False)], words.filter(real)
