"""Random changes of grey faces that leave the expression as it is, on whole batches."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

MAX_ROTATION = math.radians(10)  # what alignment by a jittery or half-turned mesh leaves over, and raw crops have
MAX_ZOOM = 0.1
MAX_SHIFT = 0.08  # of half the side: about two pixels
GAMMA = (0.7, 1.4)  # exposure; plain brightness and contrast are undone by the net's own normalisation
SIDE_LIGHT = 0.3  # a lamp at one side: brightness changes by this fraction from the middle to an edge
BLUR = (-0.6, 1.0)  # share of a 3x3 blur mixed in, negative to sharpen: video is softer or crisper than web pictures
NOISE = 0.02  # standard deviation at most, of full scale: sensor and codec
COARSE_SHARE = 0.15  # of the faces go down to a coarser grid and back: far faces
COARSE_PIXELS = (20, 40)  # along a side of that grid
ERASE_SHARE = 0.2  # of the faces lose a rectangle: hands, hair, microphones
ERASE_SIDE = (0.15, 0.4)  # of that rectangle, in sides of the crop


def augment(crops: torch.Tensor) -> torch.Tensor:
    """Crops (B, 48, 48) uint8 to augmented ones, float32 in [0, 255]. Random numbers come from torch's generator."""
    faces = crops[:, None].float() / 255  # (B, 1, 48, 48)
    faces = _erase(_noise(_light(_resolution(_place(faces)))))
    return faces[:, 0] * 255


def _uniform(batch: int, low: float, high: float) -> torch.Tensor:
    """(B, 1, 1, 1)."""
    return torch.empty(batch, 1, 1, 1).uniform_(low, high)


def _place(faces: torch.Tensor) -> torch.Tensor:
    """Mirror, turn, zoom, shift."""
    batch, side = len(faces), faces.shape[-1]
    angle, zoom = _uniform(batch, -MAX_ROTATION, MAX_ROTATION)[:, 0], 1 + _uniform(batch, -MAX_ZOOM, MAX_ZOOM)[:, 0]
    mirror = torch.randint(0, 2, (batch, 1, 1)) * 2 - 1
    cos, sin = angle.cos() * zoom, angle.sin() * zoom  # (B, 1, 1)
    across = (torch.arange(side) + 0.5) * 2 / side - 1  # pixel centres, the square being [-1, 1]
    down = across[:, None]
    x = (cos * across - sin * down) * mirror + _uniform(batch, -MAX_SHIFT, MAX_SHIFT)[:, 0]  # (B, 48, 48)
    y = sin * across + cos * down + _uniform(batch, -MAX_SHIFT, MAX_SHIFT)[:, 0]
    grid = torch.stack([x, y], dim=-1)  # not F.affine_grid: its batched product took most of this file's time
    return F.grid_sample(faces, grid, padding_mode="border", align_corners=False)


def _resolution(faces: torch.Tensor) -> torch.Tensor:
    """Blur or sharpen, and take a part of the batch through a coarser grid."""
    batch, side = len(faces), faces.shape[-1]
    blurred = F.avg_pool2d(F.pad(faces, (1, 1, 1, 1), mode="replicate"), 3, 1)
    faces = (faces + _uniform(batch, *BLUR) * (blurred - faces)).clamp(0, 1)
    few = int(batch * COARSE_SHARE)  # the first of a batch that is in random order
    if few:
        pixels = int(torch.randint(*COARSE_PIXELS, ()))
        coarse = F.interpolate(faces[:few], size=(pixels, pixels), mode="bilinear", antialias=True)
        faces = torch.cat([F.interpolate(coarse, size=(side, side), mode="bilinear"), faces[few:]])
    return faces


def _light(faces: torch.Tensor) -> torch.Tensor:
    """Exposure, and a brightness ramp in a random direction."""
    batch, side = len(faces), faces.shape[-1]
    low, high = GAMMA
    gamma = _uniform(batch, math.log(low), math.log(high)).exp()
    direction, strength = _uniform(batch, 0, 2 * math.pi), _uniform(batch, 0, SIDE_LIGHT)
    axis = torch.linspace(-1, 1, side)
    ramp = direction.cos() * axis + direction.sin() * axis[:, None]  # (B, 1, 48, 48)
    return (faces**gamma * (1 + strength * ramp)).clamp(0, 1)


def _noise(faces: torch.Tensor) -> torch.Tensor:
    return (faces + torch.randn_like(faces) * _uniform(len(faces), 0, NOISE)).clamp(0, 1)


def _erase(faces: torch.Tensor) -> torch.Tensor:
    """A rectangle of the face's mean grey over some of the faces."""
    batch, side = len(faces), faces.shape[-1]
    axis = (torch.arange(side) + 0.5) / side
    x, y = _uniform(batch, 0, 1), _uniform(batch, 0, 1)
    width, height = _uniform(batch, *ERASE_SIDE), _uniform(batch, *ERASE_SIDE)
    chosen = _uniform(batch, 0, 1) < ERASE_SHARE
    inside = ((axis - x).abs() < width / 2) & ((axis[:, None] - y).abs() < height / 2) & chosen  # (B, 1, 48, 48)
    return torch.where(inside, faces.mean(dim=(2, 3), keepdim=True), faces)
