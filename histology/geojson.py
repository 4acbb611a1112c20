"""Reading QuPath's GeoJSON."""
import collections
import gzip
import json
import zlib

import numpy as np

from histology import listing
from histology.files import InputError
from histology.rasterize import Outlines


def parse(path, data=None):
    """Parse a GeoJSON file of QuPath 0.2 and later, also gzipped.

    Annotations and detections are nuclei. The nucleus of a cell is its
    `nucleusGeometry`; a cell without one is skipped, and so are geometries
    that enclose nothing: only Polygon and MultiPolygon do.

    Args:
        path: file to read, or what to call `data` in messages.
        data: bytes of the file if they are already at hand.

    Returns:
        Outlines.

    Raises:
        InputError: it is no whole GeoJSON.
    """
    nuclei, names, skipped = [], [], collections.Counter()
    try:
        data = listing.read(path, data)
        if data.startswith(b'\x1f\x8b'):
            data = gzip.decompress(data)
        features = json.loads(data)
        if isinstance(features, dict):  # or bare, in a list
            features = (features['features']
                        if features['type'] == 'FeatureCollection'
                        else [features])
        for feature in features:
            polygons = _polygons(feature)
            if isinstance(polygons, str):
                skipped[polygons] += 1
            else:
                nuclei.append([[_ring(ring) for ring in polygon]
                               for polygon in polygons])
                names.append(_class_name(feature))
    except (OSError, EOFError, zlib.error, LookupError, TypeError,
            AttributeError, ValueError, ArithmeticError,
            RecursionError) as error:
        raise InputError(f'{path}: not a whole GeoJSON file of QuPath '
                         f'({str(error) or type(error).__name__}); export it '
                         'again') from error
    return Outlines(nuclei, names, None, skipped)


def _polygons(feature):
    """Return a feature's polygons as lists, or why it has none."""
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


def _class_name(feature):
    """Return the name of a feature's class, '' if it has none."""
    found = (feature.get('properties') or {}).get('classification') or {}
    if isinstance(found, dict):
        found = found.get('name') or ': '.join(found.get('names') or [])
    return str(found)


def _ring(coordinates):
    """Convert a ring of GeoJSON's x, y to (row, column)."""
    ring = np.array([(y, x) for x, y, *_ in coordinates], np.float64)
    if len(ring) < 3:
        raise ValueError('a ring of fewer than three vertices')
    return ring
