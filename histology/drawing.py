"""Drawing nuclei on tissue."""
import collections

import numpy as np

# Absent from haematoxylin and eosin, so it stands out on any tissue.
OUTLINE_COLOUR = (0, 255, 0)
COLOURS = 8  # of neighbours, if these suffice


def overlay(image, labels):
    """Draw `nuclear_outlines` on a copy of the tissue, uint8 [H, W, 3]."""
    drawn = image.copy()
    drawn[nuclear_outlines(labels)] = OUTLINE_COLOUR
    return drawn


def nuclear_outlines(labels):
    """Find the outermost pixels of each nucleus, also where two touch.

    Of a label image or mask [H, W]: bool [H, W], True at the pixels of a
    nucleus that have another label among their four neighbours.
    """
    outlines = np.zeros(labels.shape, bool)
    for values, found in ((labels, outlines), (labels.T, outlines.T)):
        differ = values[1:] != values[:-1]
        found[1:] |= differ
        found[:-1] |= differ
    outlines &= labels > 0
    return outlines


def false_colours(labels, hues=(0, 1)):
    """Turn a label image [H, W] into colours on black, uint8 [H, W, 3].

    `hues` are the first and the last, of the circle from 0 to 1.
    """
    # Steps of the golden ratio keep numbers that follow each other apart.
    part = labels * 0.618034 % 1  # [H, W]
    hue = 6 * (hues[0] + (hues[1] - hues[0]) * part[..., np.newaxis])
    colours = np.clip(abs((hue + (0, 4, 2)) % 6 - 3) - 1, 0, 1)  # red at 0
    return np.uint8(255 * colours) * (labels > 0)[..., np.newaxis]


def touching_colours(labels):
    """Choose colours for labels of 0 to N: uint8 [N + 1, 3], black first.

    Nuclei that touch have different ones.
    """
    neighbours = collections.defaultdict(set)  # of lower numbers
    for one, other in ((labels[1:], labels[:-1]),
                       (labels[:, 1:], labels[:, :-1])):
        meet = (one != other) & (one > 0) & (other > 0)
        lows, highs = np.sort([one[meet], other[meet]], axis=0).tolist()
        for low, high in set(zip(lows, highs)):
            neighbours[high].add(low)
    numbers = np.arange(labels.max() + 1)
    numbers[1:] = numbers[1:] % COLOURS + 1
    for label in sorted(neighbours):
        taken = set(numbers[list(neighbours[label])].tolist())
        while numbers[label] in taken:
            numbers[label] += 1
    return false_colours(numbers)
