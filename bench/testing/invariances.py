"""Checks of the scores of a fitted model: their form, and what may and may not change them.

Each check takes a model under examination, returns a sentence, and raises Failed with what it saw.
"""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from bench.data.batch import Batch
from bench.ranker.ranker import Ranker
from bench.testing.examined import Examined, clone, row_differences
from bench.testing.planted import rows_with_past, task_rows
from bench.testing.report import Failed, NotApplicable
from bench.testing.subject import Subject

# An input counts as used when at least this part of the rows that have it reacts to it.
REACTING = 0.25


def shape(subject: Examined) -> str:
    """`score` returns one score a candidate: a tensor (B, K)."""
    expected, actual = tuple(subject.batch.cand.shape), tuple(subject.reference.shape)
    if actual != expected:
        raise Failed(f"scores have shape {actual} for candidates of shape {expected}")
    return f"{expected} scores for {expected} candidates"


def dtype(subject: Examined) -> str:
    """Scores are float32: fewer bits make ties, and ties make ranks arbitrary."""
    if subject.reference.dtype != torch.float32:
        raise Failed(f"scores are {subject.reference.dtype}; float32 logits are expected, because fewer bits make ties")
    return "float32"


def finite(subject: Examined) -> str:
    """No score is NaN or infinite, with empty histories neither."""
    wrong = ~torch.isfinite(subject.reference)
    if wrong.any():
        raise Failed(f"{int(wrong.sum())} of {wrong.numel()} scores are not finite")
    return f"all {wrong.numel()} scores are finite"


def representation(subject: Examined) -> str:
    """A trained network tells what its scores come from: `represent` gives finite vectors per candidate.

    Its `input` is all that the score comes from: where another query or another past changes a score, it changes as well.
    """
    model = subject.fitted
    if not isinstance(model, torch.nn.Module):
        raise NotApplicable("The model is no network.")
    if not subject.cls.__module__.startswith("bench.") and type(model).represent is Ranker.represent:
        raise NotApplicable("Models outside the tree need no `represent`; `bench analyze` refuses them then.")
    with torch.no_grad():
        found = model.represent(clone(subject.batch))
    named = {name: values for name, values in found._asdict().items() if values is not None}
    for name, values in named.items():
        if values.dim() != 3 or values.shape[:2] != subject.batch.cand.shape:
            raise Failed(f"`{name}` has shape {tuple(values.shape)} for candidates {tuple(subject.batch.cand.shape)}")
        if not torch.isfinite(values).all():
            raise Failed(f"`{name}` is not finite")
        if not values.any():
            raise Failed(f"`{name}` is zero everywhere")
    n_queries = subject.catalog.n_queries
    others = {"history": replaced_history(subject.batch, n_queries, 1)}
    if n_queries:
        others["query"] = replace(subject.batch, query=_other_queries(subject, n_queries // 2))
    for word, batch in others.items():
        moved = row_differences(subject.reference, subject.scores(batch)) > 0
        with torch.no_grad():
            same = (model.represent(clone(batch)).input == found.input).flatten(1).all(1)
        if (moved & same).any():
            raise Failed(
                f"another {word} changes the scores of {int(moved.sum())} rows and leaves `input` as it is in "
                f"{int((moved & same).sum())} of them; `input` holds everything that the score comes from"
            )
    return ", ".join(f"{name} of width {values.shape[2]}" for name, values in named.items())


def deterministic(subject: Examined) -> str:
    """Two calls give equal scores, whatever the state of the global generators; the batch is left as it was."""
    seen = [subject.scores(subject.batch, seed=seed) for seed in (1, 2)]
    difference = row_differences(*seen)
    if difference.any() or not torch.equal(torch.nan_to_num(seen[0]), torch.nan_to_num(seen[1])):
        raise Failed(
            f"two calls with the same batch differ in {_count(difference)}; is dropout or sampling on at scoring time?"
        )
    batch = clone(subject.batch)
    with torch.no_grad():
        subject.fitted.score(batch)
    for entry in fields(batch):
        before, after = getattr(subject.batch, entry.name), getattr(batch, entry.name)
        if before is not None and not torch.equal(before, after):
            raise Failed(f"score changed `{entry.name}` of the batch it was given; work on a copy")
    return "two calls under different generator states give equal bits"


def column_order(subject: Examined) -> str:
    """Scores follow their candidates into any order of columns."""
    order = torch.randperm(subject.batch.cand.shape[1], generator=torch.Generator().manual_seed(3))
    permuted = subject.scores(replace(subject.batch, cand=subject.batch.cand[:, order]))
    _require_same(subject.reference[:, order], permuted, "the candidates came in another order")
    return "permuted candidates get permuted scores"


def candidate_subset(subject: Examined) -> str:
    """A candidate's score does not depend on the candidates beside it."""
    cand = subject.batch.cand
    alone = [subject.scores(replace(subject.batch, cand=cand[:, k : k + 1])) for k in range(cand.shape[1])]
    _require_same(subject.reference, torch.cat(alone, dim=1), "each candidate was scored alone")
    return "candidates scored alone and together get the same scores"


def padding(subject: Examined) -> str:
    """Junk beyond the lengths (ids, times, kinds) changes no score, and no loss of a batch of events."""
    n_items, n_queries = subject.catalog.n_items, subject.catalog.n_queries
    junk = with_junk(subject.batch, n_items, n_queries)
    _require_same(subject.reference, subject.scores(junk), "junk was written into padding slots")
    losses = 0
    if isinstance(subject, Subject) and subject.has_stages:
        fitted: Any = subject.fitted
        for stage in fitted.stages(subject.train):
            batch = next(iter(stage.stream(subject.train).batches(0, 1)))
            if isinstance(batch, Batch):
                usual, changed = (subject.loss(stage, each) for each in (batch, with_junk(batch, n_items, n_queries)))
                if row_differences(usual[None, None], changed[None, None]).any():
                    raise Failed(
                        f"the loss of stage '{stage.name}' went from {float(usual):.6g} to {float(changed):.6g} when junk "
                        "was written into padding slots"
                    )
                losses += 1
    return f"junk in padding slots changes nothing{', no loss either' if losses else ''}"


def single_row(subject: Examined) -> str:
    """A row alone gets the scores it gets inside a batch."""
    alone = [subject.scores(subject.batch.take(torch.tensor([row]))) for row in range(len(subject.batch))]
    _require_same(subject.reference, torch.cat(alone), "they were scored as batches of one")
    return "batches of one and one batch give the same scores"


def other_rows(subject: Examined) -> str:
    """A row's scores do not depend on the content of the other rows."""
    half = len(subject.batch) // 2
    kept, rest = torch.arange(half), torch.arange(half, len(subject.batch))
    changed = replaced_inputs(subject)
    mixed = _joined(subject.batch.take(kept), changed.take(rest.flip(0)))
    _require_same(subject.reference[:half], subject.scores(mixed)[:half], "other rows of the batch got other content")
    return "other rows' content changes nothing"


def hidden_positive(subject: Examined) -> str:
    """`label` and `item`, which training batches carry, change no score, wherever they point."""
    batch = subject.batch
    for column in (0, batch.cand.shape[1] // 2, batch.cand.shape[1] - 1):
        label = torch.zeros(batch.cand.shape)
        label[:, column] = 1
        marked = replace(batch, label=label, item=batch.cand[:, column].clone())
        _require_same(
            subject.reference, subject.scores(marked), f"`label` and `item` named candidate {column} as clicked"
        )
    return "labels attached to a scoring batch change nothing"


def query(subject: Examined) -> str:
    """`uses_query` is true: another query changes scores of search rows and of no rec row; or no query changes any."""
    batch, n = subject.batch, subject.catalog.n_queries
    search = task_rows(batch, "search")
    changed = [replace(batch, query=_other_queries(subject, step)) for step in (n // 2, 1, 2)]
    _require_same(subject.reference[~search], subject.scores(changed[0])[~search], "they are rec rows and got a query")
    return _reaction(subject, "uses_query", "query", changed, {"search": search})


def _other_queries(subject: Examined, step: int) -> Tensor:
    """(B,) query ids, each another than that of its row; rec rows, which have none, get one."""
    batch, n = subject.batch, subject.catalog.n_queries
    # For rec rows `query` is 0, and a model that reads it there says so by reacting.
    given = (torch.arange(len(batch)) + step) % n + 1
    return torch.where(task_rows(batch, "search"), (batch.query + step - 1) % n + 1, given)


def history(subject: Examined) -> str:
    """`uses_history` is true: another past changes scores; or no past changes any. For each task by itself."""
    batch = subject.batch
    past = rows_with_past(batch)
    changed = [replaced_history(batch, subject.catalog.n_queries, step) for step in range(batch.cand.shape[1])]
    return _reaction(
        subject, "uses_history", "history", changed, {task: past & task_rows(batch, task) for task in subject.tasks}
    )


def user(subject: Examined) -> str:
    """`uses_user` is true: another user id changes scores; or none changes any. For each task by itself."""
    batch, n = subject.batch, subject.catalog.n_users
    changed = [replace(batch, user=(batch.user + step) % n + 1) for step in (n // 2, 1, 2)]
    return _reaction(subject, "uses_user", "user id", changed, {task: task_rows(batch, task) for task in subject.tasks})


def with_junk(batch: Batch, n_items: int, n_queries: int) -> Batch:
    """The batch with valid but meaningless values in every padding slot."""
    generator = torch.Generator().manual_seed(11)

    def junk(values: Tensor, real: Tensor, low: int, high: int) -> Tensor:
        drawn = torch.randint(low, high + 1, values.shape, generator=generator)
        return torch.where(real, values, drawn)

    rec, search, merged = batch.rec_mask, batch.search_mask, batch.merged_mask
    # The columns of a unit must exist in both lists, for a model may gather before it masks.
    columns = max(min(batch.rec_items.shape[1], batch.search_query.shape[1]) - 1, 0)
    now = int(batch.time.max())
    return replace(
        batch,
        rec_items=junk(batch.rec_items, rec, 1, n_items),
        rec_times=junk(batch.rec_times, rec, 0, now),
        search_query=junk(batch.search_query, search, 1, n_queries),
        search_items=junk(batch.search_items, search[..., None].expand_as(batch.search_items), 1, n_items),
        search_times=junk(batch.search_times, search, 0, now),
        merged_task=junk(batch.merged_task, merged, 0, 1),
        merged_column=junk(batch.merged_column, merged, 0, columns),
    )


def replaced_history(batch: Batch, n_queries: int, step: int = 0) -> Batch:
    """The batch with other items and queries at the real places of the history.

    The new items are candidates of the row, starting at column `step`: models that count what was seen together have
    the most to say about those.
    """
    k = batch.cand.shape[1]
    rec = batch.cand[:, (torch.arange(batch.rec_items.shape[1]) + step) % k]
    clicked = batch.cand[:, (torch.arange(batch.search_items.shape[1]) + k // 2 + step) % k]
    search = clicked[..., None].expand_as(batch.search_items)
    return replace(
        batch,
        rec_items=torch.where(batch.rec_mask, rec, batch.rec_items),
        search_items=torch.where(batch.search_click_mask, search, batch.search_items),
        search_query=torch.where(
            batch.search_mask, (batch.search_query + n_queries // 2 - 1) % n_queries + 1, batch.search_query
        ),
    )


def replaced_inputs(subject: Examined) -> Batch:
    """The batch with everything replaced that a row is made of, tasks and lengths aside."""
    batch, catalog = replaced_history(subject.batch, subject.catalog.n_queries), subject.catalog
    return replace(
        batch,
        user=(batch.user + 7) % catalog.n_users + 1,
        query=torch.where(batch.query > 0, (batch.query + 4) % catalog.n_queries + 1, 0),
        cand=(batch.cand + 13) % catalog.n_items + 1,
    )


def _reaction(subject: Examined, flag: str, what: str, changed: list[Batch], readers: dict[str, Tensor]) -> str:
    """Compare what a class declares with how many rows react to one of the changed batches.

    Args:
        subject: the model.
        flag: names the declaration.
        what: names the input in messages.
        changed: batches that differ from `subject.batch` in the input.
        readers: by task that has the input, (B,) bool: the rows that may react to it.

    In a task that is not declared, no row of any batch may react. In one that is, changed batches are tried until enough
    of its rows did.
    """
    serves = subject.cls.entry.tasks
    declared = subject.reads(flag)
    if flag == "uses_query" and getattr(subject.cls, flag):
        declared = ("search",)
    named = getattr(subject.cls, flag)
    unserved = set(() if isinstance(named, bool) else named) - set(serves) | set(declared) - set(serves)
    if unserved:
        raise Failed(
            f"{flag} holds for {' and '.join(sorted(unserved))}, but the model serves {' and '.join(serves)}, whose rows "
            f"have no such {what}"
        )
    sentences = []
    for task in subject.tasks:
        if task not in declared:
            rows = task_rows(subject.batch, task)
            for batch in changed[:3]:
                difference = row_differences(subject.reference[rows], subject.scores(batch)[rows])
                if difference.any():
                    raise Failed(
                        f"{flag} is False in {task}, but another {what} changed the scores of "
                        f"{_count(difference)} of {task}"
                    )
            sentences.append(f"another {what} changes nothing in {task}")
    for task in declared:
        if task not in subject.tasks:  # one task at hand of a model of both
            continue
        rows = readers[task]
        difference = torch.zeros(int(rows.sum()), dtype=torch.float64)
        for batch in changed:
            difference = torch.maximum(
                difference, row_differences(subject.reference[rows], subject.scores(batch)[rows])
            )
            if (difference > 0).double().mean() >= REACTING:
                break
        else:
            raise Failed(
                f"{flag} is True in {task}, but another {what} changed the scores of only {_count(difference)} of {task}"
            )
        sentences.append(f"another {what} changed the scores of {_count(difference)} of {task}")
    return "; ".join(sentences)


def _require_same(expected: Tensor, found: Tensor, when: str) -> None:
    if not len(expected):
        return
    difference = row_differences(expected, found)
    if difference.any():
        raise Failed(f"scores of {_count(difference)} changed by up to {float(difference.max()):.2g} when {when}")


def _count(difference: Tensor) -> str:
    return f"{int((difference > 0).sum())} of {len(difference)} rows"


def _joined(first: Batch, second: Batch) -> Batch:
    names = [entry.name for entry in fields(first) if getattr(first, entry.name) is not None]
    return replace(first, **{name: torch.cat([getattr(first, name), getattr(second, name)]) for name in names})


FORM = (shape, dtype, finite, representation, deterministic)
NO_EFFECT = (column_order, candidate_subset, padding, single_row, other_rows, hidden_positive)
EFFECT = (query, history, user)
CHECKS: dict[str, Callable[[Examined], str]] = {check.__name__: check for check in (*FORM, *NO_EFFECT, *EFFECT)}
