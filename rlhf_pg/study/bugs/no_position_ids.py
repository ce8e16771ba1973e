"""Left-padded prompts without position ids."""

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor

from rlhf_pg.language.enumeration import every_completion
from rlhf_pg.language.policy import LanguagePolicy
from rlhf_pg.language.sampling import pad_left
from rlhf_pg.study.bugs.exhibit import Comparison, Curves, Exhibit, Findings, direction
from rlhf_pg.study.oracle import language_oracle, policy_parameters
from rlhf_pg.study.tasks import SmallTask, random_llama, small_task

PROMPTS = ["film", "very good film", "not very good very bad film"]  # 1, 3 and 6 tokens


def wrong(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    return model(input_ids=ids, attention_mask=mask).logits


def right(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    """What `LanguagePolicy.forward` does."""
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    return model(input_ids=ids, attention_mask=mask, position_ids=positions).logits


Forward = Callable[[Any, Tensor, Tensor], Tensor]


class Batch:
    """All completions of at most two tokens after three prompts, left-padded to one width."""

    def __init__(self, model: Any, task: SmallTask) -> None:
        self.model, self.task = model.eval(), task
        policy, pad = LanguagePolicy(model, critic="none"), task.tokenizer.pad_token_id
        done = [every_completion(policy, task.tokenizer, prompt, 2) for prompt in PROMPTS]
        heads = [row[m.bool()].tolist() for d in done
                 for row, m in zip(d.prompt_ids, d.prompt_mask, strict=True)]  # fmt: skip
        prompts, prompt_mask = pad_left(heads, pad, torch.device("cpu"))
        self.tokens, self.mask = (torch.cat([getattr(d, k) for d in done]) for k in ("ids", "mask"))
        self.ids = torch.cat([prompts, self.tokens], 1)
        self.seen = torch.cat([prompt_mask, self.mask.long()], 1)
        self.scores = torch.tensor(task.reward(completions=[t for d in done for t in d.texts]))

    def logprobs(self, forward: Forward) -> Tensor:
        """log-probability of every completion, (N,)."""
        logits = forward(self.model, self.ids[:, :-1], self.seen[:, :-1])
        logp = logits[:, -self.tokens.shape[1] :].log_softmax(-1)
        return (logp.gather(-1, self.tokens[..., None])[..., 0] * self.mask).sum(1)

    def gradient(self, scored: Forward) -> list[Tensor]:
        """E[g] where completions are drawn rightly and scored by `scored`."""
        with torch.no_grad():
            weights = self.logprobs(right).exp() * self.scores / len(PROMPTS)
        found = torch.autograd.grad(
            weights @ self.logprobs(scored), list(self.model.parameters()), allow_unused=True
        )
        return [torch.zeros_like(p) if g is None else g
                for p, g in zip(self.model.parameters(), found, strict=True)]  # fmt: skip

    @torch.no_grad()
    def objective(self) -> float:
        """J: the mean score over the prompts."""
        return float(self.logprobs(right).exp() @ self.scores) / len(PROMPTS)

    def truth(self) -> Tensor:
        """The oracle's gradient, from each prompt by itself, without padding."""
        policy = LanguagePolicy(self.model, critic="none")
        parameters = list(policy_parameters(policy))
        gradients = [
            language_oracle(
                policy,
                None,
                self.task.tokenizer,
                prompt,
                self.task.reward,
                2,
                parameters=parameters,
            ).gradient
            for prompt in PROMPTS
        ]
        return torch.stack(gradients).mean(0)

    def compare(self, setting: str) -> Comparison:
        truth = self.truth()
        flat = [torch.cat([g.flatten() for g in self.gradient(f)]) for f in (right, wrong)]
        return Comparison(setting, *(direction(estimate, truth) for estimate in flat))

    def train(self, scored: Forward, updates: int, lr: float = 0.003) -> list[float]:
        """J under expected updates by Adam."""
        adam = torch.optim.Adam(self.model.parameters(), lr=lr)
        curve = [self.objective()]
        for _ in range(updates):
            for p, g in zip(self.model.parameters(), self.gradient(scored), strict=True):
                p.grad = -g
            adam.step()
            curve.append(self.objective())
        return curve


def gpt2(task: SmallTask) -> Any:
    """A random tiny GPT-2, whose positions are embedded by their number."""
    config = transformers.GPT2Config(
        vocab_size=len(task.tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=16,
        initializer_range=0.3, bos_token_id=None, eos_token_id=task.tokenizer.eos_token_id,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.GPT2LMHeadModel(config)


def llama(task: SmallTask) -> Any:
    """A random tiny Llama, which sees only how far apart two tokens are (RoPE)."""
    with torch.random.fork_rng(devices=[]):
        return random_llama(task.tokenizer, 0)


def measure() -> Findings:
    task, updates = small_task(), 40
    gradients, curves, others = [], [], {}
    for name, make in (("GPT-2", gpt2), ("Llama", llama)):
        batch = Batch(make(task), task)
        gradients.append(batch.compare(f"{name}, prompts of 1, 3 and 6 tokens"))
        with torch.no_grad():
            off = (batch.logprobs(wrong) - batch.logprobs(right)).abs().max()
        others[f"{name}: log-probabilities off by up to, nats"] = (0.0, float(off))
        one, other = ([Batch(make(task), task).train(f, updates)] for f in (right, wrong))
        curves.append(Curves(name, list(range(updates + 1)), one, other))
    return Findings(gradients, curves, others)


LESSON = (
    "What is drawn at the right positions is scored at others. A model that embeds positions "
    "learns for places where no text will stand; one that sees only distances (RoPE) hides the "
    "bug."
)
EXHIBIT = Exhibit(
    name="no-position-ids",
    what="Prompts are padded on the left, and positions counted from the padding.",
    origin="Seen in TRL 1.16's RLOO and GRPO.",
    right=(LanguagePolicy.forward, "positions = "),
    wrong=wrong,
    effect="learns at the wrong places",
    lesson=LESSON,
    measure=measure,
)
