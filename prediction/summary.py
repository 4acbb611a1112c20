"""What is said of an image in a line, in a record and in the summary."""
import os

import numpy as np

from histology import progress, resample

# Square micrometres. Medians of MoNuSeg's images are 17 to 50, three of
# lymphoid tissue 7 to 11. At 20x, read as 40x, they are 5 to 16.
MEDIAN_AREA = (12.5, 56)
LARGEST_AREA = 500  # of MoNuSeg's nuclei 320
OVERVIEW = 'overview'  # among the skipped blocks: the small whole picture


def record_of(source, areas, densities, microns_per_pixel, mm2):
    """Return the record of an image or slide, a dict for JSON.

    Args:
        source: sources.Source.
        areas: [N], of its nuclei, pixels.
        densities: [N], their mean optical densities of haematoxylin.
        microns_per_pixel: of the image, or None.
        mm2: area of the image, or of the tissue of a slide, or None.
    """
    median = float(np.median(areas)) if len(areas) else None
    square = microns_per_pixel and microns_per_pixel ** 2
    return {
        'image': os.path.basename(source.name), 'is_slide': source.is_slide,
        'nuclei': len(areas),
        'mm2': mm2 and round(mm2, 8),
        'nuclei_per_mm2': mm2 and round(len(areas) / mm2, 1),
        'median_area_px2': median and round(median, 2),
        'median_area_um2': median and square and round(median * square, 2),
        'mean_haematoxylin_od': (round(np.average(
            densities, weights=areas), 4) if len(areas) else None),
        'microns_per_pixel': microns_per_pixel,
        'warnings': _warnings(median, areas, microns_per_pixel)}


def line_of(record):
    """Say how many nuclei there are in an image, and how large."""
    text = progress.counted(record['nuclei'] or 'no', 'nucleus', 'nuclei')
    if record['mm2']:
        text += f', {record["nuclei_per_mm2"]:.0f} per mm2'
        if record['is_slide']:
            text += f' of tissue ({record["mm2"]:.4g} mm2)'
    if record['nuclei']:
        text += f', median area {record["median_area_px2"]:.0f} pixels'
        if record['median_area_um2']:
            text += f' ({record["median_area_um2"]:.1f} um2)'
    return text


def unread_of(record):
    """Say what of a slide could not be read, maybe ''."""
    skipped = record.get('blocks_skipped', [])
    blocks = len(skipped) - (OVERVIEW in skipped)
    texts = []
    if blocks:
        texts.append(f'{progress.counted(blocks, "block")} of it cannot be '
                     'read, and their nuclei are not in the results')
    if OVERVIEW in skipped:
        texts.append('its overview cannot be read whole, so the area of its '
                     'tissue is not known')
    return '; '.join(texts)


def _warnings(median, areas, microns_per_pixel):
    """Say which sizes nuclei do not have, a dict from kinds to texts."""
    found = {}
    if median is None:
        return found
    square = (microns_per_pixel or resample.MICRONS_PER_PIXEL) ** 2
    area, (low, high) = median * square, MEDIAN_AREA
    if not low <= area <= high:
        size, likely = ('small', 20) if area < low else ('large', 80)
        found['median'] = (
            f'median nucleus {median:.0f} pixels is {size} for 40x; if the '
            f'image was scanned at {likely}x, give --magnification={likely}'
            if not microns_per_pixel else
            f'median nucleus {area:.1f} square micrometres is '
            f'{size}; if the tissue has no such nuclei, as lymphoid tissue '
            'has small ones, the resolution is wrong: give another '
            '--magnification')
    if areas.max() * square > LARGEST_AREA:
        found['largest'] = (
            f'a nucleus of {areas.max() * square:.0f} square micrometres is '
            'larger than any: a pen mark, a fold or blur? Look at its outline')
    return found
