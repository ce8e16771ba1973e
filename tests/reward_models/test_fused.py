"""The fused layers are transformers' own, in value and in gradient."""

import copy

import pytest
import torch
from transformers.activations import NewGELUActivation
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from reward_models.fused import GELU, RMSNorm, _RMSNorm, fuse_layers


def fused(layer):
    """The layer as a model's part, and its replacement with weights of its own."""
    holder = torch.nn.ModuleDict({"layer": copy.deepcopy(layer)})
    fuse_layers(holder)
    assert type(holder["layer"]) is not type(layer)
    return holder["layer"]


def layers():
    norm = LlamaRMSNorm(12, eps=0.3)  # an eps that matters
    torch.nn.init.normal_(norm.weight, 1.0, 0.5)
    return [NewGELUActivation(), norm]


@pytest.mark.parametrize("layer", layers(), ids=["gelu", "rms-norm"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_and_gradients_are_those_of_transformers(layer, dtype):
    mine, theirs = fused(layer), copy.deepcopy(layer)
    inputs = torch.randn(3, 5, 12, generator=torch.Generator().manual_seed(0)).to(dtype) * 3
    upstream = torch.randn(3, 5, 12, generator=torch.Generator().manual_seed(1))
    results = []
    for module in (mine, theirs):
        x = inputs.clone().requires_grad_()
        y = module(x)
        y.backward(upstream.to(y.dtype))
        with torch.no_grad():
            assert module(inputs).allclose(y, atol=1e-6 if dtype is torch.float32 else 0.1)
        results.append([y.float(), x.grad.float(), *(p.grad for p in module.parameters())])
    tolerance = 2e-6 if dtype is torch.float32 else 0.1
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def test_gradients_are_the_derivatives_by_finite_differences():
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(GELU(), x)
    assert torch.autograd.gradcheck(lambda x, w: _RMSNorm.apply(x, w, 0.1), (x, weight))


def test_gradients_of_many_outputs_at_once():
    """`core.gradients.step_scores` asks for all steps' gradients in one backward pass."""
    norm = fused(layers()[1])
    x = torch.randn(2, 12, requires_grad=True)
    y = GELU()(norm(x)).sum(-1)
    each = torch.eye(2)
    together = torch.autograd.grad(
        y, [x, norm.weight], each, is_grads_batched=True, retain_graph=True
    )
    for i in range(2):
        alone = torch.autograd.grad(y, [x, norm.weight], each[i], retain_graph=True)
        for a, b in zip(alone, together, strict=True):
            torch.testing.assert_close(a, b[i])


def test_weights_keep_their_names_and_training():
    model = torch.nn.Sequential(LlamaRMSNorm(4), NewGELUActivation())
    names, weight = list(model.state_dict()), model[0].weight
    fuse_layers(model)
    assert list(model.state_dict()) == names and model[0].weight is weight
    assert isinstance(model[0], RMSNorm) and isinstance(model[1], GELU)
