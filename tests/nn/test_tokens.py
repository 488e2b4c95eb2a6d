"""Networks with tokens, and with channels beside the state, in float64: what they see, and what they are without."""

import pytest
import torch
from torch import nn

from diffcore.denoising.inputs import Tokens
from diffcore.nn.attention import CrossAttention, TokenAttention
from diffcore.nn.dit import DiT
from diffcore.nn.sets import LatentSet, SetTransformer
from diffcore.nn.unet import UNet

GRID, SET = (3, 8, 8), (7, 5)
MAKERS = {
    "unet": lambda **inputs: UNet(3, width=8, patch=2, **inputs),
    "unet of one level": lambda **inputs: UNet(3, width=8, patch=1, multipliers=(1,), attention=True, **inputs),
    "dit": lambda **inputs: DiT(3, (8, 8), patch=2, width=8, depth=2, heads=2, **inputs),
    "latent": lambda **inputs: LatentSet(5, width=8, latents=3, latent_width=12, rounds=2, heads=2, **inputs),
    "transformer": lambda **inputs: SetTransformer(5, width=8, depth=2, heads=2, **inputs),
}
CHANNELS, LENGTH, BESIDE = 6, 4, 2


def made(name, **inputs):
    """The network in float64, with the same random numbers in place of zeros in each network."""
    torch.manual_seed(0)
    network = MAKERS[name](**inputs)
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.3, generator=generator)
    return network.double()


def inputs_of(name, network):
    generator = torch.Generator().manual_seed(2)
    shape = GRID if name in ("unet", "unet of one level", "dit") else SET
    beside = (BESIDE, *shape[1:]) if shape is GRID else (shape[0], BESIDE)
    mask = torch.tensor([[True, True, False, False], [True, False, True, False]])
    draw = [torch.randn(2, *s, generator=generator).double() for s in (shape, (network.width,), (4, CHANNELS), beside)]
    return draw[0], draw[1], Tokens(draw[2], mask), draw[3]


@pytest.fixture(params=MAKERS)
def name(request):
    return request.param


def test_without_tokens_a_network_has_the_weights_that_it_always_had(name):
    plain, told = made(name), made(name, tokens=CHANNELS, like_state=BESIDE)
    own = plain.state_dict()
    assert plain.accepts == ()
    assert told.accepts == ("tokens", "like_state")
    assert not any(key.startswith(("attend", "beside")) for key in own)
    assert all(torch.equal(value, told.state_dict()[key]) for key, value in own.items())


def test_tokens_and_channels_say_nothing_at_first(name):
    """The output is that of the network without them, whose own zeros are random here."""
    plain, told = made(name), made(name, tokens=CHANNELS, like_state=BESIDE)
    x, conditioning, tokens, beside = inputs_of(name, told)
    torch.manual_seed(0)
    untrained = MAKERS[name](tokens=CHANNELS, like_state=BESIDE).double()
    for key, parameter in untrained.named_parameters():
        if key.startswith(("attend", "beside")):
            told.get_parameter(key).data.copy_(parameter)
    expected = plain(x, conditioning)
    assert expected.abs().max() > 0.1
    assert torch.equal(told(x, conditioning, None, tokens, beside), expected)


def test_tokens_that_do_not_exist_have_no_influence(name):
    network = made(name, tokens=CHANNELS)
    x, conditioning, tokens, _ = inputs_of(name, network)
    output = network(x, conditioning, tokens=tokens)
    other = torch.where(tokens.mask[..., None], tokens.values, 1e3)
    torch.testing.assert_close(network(x, conditioning, tokens=Tokens(other, tokens.mask)), output, rtol=0, atol=1e-12)
    longer = Tokens(nn.functional.pad(other, (0, 0, 0, 3), value=-5.0), nn.functional.pad(tokens.mask, (0, 3)))
    torch.testing.assert_close(network(x, conditioning, tokens=longer), output, rtol=0, atol=1e-12)
    alone = Tokens(tokens.values[:1, :2], tokens.mask[:1, :2])
    torch.testing.assert_close(network(x[:1], conditioning[:1], tokens=alone), output[:1], rtol=0, atol=1e-12)


def test_tokens_that_exist_and_channels_matter_to_their_sample_alone(name):
    network = made(name, tokens=CHANNELS, like_state=BESIDE)
    x, conditioning, (values, mask), beside = inputs_of(name, network)
    output = network(x, conditioning, None, Tokens(values, mask), beside)
    other = values.clone()
    other[1, 2] += 1
    beside_other = beside.clone()
    beside_other[1] += 1
    for changed in ((other, beside), (values, beside_other)):
        found = network(x, conditioning, None, Tokens(changed[0], mask), changed[1])
        torch.testing.assert_close(found[0], output[0], rtol=0, atol=1e-12)
        assert (found[1] - output[1]).abs().max() > 1e-3


def test_samples_without_any_token_are_finite_and_so_are_their_gradients(name):
    network = made(name, tokens=CHANNELS)
    x, conditioning, tokens, _ = inputs_of(name, network)
    nothing = Tokens(tokens.values, torch.zeros_like(tokens.mask))
    output = network(x, conditioning, tokens=nothing)
    assert output.isfinite().all()
    output.square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


def test_gradients_reach_all_parameters(name):
    network = made(name, tokens=CHANNELS, like_state=BESIDE)
    x, conditioning, tokens, beside = inputs_of(name, network)
    network(x, conditioning, None, tokens, beside).square().sum().backward()
    assert not [key for key, p in network.named_parameters() if p.grad is None or not p.grad.any()]


def test_attention_of_pixels_is_that_of_their_sequence():
    attention = TokenAttention(6, CHANNELS, heads=2).double()
    nn.init.normal_(attention.attention.output.weight)
    x, tokens = torch.randn(2, 6, 3, 4).double(), Tokens(torch.randn(2, 4, CHANNELS).double(), torch.ones(2, 4).bool())
    sequence = attention(x.flatten(2).transpose(1, 2), tokens)
    torch.testing.assert_close(attention(x, tokens), sequence.transpose(1, 2).reshape(x.shape))


@pytest.mark.parametrize("heads", [1, 2])
def test_cross_attention_by_its_formula(heads):
    """Both ways to compute it; the output for a sample without any context is the bias."""
    torch.manual_seed(1)
    attention = CrossAttention(6, 5, 8, heads).double()
    x, context = torch.randn(3, 7, 6, dtype=torch.float64), torch.randn(3, 4, 5, dtype=torch.float64)
    mask = torch.tensor([[True, True, True, True], [False, True, True, False], [False] * 4])
    q = attention.queries(x)
    k, v = attention.keys_and_values(context).chunk(2, -1)
    mixed = []
    for qh, kh, vh in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True):
        logits = torch.einsum("bnc,bmc->bnm", qh, kh) / qh.shape[-1] ** 0.5
        weights = logits.masked_fill(~mask[:, None], float("-inf")).softmax(-1).nan_to_num(0.0)
        mixed.append(weights @ vh)
    expected = nn.functional.linear(torch.cat(mixed, -1), attention.output.weight, attention.output.bias)
    torch.testing.assert_close(attention(x, context, mask), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(attention.by_context(x, context, mask), expected, rtol=0, atol=1e-12)


def test_attention_is_computed_by_the_context_where_that_is_cheaper():
    fine, coarse = CrossAttention(32, 64, 32, 1), CrossAttention(128, 64, 128, 4)
    assert fine.is_short(256, 20)
    assert not fine.is_short(16, 20)
    assert not coarse.is_short(256, 64)
    assert not coarse.is_short(16, 20)
