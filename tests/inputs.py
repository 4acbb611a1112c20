"""Images and annotations as users have them, written for the tests."""
import collections
import io
import json
import zipfile

import numpy as np
import pytest
import tifffile
from PIL import Image

from histology import listing, outlines, rasterize, resolution
from histology.files import InputError
from input_pipeline import prepare, store

SIDE = 300  # of most images, pixels


def pixels(seed, height=SIDE, width=None):
    return np.random.RandomState(seed).randint(
        0, 256, (height, width or height, 3), np.uint8)


def save(path, array, **options):
    """Writes an image by the ending of its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == '.npy':
        np.save(str(path), array)
    elif path.suffix.lower() in ('.tif', '.tiff', '.svs'):
        photometric = 'rgb' if array.ndim == 3 else 'minisblack'
        tifffile.imwrite(str(path), array, photometric=photometric)
    else:
        Image.fromarray(array).save(path, **options)
    return path


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str)
                     else content)
    return path


def paint(path, *squares, size=(60, 90), pixel=(255, 0, 0), **options):
    """Writes a black image with squares of (top, left, side)."""
    image = np.zeros((*size, 3), np.uint8)
    for top, left, side in squares:
        image[top:top + side, left:left + side] = pixel
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **options)


def square(top, left, bottom, right):
    """Vertices (row, column); it covers the pixels from top to bottom - 1."""
    return [(top, left), (top, right), (bottom, right), (bottom, left)]


def region(outline, attributes=''):
    return (f'<Region {attributes}><Vertices>' + ''.join(
        f'<Vertex X="{column}" Y="{row}" Z="0"/>' for row, column in outline)
        + '</Vertices></Region>')


def xml(*layers, head=''):
    """An ImageScope annotation of layers, each of regions as text."""
    return f'<Annotations {head}>' + ''.join(
        f'<Annotation Id="{number}"><Regions><RegionAttributeHeaders/>'
        f'{"".join(layer)}</Regions></Annotation>'
        for number, layer in enumerate(layers, 1)) + '</Annotations>'


def save_xml(path, *outlines):
    return write(path, xml([region(outline) for outline in outlines]))


def ring(outline):
    """An outline (row, column) as a closed ring of GeoJSON."""
    return [[column, row] for row, column in outline + outline[:1]]


def feature(*rings, **properties):
    return {'type': 'Feature', 'properties': properties, 'geometry': {
        'type': 'Polygon', 'coordinates': [ring(outline)
                                           for outline in rings]}}


def save_geojson(path, *outlines):
    return write(path, json.dumps({
        'type': 'FeatureCollection', 'features': [
            feature(outline, objectType='detection')
            for outline in outlines]}))


# Rows 10 to 29, columns 20 to 59.
NUCLEUS = square(10, 20, 30, 60)
# Three nuclei of 20 x 40, 30 x 30 and 10 x 20 pixels.
THREE = (NUCLEUS, square(50, 200, 80, 230), square(280, 0, 290, 20))


def labels(numbers=(1, 2, 3), dtype=np.uint8):
    """The nuclei of THREE in a label image."""
    found = np.zeros((SIDE, SIDE), dtype)
    found[10:30, 20:60], found[50:80, 200:230], found[280:290, :20] = numbers
    return found


def mask(value=255):
    return labels((value,) * 3)


def training_data(folder, count, side=SIDE):
    """Writes the training archive's layout: count images, one nucleus each."""
    for index in range(count):
        save(folder / 'Tissue Images' / f'TCGA-{index}.tif',
             pixels(index, side))
        save_xml(folder / 'Annotations' / f'TCGA-{index}.xml', NUCLEUS)
    return folder


def data_to_test(folder, side=SIDE):
    """Writes the test archive's layout: one image, TCGA-9, of one nucleus."""
    save(folder / 'TCGA-9.tif', pixels(9, side))
    save_xml(folder / 'TCGA-9.xml', NUCLEUS)
    return folder


def laid(found, height, width, classes=()):
    """Outlines, or nuclei, on an image: instances, and what is skipped."""
    if isinstance(found, list):
        found = outlines.Outlines(found, [''] * len(found), None,
                                  collections.Counter())
    placed = outlines.place(found, height, width, classes)
    return rasterize.fill(placed.nuclei, height, width), placed.skipped


def pack(archive, folder):
    """Packs a folder as macOS does, with its own litter."""
    with zipfile.ZipFile(archive, 'w') as file:
        for path in sorted(folder.rglob('*')):
            name = path.relative_to(folder.parent)
            file.write(path, name)
            if path.is_file():
                file.writestr(f'__MACOSX/{name.parent}/._{name.name}', b'no')
    return archive


def load(entry):
    """The image, instances and has_instances of an entry."""
    log = prepare.ReadingLog(collections.Counter(),
                             collections.defaultdict(list),
                             resolution.Resolution(None))
    image, annotation = prepare.load(entry, log)
    return (image, *annotation)


def prepared(folder):
    """Maps the names of all images in stores to their instances."""
    result = {}
    for path in sorted(folder.glob('*.h5')):
        with store.open_store(path) as file:
            result.update((whole.name, whole.instances)
                          for whole in store.whole_images(file))
    return result


def from_bytes(read, name, data):
    """What `read` returns of a file, in an archive that is in memory."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
        archive.writestr(name, data)
    return read(listing.Found(name, name, file, name))


def with_tag(data, number, value, size=2):
    """A little-endian TIFF file with a tag of some bytes changed."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        place = file.pages[0].tags[number].valueoffset
    return (data[:place] + value.to_bytes(size, 'little')
            + data[place + size:])


def message(function, *arguments):
    """Returns the one line that a user sees."""
    with pytest.raises(InputError) as caught:
        function(*arguments)
    assert '\n' not in str(caught.value)
    return str(caught.value)


def with_gaps(instances):
    """The nuclei [H, W] but for pixels beside another one, by definition."""
    height, width = instances.shape
    framed = np.pad(instances, 1, mode='constant')
    around = np.stack([framed[i:i + height, j:j + width]
                       for i in range(3) for j in range(3)])
    other = (around > 0) & (around != instances)
    return (instances > 0) & ~other.any(axis=0)
