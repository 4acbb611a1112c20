"""Pictures: overlay, the notebook's figure and the comparison."""
import imageio.v3
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from skimage.segmentation import find_boundaries

from benchmarks import diagrams
from eval import display, evaluate, nuclei_metrics, pixel_metrics
from input_pipeline import store

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


def test_overlay_outlines_as_scikit_image_does():
    """Also where nuclei touch one another or the image's edge."""
    labels = np.random.RandomState(2).randint(0, 4, (17, 24)).repeat(
        3, 0).repeat(3, 1)
    expected = find_boundaries(labels, connectivity=1, mode='inner')
    outlined = display.overlay(np.zeros((51, 72, 3), np.uint8), labels)
    np.testing.assert_array_equal((outlined == GREEN).all(axis=2), expected)


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
        display.display_masked(255. * np.eye(3)[np.newaxis].repeat(2, 0),
                               np.zeros((2, 3)))


TISSUE = (200, 150, 190)
YELLOW, BLUE, VERMILION = [255, 255, 0], [0, 128, 255], [213, 94, 0]
# 0.4 of the tissue and 0.6 of these.
TINTS = [[233, 213, 76], [80, 137, 229], [208, 116, 76]]


def comparable(has_instances=True):
    """Tissue with one nucleus found, one invented, one missed; the mask and
    the labels found. Both found ones touch."""
    labels, truth = np.zeros((2, 40, 40), np.int32)
    labels[5:15, 5:15], labels[5:15, 15:25] = 1, 2
    truth[5:15, 6:15], truth[25:35, 20:30] = 3, 7
    image = np.full((40, 40, 3), TISSUE, np.uint8)
    return (store.WholeImage('a', image, truth, has_instances),
            np.uint8(labels > 0), labels)


def test_nuclei_coloured_by_how_they_were_found():
    whole, _, labels = comparable()
    drawn, numbers = display.found_nuclei(
        whole.image, labels, whole.instances,
        nuclei_metrics.pair(labels, whole.instances))
    assert numbers == {'true': 1, 'false': 1, 'missed': 1}
    expected = whole.image.copy()
    for colour, tint, (top, left) in zip((YELLOW, BLUE, VERMILION), TINTS,
                                         ((5, 5), (5, 15), (25, 20))):
        expected[top:top + 10, left:left + 10] = colour
        expected[top + 1:top + 9, left + 1:left + 9] = tint
    np.testing.assert_array_equal(drawn, expected)
    assert (whole.image == TISSUE).all()


def write_comparison(path, whole, mask, labels):
    """Writes a picture as an evaluation does."""
    pairs = (nuclei_metrics.pair(labels, whole.instances)
             if whole.has_instances else None)
    measures = evaluate._measures(
        [pixel_metrics.confusion_matrix(mask, whole.instances > 0)],
        [nuclei_metrics.sums_of(pairs)] if pairs else [])
    evaluate._write_picture(str(path), display.comparison(
        whole, mask, labels, measures, pairs))


def last_panel(path):
    """The last panel of a comparison of `comparable`, and what is below.

    Returns:
        A function of a row and a column of the image to the colour there, a
        list, and the set of colours below the panel.
    """
    picture = imageio.v3.imread(path)[..., :3]
    rest = picture.shape[1] * 3 // 4
    rows, columns = np.nonzero((picture[:, rest:] == TISSUE).all(axis=2))
    top, left = rows.min(), rest + columns.min()
    scale = (rows.max() + 1 - top) / 40  # pixels of the picture for one
    assert columns.max() + 1 + rest - left == pytest.approx(40 * scale, abs=2)
    return (lambda row, column: picture[
        int(top + (row + 0.5) * scale), int(left + (column + 0.5) * scale)
    ].tolist()), set(map(tuple, picture[rows.max() + 1:, rest:].reshape(
        -1, 3).tolist()))


def test_the_comparison_shows_nuclei_in_colours(tmp_path):
    path = tmp_path / 'new folder' / 'a.png'
    write_comparison(path, *comparable())
    colour_at, below = last_panel(path)
    # Of each the outline, and a pixel within.
    for colour, tint, (row, column) in zip(
            (YELLOW, BLUE, VERMILION), TINTS, ((10, 5), (10, 24), (30, 20))):
        assert colour_at(row, column) == colour
        assert colour_at(row, column + (4 if column < 24 else -4)) == tint
        assert tuple(colour) in below  # in the legend
    assert colour_at(10, 14) == YELLOW and colour_at(10, 15) == BLUE
    assert [entry.name for entry in path.parent.iterdir()] == ['a.png']


def test_the_comparison_without_instances(tmp_path):
    path = str(tmp_path / 'a.png')
    write_comparison(path, *comparable(has_instances=False))
    colour_at, below = last_panel(path)
    # One outline around both, inside the edge.
    assert colour_at(10, 5) == colour_at(5, 15) == GREEN
    assert colour_at(10, 4) == colour_at(10, 14) == list(TISSUE)
    assert below == {(255, 255, 255)}


@pytest.mark.parametrize('name', ['a.png', 'a.jpg'])
def test_figures_are_written_only_if_their_pixels_change(
        tmp_path, monkeypatch, name):
    monkeypatch.setattr(diagrams, 'FIGURES', str(tmp_path))

    def figure(colour):
        return plt.Figure(figsize=(1, 1), facecolor=colour)

    diagrams.save_figure(name, figure('red'))
    path = tmp_path / name
    # The same pixels in another file, as another version would write them.
    path.write_bytes(path.read_bytes() + b'more')
    before = path.read_bytes()
    diagrams.save_figure(name, figure('red'))
    assert path.read_bytes() == before
    diagrams.save_figure(name, figure('blue'))
    assert path.read_bytes() != before
