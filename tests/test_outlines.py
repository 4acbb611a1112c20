"""Outlines of ImageScope, HALO and QuPath, and the pixels inside them."""
import gzip
import json
import os
import tracemalloc

import numpy as np
import pytest
from scipy import ndimage

from histology import (
    annotations,
    geojson,
    images,
    imagescope,
    monuseg,
    outlines,
)
from inputs import (
    feature,
    from_bytes,
    laid,
    message,
    region,
    ring,
    save_geojson,
    save_xml,
    square,
    write,
    xml,
)

# Pixels by their rows and columns, 400 of them.
SQUARE = square(20, 30, 40, 50)
FAR = square(70, 70, 80, 90)  # 200 pixels


def fill(rings, height, width):
    """Fills nuclei of one ring each, of which none is skipped."""
    instances, skipped = laid(
        [[[np.array(outline, float)]] for outline in rings], height, width)
    assert skipped == []
    return instances


def filled(parse, data, side=100):
    """What a file gives in an image of side x side pixels.

    Returns:
        list of the pixels of each number from 1, and what was left out
    """
    found = from_bytes(parse, 'a b.x', data)
    instances, skipped = laid(found, side, side)
    areas = np.bincount(instances.ravel(), minlength=len(found.nuclei) + 1)
    return areas[1:].tolist(), skipped


def of_imagescope(*layers, **options):
    return filled(imagescope.parse, xml(*layers, **options))


def of_geojson(content):
    return filled(geojson.parse, json.dumps(content))


def refused(path, data):
    """The line about an annotation of 100 x 100 pixels, without its path."""
    write(path, data)
    line = message(annotations.place, str(path), (100, 100), (100, 100))
    assert line.startswith(f'{path}: ')
    return line


# The rule of filling


@pytest.mark.parametrize('shift', [0.49, -0.49])
def test_the_centre_decides(shift):
    moved = np.array(square(2, 2, 4, 4)) + shift
    np.testing.assert_array_equal(fill([moved], 6, 6),
                                  fill([square(2, 2, 4, 4)], 6, 6))
    moved = np.array(square(2, 2, 4, 4)) + (0, shift * 1.1)
    columns = fill([moved], 6, 6).any(axis=0)
    assert np.flatnonzero(columns).tolist() == ([3, 4] if shift > 0
                                                else [1, 2])


def test_square_through_pixel_centres():
    # Upper and left sides are in, lower and right sides are out.
    np.testing.assert_array_equal(
        fill([square(1.5, 1.5, 4.5, 3.5)], 6, 5), [[0, 0, 0, 0, 0],
                                                   [0, 1, 1, 0, 0],
                                                   [0, 1, 1, 0, 0],
                                                   [0, 1, 1, 0, 0],
                                                   [0, 0, 0, 0, 0],
                                                   [0, 0, 0, 0, 0]])


def test_triangle_along_pixel_centres():
    # The diagonal runs through the centres with row == column, on the upper
    # side of the triangle: those are in.
    np.testing.assert_array_equal(fill([[(1, 1), (5, 1), (5, 5)]], 7, 7),
                                  [[0, 0, 0, 0, 0, 0, 0],
                                   [0, 1, 0, 0, 0, 0, 0],
                                   [0, 1, 1, 0, 0, 0, 0],
                                   [0, 1, 1, 1, 0, 0, 0],
                                   [0, 1, 1, 1, 1, 0, 0],
                                   [0, 0, 0, 0, 0, 0, 0],
                                   [0, 0, 0, 0, 0, 0, 0]])


def turns(outline, row, column):
    """Counts how often an outline winds round a point, by a ray down from it.

    Integer arithmetic: vertices and points are multiples of a unit. A centre
    on an upper or a vertical left side is in, on other sides out.
    """
    found = 0
    for (row1, column1), (row2, column2) in zip(
            outline, outline[1:] + outline[:1]):
        if (column1 > column) == (column2 > column):
            continue
        # row < row1 + (column - column1) * (row2 - row1) / (column2 - column1)
        left = (row - row1) * (column2 - column1)
        right = (column - column1) * (row2 - row1)
        if column2 > column1:
            found += left < right
        else:
            found -= left > right
    return found


def random_outline(rng):
    """Vertices in half pixels, some of them outside the image."""
    return [tuple(map(int, vertex))
            for vertex in rng.randint(-8, 36, (rng.randint(3, 9), 2))]


def covered(outline, height, width):
    """Which centres, odd numbers of half pixels, lie inside an outline.

    What it winds round twice is a hole if it is at most a twentieth.
    """
    found = np.array([[turns(outline, 2 * row + 1, 2 * column + 1)
                       for column in range(-8, 36)] for row in range(-8, 40)])
    whole, odd = found != 0, found % 2 == 1
    small = whole.sum() - odd.sum() <= 0.05 * whole.sum()
    return (odd if small else whole)[8:height + 8, 8:width + 8]


@pytest.mark.parametrize('seed', range(20))
def test_random_outlines_with_holes(seed):
    rng = np.random.RandomState(seed)
    outline, hole = random_outline(rng), random_outline(rng)
    expected = covered(outline, 40, 36)
    np.testing.assert_array_equal(
        fill([np.array(outline) / 2], 40, 36), expected)
    expected &= ~covered(hole, 40, 36)
    instances, _ = laid(
        [[[np.array(outline) / 2, np.array(hole) / 2]]], 40, 36)
    np.testing.assert_array_equal(instances, expected)


def test_outlines_are_clipped_and_the_earlier_wins():
    rings = [square(-5, -5, 2, 2), square(1, 1, 4, 10)]
    instances = fill(rings, 12, 10)
    expected = np.zeros((12, 10))
    expected[1:4, 1:] = 2
    expected[:2, :2] = 1
    np.testing.assert_array_equal(instances, expected)
    # One wholly under others has no pixel, its number stays unused.
    rings = [square(1, 1, 4, 4), square(2, 2, 3, 3), square(5, 5, 6, 6)]
    assert np.unique(fill(rings, 9, 9)).tolist() == [0, 1, 3]


@pytest.mark.parametrize('turns_round, drift', [(1, 0), (2, 0), (1.25, 0.01)])
def test_what_overlaps_itself_is_filled_whole(turns_round, drift):
    angle = np.arange(90 * turns_round + 1) * np.pi / 45
    circle = 50 + 15 * np.stack([np.sin(angle), np.cos(angle)], axis=1)
    filled_pixels = np.count_nonzero(fill(
        [circle + drift * np.arange(len(circle))[:, np.newaxis]], 100, 100))
    assert abs(filled_pixels - np.pi * 15 ** 2) < 30


def test_what_reaches_across_the_image_on_all_sides_is_no_nucleus():
    data = xml([region(square(-9, -9, 999, 999)), region(SQUARE)])
    areas, skipped = filled(imagescope.parse, data)
    assert areas == [0, 400]
    line, = skipped
    assert line == ('an outline of the whole image, at x -9 to 999 and y -9 '
                    'to 999')


@pytest.mark.parametrize('outline, side, why', [
    # A nucleus of 9 micrometres in a patch.
    (square(10, 10, 45, 45), 64, None),
    # 200 x 160 pixels of 0.25 micrometres are 2000 square micrometres.
    (square(0, 0, 200, 160), 1000, None),
    (square(0, 0, 200, 161), 1000, 'of 2012 square micrometres'),
    # A fibre's nucleus of 100 micrometres.
    (square(3, 3, 403, 13), 1000, None),
    (square(3, 3, 13, 407), 1000, 'of 101 micrometres'),
    # However it winds: its two halves have areas of opposite sign.
    ([(0, 0), (900, 900), (900, 0), (0, 900)], 1000, 'of 225 micrometres'),
    # All of a small image, drawn from pixel to pixel; and nearly all of it.
    (square(0, 0, 40, 40), 40, 'of the whole image'),
    (square(0, 0, 40, 40), 41, 'of the whole image'),
    (square(2, 0, 40, 40), 40, None),
    # Of the slide, not of the image.
    (square(-20, 5, 80, 25), 40, None)])
def test_the_size_of_an_outline_tells_a_region(outline, side, why):
    content = [region(outline), region(square(side - 9, 0, side - 5, 4))]
    areas, skipped = filled(imagescope.parse, xml(content), side)
    assert (areas[0] == 0) == bool(why)
    assert [line.split(', at')[0] for line in skipped] == (
        [f'an outline {why}'] if why else [])


def parts(*corners):
    """An object of squares of 81 pixels, by their (row, column)."""
    return json.dumps({'type': 'MultiPolygon', 'coordinates': [
        [ring(square(row, column, row + 9, column + 9))]
        for row, column in corners]})


@pytest.mark.parametrize('corners, count', [
    # Cut in two by another nucleus, of up to its own length; crumbs beside.
    ([(0, 0), (18, 3)], 1), ([(0, 0), (0, 19)], 2), ([(0, 0), (791, 991)], 2),
    # As of programs that write one object for all nuclei of a class.
    ([(0, 0), (0, 10), (10, 0)], 3),
    ([(row, column) for row in range(0, 1000, 50)
      for column in range(0, 1000, 50)], 400)])
def test_parts_that_lie_apart_are_nuclei(corners, count):
    areas, skipped = filled(geojson.parse, parts(*corners), 1000)
    assert areas == [81 * len(corners) // count] * count and skipped == []


def test_crumbs_are_of_the_nucleus():
    crumbs = [[ring(square(20, 20 + 5 * k, 22, 22 + 5 * k))] for k in range(3)]
    assert filled(geojson.parse, json.dumps({
        'type': 'MultiPolygon', 'coordinates': [
            crumbs[0], [ring(square(0, 10, 18, 40))], *crumbs[1:]]})) == (
                [18 * 30 + 3 * 4], [])


def test_a_region_takes_little_memory():
    """An outline of 2000 vertices on 4000 x 4000 pixels, around 64 nuclei."""
    angle = np.arange(2000) * 2 * np.pi / 2000
    around = 2000 + 1990 * np.stack([np.sin(angle), np.cos(angle)], axis=1)
    nuclei = [[[np.array(square(row, column, row + 20, column + 20), float)]]
              for row in range(1000, 3000, 250)
              for column in range(1000, 3000, 250)]
    tracemalloc.start()
    instances, skipped = laid([[[around]], *nuclei], 4000, 4000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.count_nonzero(instances) == 400 * len(nuclei)
    assert len(skipped) == 2 and 'square micrometres' in skipped[0]
    assert peak < 7 * 4000 * 4000


def test_an_outline_around_others_is_no_nucleus():
    small = [region(square(4, 10 * k, 6, 10 * k + 3)) for k in range(1, 4)]
    around = region(square(2, 5, 8, 45))  # 6 * 40 pixels
    areas, skipped = of_imagescope([around], small)
    assert areas == [0, 6, 6, 6]
    assert skipped == [
        'an outline around 3 others, at x 5 to 45 and y 2 to 8', 'all but the '
        'crop at x 5 to 45 and y 2 to 8, for no nucleus is annotated outside '
        '1 region']
    # A nucleus with one or two others upon it is one, as is one that three
    # others touch or overlap.
    assert of_imagescope(small[:2], [around]) == ([6, 6, 228], [])
    touching = [region(square(0, 10 * k, 4, 10 * k + 3)) for k in range(3)]
    assert of_imagescope(touching, [region(square(2, 2, 8, 40))])[1] == []


@pytest.mark.parametrize('width, within, nuclei, is_region', [
    # Of 50 rows: 4000 pixels are 10 times the median of 400.
    (80, 1, 4, True), (80, 2, 4, True), (79, 1, 4, False), (80, 0, 4, False),
    # Of too few outlines the median says nothing.
    (80, 1, 3, False)])
def test_a_small_outline_of_many_times_the_median_is_a_region(
        width, within, nuclei, is_region):
    corners = [(25, 25 + 30 * k) for k in range(within)]
    corners += [(100, 30 * k) for k in range(nuclei - within)]
    areas, skipped = filled(imagescope.parse, xml(
        [region(square(20, 20, 70, 20 + width))],
        [region(square(row, column, row + 20, column + 20))
         for row, column in corners]), 300)
    # The earlier outline wins where two overlap.
    assert areas == ([0] + [400] * nuclei if is_region else
                     [50 * width] + [0] * within + [400] * (nuclei - within))
    assert [line.split(', at')[0] for line in skipped] == (
        [f'an outline around {within} other' + 's' * (within > 1)]
        if is_region else [])


def nested(rows, name='', margin=0):
    """Features of a class: squares of 10 pixels in a row, or around them."""
    return [feature(square(row - margin, 20 * k + 5 - margin,
                           row + 10 + margin, 20 * k + 15 + margin),
                    classification=name) for row in rows for k in range(4)]


@pytest.mark.parametrize('nuclei, cells', [
    (nested([10, 50]), nested([10, 50], margin=4)),  # without classes
    (nested([10, 50], 'Kern'), nested([10, 50], 'Zelle', 4)),
    # One nucleus has no cell, and two cells no nucleus.
    (nested([10, 50], 'a'), (nested([10, 50], 'b', 4)[1:]
                             + nested([80], 'b', 4)[:2]))])
def test_of_nuclei_and_cells_the_nuclei(nuclei, cells):
    for features in (nuclei + cells, cells + nuclei,
                     [item for pair in zip(nuclei, cells) for item in pair]
                     + nuclei[len(cells):] + cells[len(nuclei):]):
        areas, skipped = of_geojson(features)
        assert sorted(areas)[len(cells):] == [100] * len(nuclei)
        assert sum(areas) == 100 * len(nuclei)
        assert skipped == [f'outlines of cells around nuclei: {len(cells)}']


def test_slender_nuclei_that_cross_in_one_box_are_two():
    down = [(10, 10), (10, 14), (60, 64), (64, 64), (64, 60), (14, 10)]
    up = [(74 - row, column) for row, column in down]
    areas, skipped = of_geojson([feature(down), feature(up)])
    # Each covers 4 pixels beside the diagonal, and both the same middle.
    assert len(areas) == 2 and skipped == []
    assert areas[0] > areas[1] > 0.9 * areas[0]


def test_a_nucleus_that_is_outlined_twice_counts_once():
    again = [feature(square(row, column, row + 21, column + 19))
             for row, column in ((20, 31), (50, 30))]
    assert of_geojson([feature(SQUARE), *again]) == (
        [400, 0, 21 * 19], ['second outlines of a nucleus: 1'])
    # A rim, whose hole is the nucleus.
    rim = feature(square(20, 20, 50, 50), square(22, 22, 48, 48))
    assert of_geojson([rim, feature(square(22, 22, 48, 48))]) == (
        [30 ** 2 - 26 ** 2, 0], ['second outlines of a nucleus: 1'])


@pytest.mark.parametrize('name', ['Region*', 'Ignore*', 'Necrosis*',
                                  'Background', 'background', 'Ambiguous'])
def test_classes_without_nuclei(name):
    features = [feature(SQUARE, classification={'name': name}),
                feature(FAR, classification={'names': ['Tumor', 'Ki-67']})]
    assert of_geojson(features) == (
        [0, 200], [f'outlines of the class {name}: 1'])
    data = (f'<Annotations><Annotation Name="{name}">{region(SQUARE)}'
            f'</Annotation>{region(FAR)}</Annotations>')
    assert filled(imagescope.parse, data) == (
        [0, 200], [f'outlines of the class {name}: 1'])


def test_classes_are_chosen():
    found = from_bytes(geojson.parse, 'a', json.dumps([
        feature(SQUARE, classification='Region*'), feature(FAR),
        feature(square(0, 0, 9, 9), classification='Tumor')]).encode())
    for classes, expected, skipped in (
            (['Region*'], [400], ['the class without a name', 'the class '
                                  'Tumor']),
            (['Tumor', 'Region*'], [400, 0, 81], ['the class without a name']),
            ((), [0, 200, 81], ['the class Region*'])):
        instances, lines = laid(found, 100, 100, classes)
        assert np.bincount(instances.ravel())[1:].tolist() == expected
        assert lines == [f'outlines of {what}: 1' for what in skipped]


# Three nuclei of 8 x 8 pixels, at rows 12 to 20 and columns 22 to 54.
IN_REGION = [feature(square(12, 22 + 12 * k, 20, 30 + 12 * k),
                     classification='Tumor') for k in range(3)]


def placed(path, *features, size=(200, 400)):
    """What is laid on an image, and what is filled of it."""
    write(path, json.dumps(features))
    place = annotations.place(str(path), size, size)
    return place, annotations.load(str(path), size, size, place)[0]


@pytest.mark.parametrize('around, window', [
    # A named class, and what is found by its size or by what lies in it.
    (feature(square(10, 20, 60, 70), classification='Region*'),
     (10, 60, 20, 70)),
    (feature(square(-10, 20, 60.5, 900)), (0, 61, 20, 400)),
    # Larger than the image, of which it covers a third.
    (feature(square(-10, 20, 60, 4000)), (0, 60, 20, 400)),
    (feature(square(10, 20, 22, 60)), (10, 22, 20, 60))])
def test_what_is_annotated_in_a_region_alone(tmp_path, around, window):
    path = tmp_path / 'a.geojson'
    place, instances = placed(path, *IN_REGION, around)
    top, bottom, left, right = window
    assert place.window == (slice(top, bottom), slice(left, right))
    assert instances.shape == (bottom - top, right - left)
    assert np.bincount(instances.ravel())[1:].tolist() == [64] * 3
    assert place.classes['Tumor'].tolist() == [1, 2, 3]
    assert 'no nucleus is annotated outside 1 region' in place.skipped[-1]


def test_regions_that_overlap_count_once(tmp_path):
    """Of the image 60 % and, within these, 40 %."""
    place, _ = placed(tmp_path / 'a.geojson', *IN_REGION, *(
        feature(square(*corners), classification='Region*')
        for corners in ((0, 0, 200, 240), (0, 0, 160, 200))))
    assert place.window == (slice(0, 200), slice(0, 240))
    assert 'no nucleus is annotated outside 2 regions' in place.skipped[-1]


@pytest.mark.parametrize('around', [
    feature(square(10, 20, 60, 70), classification='Region*'),
    feature(square(10, 20, 60, 70), classification='Ignore*'),
    feature(square(10, 20, 60, 70), classification='Ambiguous'),
    feature(square(0, 0, 300, 300))])
def test_outlines_of_which_none_is_a_nucleus_are_refused(tmp_path, around):
    """As of an export without the detections: all would be background."""
    path = tmp_path / 'a.geojson'
    name = around['properties'].get('classification')
    what = (f'outlines of the class {name}: 1' if name else
            'an outline of 5625 square micrometres, at x 0 to 300 and y 0 to '
            '300')
    assert message(placed, path, around) == (
        f'{path}: holds no outline of a nucleus, only {what}; export the '
        'outlines of nuclei or, if there are none, remove the others')
    # Those of other classes than are asked for are background.
    write(path, json.dumps([around]))
    place = annotations.place(str(path), (200, 400), (200, 400), ['Tumor'])
    assert place.nuclei == {} and not place.regions


@pytest.mark.parametrize('cut', [
    square(30, 10, 40, 24), square(5, 56, 15, 64), square(56, 66, 70, 80)])
def test_nuclei_that_the_edge_of_a_region_cuts_are_of_it(tmp_path, cut):
    region_ = feature(square(10, 20, 60, 70), classification='Region*')
    place, instances = placed(tmp_path / 'a.geojson', *IN_REGION, region_,
                              feature(cut))
    assert place.window == (slice(10, 60), slice(20, 70))
    assert (instances == 5).sum() == sum(
        10 <= y < 60 and 20 <= x < 70 for y in range(cut[0][0], cut[2][0])
        for x in range(cut[0][1], cut[2][1]))


def test_outlines_in_shares_of_the_image_are_refused(tmp_path):
    shares = [np.array(square(10, 10 * k, 20, 10 * k + 8)) / 200
              for k in range(5)]
    for path in (save_geojson(tmp_path / 'a.geojson', *(
                     [tuple(vertex) for vertex in share.tolist()]
                     for share in shares)),
                 save_xml(tmp_path / 'a.xml', *shares)):
        assert 'a pixel; export them in pixels' in message(
            annotations.place, str(path), (200, 200), (200, 200))


@pytest.mark.parametrize('name', ['ROI', ''])
def test_a_region_may_have_a_class_that_is_not_chosen(tmp_path, name):
    path = write(tmp_path / 'a.geojson', json.dumps([
        *IN_REGION, feature(square(10, 20, 190, 220), classification=name)]))
    place = annotations.place(str(path), (200, 400), (200, 400), ['Tumor'])
    assert place.window == (slice(10, 190), slice(20, 220))
    assert 'no nucleus is annotated outside 1 region' in place.skipped[-1]


@pytest.mark.parametrize('region_, window, said', [
    # One nucleus of five lies outside the image's only region,
    (None, (10, 60, 20, 70), '1 region'),
    # and in the window of two, of which each has nuclei.
    (square(70, 100, 90, 120), (10, 90, 20, 120), '2 regions')])
def test_a_stray_nucleus_does_not_annotate_the_rest(tmp_path, region_, window,
                                                    said):
    more = [] if region_ is None else [
        feature(region_, classification='Region*'),
        feature(square(72, 102, 80, 110))]
    place, instances = placed(
        tmp_path / 'a.geojson', *IN_REGION, feature(square(40, 40, 48, 48)),
        feature(square(10, 20, 60, 70), classification='Region*'), *more,
        feature(square(72, 30, 80, 38)))
    top, bottom, left, right = window
    assert place.window == (slice(top, bottom), slice(left, right))
    areas = np.bincount(instances.ravel())[1:]
    assert areas[areas > 0].tolist() == [64] * (5 if more else 4)
    assert place.skipped[-1] == (
        f'all but the crop at x {left} to {right} and y {top} to {bottom}, '
        f'for only 1 nucleus is annotated outside {said}')


@pytest.mark.parametrize('more', [
    # A nucleus outside; a region without one; nearly the whole image.
    [feature(square(10, 20, 60, 70), classification='Region*'),
     feature(square(150, 5, 160, 15))],
    [feature(square(70, 0, 190, 400), classification='Region*')],
    [feature(square(4, 4, 196, 396))]])
def test_what_is_annotated_all_over(tmp_path, more):
    place, instances = placed(tmp_path / 'a.geojson', *IN_REGION, *more)
    assert not place.regions and instances.shape == (200, 400)
    assert np.count_nonzero(instances) >= 3 * 64


def test_what_lies_in_the_window_but_in_no_region_is_blank(tmp_path):
    # Half of a square, and a nucleus that reaches 2 of 8 columns beyond.
    triangle = [(300, 0), (0, 0), (0, 300)]
    place, instances = placed(
        tmp_path / 'a.geojson', feature(triangle, classification='Region*'),
        feature(square(0, 0, 8, 8)), feature(square(0, 293, 1, 301)),
        size=(400, 500))
    image = outlines.crop(np.zeros((400, 500, 3), np.uint8), place, 255)
    rows, columns = np.mgrid[:300, :300]
    # The side is the lower one: centres on it are out.
    inside = rows + columns + 1 < 300
    np.testing.assert_array_equal(image, np.where(inside, 0, 255)[
        ..., np.newaxis].repeat(3, axis=2))
    expected = np.zeros((300, 300))
    expected[:8, :8], expected[0, 293:299] = 2, 3
    np.testing.assert_array_equal(instances, expected)


def test_outlines_outside_the_image():
    outside = [region(square(0, 100, 20, 120)), region(square(-9, 0, 0, 9))]
    assert of_imagescope([region(SQUARE), *outside]) == (
        [400, 0, 0], ['outlines outside the image: 2'])
    line = message(of_imagescope, outside)
    assert line == (
        '2 outlines, all outside the image of 100 x 100 pixels, at x 0 to 120 '
        'and y -9 to 20; export them in pixels of this image, not of the '
        'slide')
    # However far away.
    assert of_imagescope([region(SQUARE), region(square(1e300, 0, 1e301, 9))])[
        0] == [400, 0]


# The rule and the tissue: on MoNuSeg itself


def with_xml():
    return [entry for entry in monuseg.find(os.environ['MONUSEG_DIR'])
            if entry.annotation.endswith('.xml')]


def nuclei_of(entry):
    return imagescope.parse(entry.annotation).nuclei


def moved(nuclei, shift):
    """The mask of an image when outlines are moved down and right."""
    return laid([[[outline + shift for outline in polygon]
                           for polygon in nucleus] for nucleus in nuclei],
                         1000, 1000)[0] > 0


needs_monuseg = pytest.mark.skipif(
    'MONUSEG_DIR' not in os.environ,
    reason='MONUSEG_DIR does not name MoNuSeg')


@needs_monuseg
def test_the_tissue_changes_most_where_outlines_are_filled():
    shifts = (-1, -0.5, 0, 0.5)
    changes = np.zeros((2, len(shifts)))
    for entry in with_xml():
        image = images.read_image(entry.image).mean(axis=-1)
        nuclei = nuclei_of(entry)
        for index, shift in enumerate(shifts):
            mask = moved(nuclei, shift).astype(int)
            for axis in range(2):  # from one pixel to the next
                step = np.diff(mask, axis=axis)
                changes[axis, index] += (
                    (np.diff(image, axis=axis) * step).sum()
                    / np.abs(step).sum())
    # Nuclei are darker than what is around them.
    assert [shifts[k] for k in changes.argmin(axis=1)] == [0, 0], changes


@needs_monuseg
def test_published_masks_have_the_centre_at_whole_numbers():
    compared = 0
    for entry in with_xml():
        path = entry.annotation.replace('Annotations', 'Binary_masks')
        path = path.replace('.xml', '.png')
        if not os.path.exists(path):
            continue
        published = images.read_labels(path) > 0
        nuclei = nuclei_of(entry)
        assert (moved(nuclei, 0.5) != published).sum() <= 5, entry.name
        assert (moved(nuclei, 0) != published).sum() > 1000, entry.name
        compared += 1
    assert compared


# ImageScope


def test_vertices_of_a_region():
    found = from_bytes(
        imagescope.parse, 'x', xml([region([(1, 2), (3.25, 4), (5, 6)])]))
    ((outline,),), = found.nuclei
    np.testing.assert_array_equal(outline, [(1, 2), (3.25, 4), (5, 6)])
    assert found.microns_per_pixel is None
    assert not any(found.skipped.values())


def test_layers_together_and_regions_outside_any():
    assert of_imagescope([region(SQUARE)], [], [region(FAR)]) == (
        [400, 200], [])
    regions = region(SQUARE) + region(FAR)
    for text in (f'<Annotations>{regions}</Annotations>',
                 f'<Annotations><Regions>{regions}</Regions></Annotations>'):
        assert filled(imagescope.parse, text) == ([400, 200], [])


NEGATIVE = 'Type="0" NegativeROA="1"'


@pytest.mark.parametrize('hole, area', [
    (square(25, 35, 35, 40), 400 - 50),
    (square(30, 40, 60, 90), 400 - 100),  # partly outside
    (SQUARE, 0),
    # A crack across: of 20 x 20 pixels those at most 5 beside the diagonal,
    # 20 + 2 * (19 + 18 + 17 + 16 + 15) of them.
    ([(0, 4.5), (0, 15.5), (60, 75.5), (60, 64.5)], 400 - 190)])
def test_a_negative_region_is_a_hole(hole, area):
    negative = region(hole, NEGATIVE)
    for layer in ([region(SQUARE), negative, region(FAR)],
                  [negative, region(SQUARE), region(FAR)]):
        areas, skipped = of_imagescope(layer)
        assert sorted(areas) == sorted([area, 200]) and skipped == []
    # Of its own layer only; and where it is in none, a line says so.
    assert of_imagescope([region(SQUARE), region(FAR)], [negative]) == (
        [400, 200], ["negative regions outside their layer's outlines: 1"])


def test_many_holes():
    """Each of 8000 regions has a hole, if its number is one of 800."""
    corners = [(20 * (k // 100), 20 * (k % 100)) for k in range(8000)]
    layer = [region(square(row, column, row + 16, column + 16))
             for row, column in corners]
    layer += [region(square(row + 4, column + 4, row + 8, column + 8),
                     NEGATIVE) for row, column in corners[::10]]
    data = xml(layer).encode()
    nuclei = from_bytes(imagescope.parse, 'x', data).nuclei
    assert [len(polygon) for polygon, in nuclei] == [2, *[1] * 9] * 800


def test_holes_of_two_and_a_nucleus_in_a_hole():
    layer = [region(square(10, 10, 60, 50)),
             region(square(20, 20, 40, 40), NEGATIVE),
             region(square(25, 25, 30, 30)),
             region(square(50, 12, 55, 22), 'Type="1" NegativeROA="1"')]
    assert of_imagescope(layer) == ([2000 - 400 - 50, 25], [])
    # A positive region may say so, and be in the hole's place in a layer of
    # its own.
    assert of_imagescope(
        layer[:2], [region(square(25, 25, 30, 30), 'NegativeROA="0"')]) == (
            [2000 - 400, 25], [])


@pytest.mark.parametrize('corners', [
    [(20, 30), (40, 60)], [(40, 60), (20, 30)], [(20, 60), (40, 30)]])
@pytest.mark.parametrize('shape', ['2', 'Ellipse'])
def test_ellipses_of_two_vertices(shape, corners):
    data = xml([region(corners, f'Type="{shape}"')]).encode()
    found = from_bytes(imagescope.parse, 'x', data)
    instances, _ = laid(found, 100, 100)
    rows, columns = np.mgrid[:100, :100] + 0.5
    expected = ((rows - 30) / 10) ** 2 + ((columns - 45) / 15) ** 2 < 1
    assert (instances != expected).sum() <= 2
    assert abs(instances.sum() - np.pi * 10 * 15) < 5
    assert instances[20:40, 30:60].sum() == instances.sum()


@pytest.mark.parametrize('shape', ['1', 'Rectangle'])
def test_rectangles(shape):
    for corners in ([(20, 30), (40, 60)], [(40, 30), (20, 60)],
                    square(20, 30, 40, 60)):
        assert of_imagescope([region(corners, f'Type="{shape}"')]) == (
            [600], [])
    # A turned one: rows and columns that differ by less than 10 in all from
    # (30, 40); of the centres on its sides those on the upper two are in.
    turned = [(20, 40), (30, 50), (40, 40), (30, 30)]
    assert of_imagescope([region(turned, f'Type="{shape}"')]) == ([200], [])


def test_what_encloses_nothing_is_counted():
    odd = [region([(1, 2), (3, 4)], f'Type="{kind}"')
           for kind in ('0', '3', '4', '5', 'Ruler', 'Arrow')]
    odd += [region(SQUARE, 'Type="Pin"'), region([(1, 2)]), region([]),
            region([(3, 4), (3, 9)], 'Type="1"'),
            region([(3, 4), (9, 4)], 'Type="2"')]
    assert of_imagescope([region(SQUARE)], odd) == (
        [400], ['regions (enclosing nothing, as arrows, rulers, points): 11'])


def test_halo():
    vertices = ''.join(f'<V X="{column}" Y="{row}"/>'
                       for row, column in SQUARE)
    corners = '<V X="70" Y="70"/><V X="90" Y="80"/>'
    data = (
        '<Annotations><Annotation LineColor="65535" Name="Layer 1"><Regions>'
        '<Region Type="Polygon" HasEndcaps="0" NegativeROA="0"><Vertices>'
        f'{vertices}</Vertices><Comments/></Region><Region Type="Rectangle" '
        f'NegativeROA="0"><Vertices>{corners}</Vertices></Region><Region '
        'Type="Rectangle" NegativeROA="1"><Vertices><V X="75" Y="70"/><V '
        'X="80" Y="75"/></Vertices></Region></Regions></Annotation>'
        '</Annotations>')
    assert filled(imagescope.parse, data) == ([400, 200 - 25], [])


@pytest.mark.parametrize('layer', [
    '<Annotation Name="Ambiguous"><Attributes/>',
    '<Annotation Name=""><Attributes><Attribute Name="ambiguous" Id="0"/>'
    '</Attributes>'])
def test_the_layer_ambiguous_is_skipped(layer):  # of MoNuSAC
    data = (
        '<Annotations MicronsPerPixel="0.25"><Annotation><Attributes>'
        '<Attribute Name="Epithelial"/></Attributes><Regions>'
        f'{region(SQUARE)}</Regions></Annotation>{layer}<Regions>'
        f'{region(FAR)}{region(FAR)}</Regions></Annotation></Annotations>')
    areas, (line,) = filled(imagescope.parse, data)
    assert areas == [400, 0, 0]
    assert line.lower() == 'outlines of the class ambiguous: 2'


@pytest.mark.parametrize('text, expected', [
    ('MicronsPerPixel="0.2520"', 0.252), ('MicronsPerPixel="0,252"', 0.252),
    ('', None), *((f'MicronsPerPixel="{text}"', None)
                  for text in ('', '0', '-1', 'nan', 'inf', 'unknown'))])
def test_microns_per_pixel(text, expected):
    found = from_bytes(
        imagescope.parse, 'x', xml([region(SQUARE)], head=text).encode())
    assert found.microns_per_pixel == expected


LAYER = ('<Annotations><Annotation Name=" Nägel µ "><Regions>'
         f'{region(SQUARE)}</Regions></Annotation></Annotations>')


def declared(encoding):
    return f'<?xml version="1.0" encoding="{encoding}"?>\r\n{LAYER}'


@pytest.mark.parametrize('data', [
    LAYER.encode(), LAYER.encode('utf-8-sig'), LAYER.encode('utf-16'),
    LAYER.encode('utf-16-le'), LAYER.encode('utf-16-be'),
    ('\ufeff' + LAYER).encode('utf-16-be'),
    declared('utf-8').encode(), declared('UTF-8').encode('utf-8-sig'),
    declared('utf-16').encode('utf-16'),
    declared('UTF-16LE').encode('utf-16-le'),
    # Declared as they are not.
    declared('utf-16').encode(), declared('utf-16').encode('utf-8-sig'),
    declared('utf-8').encode('utf-16'), declared('utf-8').encode('utf-16-le'),
    declared('iso-8859-1').encode('latin-1'), LAYER.encode('latin-1'),
    declared('windows-1252').encode('cp1252'),
    LAYER.replace('<Annotations', '<Annotations xmlns="http://x.org/y"'
                  ).encode(),
    LAYER.replace('<Annotations', '<a:Annotations xmlns:a="http://x.org/y"'
                  ).replace('</Annotations', '</a:Annotations').encode(),
    f'<!-- <Region/> --><!DOCTYPE Annotations>{LAYER}'.encode(),
    f'\n  {declared("utf-8")}'.encode(),
    f'\n  {declared("utf-8")}'.encode('utf-8-sig'),
    f'\n{LAYER}'.encode('utf-16-le'),
    LAYER.replace('Nägel', 'H&E').encode('utf-16')])
def test_encodings_and_namespaces(data):
    assert filled(imagescope.parse, data) == ([400], [])


@pytest.mark.parametrize('encode', [
    lambda text: text.encode('latin-1'), str.encode,
    lambda text: text.encode('utf-16')])
def test_names_and_numbers_as_programs_write_them(encode):
    text = LAYER.replace('"40"', '"40,00"').replace('"20"', '"20,0"')
    found = from_bytes(imagescope.parse, 'x', encode(text))
    assert found.names == ['Nägel µ']
    assert np.count_nonzero(laid(found, 100, 100)[0]) == 400
    content = json.dumps([feature(SQUARE, classification=' Nägel µ ')],
                         ensure_ascii=False)
    assert from_bytes(geojson.parse, 'x', encode(content)).names == ['Nägel µ']


def test_a_bare_ampersand():
    found = from_bytes(imagescope.parse, 'x', LAYER.replace(
        'Nägel', 'H&E & &amp;&#65;').encode())
    assert found.names == ['H&E & &A µ']


@pytest.mark.parametrize('text', [
    xml(), xml([]), xml([], []), '<Annotations/>',
    '<?xml version="1.0"?><Annotations MicronsPerPixel="0.5"></Annotations>'])
def test_no_regions_are_no_nuclei(text):
    assert filled(imagescope.parse, text) == ([], [])


ASAP = ('<?xml version="1.0"?><ASAP_Annotations><Annotations><Annotation '
        'Name="Annotation 0" Type="Polygon" PartOfGroup="nuclei"><Coordinates>'
        + ''.join(f'<Coordinate Order="{order}" X="{column}" Y="{row}"/>'
                  for order, (row, column) in enumerate(SQUARE))
        + '</Coordinates></Annotation></Annotations></ASAP_Annotations>')


@pytest.mark.parametrize('text, said', [
    (ASAP, '<ASAP_Annotations>'), ('<html><body>404</body></html>', '<html>'),
    ('<image><overlays><graphic type="polygon"/></overlays></image>',
     '<image>'), ('<a/>', '<a>'),
    ('', 'no element found'), ('no XML', 'syntax error'),
    ('<Annotations><Annotation>', 'no element found'),
    (xml([region(SQUARE)])[:-30], 'unclosed token'),
    (xml([region(SQUARE)]).replace('Y="40"', 'Y="forty"'), 'forty'),
    (xml([region(SQUARE)]).replace('Y="40"', ''), "'Y'")])
def test_what_is_no_imagescope_annotation(tmp_path, text, said):
    assert said in refused(tmp_path / 'a b.xml', text)


# GeoJSON


SQUARE_FEATURE = feature(SQUARE, objectType='annotation')
FAR_FEATURE = feature(FAR, objectType='detection')


@pytest.mark.parametrize('content, areas', [
    ({'type': 'FeatureCollection', 'features': [SQUARE_FEATURE,
                                                FAR_FEATURE]}, [400, 200]),
    ([SQUARE_FEATURE, FAR_FEATURE], [400, 200]),
    (SQUARE_FEATURE, [400]),
    (SQUARE_FEATURE['geometry'], [400]),
    ([FAR_FEATURE['geometry'], SQUARE_FEATURE], [200, 400]),
    ([], []), ({'type': 'FeatureCollection', 'features': []}, [])])
@pytest.mark.parametrize('encode', [
    str.encode, lambda text: gzip.compress(text.encode()),
    lambda text: text.encode('utf-8-sig'),
    lambda text: text.encode('utf-16')])
def test_containers(content, areas, encode):
    data = encode(json.dumps(content))
    assert filled(geojson.parse, data) == (areas, [])


@pytest.mark.parametrize('kind', [
    {'properties': {'objectType': 'cell'}},
    {'properties': {'object_type': 'cell'}},
    {'properties': {}, 'id': 'PathCellObject'}])
def test_of_cells_the_nuclei(kind):
    cell = dict(feature(square(10, 20, 50, 60)), **kind)
    nucleus = dict(cell, nucleusGeometry=SQUARE_FEATURE['geometry'])
    assert of_geojson([nucleus, cell, FAR_FEATURE, dict(
        cell, nucleusGeometry=None)]) == (
            [400, 200], ['cells without a nucleus: 2'])


@pytest.mark.parametrize('properties', [
    None, {}, {'classification': {'name': 'Tumor', 'color': [200, 0, 0]}},
    {'object_type': 'detection'}, {'classification': 'Tumor'}])
def test_objects_of_other_types(properties):
    outlined = dict(SQUARE_FEATURE, properties=properties, id='1234')
    assert of_geojson(outlined) == ([400], [])


def test_holes_parts_and_rings():
    # A hole of 50 pixels, an ellipse's attributes, a ring that is not closed
    # and a third coordinate.
    holed = feature(SQUARE, square(25, 35, 35, 40))
    holed['geometry'].update(isEllipse=False, plane={'c': -1, 'z': 0, 't': 0})
    unclosed = {'type': 'Polygon', 'coordinates': [
        [[column, row, 0] for row, column in FAR]]}
    parts = {'type': 'MultiPolygon', 'coordinates': [
        [ring(square(0, 0, 10, 10)), ring(square(2, 2, 5, 5))],
        [ring(square(0, 12, 10, 17))], []]}
    assert of_geojson([holed, unclosed, parts]) == (
        [350, 200, 100 - 9 + 50], [])


@pytest.mark.parametrize('inner, area', [
    # At the corners, on the sides, partly outside.
    (square(20, 30, 30, 40), 300),
    ([(20, 40), (30, 50), (40, 40), (30, 30)], 200),
    ([(30, 35), (20, 40), (30, 45)], 350),
    (square(20, 40, 40, 52), 200),
    # Apart, beside, around.
    (FAR, None), (square(20, 50, 40, 70), None),
    ([(40, 30), (40, 50), (60, 40)], None), (square(10, 20, 50, 60), None)])
def test_rings_outside_their_outline_are_no_holes(inner, area):
    areas, skipped = of_geojson([feature(SQUARE, inner)])
    assert skipped == ([] if area else ['rings outside their outline: 1'])
    # Of centres on the hole's sides, those on the upper ones are in it.
    assert areas == [area or 400]


def test_objects_that_hold_others():
    collection = {'type': 'GeometryCollection', 'geometries': [
        SQUARE_FEATURE['geometry'],
        {'type': 'LineString', 'coordinates': [[1, 1], [2, 2]]}]}
    inner = {'type': 'FeatureCollection', 'features': [
        FAR_FEATURE, dict(SQUARE_FEATURE, geometry=collection)]}
    for content in (inner, {'type': 'FeatureCollection', 'features': [inner]},
                    [FAR_FEATURE, collection]):
        assert of_geojson(content) == (
            [200, 400], ['objects of type LineString: 1'])


@pytest.mark.parametrize('properties', [
    {'objectType': 'tile'}, {'object_type': 'tile'}, {'objectType':
                                                      'tma_core'}])
def test_tiles_and_cores_are_no_nuclei(properties):
    kind = 'tile' if 'tile' in properties.values() else 'tmacore'
    tile = feature(square(0, 0, 32, 32), **properties)
    former = dict(tile, properties={}, id='PathTileObject')
    for content in ([tile, SQUARE_FEATURE], [SQUARE_FEATURE, tile]):
        assert of_geojson(content) == ([400], [f'objects of type {kind}: 1'])
    assert of_geojson([former, SQUARE_FEATURE])[0] == [400]
    assert message(of_geojson, [tile, former, tile]).startswith(
        'holds no outline of a nucleus, only objects of type ')


@pytest.mark.parametrize('ring', [
    [[5, 5], [6, 5]], [], 3, [[5, 5], [6, 'a'], [7, 7]],
    [[5, 5], [6, float('nan')], [7, 7]]])
def test_a_damaged_ring_costs_only_itself(ring):
    bad = {'type': 'Polygon', 'coordinates': [ring]}
    areas, (line,) = of_geojson([SQUARE_FEATURE, bad, FAR_FEATURE])
    assert areas == [400, 200] and line.endswith(': 1')
    # A hole, and one part of many.
    holed = feature(SQUARE)
    holed['geometry']['coordinates'].append(ring)
    assert of_geojson([holed])[0] == [400]
    areas, _ = of_geojson({'type': 'MultiPolygon', 'coordinates': [
        [ring], FAR_FEATURE['geometry']['coordinates'], [[[1, 2], [3, 4]]]]})
    assert areas == [200]
    data = xml([region(SQUARE), region(FAR).replace('Y="70"', 'Y="up"')])
    assert filled(imagescope.parse, data) == (
        [400], ["regions (could not convert string to float: 'up'): 1"])


def test_hovernet():
    """Its vertices are indices of pixels; the box ends behind the last."""
    def at(row, column, box=None):
        return {'type': 2, 'contour': [
            [column + x, row + y] for y, x in square(0, 0, 20, 20)], **(
            {'bbox': [[row, column], [row + box, column + box]]} if box
            else {})}

    found = from_bytes(geojson.parse, 'a.json', json.dumps({
        'mag': None, 'nuc': {
            '1': at(20, 30, 21), '2': at(60, 10), '3': at(60, 50, 20),
            # HoVer-Net adds a tile's x to rows and its y to columns.
            '6': {**at(20, 60), 'bbox': [[60, 20], [81, 41]]},
            '7': {**at(60, 75), 'bbox': [60, 75, 81, 96]},
            '4': {'contour': [[1, 1], [2, 2]], 'type': None},
            '5': {'contour': [], 'type': None}}}))
    instances, skipped = laid(found, 100, 100)
    expected = np.zeros((100, 100))
    expected[20:41, 30:51], expected[60:81, 10:31] = 1, 2
    expected[60:80, 50:70] = 3  # drawn along the edges of the pixels
    expected[20:41, 60:81], expected[60:81, 75:96] = 4, 5
    np.testing.assert_array_equal(instances, expected)
    assert found.names == ['type 2'] * 5
    assert skipped == [
        'damaged outlines (a ring of fewer than three vertices): 2']


def test_labelme():
    shapes = [{'label': 'nucleus', 'shape_type': kind, 'points': [
        [column, row] for row, column in SQUARE]}
        for kind in ('polygon', 'linestrip')]
    found = from_bytes(geojson.parse, 'a.json',
                       json.dumps({'shapes': shapes}))
    instances, skipped = laid(found, 100, 100)
    assert np.bincount(instances.ravel())[1:].tolist() == [400]
    assert found.names == ['nucleus'] and len(skipped) == 1


@pytest.mark.parametrize('size, said', [
    ((100, 80), None), ((None, None), None), ((None, 7), None),
    ((80, 100), '100 x 80'), ((50, 40), '40 x 50')])
def test_labelme_states_the_size_of_its_image(tmp_path, size, said):
    path = str(write(tmp_path / 'a.json', json.dumps({
        'shapes': [{'label': 'nucleus', 'points': SQUARE}],
        'imageHeight': size[0], 'imageWidth': size[1]})))
    if said:
        assert message(annotations.place, path, (100, 80), (100, 80)) == (
            f'{path}: {said} pixels, but its image has 80 x 100; give the '
            'annotation of this image')
    else:
        assert annotations.place(path, (100, 80), (200, 160)).nuclei


@pytest.mark.parametrize('content', [
    # COCO's, HistomicsUI's, Label Studio's, VIA's, COCO's results, and notes.
    {'images': [], 'annotations': [], 'categories': []}, {'elements': []},
    [{'annotations': [], 'data': {}}],
    {'a.png123': {'filename': 'a.png', 'size': 123, 'regions': []}},
    [{'image_id': 1, 'category_id': 1, 'segmentation': {
        'size': [100, 100], 'counts': 'abc'}}] * 2,
    {'patient': 7}, {}])
def test_json_of_other_programs(tmp_path, content):
    path = tmp_path / 'a.json'
    assert refused(path, json.dumps(content)) == (
        f'{path}: JSON, but not of QuPath, HoVer-Net or labelme; that of '
        'COCO and others is not read: export GeoJSON of QuPath, or label '
        'images')


def test_what_encloses_nothing_in_geojson():
    empty = [{'type': kind, 'coordinates': []}
             for kind in ('Polygon', 'MultiPolygon')]
    empty += [{'type': 'Feature', 'geometry': None, 'properties': {}}]
    points = [{'type': 'Point', 'coordinates': [3, 4]},
              {'type': 'LineString', 'coordinates': [[3, 4], [5, 6]]},
              {'type': 'Feature', 'geometry': {
                  'type': 'MultiPoint', 'coordinates': [[3, 4]]}}]
    areas, skipped = of_geojson([*empty, SQUARE_FEATURE, *points])
    assert areas == [400]
    assert skipped == ['objects without a geometry: 3', *(
        f'objects of type {kind}: 1'
        for kind in ('Point', 'LineString', 'MultiPoint'))]


WHOLE = json.dumps([SQUARE_FEATURE])


@pytest.mark.parametrize('data', [
    '', 'no JSON', WHOLE[:-9], '{}', 'null', '3', '"text"', '[[]]', '[3]',
    '{"type": "FeatureCollection"}', '[' * 100000,
    '{"type": "FeatureCollection", "features": null}',
    '{"type": "GeometryCollection"}', '{"shapes": 3}', '{"nuc": [3]}',
    '{"type": "Polygon"}', '{"type": "Polygon", "coordinates": 3}',
    '{"type": "Polygon", "coordinates": [[]]}',
    '{"type": "Polygon", "coordinates": [[[1, 2], [3, 4]]]}',
    '{"type": "Polygon", "coordinates": [[[1], [3], [4]]]}',
    '{"type": "Polygon", "coordinates": [[[1, 2], [3, 4], [5, 1%s]]]}' % (
        400 * '0'),
    WHOLE.replace('[30, 20]', '[30, "a"]'),
    gzip.compress(WHOLE.encode())[:-9], b'\x1f\x8b no gzip',
    WHOLE.encode('utf-16')[:-3]], ids=lambda data: repr(data[:3]))
def test_what_is_no_geojson(tmp_path, data):
    assert data != WHOLE
    refused(tmp_path / 'a b.geojson', data)


@pytest.mark.parametrize('data, ending', [
    (xml([region(SQUARE)]).replace('Y="40"', 'Y="nan"'), 'xml'),
    (xml([region(SQUARE)]).replace('Y="40"', 'Y="1e999"'), 'xml'),
    (WHOLE.replace('[30, 20]', '[30, NaN]'), 'geojson'),
    (WHOLE.replace('[30, 20]', '[30, null]'), 'geojson'),
    (WHOLE.replace('[30, 20]', '[30, 1e999]'), 'geojson')])
def test_a_vertex_that_is_not_finite(tmp_path, data, ending):
    assert 'a vertex is not finite' in refused(tmp_path / f'a.{ending}', data)


# Laid on an image of other resolution


def test_outlines_are_scaled_with_the_image(tmp_path):
    path = save_xml(tmp_path / 'a.xml', SQUARE, FAR)
    place = annotations.place(str(path), (100, 100), (50, 200))
    assert (place.skipped, place.classes, place.microns_per_pixel) == (
        [], {}, None)
    instances, kind = annotations.load(
        str(path), (100, 100), (50, 200), place)
    assert kind == 'XML'
    expected = np.zeros((50, 200))
    expected[10:20, 60:100], expected[35:40, 140:180] = 1, 2
    np.testing.assert_array_equal(instances, expected)
    assert ndimage.label(instances)[1] == 2
