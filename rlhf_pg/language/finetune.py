"""Next-token training: it makes the initial policy of RLHF."""

import math
from collections.abc import Callable
from typing import Any

import torch
from reward_models.files import saved_whole
from reward_models.pretrained import context_length
from torch import Tensor, nn

from rlhf_pg.language import data, models, sampling
from rlhf_pg.language.config import FILM_NOTES, FinetuneConfig, check_at_least
from rlhf_pg.progress import Progress, console
from rlhf_pg.runs import Run


def finetune(config: FinetuneConfig) -> Run:
    """Train on text and write the run folder. Raises ValueError for bad options or data."""
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
    models.limit_threads(model)
    limit = context_length(model) or config.context
    encoded, held_out = (encode(tokenizer, texts, limit) for texts in (train, test))
    run = Run.create(config.output, "base", config)
    parameters = sum(p.numel() for p in model.parameters())
    tokens = sum(map(len, encoded))
    console.print(
        f"{len(train):,} texts, {tokens:,} tokens, vocabulary {len(tokenizer):,}; "
        f"model of {parameters:,} parameters → {run.path}",
        markup=False,
    )
    steps = math.ceil(len(encoded) / config.batch_size) * config.epochs
    with Progress(steps, "fine-tuning") as progress:

        def log(step: int, numbers: dict[str, float]) -> None:
            progress.update(step, **numbers)
            run.log(step, numbers)

        losses = train_next_token(
            model, encoded, held_out, config.epochs, config.batch_size, config.lr, config.seed, log
        )
    with saved_whole(run.path / "policy") as folder:
        models.save(folder, model, tokenizer)
    held = losses["held_out_loss"]
    console.print(
        f"held-out loss {held:.3f} nats per token (perplexity {math.exp(held):.2f}); "
        f"model in {run.path / 'policy'}",
        markup=False,
    )
    return run


def _check(config: FinetuneConfig) -> None:
    check_at_least(config, 1, "width", "layers", "heads", "epochs", "batch_size")
    check_at_least(config, 2, "context")
    check_at_least(config, 4, "vocabulary")
    if not config.lr > 0:
        raise ValueError(f"lr must be above 0, not {config.lr}")
    if config.width % (2 * config.heads):
        raise ValueError(
            f"width ({config.width}) must be a multiple of twice the heads ({config.heads}): each "
            "head turns pairs of numbers by the position"
        )


def read_corpus(config: FinetuneConfig, tokenizer: Any = None) -> tuple[list[str], list[str]]:
    """Training texts and held-out texts; `tokenizer` formats lists of messages."""
    train = data.read(config.data, "corpus", tokenizer=tokenizer)
    if config.test is not None:
        test = data.read(config.test, "corpus", "test", tokenizer)
    elif config.data == FILM_NOTES:
        test = data.read(FILM_NOTES, "corpus", "test")
    else:
        train, test = data.hold_out(train)
    return train["text"], test["text"]


def encode(tokenizer: Any, texts: list[str], limit: int) -> list[list[int]]:
    """Token ids of each text and its EOS, cut at `limit` tokens (a cut text has no EOS)."""
    return [[*row, tokenizer.eos_token_id][:limit] for row in sampling.encode(tokenizer, texts)]


def train_next_token(
    model: Any,
    texts: list[list[int]],
    held_out: list[list[int]],
    epochs: int,
    batch_size: int,
    lr: float,
    seed: int,
    log: Callable[[int, dict[str, float]], None],
) -> dict[str, float]:
    """Minimise the cross-entropy of the next token; returns the last losses, nats per token.

    Texts of like length share a batch, so little of it is padding; the order of batches is random.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01, fused=True)
    steps = math.ceil(len(texts) / batch_size) * epochs
    warmup = min(100, steps // 10 + 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda s: min((s + 1) / warmup, 0.5 * (1 + math.cos(math.pi * s / steps))),
    )
    losses: dict[str, float] = {}
    step = 0
    for _ in range(epochs):
        model.train()
        for batch in length_buckets(texts, batch_size, generator):
            loss = next_token_loss(model, batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            step += 1
            if step % 10 == 0:
                log(step, {"loss": float(loss.detach())})
        model.eval()
        losses = {"loss": float(loss.detach()), "held_out_loss": corpus_loss(model, held_out)}
        if not math.isfinite(losses["held_out_loss"]):
            raise FloatingPointError("the loss is no longer finite; lower the learning rate")
        log(step, losses)
    return losses


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
