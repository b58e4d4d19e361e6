"""A model of both tasks where one of them is all there is (`--tasks rec`, `--tasks search`)."""

from bench.testing import invariances, learning
from bench.testing.report import Failed, NotApplicable
from bench.testing.subject import Subject

# What may go wrong when the other task's rows, losses and candidates are missing.
OF_ONE_TASK = (
    learning.fit,
    learning.fresh_loss,
    learning.small_batch,
    invariances.shape,
    invariances.dtype,
    invariances.finite,
    invariances.deterministic,
    invariances.padding,
    invariances.single_row,
    invariances.query,
    invariances.history,
    invariances.user,
    learning.state,
)


def rec_alone(subject: Subject) -> str:
    """A model of both tasks can be fitted and asked for recommendations where no search is to be ranked."""
    return _alone(subject, "rec")


def search_alone(subject: Subject) -> str:
    """A model of both tasks can be fitted and asked to rank searches where nothing is to be recommended."""
    return _alone(subject, "search")


def _alone(subject: Subject, task: str) -> str:
    if subject.tasks == (task,):
        raise NotApplicable(f"it serves {task} alone, so every check is about that")
    if task not in subject.tasks:
        raise NotApplicable(f"it does not serve {task}")
    part, passed = subject.only(task), 0
    for check in OF_ONE_TASK:
        # What fails with both tasks is said there.
        if check.__name__ in subject.failed or check.__name__ in subject.cls.exempt:
            continue
        try:
            check(part)
        except NotApplicable:
            continue
        except Failed as failure:
            raise Failed(f"{check.__name__}: {failure}") from failure
        passed += 1
    return f"{passed} checks hold with {task} alone"


CHECKS = {"rec_alone": rec_alone, "search_alone": search_alone}
