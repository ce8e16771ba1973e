"""What is examined: opened, sampled from and scored once, for all checks."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from rlhf_pg.language import conversations, data, models
from rlhf_pg.language.actors import policy_and_reference
from rlhf_pg.language.bench import spread
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.language.rollout import Reference, Reward, unscored
from rlhf_pg.language.sampling import Completions, sample
from rlhf_pg.study.doctor.finding import Missing, Part
from rlhf_pg.study.doctor.rehearsal import Rehearsal, rehearse
from rlhf_pg.study.doctor.settings import DoctorConfig, reward_of, train_config

PROMPTS, SAMPLES = 16, 4  # drawn for the checks: so many of each of so many prompts, at most
DRIFT = 1e-5  # of log-probabilities that should be equal, in fp32 (CORRECTNESS: ratio 1)

Open = Callable[[str], tuple[Any, Any]]
Score = float | None


class Patient:
    """A model, its tokenizer, the data and the reward, as a run of `rlhf-pg train` would use them.

    Nothing is opened before a check asks for it, and nothing is written. `open_model` gives the
    model and tokenizer of a name, `load_reward` the reward of its spelling.
    """

    def __init__(
        self,
        config: DoctorConfig,
        load_reward: Callable[[Any], Reward],
        open_model: Open = models.load,
    ) -> None:
        self.config, self.train = config, train_config(config)
        self.spec = reward_of(config)
        self.device = Accelerator(cpu=config.device == "cpu").device
        self.load_reward = load_reward
        self.opened = Part("the model does not open", lambda: open_model(config.model))
        self.named = Part("the reference does not open", self._open_reference)
        self.actors = Part("the policy cannot be made", self._make_actors)
        self.raw = Part("the data cannot be read", self._read_raw)
        self.rows = Part("the data cannot be read", self._read)
        self.encoded = Part("the prompts have no tokens", self._encode)
        self.usable = Part("no prompt fits the model", self._usable)
        self.drawn = Part("the model cannot be sampled from", self._draw)
        self.unsteadiness = Part("the model cannot be evaluated", self._evaluate_twice)
        self.reward = Part("the reward does not open", self._open_reward)
        self.scores = Part("the reward gives no scores", lambda: self.ask())
        self.again = Part("the reward gives no scores", self._ask_again)
        self.rehearsal: Part[Rehearsal] = Part("no step could be made", lambda: rehearse(self))

    @property
    def model(self) -> Any:
        return self.opened()[0]

    @property
    def tokenizer(self) -> Any:
        return self.opened()[1]

    @property
    def policy(self) -> LanguagePolicy:
        return self.actors()[0]

    @property
    def reference(self) -> Reference:
        return self.actors()[1]

    @property
    def completions(self) -> Completions:
        """Samples of a model that says the same thing twice; Missing of one that does not."""
        if self.unsteadiness() > DRIFT:
            raise Missing("the model answers differently each time")
        return self.drawn()[0]

    def bad_parameters(self) -> list[str]:
        """Names of parameters that hold a NaN or an infinity."""
        return [n for n, p in self.model.named_parameters() if not bool(torch.isfinite(p).all())]

    def differing_tokens(self) -> int:
        """How many of the policy's tokens, and rows of its embedding, the reference has not."""
        model, tokenizer = self.named()
        ours, theirs = self.tokenizer.get_vocab(), tokenizer.get_vocab()
        rows = [m.config.get_text_config().vocab_size for m in (self.model, model)]
        return sum(theirs.get(t) != n for t, n in ours.items()) + abs(rows[0] - rows[1])

    def ask(
        self, rows: Sequence[int] | None = None, finished: Sequence[bool] | None = None
    ) -> list[Score]:
        """The reward's scores of the samples, or of those `rows`, called once as training does.

        A reward with running moments is put back as it was. `finished` stands in for the truth.
        Raises ValueError where it does not answer with a number or None for each.
        """
        reward = self.reward()
        done, columns = self.drawn()
        chosen = range(len(done.texts)) if rows is None else rows
        asked = {**columns, "prompts": done.prompts, "completions": done.texts}
        asked["finished"] = done.finished.tolist() if finished is None else list(finished)
        asked = {name: [values[i] for i in chosen] for name, values in asked.items()}
        state = reward.state_dict() if hasattr(reward, "state_dict") else None
        answer = reward(**asked)
        if state:
            reward.load_state_dict(state)  # type: ignore[attr-defined]
        if hasattr(answer, "tolist"):
            answer = answer.tolist()
        if not isinstance(answer, list | tuple) or len(answer) != len(chosen):
            raise ValueError(f"the reward must return a list of {len(chosen)} scores")
        scores = [None if score is None else float(score) for score in answer]
        for i, score in enumerate(scores):
            if score is not None and not math.isfinite(score):
                text = asked["prompts"][i] + asked["completions"][i]
                raise FloatingPointError(f"the reward gave {score} to row {i}: {text[:60]!r}")
        return scores

    def applied(self) -> Tensor:
        """The scores (N,) that are numbers."""
        numbers = [score for score in self.scores() if score is not None]
        if not numbers:
            raise Missing("the reward applies to no row")
        return torch.tensor(numbers, dtype=torch.float64)

    def _ask_again(self) -> tuple[list[Score], float]:
        """The scores once more, when the reward is warm, and the seconds that took."""
        self.scores()
        began = time.perf_counter()
        return self.ask(), time.perf_counter() - began

    def _open_reference(self) -> tuple[Any, Any]:
        if self.config.reference is None:
            raise Missing("the reference is a copy of the policy")
        return models.load(self.config.reference)

    def _open_reward(self) -> Reward:
        if self.spec is None:
            raise Missing("no reward: name one with --reward, or train one with `rlhf-pg reward`")
        return self.load_reward(self.spec)

    def _make_actors(self) -> tuple[LanguagePolicy, Reference]:
        if self.bad_parameters():
            raise Missing("the model's parameters are not finite")
        models.suit_threads(self.model)
        run = self.train
        try:
            fits = self.differing_tokens() == 0
        except Missing:
            fits = False
        if not fits:  # a copy stands in for a reference that cannot be had
            run = replace(run, reference=None)
        torch.manual_seed(self.config.seed)
        return policy_and_reference(run, self.model, self.tokenizer, self.device)

    def _read_raw(self) -> data.Rows:
        source = self.config.data
        return data.load(data.film_notes("prompts") if source == data.FILM_NOTES else source)

    def _read(self) -> data.Rows:
        raw = self.raw.made()
        told = "prompt" in raw and conversations.is_conversation(raw["prompt"][0])
        return data.parse(raw, "prompts", self.config.data, self.tokenizer if told else None)

    def _encode(self) -> list[list[int]]:
        return models.encode(self.tokenizer, self.rows()["prompt"])

    def _usable(self) -> data.Rows:
        """The rows whose prompt has tokens and leaves room for a completion."""
        limit = models.context_length(self.model) or math.inf
        room = limit - self.config.max_new_tokens
        rows = self.rows()
        fit = [i for i, ids in enumerate(self.encoded()) if 0 < len(ids) <= room]
        if not fit:
            raise Missing("no prompt fits the model's context")
        return {name: [values[i] for i in fit] for name, values in rows.items()}

    def _draw(self) -> tuple[Completions, data.Rows]:
        """Completions, several of each prompt in a row, and the columns beside the prompts."""
        samples = min(SAMPLES, self.train.rows)
        some = spread(self.usable(), max(1, min(PROMPTS, self.train.rows // samples)))
        columns = {name: [x for x in xs for _ in range(samples)] for name, xs in some.items()}
        prompts = columns.pop("prompt")
        generator = torch.Generator().manual_seed(self.config.seed)
        most = self.config.max_new_tokens
        return sample(self.policy, self.tokenizer, prompts, most, generator), columns

    @torch.no_grad()
    def _evaluate_twice(self) -> float:
        """max |difference| of the log-probabilities of two evaluations."""
        episodes = unscored(self.drawn()[0])
        first, second = (self.policy.evaluate(episodes).logprobs for _ in range(2))
        return float((first - second).abs().max())
