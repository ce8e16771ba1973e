"""The loss without its mask."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from rlhf_pg.core import losses
from rlhf_pg.core.losses import policy_gradient_loss
from rlhf_pg.study.bugs import cartpole
from rlhf_pg.study.bugs.exhibit import (
    Comparison,
    Curves,
    Direction,
    Exhibit,
    Findings,
    both,
    direction,
)
from rlhf_pg.study.oracle import Exact, language_oracle, policy_parameters
from rlhf_pg.study.tasks import small_task

COLUMNS = 12


def wrong(logprobs: Tensor, advantages: Tensor, mask: Tensor, reduction: str = "episode") -> Tensor:
    return (-logprobs * advantages.detach()).mean()


SWAP = (losses, "policy_gradient_loss", wrong)


def clipped(
    logprobs: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, clip: float = 0.2,
    reduction: str = "token",
) -> Tensor:  # fmt: skip
    """The same of PPO's loss, for CartPole."""
    ratio = (logprobs - old).exp()
    held = ratio.clamp(1 - clip, 1 + clip)
    return torch.maximum(-advantages * ratio, -advantages * held).mean()


class Whole:
    """The small task with its Llama, in a batch as wide as a completion of `COLUMNS` tokens.

    Each completion has one advantage, score - mean, as where samples of a prompt are compared; on
    the padding it is 0 if `emptied`.
    """

    def __init__(self, emptied: bool) -> None:
        self.task, self.emptied = small_task(max_new_tokens=3), emptied
        self.policy, self.parameters = self.task.policy, policy_parameters(self.task.policy)

    def answer(self, gradient: bool = False) -> Exact:
        task = self.task
        return language_oracle(
            task.policy, None, task.tokenizer, task.prompt, task.reward, task.max_new_tokens,
            parameters=self.parameters if gradient else [],
        )  # fmt: skip

    def gradient(self, answer: Exact) -> tuple[Tensor, ...]:
        """E[g], by the loss that stands in `losses`."""
        extra = COLUMNS - answer.logprobs.shape[1]
        mask = pad(answer.episodes.mask.long(), (0, extra))
        tokens = pad(answer.episodes.actions, (0, extra))
        tokens = torch.where(mask.bool(), tokens, self.task.tokenizer.pad_token_id)
        prompt = answer.episodes.inputs
        ids = torch.cat([prompt["input_ids"], tokens], 1)[:, :-1]
        seen = torch.cat([prompt["attention_mask"], mask], 1)[:, :-1]
        logprobs = self.policy(ids, seen, keep=COLUMNS)[0].gather(-1, tokens[..., None])[..., 0]
        centred = (answer.returns - answer.objective) * answer.probs * len(answer.probs)
        advantages = centred[:, None].expand_as(logprobs)
        if self.emptied:
            advantages = advantages * mask
        loss = losses.policy_gradient_loss(logprobs, advantages, mask, "episode")
        return torch.autograd.grad(-loss, self.parameters)

    def direction(self) -> Direction:
        answer = self.answer(gradient=True)
        flat = torch.cat([g.flatten() for g in self.gradient(answer)])
        return direction(flat, answer.gradient)

    def train(self, updates: int, lr: float = 0.003) -> list[float]:
        """J under expected updates by Adam."""
        adam = torch.optim.Adam(self.parameters, lr=lr)
        curve = []
        for _ in range(updates):
            answer = self.answer()
            curve.append(answer.objective)
            for p, g in zip(self.parameters, self.gradient(answer), strict=True):
                p.grad = -g
            adam.step()
        return [*curve, self.answer().objective]


def measure() -> Findings:
    def compare(setting: str, emptied: bool) -> Comparison:
        return Comparison(setting, *both(lambda: Whole(emptied).direction(), SWAP))

    updates, name = 40, "one advantage for the whole row, padding included"
    curves = both(lambda: [Whole(False).train(updates)], SWAP)
    return Findings(
        [compare(name, False), compare("advantages are 0 on padding", True)],
        [Curves(name, list(range(updates + 1)), *curves)],
    )


LESSON = (
    "Where advantages are 0 on padding, only the length of the gradient changes. Where a row's one "
    "advantage stands on its padding too, most of the gradient is about what to write after the "
    "end, and what comes before it is learned wrong."
)
EXHIBIT = Exhibit(
    name="mask-dropped",
    what="The loss is a mean over all entries of the batch, padding included.",
    origin="Planted here: of nine bugs, one of the two that a learning test on CartPole missed.",
    right=(policy_gradient_loss, "zero_padding"),
    wrong=wrong,
    effect="padding is trained on",
    lesson=LESSON,
    measure=measure,
    cartpole=lambda: cartpole.learning_test("ppo", SWAP, (losses, "ppo_clip_loss", clipped)),
)
