"""Reading annotations of Aperio ImageScope, and of HALO, which look alike."""
import codecs
import collections
import io
import json
import re
import xml.etree.ElementTree as ElementTree

import numpy as np

from histology import listing
from histology.files import InputError
from histology.outlines import Outlines, box_of, overlapping, ring
from histology.resolution import positive_number

ELLIPSE_VERTICES = 360  # cover 0.99995 of its area
# ImageScope's numbers for HALO's words for what encloses something.
SHAPES = {'0': 'polygon', '1': 'rectangle', '2': 'ellipse'}


def parse(path):
    """Parse an Aperio ImageScope annotation: a Region for each nucleus.

    Regions of all layers are read together. A negative region is a hole in
    the regions of its layer that do not lie within it; one that is a hole in
    none is counted.

    Returns:
        Outlines.

    Raises:
        InputError: it is no whole ImageScope annotation.
    """
    nuclei, names, skipped = [], [], collections.Counter()
    try:
        with listing.opened(path) as file:
            data = file.read()
        for name, microns, positive, negative in _layers(data, skipped):
            holes = _holes(positive, negative)
            nuclei += [[[ring, *(negative[hole] for hole in its)]]
                       for ring, its in zip(positive, holes)]
            names += [name] * len(positive)
            skipped['negative regions outside their layer\'s outlines'] += (
                len(negative) - len(set().union(*holes)))
    except (ElementTree.ParseError, LookupError, OSError,
            ValueError) as error:
        raise InputError(f'{path}: not a whole ImageScope annotation '
                         f'({error}); export or download it again, or give '
                         'label images or GeoJSON of QuPath') from error
    return Outlines(nuclei, names, microns, skipped)


def _layers(data, skipped):
    """Yield the name, microns, positive and negative rings of each layer."""
    microns, name, rings, root = None, '', ([], []), None
    # As text, for which the parser ignores a declared encoding: some programs
    # declare utf-16 and write UTF-8, and only names are not ASCII.
    encoding = json.detect_encoding(data)
    if not encoding.startswith('utf-8'):  # which takes the least memory
        data = data.decode(encoding, 'as latin-1').encode()
    data = re.sub(rb'&(?!#?\w+;)', b'&amp;', data)  # a bare &
    data = data.lstrip(codecs.BOM_UTF8 + b' \t\r\n')
    text = io.TextIOWrapper(io.BytesIO(data), 'utf-8', 'as latin-1')
    for event, element in ElementTree.iterparse(text, ('start', 'end')):
        tag = element.tag.rsplit('}', 1)[-1]  # without its namespace
        if root is None:
            root = tag
            if root != 'Annotations':
                raise ValueError(f'its root is <{root}>, not <Annotations>')
            microns = positive_number(element.get('MicronsPerPixel', ''))
        elif tag == 'Annotation' and event == 'start':
            name, rings = (element.get('Name') or '').strip(), ([], [])
        elif tag == 'Attribute' and event == 'end':
            name = name or (element.get('Name') or '').strip()
        elif tag == 'Region' and event == 'end':
            negative = element.get('NegativeROA') in ('1', 'true', 'True')
            try:
                rings[negative].append(ring(_region(element)))
            except (LookupError, ValueError) as error:
                skipped[f'regions ({error})'] += 1
            element.clear()  # or memory grows to 30 times the file
        elif tag in ('Annotation', root) and event == 'end':
            # Regions outside any layer, too.
            yield (name, microns, *rings)
            name, rings = '', ([], [])


def _region(element):
    """Return the vertices of a Region; ValueError if it encloses nothing."""
    shape = (element.get('Type') or '0').lower()
    shape = SHAPES.get(shape, shape)
    vertices = np.array(
        [[float(vertex.attrib[axis].replace(',', '.')) for axis in 'YX']
         for vertex in element.iter()
         if vertex.tag.rsplit('}', 1)[-1] in ('Vertex', 'V')])
    least = 3 if shape == 'polygon' else 2
    if (shape not in SHAPES.values() or len(vertices) < least
            or not np.ptp(vertices, axis=0).all()):
        raise ValueError('enclosing nothing, as arrows, rulers, points')
    # Two are corners of the shape's box, as are an ellipse's four.
    if len(vertices) > 2 and not (shape == 'ellipse' and len(vertices) == 4):
        return vertices  # a rectangle may be turned
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    if shape == 'rectangle':
        return np.array([low, (low[0], high[1]), high, (high[0], low[1])])
    angle = np.arange(ELLIPSE_VERTICES) * 2 * np.pi / ELLIPSE_VERTICES
    return ((low + high) / 2 + (high - low) / 2
            * np.stack([np.sin(angle), np.cos(angle)], axis=1))


def _holes(positive, negative):
    """List, for each positive ring, the negative ones that may cut it.

    These are near it, and not around it.
    """
    from skimage.measure import points_in_poly
    boxes, others = (
        np.array([box_of([[ring]]) for ring in rings]).reshape(-1, 4)
        for rings in (positive, negative))
    return [[hole for hole in near
             if (others[hole, :2] >= box[:2]).any()
             or (others[hole, 2:] <= box[2:]).any()
             or not points_in_poly(outline, negative[hole]).all()]
            for outline, box, near in zip(positive, boxes,
                                          overlapping(boxes, others))]
