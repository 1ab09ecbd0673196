"""The embedded sample: a generated miniature of the job, for trying the pipeline without a download.

An image shows two to four copies of one shape in one pale hue, on a plain gray ground. What it shows is its class:
10 shapes times 10 hues are the 100 fine classes; a shape in the warm or in the cool hues is a superclass. Number
and place of the copies, their sizes and angles, saturation, brightness, ground and noise vary freely.

A random crop keeps shape and hue (there are several copies), and the colour distortion changes the same things
that vary here, which is why SimCLR can learn something on it: to see the hue through saturation and brightness.

Shapes are implicit functions f(u, v) of coordinates that put the shape into the unit disc: f < 0 inside, and
|grad f| about 1, so that f times the radius in pixels is the distance over which the edge is smoothed.
"""

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from stages.images.dataset import SIDE, Dataset, Labelled
from stages.images.sizes import SAMPLE

COPIES = 4  # at most
CHUNK = 1024  # images drawn at once


def _box(u: Tensor, v: Tensor, half_width: float, half_height: float) -> Tensor:
    return torch.maximum(u.abs() - half_width, v.abs() - half_height)


def _disc(u: Tensor, v: Tensor, radius: float) -> Tensor:
    return torch.hypot(u, v) - radius


def _triangle(u: Tensor, v: Tensor) -> Tensor:
    angle = torch.atan2(u, v)
    third = 2 * math.pi / 3
    return torch.hypot(u, v) * torch.cos(angle - third * (angle / third).round()) - 0.5


SHAPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "bar": lambda u, v: _box(u, v, 1.0, 0.25),
    "checker": lambda u, v: torch.maximum(_box(u, v, 0.85, 0.85), -u * v * 3),
    "cross": lambda u, v: torch.minimum(_box(u, v, 0.95, 0.22), _box(u, v, 0.22, 0.95)),
    "disc": lambda u, v: _disc(u, v, 0.9),
    "dots": lambda u, v: _disc(u.abs() - 0.6, v.abs() - 0.6, 0.36),
    "frame": lambda u, v: _box(u, v, 0.68, 0.68).abs() - 0.14,
    "half": lambda u, v: torch.maximum(_disc(u, v, 0.95), v - 0.1),
    "hook": lambda u, v: torch.minimum(_box(u + 0.5, v, 0.26, 0.9), _box(u, v - 0.64, 0.76, 0.26)),
    "ring": lambda u, v: _disc(u, v, 0.75).abs() - 0.18,
    "triangle": _triangle,
}
# A tenth of the circle of HSV apart, from 0.
HUES = ("red", "orange", "lime", "green", "mint", "cyan", "azure", "indigo", "purple", "pink")
WARM = ("pink", "red", "orange", "lime", "green")


def shape_of(fine: Tensor) -> Tensor:
    return fine % len(SHAPES)


def hue_of(fine: Tensor) -> Tensor:
    """Shifted by one from ten classes to the next, so that the first ten differ in shape and in hue."""
    return (fine + fine // len(SHAPES)) % len(HUES)


FINE = torch.arange(len(SHAPES) * len(HUES))
FINE_NAMES = [f"{HUES[hue]} {list(SHAPES)[shape]}" for hue, shape in zip(hue_of(FINE), shape_of(FINE), strict=True)]
COARSE_NAMES = [f"{tone} {shape}" for tone in ("warm", "cool") for shape in SHAPES]
COARSE_OF_FINE = shape_of(FINE) + len(SHAPES) * torch.tensor([HUES[hue] not in WARM for hue in hue_of(FINE)])


def generate_sample(seed: int) -> Dataset:
    """The whole sample, the same for the same seed."""
    stream = Generator().manual_seed(seed)
    unlabelled = draw(torch.randint(len(FINE), (SAMPLE.unlabelled,), generator=stream), stream)
    train, test = (draw_labelled(stream) for _ in ("train", "test"))
    return Dataset(unlabelled.numpy(), train, test, FINE_NAMES, COARSE_NAMES)


def draw_labelled(stream: Generator) -> Labelled:
    fine = FINE.repeat_interleave(torch.tensor(SAMPLE.train))
    return Labelled(draw(fine, stream).numpy(), fine.numpy(), COARSE_OF_FINE[fine].numpy())


def draw(fine: Tensor, stream: Generator) -> Tensor:
    """One image for each fine class number: (N,) -> (N, 32, 32, 3) uint8."""
    return torch.cat([_draw_chunk(chunk, stream) for chunk in fine.split(CHUNK)])


def _draw_chunk(fine: Tensor, stream: Generator) -> Tensor:
    count = len(fine)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.empty(count, *shape).uniform_(low, high, generator=stream)

    # A copy sits near the middle of a quarter of the image: shuffled quarters, of which the last may stay empty.
    quarter = torch.rand(count, COPIES, generator=stream).argsort(1)
    present = torch.arange(COPIES) < torch.randint(2, COPIES + 1, (count, 1), generator=stream)
    centre_x = (quarter % 2 * 2 - 1) * SIDE / 4 + uniform(-3, 3, COPIES)
    centre_y = (quarter // 2 * 2 - 1) * SIDE / 4 + uniform(-3, 3, COPIES)
    radius = uniform(5.5, 8, COPIES)[:, :, None, None]
    angle = uniform(-math.pi, math.pi, COPIES)[:, :, None, None]

    pixel = torch.arange(SIDE) - (SIDE - 1) / 2
    x = pixel - centre_x[:, :, None, None]  # (N, copies, 1, W)
    y = pixel[:, None] - centre_y[:, :, None, None]  # (N, copies, H, 1)
    u = (angle.cos() * x + angle.sin() * y) / radius
    v = (angle.cos() * y - angle.sin() * x) / radius
    inside = torch.empty_like(u)  # 0 to 1, with soft edges
    for number, shape in enumerate(SHAPES.values()):
        of_shape = shape_of(fine) == number
        inside[of_shape] = (0.5 - shape(u[of_shape], v[of_shape]) * radius[of_shape]).clamp(0, 1)
    mask = (inside * present[:, :, None, None]).amax(1, keepdim=True)  # (N, 1, H, W)

    colour = hsv_to_rgb(hue_of(fine) / len(HUES), uniform(0.1, 0.4), uniform(0.6, 1))[:, :, None, None]
    ground = uniform(0.1, 0.75, 1, 1, 1)
    noise = torch.randn(count, 3, SIDE, SIDE, generator=stream) * 0.03
    image = ground + mask * (colour - ground) + noise
    return (image * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def hsv_to_rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """(N,) each, in [0, 1] -> (N, 3), in [0, 1]."""
    k = (torch.tensor([5.0, 3.0, 1.0]) + 6 * hue[:, None]).remainder(6)
    return value[:, None] * (1 - saturation[:, None] * torch.minimum(k, 4 - k).clamp(0, 1))
