"""The sample: small generated images, for trying the pipeline without a download.

An image is a blotchy texture in three inks: a light, a dark and a middle one, each on a third of the area. The hues of
the light and of the dark ink define its class: 10 times 10 are the 100 fine classes. The middle ink has the opposite of
their colours, so the mean colour of every class is gray at every pixel. A linear probe of raw pixels sees little more
than mean colours, so it finds little: the class depends on which colour is light and which is dark.
A superclass is the hue by which the light ink differs from the dark one, and whether by little or by much.
Position, size and shape of the blotches, saturation, brightness, contrast and noise do not depend on the class.

SimCLR can learn something here because the sample was made for that: a random crop keeps the inks (nearly every part of
an image shows all three), and the colour distortion changes mainly what varies within a class. The settings were
chosen on seeds 3 and 4, never on the default one.
"""

import math

import torch
from torch import Generator, Tensor

from stages.images.dataset import Dataset, Labelled, image_stream
from stages.images.params import UNLABELLED_IMAGES
from stages.io.tensors import Stream

IMAGES_PER_CLASS = 50  # for training the probes, and as many for testing them
PIXELS = 2**20  # drawn at once: 1024 images of 32x32
WAVES = 24  # number of plane waves whose sum is a texture
WAVE_NUMBERS = (0.45, 0.8)  # radians per pixel at 32x32: blotches are four to seven pixels wide
EDGE = 6.0  # sharpness of the blotches' edges
THIRD = 0.455  # above this value the texture is light, below its negative dark: a third of the area each

# A tenth of the circle apart, from 0.
HUES = ("red", "orange", "lime", "green", "mint", "cyan", "azure", "indigo", "purple", "pink")
FINE = torch.arange(len(HUES) ** 2)
# Two orthogonal directions of colour, without brightness: each sums to 0.
RED_AXIS = torch.tensor([2.0, -1.0, -1.0]) / math.sqrt(6)
GREEN_AXIS = torch.tensor([0.0, 1.0, -1.0]) / math.sqrt(2)


def light_of(fine: Tensor) -> Tensor:
    return fine % len(HUES)


def dark_of(fine: Tensor) -> Tensor:
    """So that the first ten classes differ in both hues."""
    return (3 * fine + fine // len(HUES)) % len(HUES)


def superclass_of(fine: Tensor) -> Tensor:
    """The hue by which the light ink differs from the dark one; 10 more if they are 3 to 7 steps apart.

    On the circle of hues, the difference of two points has the direction of their middle plus a quarter of the circle.
    For two equal hues it is computed in the same way. Each superclass has five classes.
    """
    distance = (light_of(fine) - dark_of(fine)) % len(HUES)
    middle = (2 * light_of(fine) - distance) % (2 * len(HUES)) // 2
    return (middle + 3) % len(HUES) + len(HUES) * ((distance > 2) & (distance < 8))


FINE_NAMES = [f"{HUES[light]} and dark {HUES[dark]}" for light, dark in zip(light_of(FINE), dark_of(FINE), strict=True)]
COARSE_NAMES = [f"{by}more {hue}" for by in ("", "much ") for hue in HUES]  # than the dark ink
COARSE_OF_FINE = superclass_of(FINE)


def generate_sample(seed: int, side: int) -> Dataset:
    """The whole sample, the same for the same seed and size."""
    rng = Generator().manual_seed(seed)
    unlabelled = drawn(torch.randint(len(FINE), (UNLABELLED_IMAGES["sample"],), generator=rng), side, rng)
    fine = FINE.repeat_interleave(IMAGES_PER_CLASS)
    train, test = (
        Labelled(drawn(fine, side, rng), fine.numpy(), COARSE_OF_FINE[fine].numpy()) for _ in ("train", "test")
    )
    return Dataset(unlabelled, train, test, FINE_NAMES, COARSE_NAMES)


def drawn(fine: Tensor, side: int, rng: Generator) -> Stream:
    """One image for each fine class number (N,)."""
    return image_stream(len(fine), side, (draw(chunk, side, rng) for chunk in fine.split(PIXELS // side**2)))


def draw(fine: Tensor, side: int, rng: Generator) -> Tensor:
    """One image for each fine class number, all at once: (N,) -> (N, S, S, 3) uint8."""
    count = len(fine)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.empty(count, *shape).uniform_(low, high, generator=rng)

    # A random field with about a normal distribution of deviation 1: waves of random direction and phase.
    number = uniform(*WAVE_NUMBERS, WAVES) / uniform(0.8, 1.25, 1)
    direction, phase = (uniform(-math.pi, math.pi, WAVES) for _ in range(2))
    pixel = (torch.arange(side) - (side - 1) / 2) * (32 / side)  # in pixels at 32x32, as for WAVE_NUMBERS
    along_x = (number * direction.cos())[:, :, None] * pixel  # (N, waves, W)
    along_y = (number * direction.sin())[:, :, None] * pixel + phase[:, :, None]  # (N, waves, H)
    field = (along_x[:, :, None, :] + along_y[:, :, :, None]).cos_().sum(1, keepdim=True) * math.sqrt(2 / WAVES)

    light, dark = torch.sigmoid(EDGE * (field - THIRD)), torch.sigmoid(EDGE * (-field - THIRD))  # (N, 1, H, W)
    saturation = uniform(0.25, 0.36, 1)
    light_ink, dark_ink = (
        (hue_to_rgb(hue / len(HUES)) * saturation)[:, :, None, None] for hue in (light_of(fine), dark_of(fine))
    )
    middle_ink = -light_ink - dark_ink
    brightness, contrast = uniform(0.45, 0.55, 1, 1, 1), uniform(0.18, 0.28, 1, 1, 1)
    image = brightness + light * (light_ink + contrast) + dark * (dark_ink - contrast) + (1 - light - dark) * middle_ink
    image += torch.randn(count, 3, side, side, generator=rng) * 0.02
    return (image * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def hue_to_rgb(hue: Tensor) -> Tensor:
    """(N,) in [0, 1] -> (N, 3), of length 1 and sum 0: what to add to a gray."""
    angle = 2 * math.pi * hue[:, None]
    return angle.cos() * RED_AXIS + angle.sin() * GREEN_AXIS
