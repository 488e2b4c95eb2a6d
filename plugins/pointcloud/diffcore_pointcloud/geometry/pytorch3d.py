"""The protocol `kernels.Kernels` implemented with PyTorch3D (Ravi et al. 2020), without which the import fails."""

import torch
from pytorch3d.ops import knn_points, sample_farthest_points, sample_points_from_meshes
from pytorch3d.renderer import TexturesAtlas
from pytorch3d.renderer.points.rasterize_points import rasterize_points
from pytorch3d.structures import Meshes, Pointclouds
from torch import Tensor


def surface(vertices: Tensor, faces: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Uses `sample_points_from_meshes`, which draws from the global generator: that is seeded and restored.

    The index of a point's face is returned as its texture, in float32, which is exact below 2^24.
    """
    if len(faces) >= 1 << 24:
        raise ValueError(f"{len(faces)} faces are too many: PyTorch3D can sample fewer than {1 << 24}")
    numbers = torch.arange(len(faces), dtype=torch.float32, device=vertices.device)
    mesh = Meshes([vertices.float()], [faces], textures=TexturesAtlas([numbers[:, None, None, None]]))
    seed = int(torch.randint(1 << 62, (), generator=generator, device=generator.device))
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        points, face = sample_points_from_meshes(mesh, count, return_textures=True)
    return points[0].to(vertices.dtype), face[0, :, 0].round().long()


def nearest(queries: Tensor, points: Tensor, k: int) -> Tensor:
    """Uses `knn_points`. It compares distances in float32, so the clouds are moved to the origin first."""
    middle = points.mean(1, keepdim=True)
    return knn_points((queries - middle).float(), (points - middle).float(), K=k, return_sorted=True).idx


def farthest(points: Tensor, count: int) -> Tensor:
    """Uses `sample_farthest_points`. It compares distances in float32, so the clouds are moved to the origin first."""
    return sample_farthest_points((points - points.mean(1, keepdim=True)).float(), K=count)[1]


def rasterise(centres: Tensor, depth: Tensor, radii: Tensor, height: int, width: int) -> Tensor:
    """Uses `rasterize_points`, whose coordinates point left and up, from -1 to 1 along the shorter side."""
    half = min(height, width) / 2
    sides = centres.new_tensor([width, height])
    device_coordinates = torch.cat([(sides / 2 - centres) / half, depth[:, None]], 1)
    cloud = Pointclouds([device_coordinates])
    found = rasterize_points(cloud, (height, width), radii[None] / half, points_per_pixel=1, bin_size=0)
    return found[0][0, :, :, 0].long()
