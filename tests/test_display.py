"""Pictures: overlay, the notebook's figure and the comparison."""
import imageio.v3
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from skimage.segmentation import find_boundaries

from eval import display

matplotlib.use('Agg')

GREEN = [0, 255, 0]


def tissue_and_square():
    """A 10 x 12 tissue of many colours with one 4 x 4 nucleus."""
    image = np.random.RandomState(1).randint(
        0, 255, (10, 12, 3)).astype(np.uint8)
    mask = np.zeros((10, 12), np.uint8)
    mask[3:7, 4:8] = 1
    return image, mask


def test_overlay_draws_the_outline_and_nothing_else():
    image, mask = tissue_and_square()
    before = image.copy()
    drawn = display.overlay(image, mask)
    # The ring of the square's own edge, inside it.
    outline = np.zeros((10, 12), bool)
    outline[3:7, 4:8] = True
    outline[4:6, 5:7] = False
    assert (drawn[outline] == GREEN).all()
    np.testing.assert_array_equal(drawn[~outline], image[~outline])
    np.testing.assert_array_equal(image, before)


def test_overlay_draws_nuclei_that_touch_apart():
    image = np.zeros((6, 12, 3), np.uint8)
    labels = np.zeros((6, 12), np.int32)
    labels[:, :6], labels[:, 6:] = 1, 300
    # The image's edge is no outline.
    np.testing.assert_array_equal(
        (display.overlay(image, labels) == GREEN).all(axis=2),
        np.isin(np.arange(12), (5, 6)) & np.ones((6, 1), bool))


def test_overlay_outlines_as_scikit_image_does(monkeypatch):
    mask = np.random.RandomState(2).rand(50, 70) > 0.7
    expected = find_boundaries(mask, connectivity=1, mode='inner')
    for strip in (50, 7, 1):
        monkeypatch.setattr(display, 'STRIP', strip)
        image = np.zeros((50, 70, 3), np.uint8)
        assert display.overlay(image, mask, out=image) is image
        np.testing.assert_array_equal((image == GREEN).all(axis=2), expected)


def test_overlay_of_an_empty_mask_is_the_tissue():
    image, mask = tissue_and_square()
    np.testing.assert_array_equal(display.overlay(image, mask * 0), image)


@pytest.mark.parametrize('batch', [False, True])
@pytest.mark.parametrize('as_float', [False, True])
@pytest.mark.parametrize('channel', [False, True])
def test_display_masked_shows_three_panels(batch, as_float, channel):
    image, mask = tissue_and_square()
    outlined = display.overlay(image, mask)
    expected_image, expected_mask = image, mask
    if as_float:
        image = image / np.float32(255)
        mask = mask * np.float32(0.75)
        expected_mask = mask
    if batch or channel:
        mask = mask[..., np.newaxis]
    if batch:
        image, mask = image[np.newaxis], mask[np.newaxis]
    assert display.display_masked(image, mask, 'Tissue Image',
                                  'Predicted Mask') is None
    figure = plt.gcf()  # Agg's show leaves it open
    panels = figure.axes
    assert [panel.get_title() for panel in panels] == [
        'Tissue Image', 'Predicted Mask', 'Outlines']
    shown = [panel.images[0].get_array() for panel in panels]
    np.testing.assert_array_equal(shown[0], expected_image)
    np.testing.assert_array_equal(shown[1], expected_mask)
    np.testing.assert_array_equal(shown[2], outlined)
    plt.close(figure)


@pytest.mark.parametrize('image_shape, mask_shape, words', [
    ((10, 12), (10, 12), r'image is \[10, 12\]'),
    ((2, 10, 12, 3), (10, 12), r'image is \[2, 10, 12, 3\]'),
    ((10, 12, 3), (12, 10), r'mask is \[12, 10\]'),
    ((10, 12, 3), (10, 12, 2), r'mask is \[10, 12, 2\]'),
])
def test_display_masked_refuses_shapes(image_shape, mask_shape, words):
    with pytest.raises(ValueError, match=words):
        display.display_masked(np.zeros(image_shape), np.zeros(mask_shape))


@pytest.mark.parametrize('shape', [(10, 12), (10, 12, 1), (1, 10, 12, 1)])
def test_display_nuclei_shows_each_in_its_colour(shape):
    image, mask = tissue_and_square()
    labels = mask.astype(np.int32)
    labels[:, 6:] *= 2
    labels[0, 0] = 9
    display.display_nuclei(image, labels.reshape(shape), 'Tissue', 'Found')
    figure = plt.gcf()
    assert [panel.get_title() for panel in figure.axes] == [
        'Tissue', 'Found: 3', 'Outlines']
    _, coloured, outlined = [panel.images[0].get_array()
                             for panel in figure.axes]
    assert not coloured[labels == 0].any()
    assert len({tuple(colour) for colour in coloured[labels > 0]}) == 3
    for nucleus in (1, 2, 9):
        assert len(np.unique(coloured[labels == nucleus], axis=0)) == 1
    np.testing.assert_array_equal(outlined, display.overlay(image, labels))
    plt.close(figure)


def test_display_nuclei_refuses_probabilities():
    with pytest.raises(ValueError, match='labels is of float64; give whole'):
        display.display_nuclei(np.zeros((5, 5, 3)), np.zeros((5, 5)))


def test_display_masked_refuses_floats_of_0_to_255():
    with pytest.raises(ValueError, match='0.0 to 255.0'):
        display.display_masked(np.array([[[0., 255., 0.]]]), np.zeros((1, 1)))


def test_save_comparison_writes_one_wide_png(tmp_path):
    image, mask = tissue_and_square()
    path = tmp_path / 'new folder' / 'a.png'
    display.save_comparison(str(path), image, mask, mask)
    height, width = imageio.v3.imread(path).shape[:2]
    assert width > 3 * height
    assert [entry.name for entry in path.parent.iterdir()] == ['a.png']
