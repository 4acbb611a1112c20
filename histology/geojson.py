"""Reading QuPath's GeoJSON, and the JSON of HoVer-Net and labelme."""
import collections
import gzip
import json
import re
import zlib

import numpy as np

from histology import listing, outlines
from histology.files import InputError

# QuPath's types of objects that are no nuclei.
OTHER_TYPES = ('tile', 'tmacore', 'root')
DAMAGE = (LookupError, TypeError, AttributeError, ValueError, ArithmeticError)


def parse(path):
    """Parse a GeoJSON file of QuPath 0.2 and later, also gzipped.

    Each annotation or detection is a nucleus; of a cell, its nucleus is one.
    If the parts of a MultiPolygon lie apart, each is a nucleus.

    Returns:
        Outlines.

    Raises:
        InputError: it is no whole GeoJSON.
    """
    nuclei, names, skipped = [], [], collections.Counter()
    try:
        with listing.opened(path) as file:
            data = file.read()
        if data.startswith(b'\x1f\x8b'):
            data = gzip.decompress(data)
        content = json.loads(data.decode(json.detect_encoding(data),
                                         'as latin-1'))
        for item in _objects(_features(content, path)):
            try:
                polygons, name = _polygons(item), _class_name(item)
            except DAMAGE as error:
                polygons = f'damaged objects ({error!r})'
            if isinstance(polygons, str):
                skipped[polygons] += 1
                continue
            parts = [_rings(polygon, skipped) for polygon in polygons]
            parts = [rings for rings in parts if rings]
            boxes = np.array([outlines.box_of([part]) for part in parts])
            if parts and outlines.lie_apart(boxes):
                nuclei += [[part] for part in parts]
            elif parts:
                nuclei.append(parts)
            names += [name] * (len(nuclei) - len(names))
    except (OSError, EOFError, zlib.error, RecursionError, *DAMAGE) as error:
        raise InputError(f'{path}: not a whole GeoJSON file of QuPath '
                         f'({str(error) or type(error).__name__}); export it '
                         'again') from error
    of_file = content if isinstance(content, dict) else {}
    size = of_file.get('imageHeight'), of_file.get('imageWidth')  # labelme's
    return outlines.Outlines(nuclei, names, None, skipped,
                             None if None in size else size)


def _features(content, path):
    """List the objects of a file; those of other programs as Features."""
    items = content if isinstance(content, list) else [content]
    keys = set(items[0]) if items else set()
    if 'nuc' in keys:
        return [_feature(_around_pixels(np.array(nucleus['contour']),
                                        nucleus.get('bbox')),
                         nucleus.get('type') and f'type {nucleus["type"]}')
                for nucleus in content['nuc'].values()]
    if 'shapes' in keys:  # labelme's
        return [_feature(shape['points'], shape['label'],
                         shape.get('shape_type'))
                for shape in content['shapes']]
    if items and all({'type', 'features'}.isdisjoint(item) for item in items):
        raise InputError(f'{path}: JSON, but not of QuPath, HoVer-Net or '
                         'labelme; that of COCO and others is not read: '
                         'export GeoJSON of QuPath, or label images')
    return items


def _around_pixels(contour, box):
    """Widen HoVer-Net's contour, of the indices of the outer pixels.

    `box` has the rows and columns from the first pixel to behind the last, or
    to the last of a contour along the edges of pixels. It may be None, and in
    files of slides it may be of another place.
    """
    if not len(contour):
        return contour  # counted as damaged, as any ring
    low, high = contour.min(axis=0), contour.max(axis=0)
    end = high + 1
    if box and len(box) == 2 and box[0] == low[::-1].tolist():
        end = np.clip(box[1][::-1], high, end)
    return low + (contour - low) * ((end - low) / np.maximum(high - low, 1))


def _feature(points, name, shape=None):
    return {'type': 'Feature', 'properties': {'classification': name},
            'geometry': {'type': (shape or 'Polygon').capitalize(),
                         'coordinates': [points]}}


def _objects(items):
    """Yield the objects that hold no others."""
    for item in items:
        geometry = item.get('geometry') or {}
        inner = item.get('features', item.get('geometries'))
        if 'geometries' in geometry:  # each has the item's properties
            inner = [dict(item, geometry=one)
                     for one in geometry['geometries']]
        yield from [item] if inner is None else _objects(inner)


def _polygons(feature):
    """Return a feature's polygons as lists, or why it has none."""
    properties = feature.get('properties') or {}
    # QuPath 0.4 and later; 0.3; 0.2, as in PathCellObject.
    kind = str(properties.get('objectType') or properties.get('object_type')
               or feature.get('id'))
    kind = re.sub(r'\Apath|_|object\Z', '', kind.lower())
    geometry = feature.get('nucleusGeometry')
    if kind == 'cell' and not geometry:
        return 'cells without a nucleus'
    if kind in OTHER_TYPES:
        return f'objects of type {kind}'
    if not geometry:
        geometry = (feature.get('geometry') if feature['type'] == 'Feature'
                    else feature)
    polygons = geometry['coordinates'] if geometry else []
    if polygons and geometry['type'] != 'MultiPolygon':
        if geometry['type'] != 'Polygon':
            return f'objects of type {geometry["type"]}'
        polygons = [polygons]
    # QuPath writes empty ones, too.
    return ([rings for rings in polygons if len(rings)]
            or 'objects without a geometry')


def _class_name(feature):
    """Return the name of a feature's class, '' if it has none."""
    name = (feature.get('properties') or {}).get('classification') or ''
    if isinstance(name, dict):
        name = name.get('name') or ': '.join(name.get('names') or [])
    return str(name).strip()


def _rings(polygon, skipped):
    """Convert rings of GeoJSON's x, y to (row, column); count lost ones."""
    rings = []
    for coordinates in polygon:
        try:
            ring = outlines.ring([(y, x) for x, y, *_ in coordinates])
        except DAMAGE as error:
            skipped[f'damaged outlines ({error})'] += 1
            if not rings:
                break  # what follows are its holes
            continue
        # A little smaller: a hole may touch the outline from within, and
        # other nuclei, which some scripts write like holes, from outside.
        if rings and outlines.covers(
                [rings], ring + 0.01 * (ring.mean(axis=0) - ring)
                ).mean() <= 0.5:
            skipped['rings outside their outline'] += 1
        else:
            rings.append(ring)
    return rings
