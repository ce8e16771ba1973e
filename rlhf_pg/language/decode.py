"""One more token of every row through a GPT-2 or a Llama: the inner loop of sampling.

The only place that repeats a model's forward. transformers' own spends most of such a step on
building masks, copying the cache and calling modules. The cache is allocated once here, adapters
are added to their weights once per rollout, and with bf16 the weights are cast once. Other
architectures use their own forward; the tests compare both.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, GPT2LMHeadModel, LlamaForCausalLM
from transformers.pytorch_utils import Conv1D

from rlhf_pg.language.models import without_adapters

Linear = tuple[Tensor, Tensor | None]  # weight (out, in) and bias


@dataclass
class Block:
    """The functions and weights of one layer."""

    norm1: Callable[[Tensor], Tensor]
    qkv: Linear
    out: Linear
    norm2: Callable[[Tensor], Tensor]
    up: Linear
    activation: Callable[[Tensor], Tensor]
    down: Linear


def supports(model: Any) -> bool:
    """Whether `Decoder` can stand in for the model's own forward."""
    model, config = without_adapters(model), model.config
    if type(model) is GPT2LMHeadModel:
        unusual = config.scale_attn_by_inverse_layer_idx or config.reorder_and_upcast_attn
        return config.scale_attn_weights and not unusual
    rope = getattr(config, "rope_parameters", None) or {}
    return type(model) is LlamaForCausalLM and rope.get("rope_type", "default") == "default"


class Decoder:
    """A model with the keys and values of B rows, for one new token at a time."""

    can_drop = True

    @torch.no_grad()
    def __init__(
        self,
        model: Any,
        read: Callable[[Tensor], tuple[Tensor, Tensor]],
        cache: DynamicCache,
        attention: Tensor,
        new: int,
        bf16: bool,
    ) -> None:
        """`read` makes log-probabilities and values of hidden states. `cache` holds the first
        tokens of every row, `attention` (B, P) their mask; at most `new` tokens follow."""
        self.read = read
        self.dtype = torch.bfloat16 if bf16 else torch.float32
        lm = without_adapters(model)
        self.rotary = None
        self.position = attention.sum(1)  # (B,) of the next token
        if type(lm) is GPT2LMHeadModel:
            self.embedding, self.positions = lm.transformer.wte, lm.transformer.wpe
            self.blocks = [self._gpt2(block) for block in lm.transformer.h]
            self.norm = lm.transformer.ln_f
        else:
            self.embedding = lm.model.embed_tokens
            every = torch.arange(int(self.position.max()) + new, device=attention.device)
            like = self.embedding.weight[:1]  # for its device and precision
            self.rotary = torch.stack(lm.model.rotary_emb(like, every[None]))[:, 0, :, None]
            self.blocks = [self._llama(block) for block in lm.model.layers]
            self.norm = lm.model.norm
        layers: list[Any] = cache.layers
        rows, heads, self.length, self.size = layers[0].keys.shape
        self.group = lm.config.num_attention_heads // heads  # query heads per key head
        # Time first: a new token's keys and values lie side by side.
        shape = (len(self.blocks), 2, self.length + new, rows, heads, 1, self.size)
        self.cache = torch.empty(shape, dtype=self.dtype, device=attention.device)
        for i, layer in enumerate(layers):
            for kind, kept in enumerate((layer.keys, layer.values)):
                self.cache[i, kind, : self.length] = kept.permute(2, 0, 1, 3).unsqueeze(3)
        # Without padding no mask is needed.
        self.mask = None if bool(attention.all()) else F.pad(attention.T == 0, (0, 0, 0, new))

    def _linear(self, *layers: Any) -> Linear:
        """The layers side by side as one, adapters added, in the computing precision."""
        weights: list[Tensor] = []
        biases: list[Any] = []
        for layer in layers:
            base = getattr(layer, "base_layer", layer)
            weight, bias = base.weight, base.bias
            if base is not layer:
                weight = weight + layer.get_delta_weight("default")
            weights.append((weight.T if isinstance(base, Conv1D) else weight).to(self.dtype))
            biases.append(None if bias is None else bias.to(self.dtype))
        if len(layers) == 1:
            return weights[0], biases[0]
        return torch.cat(weights), None if biases[0] is None else torch.cat(biases)

    def _gpt2(self, block: Any) -> Block:
        return Block(
            norm1=block.ln_1,
            qkv=self._linear(block.attn.c_attn),
            out=self._linear(block.attn.c_proj),
            norm2=block.ln_2,
            up=self._linear(block.mlp.c_fc),
            activation=block.mlp.act,
            down=self._linear(block.mlp.c_proj),
        )

    def _llama(self, block: Any) -> Block:
        def gated(x: Tensor) -> Tensor:
            gate, up = x.chunk(2, -1)
            return block.mlp.act_fn(gate) * up

        attention, mlp = block.self_attn, block.mlp
        return Block(
            norm1=block.input_layernorm,
            qkv=self._linear(attention.q_proj, attention.k_proj, attention.v_proj),
            out=self._linear(attention.o_proj),
            norm2=block.post_attention_layernorm,
            up=self._linear(mlp.gate_proj, mlp.up_proj),
            activation=gated,
            down=self._linear(mlp.down_proj),
        )

    @torch.no_grad()
    def step(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities (B, V) and values (B,) after one more token (B,) of each row."""
        t, rows, heads = self.length, len(tokens), self.cache.shape[4]
        h = self.embedding(tokens)
        if self.rotary is None:
            h = h + self.positions(self.position)
        else:
            cos, sin = self.rotary[:, self.position]
        for block, cache in zip(self.blocks, self.cache, strict=True):
            qkv = F.linear(block.norm1(h).to(self.dtype), *block.qkv).view(rows, -1, self.size)
            if self.rotary is not None:
                x = qkv[:, :-heads]
                half = torch.cat((-x[..., self.size // 2 :], x[..., : self.size // 2]), -1)
                turned = (x * cos + half * sin).to(self.dtype)
                qkv = torch.cat((turned, qkv[:, -heads:]), 1)
            cache[:, t] = qkv[:, -2 * heads :].view(rows, 2, heads, 1, self.size).transpose(0, 1)
            mixed = self._attend(qkv[:, : -2 * heads], *cache[:, : t + 1])
            h = h + F.linear(mixed.view(rows, -1), *block.out)
            up = F.linear(block.norm2(h).to(self.dtype), *block.up)
            h = h + F.linear(block.activation(up), *block.down)
        self.length, self.position = t + 1, self.position + 1
        return self.read(self.norm(h))

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attention of one query per head, by products and sums.

        `queries` is (B, heads, size), `keys` and `values` are (T, B, key heads, 1, size). With one
        query there is nothing for a matrix product to share, and one call per head costs more.
        """
        queries = queries.view(*keys.shape[1:3], self.group, self.size)
        scores = (keys * queries).sum(-1) * self.size**-0.5  # (T, B, key heads, group)
        if self.mask is not None:
            scores.masked_fill_(self.mask[: len(keys), :, None, None], float("-inf"))
        return (values * scores.softmax(0).unsqueeze(-1)).sum(0)

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these."""
        self.cache, self.position = self.cache[:, :, :, rows], self.position[rows]
        self.mask = None if self.mask is None else self.mask[:, rows]
