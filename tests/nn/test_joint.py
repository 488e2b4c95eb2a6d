"""Networks of joint states: conditional distributions of correlated numbers, masks, and what they refuse."""

import pytest
import torch

import diffcore as dc
from diffcore.denoising.inputs import Inputs
from diffcore.nn.joint import NUMBERS, Maker, joint_network
from diffcore.nn.sets import SetTransformer
from diffcore.states.level import CLEAN, FieldLevels, Level
from diffcore.states.spaces import Euclidean, Product, Whole
from diffcore.states.state import named

SIDES = {"a": ("a",), "b": ("b",)}


def test_what_is_expected_of_a_side_given_the_other_is_learned():
    torch.manual_seed(0)
    space = Product({"a": Euclidean((1,)), "b": Euclidean((2,))})
    denoiser = dc.Denoiser(joint_network(space, SIDES, {}), level_fields=("a", "b"))
    optimizer = torch.optim.Adam(denoiser.parameters(), 2e-3)
    for _ in range(60):
        a = torch.randn(128, 1)
        data = named({"a": a, "b": 0.8 * a + 0.6 * torch.randn(128, 2)})
        loss = dc.denoising_loss(denoiser, data, space=space, independent=0.8, given=0.6, weighting="v")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def expected(values, given):
        """E[x0] where one side is given and the other is hardly more than noise."""
        noise = Level(0.05, (1 - 0.05**2) ** 0.5)
        level = FieldLevels({name: CLEAN if name == given else noise for name in ("a", "b")})
        x = named({name: value if name == given else torch.randn_like(value) for name, value in values.items()})
        with torch.no_grad():
            return denoiser(x, level).x0

    grid = torch.linspace(-1.5, 1.5, 200)[:, None]
    of_b = expected({"a": grid, "b": torch.zeros(200, 2)}, "a")["b"].mean(1, keepdim=True)
    assert (of_b * grid).mean().item() / grid.square().mean().item() == pytest.approx(0.8, abs=0.25)
    # E[a | b] of b_i = 0.8 a + 0.6 e_i, with b_1 = b_2 = b: 2 * 0.8 b / (0.36 + 2 * 0.64)
    of_a = expected({"a": torch.zeros(200, 1), "b": grid.repeat(1, 2)}, "b")["a"]
    slope = 1.6 / 1.64
    assert (of_a * grid).mean().item() / grid.square().mean().item() == pytest.approx(slope, abs=0.25)


def test_numbers_beside_a_set_ignore_its_mask_and_its_absent_elements():
    space = Product({"points": Euclidean((5, 3)), "numbers": Whole(Euclidean((2,)))})
    mask = torch.arange(5) < torch.tensor([[3], [5]])
    x = named({"points": torch.randn(2, 5, 3), "numbers": torch.randn(2, 2)})
    assert space.degrees_of_freedom(x, mask).tolist() == [3 * 3 + 2, 5 * 3 + 2]
    assert torch.equal(space.project(x, mask)["numbers"], x["numbers"])
    sets = Maker(lambda space, inputs: SetTransformer(3, 32, 1, 2, tokens=inputs.tokens), ("tokens",))
    network = joint_network(space, {"set": ("points",), "numbers": ("numbers",)}, {"set": sets})
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    c = torch.randn(2, network.width)
    other = x.clone()
    other["points"][0, 3:] += 7.0
    first, second = network(x, c, mask), network(other, c, mask)
    torch.testing.assert_close(first["numbers"], second["numbers"])
    torch.testing.assert_close(first["points"][mask], second["points"][mask])
    other["points"][0, 0] += 1.0
    assert not torch.allclose(network(other, c, mask)["numbers"][0], second["numbers"][0], atol=1e-4)
    assert torch.equal(network(other, c, mask)["numbers"][1], network(x, c, mask)["numbers"][1])


def test_each_side_hears_of_the_other_and_grids_have_tokens_of_patches():
    space = Product({"picture": Euclidean((1, 6, 10)), "numbers": Euclidean((3,))})
    grids = Maker(lambda space, inputs: _Grid(), ())
    network = joint_network(space, {"picture": ("picture",), "numbers": ("numbers",)}, {"picture": grids})
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x, c = named({"picture": torch.randn(2, 1, 6, 10), "numbers": torch.randn(2, 3)}), torch.randn(2, network.width)
    before = network(x, c)
    x["numbers"][0] += 1
    after = network(x, c)
    assert not torch.allclose(before["picture"][0], after["picture"][0], atol=1e-4)
    assert torch.equal(before["picture"][1], after["picture"][1])
    x["picture"][1, 0, 5, 9] += 1
    assert not torch.allclose(after["numbers"][1], network(x, c)["numbers"][1], atol=1e-4)


class _Grid(torch.nn.Module):
    """A network of one layer that takes no tokens."""

    width = 16

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(16, 60)

    def forward(self, x, conditioning, mask=None):
        return x + self.layer(conditioning).view(-1, 1, 6, 10)


def test_inputs_that_a_joint_network_does_not_take_are_refused():
    space = Product({"a": Euclidean((1,)), "b": Euclidean((2,))})
    with pytest.raises(dc.UserError, match="takes no like_state and no known"):
        joint_network(space, SIDES, {"a": NUMBERS}, Inputs(like_state=2, known=True))
