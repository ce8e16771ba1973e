"""A tiny language model whose completions of a few prompts are all enumerated.

Unlike in a table, what is learned in one state changes the others. Updates are expected ones.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn.functional import pad

from rlhf_pg.core.masked import zero_padding
from rlhf_pg.language.enumeration import every_completion
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.language.sampling import encode, pad_left
from rlhf_pg.study.bugs.functions import RIGHT, Functions
from rlhf_pg.study.bugs.learner import ascend, direction, expected_gradient
from rlhf_pg.study.oracle import language_oracle, policy_parameters
from rlhf_pg.study.tasks import SmallTask, random_llama, small_task


def gpt2(task: SmallTask) -> Any:
    """A random tiny GPT-2, which embeds positions."""
    size = dict[str, Any](n_embd=16, n_layer=1, n_head=2, n_positions=16, initializer_range=0.3)
    ends = dict[str, Any](bos_token_id=None, eos_token_id=task.tokenizer.eos_token_id)
    config = transformers.GPT2Config(vocab_size=len(task.tokenizer), **size, **ends)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.GPT2LMHeadModel(config)


def llama(task: SmallTask) -> Any:
    """A random tiny Llama, which sees only distances between positions (RoPE)."""
    with torch.random.fork_rng(devices=[]):
        return random_llama(task.tokenizer, 0)


def model_of_task(task: SmallTask) -> Any:
    """The small task's own policy, a Llama."""
    return task.policy.model


@dataclass
class SmallNetwork:
    """All completions of some prompts, left-padded to one width; J is the mean score."""

    make_model: Callable[[SmallTask], Any]
    prompts: Sequence[str] = ("film",)
    length: int = 3  # tokens of a completion, at most
    columns: int = 3  # width of the batch; more than `length` are padding
    centred: bool = False  # a row's advantage is its score - J, not its score
    on_padding: bool = False  # padding has its row's advantage, too

    def open(self) -> None:
        """Make the model anew, and enumerate its completions."""
        self.task = small_task()
        self.model = self.make_model(self.task).eval()
        self.policy = LanguagePolicy(self.model, critic="none")
        self.parameters = policy_parameters(self.policy)
        tokenizer = self.task.tokenizer
        done = [every_completion(self.policy, tokenizer, p, self.length) for p in self.prompts]
        prompts = [text for d in done for text in d.prompts]
        filler, extra = tokenizer.pad_token_id, (0, self.columns - self.length)
        left, left_mask = pad_left(encode(tokenizer, prompts), filler, torch.device("cpu"))
        self.mask = pad(torch.cat([d.mask for d in done]), extra)
        tokens = pad(torch.cat([d.ids for d in done]), extra)
        self.tokens = torch.where(self.mask, tokens, filler)
        self.ids = torch.cat([left, self.tokens], 1)[:, :-1]
        self.seen = torch.cat([left_mask, self.mask.long()], 1)[:, :-1]
        texts = [text for d in done for text in d.texts]
        self.scores = torch.tensor(self.task.reward(completions=texts)).double()

    def logprobs(self, f: Functions) -> Tensor:
        """log pi of every token, (N, columns)."""
        positions = f.position_ids(self.seen)
        out = self.model(input_ids=self.ids, attention_mask=self.seen, position_ids=positions)
        logp: Tensor = out.logits[:, -self.columns :].log_softmax(-1)
        return logp.gather(-1, self.tokens[..., None])[..., 0]

    @torch.no_grad()
    def probs(self) -> Tensor:
        """The probability of every row (N,), by the right functions; they add to 1."""
        logp = zero_padding(self.logprobs(RIGHT), self.mask).double().sum(1)
        return logp.exp() / len(self.prompts)

    def objective(self) -> float:
        """J: the mean score over the prompts."""
        return float(self.probs() @ self.scores)

    def gradient(self, f: Functions) -> Tensor:
        """E[g] if the right functions sample and `f` scores."""
        probs, logprobs = self.probs(), self.logprobs(f)
        advantages = self.scores - probs @ self.scores if self.centred else self.scores
        advantages = advantages[:, None].expand_as(logprobs)
        if not self.on_padding:
            advantages = zero_padding(advantages, self.mask)
        return expected_gradient(probs, logprobs, advantages, self.mask, self.parameters, f)

    def direction(self, f: Functions) -> dict[str, float]:
        """The expected gradient beside the oracle's, from each prompt alone and unpadded."""
        self.open()
        tokenizer, reward = self.task.tokenizer, self.task.reward

        def truth(prompt: str) -> Tensor:
            model = (self.policy, None, tokenizer, prompt, reward, self.length)
            return language_oracle(*model, parameters=self.parameters).gradient

        return direction(self.gradient(f), torch.stack([truth(p) for p in self.prompts]).mean(0))

    def learn(self, f: Functions, updates: int = 40) -> list[list[float]]:
        """J under expected updates."""
        self.open()
        return [ascend(lambda: self.gradient(f), self.objective, self.parameters, 0.003, updates)]

    def best(self) -> float | None:
        """Not known."""
        return None

    @torch.no_grad()
    def error(self, f: Functions) -> float:
        """The largest error of a completion's log-probability, nats."""
        self.open()
        right, wrong = (zero_padding(self.logprobs(x), self.mask).sum(1) for x in (RIGHT, f))
        return float((wrong - right).abs().max())
