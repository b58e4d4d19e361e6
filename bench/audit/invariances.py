"""What may change a score and what must not, on a finished run: the conformance checks on its own data."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from bench.audit.fitted_run import FittedRun
from bench.evaluation.finding import Finding, Severity
from bench.testing import invariances
from bench.testing.examined import Examined
from bench.testing.report import Failed, NotApplicable

_NEAR_ONE = 0.95


@dataclass(frozen=True)
class _Meaning:
    """How a failed conformance check reads as a finding."""

    sentence: str
    fix: str
    severity: Severity = "severe"


_MEANINGS: dict[Callable[[Examined], str], _Meaning] = {
    invariances.shape: _Meaning("does not give one score a candidate", "return a tensor (B, K)"),
    invariances.dtype: _Meaning("scores with few bits, which tie", "return logits in float32"),
    invariances.finite: _Meaning(
        "gives scores that are no numbers", "look for divisions by the length of a history and for a diverged training"
    ),
    invariances.deterministic: _Meaning(
        "scores the same rows differently each time", "switch dropout and sampling off outside of training"
    ),
    invariances.column_order: _Meaning(
        "scores depend on the candidates' order", "compute each score from its own candidate"
    ),
    invariances.candidate_subset: _Meaning(
        "the score of a candidate depends on the other candidates", "compute each score from its own candidate"
    ),
    invariances.padding: _Meaning("reads what stands in padding", "mask by the lengths of the batch"),
    invariances.single_row: _Meaning(
        "a row scored alone has other scores than in a batch", "use no statistics of the batch, and mask padding"
    ),
    invariances.other_rows: _Meaning(
        "scores depend on the content of other rows", "use no statistics of the batch when scoring"
    ),
    invariances.hidden_positive: _Meaning(
        "reads which candidate was clicked", "score from the candidates alone, never from `label` or `item`"
    ),
}
_INPUTS = {"uses_query": invariances.query, "uses_history": invariances.history, "uses_user": invariances.user}


def findings(run: FittedRun, label: str) -> Iterator[Finding]:
    """The findings of all invariances; checks that a class exempts are left out.

    Args:
        run: the model on its data.
        label: what tables call it.
    """
    broken = set()
    for check, meaning in _MEANINGS.items():
        if check.__name__ in run.cls.exempt:
            continue
        if saw := _failure(check, run):
            broken.add(check)
            yield Finding(meaning.severity, check.__name__, label, meaning.sentence, saw, meaning.fix, (label,))
    if broken & {invariances.shape, invariances.finite}:
        return
    yield from _without_history(run, label)
    yield from _few_bits(run, label)
    yield from _item_numbers(run, label)
    if invariances.deterministic not in broken:
        yield from _inputs(run, label)


def _failure(check: Callable[[Examined], str], run: FittedRun) -> str:
    """What a check saw; empty where it holds or does not apply."""
    torch.manual_seed(0)
    try:
        check(run)
    except NotApplicable:
        return ""
    except Failed as failure:
        return str(failure)
    except Exception as error:
        return f"raised {type(error).__name__}: {error}"
    return ""


def _inputs(run: FittedRun, label: str) -> Iterator[Finding]:
    """Inputs that the class says it reads, or says it does not."""
    for flag, check in _INPUTS.items():
        what = flag.removeprefix("uses_")
        if what in run.cls.exempt or (what == "query" and (not run.catalog.n_queries or "search" not in run.tasks)):
            continue
        if saw := _failure(check, run):
            yield Finding(
                "severe",
                what,
                label,
                f"what it declares of the {what} is not so",
                saw,
                f"let the {what} reach the score, or correct `{flag}`",
                (label,),
            )


def _without_history(run: FittedRun, label: str) -> Iterator[Finding]:
    """Scores of the same rows with empty histories must be numbers, too."""
    empty = torch.zeros_like(run.batch.rec_len)
    try:
        scores = run.scores(replace(run.batch, rec_len=empty, search_len=empty.clone()))
        broken = int((~torch.isfinite(scores)).any(1).sum())
        saw = f"{broken} of {len(scores)} rows" if broken else ""
    except Exception as error:
        saw = f"raised {type(error).__name__}: {error}"
    if saw:
        yield Finding(
            "severe",
            "finite",
            label,
            "gives scores that are no numbers where the history is empty",
            saw,
            "look for divisions by the length of a history",
            (label,),
        )


def _few_bits(run: FittedRun, label: str) -> Iterator[Finding]:
    """Scores that half precision holds exactly were computed in it, whatever their type; whole numbers are counts."""
    scores = run.reference.float()
    if scores.unique().numel() <= 2 or torch.equal(scores, scores.round()):
        return
    for dtype in (torch.bfloat16, torch.float16):
        if torch.equal(scores.to(dtype).float(), scores):
            rows = torch.stack([row.unique().new_tensor(len(row) - row.unique().numel()) for row in scores])
            tied = float((rows > 0).float().mean())
            yield Finding(
                "severe" if tied > 0 else "warning",
                "precision",
                label,
                f"scores hold no more than {str(dtype).removeprefix('torch.')} does, which makes ties",
                f"{scores.unique().numel()} distinct scores of {scores.numel()}; ties in {tied:.0%} of the rows",
                "compute the last step in float32, and score with logits rather than probabilities",
                (label,),
            )
            return


def _item_numbers(run: FittedRun, label: str) -> Iterator[Finding]:
    """Scores that follow the numbers of the items say nothing of the items."""
    number, score = (_places(values.double()) for values in (run.batch.cand, run.reference))
    number, score = number - number.mean(1, keepdim=True), score - score.mean(1, keepdim=True)
    norm = (number.square().sum(1) * score.square().sum(1)).sqrt()
    known = norm > 0
    if not known.any():
        return
    correlation = float(((number * score).sum(1)[known] / norm[known]).mean())
    if abs(correlation) > _NEAR_ONE:
        yield Finding(
            "severe",
            "item numbers",
            label,
            "scores follow the numbers of the items",
            f"mean rank correlation {correlation:+.2f}",
            "let the item's content or its clicks decide; numbers are only names",
            (label,),
        )


def _places(values: torch.Tensor) -> torch.Tensor:
    """(B, K) mean place of each value within its row."""
    below = (values[:, None, :] < values[:, :, None]).sum(-1)
    same = (values[:, None, :] == values[:, :, None]).sum(-1)
    return below + same / 2
