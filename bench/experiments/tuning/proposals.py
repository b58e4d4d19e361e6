"""Which settings the trials of a search have: the default first, then seeded random draws or Optuna's proposals."""

import json
import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from bench.errors import RunError

SEARCHES = ("random", "optuna")
_ATTEMPTS = 200  # draws until one is new and fits the config
_REFUSED = 10  # proposals of Optuna that the config refuses, or that are not new, before a random one takes their place
_RANDOM_FIRST = 4  # trials before Optuna's model proposes

Space = dict[str, Any]  # `Ranker.search_space`
Accepts = Callable[[dict[str, Any]], bool]


class Proposals(Protocol):
    """Gives the settings of trial 0, 1, 2, ... and hears what became of them."""

    def ask(self, number: int) -> dict[str, Any]:
        """Settings of the next trial; trial 0 has none, it is the default.

        Raises:
            RunError: the space has no further settings.
        """

    def tell(self, number: int, value: float | None) -> None:
        """The value of a trial; None where it failed."""


class RandomProposals:
    """Draws from the space; trial n depends on the seed and n only.

    Args:
        space: of the model.
        seed: of the search.
        accepts: whether the model's config takes these settings.
        default: values of the default config, which is trial 0.
    """

    def __init__(self, space: Space, seed: int, accepts: Accepts, default: dict[str, Any]):
        self._space, self._accepts = space, accepts
        self._random = np.random.default_rng([seed, 0x7E57])
        self._drawn: list[dict[str, Any]] = [{}]
        self.known = {_text(default)}

    def ask(self, number: int) -> dict[str, Any]:
        """See `Proposals.ask`."""
        while len(self._drawn) <= number:
            self._drawn.append(self.draw())
        return self._drawn[number]

    def tell(self, number: int, value: float | None) -> None:
        """Nothing: draws do not depend on results."""

    def draw(self) -> dict[str, Any]:
        """Settings that are new and that the config takes.

        Raises:
            RunError: none were found.
        """
        for _ in range(_ATTEMPTS):
            values = {name: self._value(choice) for name, choice in self._space.items()}
            if _text(values) not in self.known and self._accepts(values):
                self.known.add(_text(values))
                return values
        raise RunError(f"the search space has no more than {len(self.known)} settings to try; ask for fewer --trials")

    def _value(self, choice: Any) -> Any:
        if isinstance(choice, list):
            return choice[int(self._random.integers(len(choice)))]
        kind, low, high = choice
        if kind == "loguniform":
            return float(math.exp(self._random.uniform(math.log(low), math.log(high))))
        return float(self._random.uniform(low, high))


class OptunaProposals:
    """Asks Optuna's TPE sampler; exactly repeatable where trials run one after the other.

    Args:
        space: of the model.
        seed: of the search.
        accepts: whether the model's config takes these settings; what it refuses is told to Optuna as failed.
        default: values of the default config, which is trial 0.
    """

    def __init__(self, space: Space, seed: int, accepts: Accepts, default: dict[str, Any]):
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna = optuna
        self._accepts, self._default = accepts, default
        self._random = RandomProposals(space, seed, accepts, default)
        self._study = optuna.create_study(
            direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=_RANDOM_FIRST)
        )
        self._space = {name: self._distribution(choice) for name, choice in space.items()}
        self._asked: dict[int, Any] = {}

    def ask(self, number: int) -> dict[str, Any]:
        """See `Proposals.ask`."""
        if number == 0:
            return {}
        for _ in range(_REFUSED):
            trial = self._study.ask(self._space)
            text = _text(trial.params)
            if text not in self._random.known and self._accepts(trial.params):
                self._random.known.add(text)
                self._asked[number] = trial
                return dict(trial.params)
            self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
        # The sampler does not learn from what was refused and may propose it for ever: a random draw gets it on.
        values = self._random.draw()
        self._study.enqueue_trial(values)
        self._asked[number] = self._study.ask(self._space)
        return values

    def tell(self, number: int, value: float | None) -> None:
        """See `Proposals.tell`."""
        states = self._optuna.trial.TrialState
        if number == 0:
            if value is not None:
                self._add_default(value)
        elif value is None:
            self._study.tell(self._asked[number], state=states.FAIL)
        else:
            self._study.tell(self._asked[number], value)

    def _add_default(self, value: float) -> None:
        try:
            trial = self._optuna.trial.create_trial(params=self._default, distributions=self._space, value=value)
        except ValueError:
            return  # published or given settings outside the space: the sampler has no place for them
        self._study.add_trial(trial)

    def _distribution(self, choice: Any) -> Any:
        if isinstance(choice, list):
            return self._optuna.distributions.CategoricalDistribution(choice)
        kind, low, high = choice
        return self._optuna.distributions.FloatDistribution(low, high, log=kind == "loguniform")


def proposals(search: str, space: Space, seed: int, accepts: Accepts, default: dict[str, Any]) -> Proposals:
    """The proposals of a kind of search; arguments as for the classes."""
    return (OptunaProposals if search == "optuna" else RandomProposals)(space, seed, accepts, default)


def _text(values: dict[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, default=str)
