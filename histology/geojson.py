"""Reading QuPath's GeoJSON."""
import collections
import gzip
import json
import zlib

import numpy as np

from histology.files import InputError
from histology.rasterize import checked


def parse(data, path):
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
    return checked(nuclei, None, left_out, path)


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
