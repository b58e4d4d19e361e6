"""What a user reads while a search goes on."""

from bench.store.studies import FAILED, STOPPED, Study, TrialRecord


def trial_line(study: Study, trial: TrialRecord) -> str:
    """What a user reads when a trial is over."""
    who = f"trial {trial.number + 1}/{study.record.trials}" if trial.kind == "search" else f"default, seed {trial.seed}"
    shown = ", ".join(
        f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}" for name, value in trial.values.items()
    )
    how = f"failed: {trial.reason}" if trial.status == FAILED else f"N@10 {trial.value:.4f}"
    best = f" (best {study.best.value:.4f})" if study.best else ""
    stopped = ", stopped early" if trial.status == STOPPED else ""
    return f"{study.record.model} {who}: {how}{best}{stopped}; {shown or 'default settings'}"


def summary(study: Study) -> str:
    """What a user reads when a search is over."""
    best, spent = study.best, study.spent()
    assert best is not None
    cost = f"spent {spent['trials']:.0f} trials, {spent['steps']:,.0f} steps, {spent['seconds']:,.0f} s"
    found = f"best N@10 on validation {best.value:.4f} in trial {best.number + 1}"
    return f"{study.record.model}: {found}; {cost}; {study.folder / 'best.yaml'}"
