"""Checks of learning: fit, first loss, gradients, memory for a few events, and the state that is saved.

A fit may have several stages; its first losses, gradients and small batches are those of every stage.
"""

from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from bench.data.batch import Batch, SequenceBatch, ViewPair
from bench.data.log import TASKS
from bench.ranker.contract import Config, Stage, TrainConfig
from bench.testing.examined import row_differences
from bench.testing.planted import rows_with_past
from bench.testing.repeats import repeated_rows
from bench.testing.report import Failed, NotApplicable
from bench.testing.subject import Subject

# What "learns a few events by heart" means: HR@1 among five candidates, reached at one of the learning rates.
EVENTS, NEGATIVES, LEARNT = 24, 4, 0.9
ATTEMPTS = ((3e-3, 150), (2e-2, 150))
LOOK_EVERY = 5


def fit(subject: Subject) -> str:
    """`fit` ends, and returns a dict of facts for the record."""
    _ = subject.fitted
    return f"fitted on {len(subject.train)} planted events"


def fresh_loss(subject: Subject) -> str:
    """The first loss is a finite scalar; where the class declares `fresh_loss = (value, tolerance)` it is that.

    The declaration is about the last stage of a fit.
    """
    model, stages = _prepared(subject)
    seen = []
    for stage in stages:
        _start(model, stage)
        value = _loss(stage, _first_batch(subject, stage))
        if value.dim() or not torch.isfinite(value):
            raise Failed(f"the first loss{_of(stage, stages)} is {value.tolist()}; a finite scalar is expected")
        seen.append(f"the first loss{_of(stage, stages)} is {float(value.detach()):.3f}")
    declared = getattr(subject.cls, "fresh_loss", None)
    if declared is None:
        return "; ".join(seen)
    expected, tolerance = declared
    if abs(float(value.detach()) - expected) > tolerance:
        raise Failed(f"{seen[-1]}; {expected} within {tolerance} is declared")
    return f"{'; '.join(seen)}, declared {expected} within {tolerance}"


def gradients(subject: Subject) -> str:
    """Every trainable parameter gets a gradient that is not zero from a stage that trains it, at first or after a few steps.

    Parameters that are meant to rest are declared in `exempt` as `"gradients:<name>"` (`*` and `?` as in file names).
    """
    model, stages = _prepared(subject, subject.settings(batch_size=96))
    names, dead = _without_gradient(subject, model, stages)
    if dead:
        # Behind a layer that starts at zero nothing moves until that layer has.
        fitted: Any = subject.fitted
        later = set(_without_gradient(subject, fitted, fitted.stages(subject.train))[1])
        dead = [name for name in dead if name in later]
    allowed = [key.partition(":")[2] for key in subject.cls.exempt if key.startswith("gradients:")]
    unmatched = [pattern for pattern in allowed if not any(fnmatchcase(name, pattern) for name in names)]
    if unmatched:
        raise Failed(f"`exempt` excuses parameters that do not exist: {', '.join(unmatched)}")
    excused = [name for name in dead if any(fnmatchcase(name, pattern) for pattern in allowed)]
    if len(dead) > len(excused):
        unexplained = [name for name in dead if name not in excused]
        shown = ", ".join(unexplained[:10]) + (", ..." if len(unexplained) > 10 else "")
        raise Failed(f"{len(dead) - len(excused)} of {len(names)} parameters never get a gradient: {shown}")
    rest = f", {len(excused)} excused" if excused else ""
    return f"{len(names) - len(excused)} trainable parameters get gradients{rest}"


def small_batch(subject: Subject) -> str:
    """Loss and gradients are finite on a batch of one row of each task, without a past and with one.

    A pass over the data may end in such a batch, and `--tasks` may leave one of the tasks out.
    """
    model, stages = _prepared(subject, subject.settings(batch_size=128))
    kinds: dict[str, None] = {}
    for stage in stages:
        _start(model, stage)
        batch = _first_batch(subject, stage)
        for kind, row in _kinds(batch).items():
            kinds[kind] = None
            model.zero_grad(set_to_none=True)
            value = _loss(stage, _row(batch, row))
            if value.requires_grad:
                value.backward()
            gradients_finite = all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
            if not torch.isfinite(value) or not gradients_finite:
                where = f"on a batch of one row ({kind}) the loss{_of(stage, stages)}"
                raise Failed(f"{where} is {float(value.detach()):.3g} and it or its gradient is not finite")
    return f"finite on batches of one row: {', '.join(kinds)}"


def overfit(subject: Subject) -> str:
    """Trained on a few dozen events again and again, the model ranks their clicked items first (dropout off)."""
    seen = []
    for lr, steps in ATTEMPTS:
        best, needed = _by_heart(subject, lr, steps)
        if best >= LEARNT:
            return f"train HR@1 = {best:.2f} after {needed} steps at lr {lr:g}"
        seen.append(f"{best:.2f} after {steps} steps at lr {lr:g}")
    raise Failed(f"train HR@1 reached only {' and '.join(seen)}; {LEARNT} is expected")


def state(subject: Subject) -> str:
    """`state()` holds tensors only and survives a file; `load_state` on a fresh object gives the same scores."""
    from safetensors.torch import load, save

    saved = subject.fitted.state()
    for name, value in saved.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise Failed(f"state()[{name!r}] is {type(value).__name__}; tensors by name are expected")
    read = load(save({name: value.detach().cpu().contiguous().clone() for name, value in saved.items()}))
    # Another state of the global generator: weights that are drawn but not saved come out different.
    fresh = subject.build(seed=1234)
    fresh.load_state(read)
    difference = row_differences(subject.reference, subject.scores(subject.batch, fresh))
    if difference.any():
        rows = f"{int((difference > 0).sum())} of {len(difference)} rows"
        raise Failed(f"a fresh object with the saved state scores {rows} differently")
    return f"{len(saved)} tensors restore the scores in a fresh object"


def _without_gradient(subject: Subject, model: Any, stages: list[Stage]) -> tuple[list[str], list[str]]:
    """Names of the trainable parameters, and of those that no stage which trains them gives a gradient."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad and p.numel()}
    alive: set[str] = set()
    for stage in stages:
        _start(model, stage)
        trained = {id(parameter) for group in stage.parameters() for parameter in group["params"]}
        model.zero_grad(set_to_none=True)
        value = _loss(stage, _first_batch(subject, stage))
        repeats = repeated_rows(value)
        if repeats:
            raise Failed(
                f"the loss{_of(stage, stages)} reads rows of a trained tensor of shape {repeats[0]} by `tensor[ids]` with ids "
                "that repeat, whose gradients differ from run to run on several threads; use F.embedding or `rows_of`"
            )
        value.backward()
        alive |= {name for name, p in named.items() if id(p) in trained and p.grad is not None and bool(p.grad.any())}
    model.zero_grad(set_to_none=True)
    model.eval()
    return list(named), [name for name in named if name not in alive]


def _start(model: Any, stage: Stage) -> None:
    """What the Trainer does before the first step of a stage."""
    if stage.start is not None:
        stage.start()
    model.train()


def _first_batch(subject: Subject, stage: Stage) -> Any:
    return next(iter(stage.stream(subject.train).batches(0, 1)))


def _of(stage: Stage, stages: list[Stage]) -> str:
    return f" of stage '{stage.name}'" if len(stages) > 1 else ""


def _kinds(batch: Any) -> dict[str, int]:
    """The kinds of rows in a training batch, with a row of each."""
    if isinstance(batch, ViewPair):
        batch = batch.sequence
    if isinstance(batch, SequenceBatch):
        return {"shortest sequence": int(batch.length.argmin()), "longest sequence": int(batch.length.argmax())}
    if not isinstance(batch, Batch):
        raise NotApplicable(f"the stream gives {type(batch).__name__}, which cannot be cut into rows here")
    past = {
        "without a past": batch.merged_len == 0,
        "with one kind of past": (batch.rec_len > 0) != (batch.search_len > 0),
    }
    past["with both kinds of past"] = (batch.rec_len > 0) & (batch.search_len > 0)
    kinds = {}
    for code, task in enumerate(TASKS):
        for name, rows in past.items():
            chosen = (rows & (batch.task == code)).nonzero()
            if len(chosen):
                kinds[f"{task} {name}"] = int(chosen[0])
    return kinds


def _row(batch: Any, row: int) -> Any:
    if isinstance(batch, Batch):
        return batch.take(torch.tensor([row]))
    if isinstance(batch, ViewPair):
        return ViewPair(_row(batch.first, row), _row(batch.second, row), _row(batch.sequence, row))
    return SequenceBatch(**{n: None if value is None else value[row : row + 1] for n, value in vars(batch).items()})


def _prepared(subject: Subject, config: Config | None = None) -> tuple[Any, list[Stage]]:
    if not subject.has_stages:
        if issubclass(subject.cls.Config, TrainConfig):
            raise Failed("its Config has training settings but it has no `loss` to look at; declare why in `exempt`")
        raise NotApplicable("it has no `loss` and no training settings: a closed form")
    return subject.prepared(config)


def _by_heart(subject: Subject, lr: float, steps: int) -> tuple[float, int]:
    """(best HR@1, steps needed) of training on one batch per stage from a fresh model."""
    model, stages = _prepared(subject, subject.settings(batch_size=4 * EVENTS, dropout=0.0))
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    best, needed = 0.0, 0
    for stage in stages:
        _start(model, stage)
        batch = _first_batch(subject, stage)
        if isinstance(batch, SequenceBatch | ViewPair):
            exam = subject.planted.last_training_rows(subject.tasks, model.window, NEGATIVES)
        else:
            batch = _with_past(batch, bool(subject.reads("uses_history")))
            exam = _examined(batch, subject)
        assert exam.item is not None  # rows of training
        answer = exam.item[:, None] == exam.cand  # (B, K)
        blind = replace(exam, item=None, label=None, negatives=None)
        optimizer = torch.optim.Adam([{"params": group["params"], "lr": lr} for group in stage.parameters()])
        for step in range(1, steps + 1):
            model.train()
            optimizer.zero_grad(set_to_none=True)
            _loss(stage, batch).backward()
            optimizer.step()
            if step % LOOK_EVERY == 0 and stage is stages[-1]:
                scores = subject.scores(blind, model)
                positive = torch.where(answer, scores, -torch.inf).amax(1)
                others = torch.where(answer, -torch.inf, scores).amax(1)
                hit = float((positive > others).double().mean())
                best, needed = (hit, step) if hit > best else (best, needed)
                if best >= LEARNT:
                    break
        if stage.finish is not None:
            stage.finish()
    return best, needed


def _with_past(batch: Any, uses_history: bool) -> Any:
    """The first rows of a training batch; for a model of histories those with one, else there is nothing to learn."""
    if not isinstance(batch, Batch) or len(batch) <= EVENTS:
        return batch
    rows = torch.arange(len(batch))
    if uses_history:
        rows = rows[rows_with_past(batch)]
    return batch.take(rows[:EVENTS])


def _examined(batch: Any, subject: Subject) -> Batch:
    """The same rows with a clicked item and at least two others to tell it from."""
    if not isinstance(batch, Batch) or batch.item is None:
        raise Failed(f"the stream gave {type(batch).__name__} without `item`; a Batch or SequenceBatch is expected")
    if batch.cand.shape[1] > 2:
        return batch
    n, generator = subject.planted.catalog.n_items, torch.Generator().manual_seed(5)
    # Steps from the clicked item around the catalogue: distinct, and never back at it.
    steps = torch.stack([torch.randperm(n - 1, generator=generator)[:NEGATIVES] + 1 for _ in range(len(batch))])
    others = (batch.item[:, None] - 1 + steps) % n + 1
    return replace(batch, cand=torch.cat([others, batch.item[:, None]], dim=1), label=None)


def _loss(stage: Stage, batch: Any) -> Tensor:
    result = stage.loss(batch)
    value = result[0] if isinstance(result, tuple) else result
    if not isinstance(value, Tensor):
        raise Failed(f"loss returned {type(value).__name__}; a scalar tensor is expected")
    return value


CHECKS: dict[str, Callable[[Subject], str]] = {
    check.__name__: check for check in (fit, fresh_loss, gradients, small_batch, overfit, state)
}
