"""The trials of one study under Ray Tune. Our own files are the truth; Tune's state is not kept."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.errors import RunError
from bench.experiments.tuning.trial import CHECKS, VALUE, Trial, TrialPlan, run_trial
from bench.messages import first_line

SCHEDULERS = ("asha", "none")
_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # with verbose=0: no tables on the terminal
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is an interruption, not a result
}
_GRACE, _REDUCTION, _MOST_CHECKS = 2, 3, 10_000  # ASHA compares after 2, 6, 18, ... checks and keeps the best third
_RETRIES = 1  # of a trial whose process or node is lost; it goes on from its checkpoint


def run_study(
    ray: Any,
    plan: TrialPlan,
    next_trial: Callable[[], Trial | None],
    told: Callable[[int, float | None], None],
    over: Callable[[Trial, list[dict[str, Any]], str], None],
    *,
    most: int,
    at_once: int,
    scheduler: str,
    resources: dict[str, float],
) -> None:
    """Carry out the trials of a study.

    Args:
        ray: the module, connected.
        plan: what all trials share.
        next_trial: gives the next trial; None when there is none.
        told: hears the value of each trial that is over, None where it failed, before `next_trial` is called again
            where trials run one after the other.
        over: hears of each trial that is over: its reports, and why its process was lost ("" where it was not).
        most: trials at most.
        at_once: trials at the same time.
        scheduler: "asha" or "none".
        resources: "cpu" and "gpu" of a trial.

    Raises:
        RunError: Tune ended before the trials did; what `over` raises.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search import Searcher

    class Numbered(Searcher):
        """Hands Tune the trials in their order."""

        def __init__(self) -> None:
            super().__init__(metric=VALUE, mode="max")
            self.trials: dict[str, Trial] = {}

        def suggest(self, trial_id: str) -> Any:
            trial = next_trial()
            if trial is None:
                return Searcher.FINISHED
            self.trials[trial_id] = trial
            return {"trial": trial}

        def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
            failed = error or not result or result.get("reason") or result[VALUE] < 0
            told(self.trials[trial_id].number, None if failed or result is None else result[VALUE])

        def save(self, checkpoint_path: str) -> None:
            """Nothing: trials are planned anew from their seed and their files."""

        def restore(self, checkpoint_path: str) -> None:
            """Nothing, see `save`."""

    class Watcher(tune.Callback):
        """Collects the reports of each trial; an error of ours ends the search instead of hiding in Tune."""

        def __init__(self) -> None:
            self.reports: dict[int, dict[int, dict[str, Any]]] = {}
            self.error: BaseException | None = None

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict, **info: Any) -> None:
            kept = {key: result[key] for key in _REPORTED if key in result}
            self.reports.setdefault(trial.config["trial"].number, {})[result[CHECKS]] = kept

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            self._over(trial.config["trial"], "")

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            error = trial.get_pickled_error() or trial.get_error()
            self._over(trial.config["trial"], f"its process was lost ({first_line(error) if error else 'no reason'})")

        def _over(self, trial: Trial, lost: str) -> None:
            try:
                over(trial, list(self.reports.get(trial.number, {}).values()), lost)
            except Exception as error:
                self.error = error
                raise

    def trainable(config: dict[str, Any], plan: TrialPlan) -> None:
        run_trial(config["trial"], plan, tune.report)

    asha = ASHAScheduler(
        time_attr=CHECKS, max_t=_MOST_CHECKS, grace_period=_GRACE, reduction_factor=_REDUCTION, stop_last_trials=False
    )
    watcher = Watcher()
    # Short, and gone with the search.
    folder = Path(tempfile.mkdtemp(prefix="bench-tune-"))
    try:
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(trainable, plan=plan), resources),
            tune_config=tune.TuneConfig(
                metric=VALUE,
                mode="max",
                search_alg=Numbered(),
                scheduler=asha if scheduler == "asha" else None,
                num_samples=most,
                max_concurrent_trials=at_once,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="study",
                storage_path=str(folder),
                verbose=0,
                callbacks=[watcher],
                failure_config=tune.FailureConfig(max_failures=_RETRIES),
            ),
        )
        tuner.fit()
    except Exception as error:
        if watcher.error is not None:
            raise watcher.error from None
        raise RunError(f"Ray Tune ended the search: {type(error).__name__}: {first_line(error)}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


_REPORTED = (CHECKS, "step", "value", VALUE, "steps", "seconds", "final", "reason")
