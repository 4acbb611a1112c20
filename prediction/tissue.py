"""Where a slide has tissue, and pictures of it.

Pictures are written as `writers` says, of `blocks.Nuclei`.
"""
import numpy as np
from PIL import Image, ImageDraw

from histology.drawing import overlay
from histology.images import write_jpeg, write_png
from histology.listing import SOFTWARE, TIFF_MARK
from prediction import summary

MICRONS_PER_PIXEL = 8  # of the images and masks here
MARGIN = 10  # pixels around tissue in which nuclei are searched, too
# Of 255. Tissue is darker than glass in the mean of the colours, or coloured:
# darker in one of them than in another. Faint eosin darkens green by 8.
DARKER, COLOURED = 10, 5
# Glass is a percentile of the pixels. Where tissue fills the picture, this
# would be tissue, so glass is no darker, and its colours differ no more.
GLASS, DARKEST_GLASS, TINT = 95, 230, 4
BLACK = 20  # of 255: no stain is as dark, but areas that were not scanned
BLUR = 1, 5  # pixels: of the noise, and how far it carries what is black
OVERVIEW_SIDE = 1200  # pixels, at most, of a picture in the overview


def find_tissue(image, empty=False):
    """Find the tissue in a slide; in doubt it is tissue.

    Args:
        image: uint8 [H, W, 3] at MICRONS_PER_PIXEL.
        empty: bool [H, W], what was not scanned and is white.

    Returns:
        bool [H, W], without holes.
    """
    from scipy import ndimage  # here, for a fast start of main.py
    sigma, reach = BLUR
    smooth = ndimage.gaussian_filter(image.astype(np.float32),
                                     (sigma, sigma, 0))
    scanned = ndimage.binary_erosion(image.max(axis=2) > BLACK,
                                     iterations=reach, border_value=1)
    seen = scanned & ~np.array(empty)
    if not seen.any():
        return seen
    glass = np.percentile(smooth[seen], GLASS, axis=0).astype(np.float32)
    darkest = max(DARKEST_GLASS, glass.max() - TINT)
    missing = np.maximum(glass, darkest) - smooth  # light
    return ndimage.binary_fill_holes(scanned & (
        (missing.mean(axis=2) > DARKER)
        | (missing.max(axis=2) - missing.min(axis=2) > COLOURED)))


def touches(mask, part, size):
    """Say whether a part of a slide lies within MARGIN of tissue.

    Args:
        mask: bool [H, W] of the slide.
        part: slices of rows and columns of the slide at `size`.
        size: (height, width).
    """
    return mask[tuple(
        slice(max(axis.start * pixels // length - MARGIN, 0),
              -(-axis.stop * pixels // length) + MARGIN)
        for axis, pixels, length in zip(part, mask.shape, size))].any()


def write_tissue(paths, nuclei):
    """Write a PNG of the slide with the tissue outlined and blocks drawn."""
    plan = nuclei.plan
    drawn = Image.fromarray(overlay(plan.image, plan.mask))
    draw = ImageDraw.Draw(drawn)
    for block in plan.blocks:
        (top, bottom), (left, right) = (
            (axis.start * pixels // length, axis.stop * pixels // length)
            for axis, pixels, length in zip(block.core, plan.mask.shape,
                                            plan.size))
        draw.rectangle((left, top, right, bottom), outline=(0, 0, 0))
    write_png(paths[0], np.asarray(drawn), SOFTWARE)


def write_overview(paths, nuclei):
    """Write a JPEG of the slide with its tissue, and of the density."""
    # Without pyplot, which a server without a screen could not use.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    image, mask = nuclei.plan.image, nuclei.plan.mask
    step = -(-max(mask.shape) // OVERVIEW_SIDE)
    height, width = (side * MICRONS_PER_PIXEL / 1000 for side in mask.shape)
    figure = Figure(figsize=(14, 1 + 6 * min(max(height / width, .4), 2)),
                    dpi=100, constrained_layout=True)
    canvas = FigureCanvasAgg(figure)
    small = overlay(image[::step, ::step], mask[::step, ::step])
    for axes, picture, name in zip(
            figure.subplots(1, 2), (small, nuclei.density()),
            ('tissue', 'nuclei per mm2, glass included')):
        shown = axes.imshow(picture, extent=(0, width, height, 0))
        axes.set(title=name, xlabel='mm')
    shown.set_clim(0)  # the density, drawn last
    figure.colorbar(shown, shrink=.8, ax=axes)
    title = f'{nuclei.record["image"]}: {summary.line_of(nuclei.record)}'
    # The file's name is in it, maybe in letters that the font lacks.
    figure.suptitle(title.encode('ascii', 'replace').decode(),
                    parse_math=False)
    canvas.draw()
    write_jpeg(paths[0], np.asarray(canvas.buffer_rgba())[..., :3], TIFF_MARK)
