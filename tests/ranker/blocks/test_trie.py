"""The prefix trie and the search over it, beside a search through all items."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.data.ragged import Ragged
from bench.ranker.blocks.trie import Trie, beam_search, found_scores

END = 0
LISTS = st.sets(st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple), min_size=1, max_size=12)


def trie_of(lists) -> Trie:
    return Trie(Ragged.from_lists([[*entry, END] for entry in lists]))


class Model:
    """Log-probabilities of the next token that depend on the whole prefix, for the rows of a batch."""

    def __init__(self, rows: int):
        self.rows = rows
        self.prefixes: list[list[tuple[int, ...]]] = [[()] for _ in range(rows)]

    def log_probs(self, row: int, prefix: tuple[int, ...]) -> torch.Tensor:
        generator = torch.Generator().manual_seed(hash((row, prefix)) % 2**31)
        return F.log_softmax(torch.randn(5, generator=generator), -1)

    def of(self, row: int, tokens: tuple[int, ...]) -> float:
        return float(sum(self.log_probs(row, tokens[:t])[token] for t, token in enumerate(tokens)))

    def step(self, parent, token):
        if parent is not None:
            self.prefixes = [
                [(*self.prefixes[row][p], t) for p, t in zip(parent[row].tolist(), token[row].tolist(), strict=True)]
                for row in range(self.rows)
            ]
        return torch.stack(
            [torch.stack([self.log_probs(row, p) for p in self.prefixes[row]]) for row in range(self.rows)]
        )


@given(LISTS)
@settings(max_examples=30, deadline=None)
def test_a_trie_leads_to_its_items_and_to_nothing_else(lists):
    lists = sorted(lists)
    trie = trie_of(lists)
    for length in range(1, 6):
        for tokens in itertools.product(range(3), repeat=min(length, 4)):
            node = 0
            for token in tokens:
                arcs, _ = trie.arcs(torch.tensor([node]))
                following = arcs[trie.token[arcs] == token]
                assert len(following) <= 1
                node = int(trie.child[following[0]]) if len(following) else -1
                if node < 0:
                    break
            ended = tokens[-1] == END and tokens[:-1] in lists and END not in tokens[:-1]
            assert (node >= 0 and int(trie.item[node]) > 0) == ended
            if ended:
                assert lists[int(trie.item[node]) - 1] == tokens[:-1]


@given(LISTS)
@settings(max_examples=20, deadline=None)
def test_wide_beams_find_every_item_with_its_own_probability(lists):
    lists = sorted(lists)
    model = Model(rows=2)
    items, scores = beam_search(trie_of(lists), model.step, 2, beams=200)
    for row in range(2):
        found = items[row][items[row] > 0]
        assert sorted(found.tolist()) == list(range(1, len(lists) + 1))
        expected = torch.tensor([model.of(row, (*lists[i - 1], END)) for i in found.tolist()])
        torch.testing.assert_close(scores[row, : len(found)], expected)
        assert (expected.diff() <= 1e-6).all()
    assert float(scores.exp().sum(1).max()) <= 1 + 1e-5
    table = found_scores(items, scores, len(lists), -100.0)
    assert table.shape == (2, len(lists) + 1) and (table[:, 0] == -100).all() and (table[:, 1:] > -100).all()


def test_a_narrow_beam_is_the_search_by_hand():
    lists = [(1, 1), (1, 2), (2, 1), (2, 3), (3,)]
    items, scores = beam_search(trie_of(lists), (model := Model(rows=3)).step, 3, beams=2)
    for row in range(3):
        beams = [((), 0.0)]
        while any(END not in tokens for tokens, _ in beams):
            grown = [(tokens, score) for tokens, score in beams if END in tokens]
            for tokens, score in beams:
                if END not in tokens:
                    following = {
                        full[len(tokens)] for entry in lists if (full := (*entry, END))[: len(tokens)] == tokens
                    }
                    step = model.log_probs(row, tokens)
                    grown += [((*tokens, token), score + float(step[token])) for token in sorted(following)]
            beams = sorted(grown, key=lambda beam: -beam[1])[:2]
        assert [lists[i - 1] for i in items[row].tolist()] == [tokens[:-1] for tokens, _ in beams]
        torch.testing.assert_close(scores[row], torch.tensor([score for _, score in beams]))
    missed = found_scores(items, scores, 5, -100.0)
    assert (missed[:, 1:] == -100).sum(1).tolist() == [3, 3, 3]


@pytest.mark.parametrize("lists", [[[1], [1]], [[1], [1, 2]], [[1, 2], []], []])
def test_lists_that_cannot_be_told_apart_are_refused(lists):
    with pytest.raises(ValueError, match=r"twice|empty"):
        Trie(Ragged.from_lists(lists))
