"""The random views of SimCLR (section 3, appendix A), for a whole batch at once.

Every image of the batch has its own random parameters. (torchvision's transforms draw once for a whole batch.) The
order is that of the paper: crop and flip, colour distortion, grayscale, blur.

Shapes: B images of H x W pixels; three channels. Inputs and outputs are pixels in 0..255.

Departures from applying torchvision's transforms image by image:
* the crop box is not rounded to whole pixels, and at its edges a pixel from outside is interpolated;
* brightness, contrast and saturation come before hue, and the values are clamped to 0..255 once, after all four.
  Without clamping, the first three commute exactly (all are affine, and contrast blends with the mean of the gray
  image, which saturation keeps). So a pixel becomes a * pixel + b * gray + c;
* grayscale is saturation 0, so it comes before the hue shift.
"""

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from stages.simclr.distributed import shard, world_size

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow and torchvision
CROP_TRIES = 10  # as in torchvision's RandomResizedCrop
JITTER_PROBABILITY = 0.8
BLUR_SIGMA = (0.1, 2.0)  # pixels


def _uniform(shape: tuple[int, ...], low: float, high: float, rng: Generator) -> Tensor:
    return torch.empty(shape, device=rng.device).uniform_(low, high, generator=rng)


def _happens(count: int, probability: float, rng: Generator) -> Tensor:
    return torch.rand(count, device=rng.device, generator=rng) < probability


def crop_boxes(count: int, min_area: float, rng: Generator) -> tuple[Tensor, ...]:
    """left, top, width, height (each (count,)) of random boxes in the unit square.

    The area is uniform in [min_area, 1], the logarithm of the aspect ratio uniform in +-log(4/3). A box that does not
    fit is drawn again, up to 10 times; then it is the whole image.
    """
    area = _uniform((CROP_TRIES, count), min_area, 1, rng)
    # The square root of the ratio. exp2 and rsqrt, because MKL's exp and sqrt depend on the vendor (stages/README.md).
    root = torch.exp2(_uniform((CROP_TRIES, count), -math.log2(4 / 3) / 2, math.log2(4 / 3) / 2, rng))
    side = area * area.rsqrt()
    widths, heights = side * root, side / root
    fits = (widths <= 1) & (heights <= 1)
    first = fits.int().argmax(0, keepdim=True)
    found = fits.any(0)
    width = torch.where(found, widths.gather(0, first)[0], 1.0)
    height = torch.where(found, heights.gather(0, first)[0], 1.0)
    left = _uniform((count,), 0, 1, rng) * (1 - width)
    top = _uniform((count,), 0, 1, rng) * (1 - height)
    return left, top, width, height


def resized_crop(x: Tensor, boxes: tuple[Tensor, ...], mirrored: Tensor) -> Tensor:
    """Crops each image to its box (in the unit square), scales it bilinearly to H x W and mirrors it if `mirrored`."""
    left, top, width, height = boxes
    sign = 1 - 2 * mirrored.float()
    zero = torch.zeros_like(left)
    theta = torch.stack([width * sign, zero, 2 * left + width - 1, zero, height, 2 * top + height - 1], dim=1)
    grid = F.affine_grid(theta.unflatten(1, (2, 3)), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def adjust_colour(x: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    """Multiplies brightness, contrast and saturation of each image by its factors (B,), without clamping."""
    red, green, blue = x.unbind(1)
    gray = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
    colour, gray_weight = brightness * contrast * saturation, brightness * contrast * (1 - saturation)
    offset = brightness * (1 - contrast) * gray.mean((1, 2))
    same = gray_weight[:, None, None] * gray + offset[:, None, None]
    return colour[:, None, None, None] * x + same[:, None]


def turn_hue(x: Tensor, turn: Tensor) -> Tensor:
    """Shifts the hue (of HSV) by `turn` (B,), as a fraction of the colour circle."""
    red, green, blue = x.unbind(1)
    value, which = x.max(1)
    chroma = value - x.amin(1)
    safe = torch.where(chroma > 0, chroma, 1.0)
    sector = torch.where(
        which == 0, (green - blue) / safe, torch.where(which == 1, (blue - red) / safe + 2, (red - green) / safe + 4)
    )
    sector = sector + 6 * turn[:, None, None]
    # Channel n is V - C * clamp(min(k, 4 - k), 0, 1) with k = (n + sector) mod 6: n = 5, 3, 1 for R, G, B.
    n = torch.arange(5.0, 0.0, -2.0, device=x.device)[:, None, None]  # on the device, to avoid a copy that waits
    k = (n + sector[:, None]).remainder_(6)
    return value[:, None] - chroma[:, None] * torch.minimum(k, 4 - k).clamp_(0, 1)


def gaussian_blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur with a sigma (B,) in pixels for each image; 0 means no blur. Edges are mirrored.

    The kernel is about a tenth of the image wide (appendix A): 3 pixels at 32, 23 at 224.
    """
    reach = x.shape[3] // 20
    distance = torch.arange(1, reach + 1, device=x.device)[:, None]
    weights = torch.exp2(distance.square() * (-0.5 / math.log(2) / sigma.square().clamp(min=1e-6)))
    weights = (weights / (1 + 2 * weights.sum(0)))[:, :, None, None, None]  # (reach, B, 1, 1, 1)
    centre = 1 - 2 * weights.sum(0)
    x = F.pad(x, (reach, reach, reach, reach), mode="reflect")
    for dim in (2, 3):
        side = x.shape[dim] - 2 * reach
        y = centre * x.narrow(dim, reach, side)
        for d in range(1, reach + 1):
            y += weights[d - 1] * (x.narrow(dim, reach - d, side) + x.narrow(dim, reach + d, side))
        x = y
    return x


def augment(
    images: Tensor, rng: Generator, *, min_area: float, jitter: float, grayscale: float, blur: float, flip: bool
) -> Tensor:
    """One random view of each image: (B, H, W, 3) uint8 on the device of `rng` -> (B, 3, H, W) float32 in 0..255.

    min_area: smallest crop, as a fraction of the image; jitter: strength s of the colour distortion (appendix A:
    factors within 1 +- 0.8 s, hue within +- 0.2 s, for 80 % of the images); grayscale, blur: probabilities.

    With several processes, `images` is this process's shard. Every process draws for the whole batch and takes its
    shard of the draws, so that the views do not depend on the number of processes.
    """
    count = len(images) * world_size()
    boxes = crop_boxes(count, min_area, rng)
    mirrored = _happens(count, 0.5 if flip else 0.0, rng)
    # No jitter is jitter with strength 0.
    strength = jitter * _happens(count, JITTER_PROBABILITY, rng)
    factors = _uniform((3, count), -0.8, 0.8, rng) * strength + 1
    brightness, contrast, saturation = factors
    saturation = torch.where(_happens(count, grayscale, rng), 0.0, saturation)
    turn = _uniform((count,), -0.2, 0.2, rng) * strength
    sigma = _uniform((count,), *BLUR_SIGMA, rng) * _happens(count, blur, rng)

    x = images.permute(0, 3, 1, 2).float()
    x = resized_crop(x, tuple(map(shard, boxes)), shard(mirrored))
    x = adjust_colour(x, shard(brightness), shard(contrast), shard(saturation))
    x = turn_hue(x, shard(turn)).clamp(0, 255)
    return gaussian_blur(x, shard(sigma))
