"""Polygons along pixel edges, by hand and by shapely."""
import numpy as np
import pytest
from matplotlib.path import Path
from scipy import ndimage
from shapely import geometry
from skimage import measure

from prediction import polygons


def traced(labels):
    return polygons.trace(polygons.find_corners(labels))


def rings(*rows, label=1):
    """The polygons of a region drawn in digits, as lists of rings of
    (x, y)."""
    labels = np.array([list(map(int, row)) for row in rows], np.int32)
    return [[list(map(tuple, ring.tolist())) for ring in polygon]
            for polygon in traced(labels)[label]]


def test_a_pixel():
    assert rings('1') == [[[(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)]]]
    assert rings('000', '001') == [[[
        (2, 1), (3, 1), (3, 2), (2, 2), (2, 1)]]]


def test_only_corners_are_vertices():
    assert rings('100', '100', '111') == [[[
        (0, 0), (1, 0), (1, 2), (3, 2), (3, 3), (0, 3), (0, 0)]]]


def test_a_hole_runs_the_other_way_round():
    assert rings('0000', '0111', '0101', '0111') == [[
        [(1, 1), (4, 1), (4, 4), (1, 4), (1, 1)],
        [(3, 2), (2, 2), (2, 3), (3, 3), (3, 2)]]]


def test_a_pocket_closed_by_a_corner_is_a_hole():
    # The pixels (0, 2) and (1, 3) touch at x = 3, y = 1, to which the hole of
    # the pixel (1, 2) reaches.
    (shell, hole), = rings('1110', '1001', '1111')
    assert shell == [(0, 0), (3, 0), (3, 1), (4, 1), (4, 3), (0, 3), (0, 0)]
    assert hole == [(3, 1), (1, 1), (1, 2), (3, 2), (3, 1)]
    assert geometry.Polygon(shell, [hole]).is_valid
    (shell, hole), = rings('0111', '1001', '1111')  # the other diagonal
    assert shell == [(1, 0), (4, 0), (4, 3), (0, 3), (0, 1), (1, 1), (1, 0)]
    assert hole == [(3, 1), (1, 1), (1, 2), (3, 2), (3, 1)]


def test_pieces_that_touch_by_a_corner_are_two_polygons():
    assert rings('10', '01') == [
        [[(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)]],
        [[(1, 1), (2, 1), (2, 2), (1, 2), (1, 1)]]]


def test_a_piece_in_the_hole_of_another_and_another_label():
    assert rings('33333', '30003', '30322', '30003', '33333', label=3) == [
        [[(0, 0), (5, 0), (5, 2), (4, 2), (4, 1), (1, 1), (1, 4), (4, 4),
          (4, 3), (5, 3), (5, 5), (0, 5), (0, 0)]],
        [[(2, 2), (3, 2), (3, 3), (2, 3), (2, 2)]]]


def test_no_region():
    assert traced(np.zeros((3, 4), np.int32)) == {}


# Random regions


def noise(seed):
    """Nuclei of every shape, in one piece each, up to the border."""
    rng = np.random.RandomState(seed)
    values = ndimage.gaussian_filter(rng.standard_normal((150, 170)),
                                     rng.uniform(0.3, 1.2))
    labels = ndimage.label(values > np.quantile(values, 0.4))[0]
    # Of what all hangs together many touching nuclei are made.
    cells = rng.randint(1, 60, (10, 10)).repeat(15, 0).repeat(17, 1)
    return measure.label(np.where(labels, labels * 60 + cells, 0),
                         background=0, connectivity=1).astype(np.int32)


def specks(seed):
    """Labels that are all over the image, in many pieces."""
    rng = np.random.RandomState(seed)
    return rng.randint(0, 5, (40, 50)).astype(np.int32)


def signed_area(ring):
    x, y = ring.T.astype(float)
    return (x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2


def rasterised(regions, shape):
    """Pixels whose centres lie in a polygon's shell and in no hole of it."""
    labels = np.zeros(shape, np.int32)
    for label, its in regions.items():
        for polygon in its:
            low, high = polygon[0].min(axis=0), polygon[0].max(axis=0)
            x, y = np.meshgrid(*[np.arange(*ends) for ends in zip(low, high)])
            centres = np.stack([x.ravel(), y.ravel()], axis=1) + 0.5
            inside = Path(polygon[0]).contains_points(centres)
            for hole in polygon[1:]:
                inside &= ~Path(hole).contains_points(centres)
            inside = inside.reshape(x.shape)
            there = labels[low[1]:high[1], low[0]:high[0]]
            assert not there[inside].any()
            there[inside] = label
    return labels


@pytest.mark.parametrize('make, seed, count', [
    *[(noise, seed, 300) for seed in range(6)],
    *[(specks, seed, 4) for seed in range(3)]])
def test_random_regions_are_valid_and_give_their_pixels_back(make, seed,
                                                             count):
    labels = make(seed)
    regions = traced(labels)
    assert list(regions) == list(range(1, labels.max() + 1))
    assert len(regions) >= count
    for label, its in regions.items():
        for polygon in its:
            assert all((ring[0] == ring[-1]).all() for ring in polygon)
            assert [signed_area(ring) > 0 for ring in polygon] == [
                True] + [False] * (len(polygon) - 1)
            assert geometry.Polygon(polygon[0], polygon[1:]).is_valid
        whole = geometry.MultiPolygon(
            [(polygon[0], polygon[1:]) for polygon in its])
        assert whole.is_valid
        assert whole.area == (labels == label).sum()
        assert make is specks or len(its) == 1
    np.testing.assert_array_equal(rasterised(regions, labels.shape), labels)
    np.testing.assert_allclose(
        polygons.hull_areas(polygons.find_corners(labels)),
        [geometry.MultiPoint(np.concatenate([polygon[0] for polygon in its])
                             ).convex_hull.area
         for its in regions.values()])


def test_random_regions_hold_what_is_hard():
    """Holes, and rings that touch."""
    holes = touching = 0
    for seed in range(6):
        for (shell, *inner), in traced(noise(seed)).values():
            holes += len(inner)
            points = np.concatenate([ring[1:] for ring in [shell, *inner]])
            touching += len(points) - len(np.unique(points, axis=0))
    assert holes > 500 and touching > 500
