"""Reading Aperio ImageScope's annotations, and HALO's, which look alike."""
import codecs
import collections
import io
import re
import xml.etree.ElementTree as ElementTree

import numpy as np

from histology.files import InputError
from histology.rasterize import checked
from histology.resolution import positive_number

ELLIPSE_VERTICES = 360  # cover 0.99995 of its area
# ImageScope's numbers, and HALO's words, for what encloses something.
SHAPES = {'0': 'polygon', '1': 'rectangle', '2': 'ellipse',
          'polygon': 'polygon', 'rectangle': 'rectangle',
          'ellipse': 'ellipse'}


def parse(data, path):
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
    return checked(nuclei, microns_per_pixel, left_out, path)


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
