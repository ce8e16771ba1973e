"""Next-token training: it makes the initial policy of RLHF."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reward_models.preference import TINY
from reward_models.pretrained import context_length, limit_threads
from reward_models.state import fingerprint, random_state, set_random_state
from rlhf_pg.checkpoint import Checkpoints, newest, warn_of_other_versions
from rlhf_pg.core.options import made_from
from rlhf_pg.language import data, models, sampling
from rlhf_pg.language.check import check_causal
from rlhf_pg.language.config import FILM_NOTES, FinetuneConfig
from rlhf_pg.memory import keep_freed_memory
from rlhf_pg.progress import Progress, console
from rlhf_pg.runs import Run, discarded_if_empty, options_of


def finetune(config: FinetuneConfig, resume: Path | None = None, until: int | None = None) -> Run:
    """Train on text and write the run folder. Raises ValueError for bad options or data.

    `resume` is the folder of an interrupted run of this config; `until` a step to stop after.
    """
    _check(config)
    given = models.load(config.model) if config.model is not None else None
    train, test = read_corpus(config, given[1] if given else None)
    torch.manual_seed(config.seed)
    if given:
        model, tokenizer = given
    else:
        tokenizer = models.train_tokenizer(train, config.tokenizer, config.vocabulary)
        model = models.tiny_model(
            tokenizer, config.width, config.layers, config.heads, config.context
        )
    limit_threads(model)
    keep_freed_memory()
    limit = context_length(model) or config.context
    encoded, held_out = (encode(tokenizer, texts, limit) for texts in (train, test))
    if len(encoded) + len(held_out) > len(train) + len(test):
        console.print(
            f"texts longer than the context of {limit} tokens are trained on in pieces: "
            f"{len(train):,} texts are {len(encoded):,} rows, {len(test):,} held-out texts "
            f"{len(held_out):,}",
            markup=False,
        )
    if config.model is not None:
        check_causal(model, encoded[0], config.model)
    trainer = NextTokenTrainer(model, encoded, held_out, config)
    if resume is not None:
        state = newest(resume)
        trainer.load_state_dict(state)
        run = Run.resume(resume, state["run"])
    else:
        run = Run.create(config.output, "base", config)
    tokens = sum(map(len, encoded))
    console.print(
        f"{len(train):,} texts and {len(test):,} held out, {tokens:,} tokens, "
        f"vocabulary {len(tokenizer):,}; model of {parameter_count(model):,} parameters, "
        f"learning rate {trainer.lr:g} → {run.path}",
        markup=False,
    )
    checkpoints = Checkpoints(run.path, config.checkpoint_every, until)
    save = partial(models.save, model=model, tokenizer=tokenizer)
    with checkpoints, discarded_if_empty(run), Progress(trainer.steps, "fine-tuning") as progress:
        while trainer.step < trainer.steps:
            metrics = trainer.next_step()
            if metrics:
                progress.update(trainer.step, **metrics)
                run.log(trainer.step, metrics)
            checkpoints.after(
                trainer.step,
                trainer.steps,
                lambda: trainer.state_dict() | {"run": run.state_dict()},
                save,
            )
    with run.saved("policy") as folder:
        models.save(folder, model, tokenizer)
    held_out_loss = trainer.losses["held_out_loss"]
    console.print(
        f"held-out loss {held_out_loss:.3f} nats per token (perplexity "
        f"{math.exp(held_out_loss):.2f}); model in {run.path / 'policy'}",
        markup=False,
    )
    return run


def resume(run: Path, until: int | None = None) -> Run:
    """Continue an interrupted run (`rlhf-pg resume`)."""
    config = made_from(FinetuneConfig, options_of(run), str(run / "config.yaml"))
    return finetune(config, resume=run, until=until)


def default_lr(model: Any) -> float:
    """The learning rate that suits the size of a model: large ones are taken for pretrained."""
    return 3e-3 if parameter_count(model) < TINY else 5e-5


def parameter_count(model: Any) -> int:
    """Number of parameters of a model."""
    return sum(p.numel() for p in model.parameters())


def _check(config: FinetuneConfig) -> None:
    if config.width % (2 * config.heads):
        raise ValueError(
            f"width ({config.width}) must be a multiple of twice the heads ({config.heads}): each "
            "head turns pairs of numbers by the position"
        )


def read_corpus(config: FinetuneConfig, tokenizer: Any = None) -> tuple[list[str], list[str]]:
    """Training texts and held-out texts; `tokenizer` formats lists of messages."""
    train = data.read(config.data, "corpus", "train", tokenizer, config.columns)
    if config.test is not None:
        test = data.read(config.test, "corpus", "test", tokenizer, config.columns)
    elif config.data == FILM_NOTES:
        test = data.read(FILM_NOTES, "corpus", "test")
    else:
        train, test = data.hold_out(train)
    return train["text"], test["text"]


def encode(tokenizer: Any, texts: list[str], limit: int) -> list[list[int]]:
    """Token ids of each text and its EOS, in pieces of at most `limit` tokens.

    A piece begins with the last token of the one before, so that every token but a text's first is
    predicted exactly once; the last piece ends in EOS.
    """
    rows = [[*row, tokenizer.eos_token_id] for row in sampling.encode(tokenizer, texts)]
    step = max(1, limit - 1)
    return [row[i : i + limit] for row in rows for i in range(0, max(1, len(row) - 1), step)]


class NextTokenTrainer:
    """Minimises the cross-entropy of the next token, one gradient step at a time.

    Texts of similar length share a batch, so there is little padding; the order of batches is
    random. The learning rate is warmed up linearly, then annealed to 0 by a cosine.
    """

    def __init__(
        self,
        model: Any,
        texts: list[list[int]],
        held_out: list[list[int]],
        config: FinetuneConfig,
    ) -> None:
        self.model, self.held_out, self.config = model, held_out, config
        self.lr = default_lr(model) if config.lr is None else config.lr
        generator = torch.Generator().manual_seed(config.seed)
        epochs = [length_buckets(texts, config.batch_size, generator) for _ in range(config.epochs)]
        self.batches = [batch for epoch in epochs for batch in epoch]
        self.per_epoch, self.steps, self.step = len(epochs[0]), len(self.batches), 0
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=self.lr, weight_decay=0.01, fused=True
        )
        warmup = min(100, self.steps // 10 + 1)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer,
            lambda s: min((s + 1) / warmup, 0.5 * (1 + math.cos(math.pi * s / self.steps))),
        )
        self.losses: dict[str, float] = {}  # of the last epoch, nats per token
        self.data = fingerprint(texts, held_out)

    def next_step(self) -> dict[str, float]:
        """One gradient step. Returns what to log: the loss every ten steps, the held-out loss at
        the end of an epoch. Raises FloatingPointError if that is not finite, and instead of a step
        whose gradient is not."""
        self.model.train()
        loss = next_token_loss(self.model, self.batches[self.step])
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), 1.0))
        if not math.isfinite(norm):
            raise FloatingPointError(
                f"the gradient's norm is {norm} in step {self.step + 1}; no step was taken. Lower "
                f"the learning rate (--lr {self.lr:g})"
            )
        self.optimizer.step()
        self.schedule.step()
        self.step += 1
        metrics = {"loss": float(loss.detach())}
        if self.step % self.per_epoch:
            return metrics if self.step % 10 == 0 else {}
        self.model.eval()
        self.losses = metrics | {"held_out_loss": corpus_loss(self.model, self.held_out)}
        if not math.isfinite(self.losses["held_out_loss"]):
            raise FloatingPointError("the loss is no longer finite; lower the learning rate")
        return self.losses

    def state_dict(self) -> dict[str, Any]:
        """All that the next steps depend on."""
        return {
            "command": "finetune",
            "iteration": self.step,
            "parameters": dict(self.model.named_parameters()),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.last_epoch,
            "losses": self.losses,
            "random": random_state(),
            "data": self.data,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`; raises ValueError if the texts are not the same."""
        if state["data"] != self.data:
            raise ValueError("the texts have changed since the run began; use the same data")
        warn_of_other_versions(state["versions"])
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(state["parameters"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.last_epoch = state["schedule"]
        self.step, self.losses = state["iteration"], state["losses"]
        set_random_state(state["random"])


def length_buckets(
    texts: list[list[int]], batch_size: int, generator: torch.Generator
) -> list[list[list[int]]]:
    """Batches of texts of like length, in random order; ties in length are shuffled too."""
    jitter = torch.rand(len(texts), generator=generator).tolist()
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]) + jitter[i])
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    shuffled = torch.randperm(len(batches), generator=generator).tolist()
    return [[texts[i] for i in batches[b]] for b in shuffled]


def next_token_loss(model: Any, batch: list[list[int]]) -> Tensor:
    """Mean cross-entropy per real token, nats; the mask comes from lengths, so EOS is learned."""
    device = next(model.parameters()).device
    rows = [torch.tensor(row) for row in batch]
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device)
    lengths = torch.tensor([len(row) for row in batch], device=device)
    mask = torch.arange(ids.shape[1], device=device) < lengths[:, None]
    logits = model(input_ids=ids[:, :-1], attention_mask=mask[:, :-1].long()).logits
    targets = torch.where(mask[:, 1:], ids[:, 1:], -100)
    return nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


@torch.no_grad()
def corpus_loss(model: Any, texts: list[list[int]], batch_size: int = 128) -> float:
    """Cross-entropy over all tokens of `texts`, nats per token."""
    total, count = 0.0, 0
    ordered = sorted((t for t in texts if len(t) > 1), key=len)
    for start in range(0, len(ordered), batch_size):
        batch = ordered[start : start + batch_size]
        tokens = sum(len(row) - 1 for row in batch)
        total += float(next_token_loss(model, batch)) * tokens
        count += tokens
    return total / max(count, 1)
