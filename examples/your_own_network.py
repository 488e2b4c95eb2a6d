"""A tensor and a network of one's own, without a plugin: samples, guidance, inpainting and a log-likelihood.

The data are points on two circles; the class says on which. `python examples/your_own_network.py` takes half a minute.
"""

import torch
from torch import nn

import diffcore as dc

torch.manual_seed(0)
label = torch.arange(4000) % 2
angle = 2 * torch.pi * torch.rand(4000)
x = (1.0 + label)[:, None] * torch.stack([angle.cos(), angle.sin()], 1)


class MLP(nn.Module):
    """x and a vector that holds the noise level and the class, to an output like x."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.width = width
        hidden = [nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU()]
        self.layers = nn.Sequential(nn.Linear(2 + width, 128), nn.SiLU(), *hidden, nn.Linear(128, 2))

    def forward(self, x: torch.Tensor, conditioning: torch.Tensor) -> torch.Tensor:
        return self.layers(torch.cat([x, conditioning], 1))


denoiser = dc.Denoiser(MLP(), (dc.ClassCondition("ring", ("inner", "outer")),), data_std=1.1)
optimizer = torch.optim.Adam(denoiser.parameters(), 2e-3)
for _ in range(3000):
    rows = torch.randint(len(x), (256,))
    loss = dc.denoising_loss(denoiser, x[rows], conditions={"ring": label[rows]})
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

outer = {"ring": torch.ones(500, dtype=torch.int64)}
samples = dc.sample(denoiser, n=500, shape=(2,), steps=20, solver="adams", conditions=outer)
guided = dc.guidance.classifier_free(denoiser, denoiser.conditions, 2.0)
sharper = dc.sample(guided, n=500, shape=(2,), conditions=outer)
plane = dc.spaces.Euclidean((2,))
on_the_axis = dc.inpainting(torch.tensor([[0.0, 0.0]]), torch.tensor([[True, False]]), plane)  # x is known, y is not
completed = dc.sample(denoiser, n=500, space=plane, conditions=outer, constraint=on_the_axis, solver="ddpm", steps=50)
places = torch.tensor([[2.0, 0.0], [0.0, 0.0]])
density = dc.log_likelihood(denoiser, places, conditions={"ring": torch.ones(2, dtype=torch.int64)})
print(f"radius {samples.norm(dim=1).mean():.2f}, guided {sharper.norm(dim=1).mean():.2f}; of the data 2.00")
print(f"|y| where x = 0: {completed[:, 1].abs().mean():.2f}; of the data 2.00")
print(f"log p on the circle {density[0]:.1f}, in the middle {density[1]:.1f}")
