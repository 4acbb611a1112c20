"""Synthetic images in the manner of H&E, to try the code without data.

Nuclei, stroma and distractors are painted as amounts of haematoxylin and
eosin, and turned into colour by the Beer-Lambert law.
"""
import collections

import numpy as np
from scipy import ndimage

from histology.stains import EOSIN, HAEMATOXYLIN

TRAINING_COUNT = 12  # prepare divides them 9 : 3
TEST_COUNT = 4
SIZE = 512  # pixels, of both sides

Entry = collections.namedtuple('Entry', 'name split seed')


def find(seed):
    """List the sample's entries: name, split, and seed of the generator."""
    splits = ['training'] * TRAINING_COUNT + ['test'] * TEST_COUNT
    return [Entry(f'sample-{index:02}', split, [seed, index])
            for index, split in enumerate(splits)]


def make(rng, size):
    """Make an image with nuclei of 11 to 18 pixels in radius.

    Args:
        rng: np.random.RandomState.
        size: of both sides in pixels.

    Returns:
        image: uint8 [size, size, 3], RGB
        instances: int32 [size, size], 0 in the background and 1 to N in the
            N nuclei
    """
    area_scale = (size / 512) ** 2
    eosin, haematoxylin = _stroma(rng, size)
    # Red blood cells: round as nuclei are, but of eosin only.
    for _ in range(int(30 * area_scale)):
        blob, _ = _blob(rng, size, rng.uniform(6, 10))
        eosin[blob] += rng.uniform(0.2, 0.4)
    # Nuclei outside the focal plane: faint, blurred and not annotated.
    shadows = np.zeros((size, size))
    for _ in range(int(15 * area_scale)):
        blob, _ = _blob(rng, size, rng.uniform(8, 14))
        shadows[blob] = 0.5
    haematoxylin += ndimage.gaussian_filter(shadows, 5)
    # Debris: as dark as nuclei, but far smaller.
    for _ in range(int(40 * area_scale)):
        blob, _ = _blob(rng, size, rng.uniform(1.5, 4))
        haematoxylin[blob] += rng.uniform(0.3, 0.6)

    instances = np.zeros((size, size), np.int32)
    chromatin = _noise(rng, (size, size), 1.5)
    count = 0
    for _ in range(int(190 * area_scale)):
        blob, depth = _blob(rng, size, rng.uniform(11, 18))
        # Nuclei touch and overlap a little, as they do in thin sections.
        if not depth.size or (instances[blob] > 0).mean() > 0.08:
            continue
        count += 1
        instances[blob] = count
        # Chromatin gathers in clumps and along the rim, so that pale
        # nuclei are rings.
        stain = rng.uniform(0.3, 0.9)
        haematoxylin[blob] = (stain + 0.3 * (1 - depth) ** 3
                              + 0.1 * chromatin[blob])
        eosin[blob] = rng.uniform(0.1, 0.3)

    # Slides are stained and scanned differently: vary each image as a whole.
    stains = np.stack([haematoxylin * rng.uniform(0.75, 1.25),
                       eosin * rng.uniform(0.75, 1.25)], axis=-1)
    optical_density = stains.clip(min=0) @ [HAEMATOXYLIN, EOSIN]
    light = 10 ** -optical_density  # [size, size, 3]
    light = ndimage.gaussian_filter(light, (0.8, 0.8, 0))
    light += 0.02 * rng.standard_normal(light.shape)
    return (light * 255).round().clip(0, 255).astype(np.uint8), instances


def _stroma(rng, size):
    """Return the amounts of eosin and haematoxylin between the nuclei."""
    shape = (size, size)
    # Fibres: noise smoothed far in one direction and little across it, made
    # larger than the image and turned.
    fibres = ndimage.rotate(_noise(rng, (2 * size, 2 * size), (2, 24)),
                            rng.uniform(0, 180), reshape=False, order=1)
    middle = slice(size // 2, size // 2 + size)
    eosin = (0.30 + 0.06 * _noise(rng, shape, 24)
             + 0.06 * fibres[middle, middle])
    haematoxylin = 0.12 + 0.06 * _noise(rng, shape, 12)
    # Gaps in the tissue let nearly all light through.
    tissue = 1 - 0.9 * ndimage.gaussian_filter(
        (_noise(rng, shape, 30) > 1.5).astype(float), 2)
    return eosin * tissue, haematoxylin * tissue


def _noise(rng, shape, sigma):
    """Return smooth noise of mean 0 and standard deviation 1."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), sigma)
    return (noise - noise.mean()) / noise.std()


def _blob(rng, size, radius):
    """Return the pixels of a dented ellipse somewhere in the image.

    Returns:
        (rows, columns): int [K] each, the pixels inside the image
        depth: float [K], from 0 on the outline to 1 at the centre
    """
    extent = int(1.5 * radius)
    centre = rng.uniform(0, size, 2)
    offsets = np.indices((2 * extent + 1,) * 2) - extent  # [2, h, w]
    pixels = offsets + centre.astype(int)[:, np.newaxis, np.newaxis]
    angle, phase = rng.uniform(0, np.pi, 2)
    stretch = rng.uniform(1, 1.25)
    along = offsets[0] * np.cos(angle) + offsets[1] * np.sin(angle)
    across = offsets[1] * np.cos(angle) - offsets[0] * np.sin(angle)
    dent = 1 + 0.06 * np.cos(3 * np.arctan2(across, along) + phase)
    depth = 1 - np.hypot(along / stretch, across * stretch) / (radius * dent)
    inside = (depth >= 0) & ((pixels >= 0) & (pixels < size)).all(axis=0)
    return tuple(pixels[:, inside]), depth[inside]
