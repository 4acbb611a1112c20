"""Outlines of nuclei from Aperio ImageScope and QuPath, and their pixels.

A nucleus is a list of polygons, and a polygon a list of rings, of which the
first is its outline and the others are holes, as in GeoJSON's MultiPolygon. A
ring is float64 [V, 2], vertices as (row, column) in pixels, counted from the
upper left corner of the upper left pixel, as both programs do: the centre of
pixel (r, c) is at (r + 0.5, c + 0.5).
"""
import codecs
import collections
import gzip
import io
import json
import re
import xml.etree.ElementTree as ElementTree
import zlib

import numpy as np

from input_pipeline.files import InputError
from input_pipeline.resolution import positive_number

FILL_RULE = ('pixel centre, at (row + 0.5, column + 0.5), inside the outline; '
             'of centres on the outline, those on upper sides, and on the '
             'left where it is vertical, are in; where two overlap, the '
             'earlier outline wins')

CENTRE = 0.5  # of a pixel, from its corner

# Row and column, in pixels. Moving the outline up, and left by far less, by
# less than the last of the six decimals in the files settles on which side a
# centre on the outline lies, as MATLAB's poly2mask does.
NUDGE = np.array([1e-7, 1e-9])

# Whoever outlines the region that was annotated, or the whole image, draws
# no nucleus: larger ones than this share of the image ...
MOST_OF_IMAGE = 0.25
# ... and those around so many others are left out.
MOST_WITHIN = 2

ELLIPSE_VERTICES = 360  # cover 0.99995 of its area
# ImageScope's numbers, and HALO's words, for what encloses something.
SHAPES = {'0': 'polygon', '1': 'rectangle', '2': 'ellipse',
          'polygon': 'polygon', 'rectangle': 'rectangle',
          'ellipse': 'ellipse'}

# What a file says: the nuclei; micrometres per pixel, or None; and what was
# left out, a list of texts.
Outlines = collections.namedtuple('Outlines',
                                  'nuclei microns_per_pixel left_out')


def parse_imagescope(data, path):
    """Parses an Aperio ImageScope annotation: a Region for each nucleus.

    Regions of all layers are read together. A negative region is a hole in
    those of its layer that do not lie within it; one that is a hole in none
    is counted. A layer called Ambiguous, as
    MoNuSAC's test images have it, holds what the annotators were not sure of,
    and is left out.

    Args:
        data: bytes of the XML file.
        path: what to call it in messages.

    Returns:
        Outlines.

    Raises:
        InputError: it is no whole ImageScope annotation.
    """
    nuclei, left_out = [], collections.Counter()
    microns_per_pixel = None
    try:
        for name, microns, positive, negative, odd in _layers(data):
            microns_per_pixel = microns_per_pixel or microns
            if name.lower() == 'ambiguous':
                left_out['regions of the layer Ambiguous'] += len(positive)
                continue
            left_out['regions that enclose nothing (arrows, rulers, points)'
                     ] += odd
            holes = [_holes(ring, negative) for ring in positive]
            nuclei += [[[ring, *its]] for ring, its in zip(positive, holes)]
            left_out['negative regions outside their layer\'s outlines'] += (
                len(negative) - len({id(hole) for its in holes
                                     for hole in its}))
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise InputError(f'{path}: not a whole ImageScope annotation '
                         f'({error}); export or download it again') from error
    return _checked(nuclei, microns_per_pixel, left_out, path)


def _layers(data):
    """Yields (name, microns per pixel, positive, negative, odd) of a layer.

    `positive` and `negative` are lists of rings, `odd` the number of regions
    that are none.
    """
    microns, name, rings, odd = None, '', ([], []), 0
    root = None
    for event, element in ElementTree.iterparse(
            io.BytesIO(_as_utf_8(data)), ('start', 'end')):
        tag = element.tag.rsplit('}', 1)[-1]  # without its namespace
        if root is None:
            root = tag
            if root != 'Annotations':
                raise ValueError(f'its root is <{root}>, not <Annotations>')
            microns = positive_number(element.get('MicronsPerPixel', ''))
        elif tag == 'Annotation' and event == 'start':
            name, rings, odd = element.get('Name') or '', ([], []), 0
        elif tag == 'Attribute' and event == 'end':
            name = name or element.get('Name') or ''
        elif tag == 'Region' and event == 'end':
            ring = _region(element)
            if ring is None:
                odd += 1
            else:
                rings[element.get('NegativeROA') in ('1', 'true', 'True')
                      ].append(ring)
            element.clear()  # or memory grows to 30 times the file
        elif tag in ('Annotation', root) and event == 'end':
            # Regions outside any layer, too.
            yield (name, microns, *rings, odd)
            name, rings, odd = '', ([], []), 0


def _as_utf_8(data):
    """An XML file's bytes in UTF-8, declared so or not at all.

    Programs write utf-16 there and UTF-8 after it, and the other way round.
    """
    declared = re.match(rb'\s*<\?xml[^>]*encoding\s*=\s*["\']([\w.-]+)', data)
    encoding = declared.group(1).decode() if declared else 'utf-8'
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = 'utf-16'
    elif data.startswith(codecs.BOM_UTF8):
        encoding = 'utf-8-sig'
    elif data[:2].find(b'\0') >= 0:
        encoding = 'utf-16-be' if data[:1] == b'\0' else 'utf-16-le'
    elif encoding.lower() in ('utf-8', 'utf8', 'us-ascii'):
        # As it is: a copy of a large file would fill the memory.
        return data if data[:1] == b'<' else data.lstrip()
    elif encoding.lower().startswith('utf-16'):
        encoding = 'utf-8'
    text = data.decode(encoding)
    return re.sub(r'\A\s*<\?xml.*?\?>', '', text, flags=re.S).encode()


def _region(element):
    """The ring of a Region element, or None where it encloses nothing."""
    shape = SHAPES.get((element.get('Type') or '0').lower())
    vertices = np.array(
        [(float(vertex.attrib['Y']), float(vertex.attrib['X']))
         for vertex in element.iter()
         if vertex.tag.rsplit('}', 1)[-1] in ('Vertex', 'V')])
    if shape is None or len(vertices) < 2:
        return None
    if shape == 'polygon' or len(vertices) not in (2, 4):
        return vertices if len(vertices) > 2 else None
    if shape == 'rectangle' and len(vertices) == 4:
        return vertices  # it may be turned
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    if (low == high).any():
        return None
    if shape == 'rectangle':
        return np.array([low, (low[0], high[1]), high, (high[0], low[1])])
    angle = np.arange(ELLIPSE_VERTICES) * 2 * np.pi / ELLIPSE_VERTICES
    return ((low + high) / 2 + (high - low) / 2
            * np.stack([np.sin(angle), np.cos(angle)], axis=1))


def _holes(ring, negative):
    """Of a layer's negative rings, those that may take from a positive one."""
    from skimage.measure import points_in_poly
    low, high = ring.min(axis=0), ring.max(axis=0)
    return [hole for hole in negative
            if (hole.min(axis=0) < high).all()
            and (hole.max(axis=0) > low).all()
            and not ((hole.min(axis=0) < low).all()
                     and (hole.max(axis=0) > high).all()
                     and points_in_poly(ring, hole).all())]


def parse_geojson(data, path):
    """Parses a GeoJSON file of QuPath, 0.2 and later, also gzipped.

    Annotations and detections alike are nuclei. Of a cell it is its
    `nucleusGeometry`; one without has none. Other geometries than Polygon and
    MultiPolygon enclose nothing.

    Args:
        data: bytes of the file.
        path: what to call it in messages.

    Returns:
        Outlines.

    Raises:
        InputError: it is no whole GeoJSON.
    """
    nuclei, left_out = [], collections.Counter()
    try:
        if data.startswith(b'\x1f\x8b'):
            data = gzip.decompress(data)
        for feature in _features(json.loads(data)):
            polygons = _polygons(feature)
            if isinstance(polygons, str):
                left_out[polygons] += 1
            else:
                nuclei.append([[_ring(ring) for ring in polygon]
                               for polygon in polygons])
    except (OSError, EOFError, zlib.error, LookupError, TypeError,
            AttributeError, ValueError, RecursionError) as error:
        raise InputError(f'{path}: not a whole GeoJSON file of QuPath '
                         f'({str(error) or type(error).__name__}); export it '
                         'again') from error
    return _checked(nuclei, None, left_out, path)


def _features(content):
    """The Features, or bare geometries, in what a GeoJSON file may hold."""
    if isinstance(content, list):
        return content
    if content['type'] == 'FeatureCollection':
        return content['features']
    return [content]


def _polygons(feature):
    """A feature's polygons as lists, or why it has none."""
    geometry = feature
    if feature['type'] == 'Feature':
        properties = feature.get('properties') or {}
        # QuPath 0.4 and later; 0.3; 0.2.
        kind = (properties.get('objectType') or properties.get('object_type')
                or feature.get('id') or '')
        geometry = feature.get('nucleusGeometry') or feature.get('geometry')
        if (str(kind).lower() in ('cell', 'pathcellobject')
                and not feature.get('nucleusGeometry')):
            return 'cells without a nucleus'
        if geometry is None:
            return 'objects without a geometry'
    if geometry['type'] in ('Polygon', 'MultiPolygon'):
        polygons = geometry['coordinates']
        if geometry['type'] == 'Polygon':
            polygons = [polygons]
        # QuPath writes empty ones, too.
        return ([rings for rings in polygons if rings]
                or 'objects without a geometry')
    if geometry['type'] in ('Point', 'MultiPoint', 'LineString',
                            'MultiLineString'):
        return 'points and lines'
    raise ValueError(f'it holds a {geometry["type"]}')


def _ring(coordinates):
    """A ring of GeoJSON's x, y as (row, column)."""
    ring = np.array([(y, x) for x, y, *_ in coordinates], np.float64)
    if len(ring) < 3:
        raise ValueError('a ring of fewer than three vertices')
    return ring


def _checked(nuclei, microns_per_pixel, left_out, path):
    """Outlines, of which every vertex is finite, or else InputError."""
    if not all(np.isfinite(ring).all() for nucleus in nuclei
               for polygon in nucleus for ring in polygon):
        raise InputError(f'{path}: a vertex is not finite; export or download '
                         'it again')
    return Outlines(nuclei, microns_per_pixel,
                    [f'{what}: {count}' for what, count in left_out.items()
                     if count])


def fill(nuclei, height, width):
    """Fills nuclei by FILL_RULE.

    Overlaps go to the earlier outline, as in the challenge's own conversion
    (Kumar et al., IEEE TMI 2020). A nucleus wholly under others has no pixel,
    and its number stays unused. Outlines that are no nuclei are left out, see
    MOST_OF_IMAGE and MOST_WITHIN, and so are those outside the image.

    Args:
        nuclei: N nuclei, see the head of this module.
        height, width: size of the image in pixels; outlines are clipped.

    Returns:
        int32 [height, width], 0 in the background and 1 to N in the nuclei
        list of texts, what was left out

    Raises:
        InputError: all nuclei lie outside the image.
    """
    instances = np.zeros((height, width), np.int32)
    boxes = _boxes(nuclei)  # [N, 4]
    outside = ((boxes[:, 2:] <= 0) | (boxes[:, :2] >= (height, width))
               ).any(axis=1)
    if len(nuclei) and outside.all():
        low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
        raise InputError(
            f'all {len(nuclei)} outlines lie outside the image of {width} x '
            f'{height} pixels, at x {low[1]:.0f} to {high[1]:.0f} and y '
            f'{low[0]:.0f} to {high[0]:.0f}; export them in pixels of this '
            'image, not of the slide')
    around = _around_others(nuclei, boxes)
    left_out = [f'outlines outside the image: {outside.sum()}'
                ] if outside.any() else []
    for index in np.flatnonzero(~outside)[::-1]:
        window, inside = _inside(nuclei[index], height, width)
        if inside is None:
            continue
        why = (f'around {around[index]} others' if index in around else
               f'of {inside.sum() / (height * width):.0%} of the image'
               if inside.sum() > MOST_OF_IMAGE * height * width else None)
        if why:
            left, top, right, bottom = boxes[index, [1, 0, 3, 2]]
            left_out.append(f'an outline {why}, at x {left:.0f} to '
                            f'{right:.0f} and y {top:.0f} to {bottom:.0f}')
        else:
            instances[window][inside] = index + 1
    return instances, left_out


def _boxes(nuclei):
    """float64 [N, 4]: least row and column, highest row and column."""
    boxes = np.empty((len(nuclei), 4))
    for box, nucleus in zip(boxes, nuclei):
        vertices = np.concatenate([polygon[0] for polygon in nucleus])
        box[:2], box[2:] = vertices.min(axis=0), vertices.max(axis=0)
    return boxes


def _around_others(nuclei, boxes):
    """Maps the index of each nucleus around many others to their number."""
    from skimage.measure import points_in_poly
    found = {}
    order = np.argsort(boxes[:, 1])
    lefts = boxes[order, 1]
    for index, (top, left, bottom, right) in enumerate(boxes):
        # Those whose left side lies within: few, but for a large outline.
        others = order[slice(*np.searchsorted(lefts, (left, right)))]
        others = others[(boxes[others, 0] > top) & (boxes[others, 2] < bottom)
                        & (boxes[others, 1] > left)
                        & (boxes[others, 3] < right)]
        if len(others) <= MOST_WITHIN:
            continue
        centres = (boxes[others, :2] + boxes[others, 2:]) / 2
        count = sum(points_in_poly(centres, polygon[0]).sum()
                    for polygon in nuclei[index])
        if count > MOST_WITHIN:
            found[index] = count
    return found


def _inside(nucleus, height, width):
    """The pixels of a nucleus: a window of the image and which of it.

    Returns:
        slices, and bool of the window's shape, or None where it has no pixel
    """
    from skimage.draw import polygon as pixels  # for a fast start of main.py
    rings = [[ring - CENTRE - NUDGE for ring in polygon]
             for polygon in nucleus]
    vertices = np.concatenate([polygon[0] for polygon in rings])
    low = np.maximum(np.floor(vertices.min(axis=0)), 0).astype(int)
    high = np.minimum(np.ceil(vertices.max(axis=0)) + 1,
                      (height, width)).astype(int)
    window = tuple(map(slice, low, high))
    if (low >= high).any():
        return window, None
    inside = np.zeros(high - low, bool)
    for polygon in rings:
        part = np.zeros_like(inside)
        for ring, value in zip(polygon, [True] + [False] * len(polygon)):
            part[pixels(*(ring - low).T, part.shape)] = value
        inside |= part
    return window, inside
