"""Damaged and odd input files: a right answer or one clear line.

The damage is drawn from a seed: files cut short, and bytes changed, of which
half are near the head, where formats keep what matters.
"""
import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from conftest import example, one_line
from input_pipeline import annotations, images, store
from input_pipeline.files import InputError
from training import checkpoints

PIXELS = np.random.RandomState(0).randint(0, 256, (60, 50, 3)).astype(np.uint8)
HEAD = 400  # bytes


def damaged(data, count):
    """`count` damaged copies of the bytes of a file."""
    rng = np.random.RandomState(1)
    for index in range(count):
        if index % 3 == 0:
            yield data[:rng.randint(len(data))]
            continue
        copy = bytearray(data)
        for _ in range(rng.randint(1, 5)):
            reach = HEAD if index % 2 else len(data)
            copy[rng.randint(min(reach, len(data)))] ^= rng.randint(1, 256)
        yield bytes(copy)


def answer(read, *arguments):
    """What `read` returns, or None where it ends in one clear line."""
    try:
        return read(*arguments)
    except InputError as error:
        assert '\n' not in str(error)
        return None


def encoded(image, *arguments, **options):
    file = io.BytesIO()
    image.save(file, *arguments, **options)
    return file.getvalue()


@pytest.mark.parametrize('options', [
    ('PNG', {}), ('TIFF', {'compression': 'tiff_lzw'}), ('TIFF', {}),
    ('JPEG', {})], ids=['png', 'lzw', 'tiff', 'jpeg'])
def test_damaged_images(options):
    data = encoded(Image.fromarray(PIXELS), options[0], **options[1])
    assert images.read_image('whole', data).shape == (60, 50, 3)
    failed = 0
    for copy in damaged(data, 60):
        image = answer(images.read_image, 'damaged', copy)
        if image is None:
            failed += 1
        elif options[0] == 'PNG':  # the one with checksums
            np.testing.assert_array_equal(image, PIXELS)
        else:
            assert image.dtype == np.uint8 and image.shape[2:] == (3,)
    assert failed >= 20  # those cut short at least


def png(width, height):
    """A small file with the head of a PNG of this size."""
    def chunk(name, data):
        return (struct.pack('>I', len(data)) + name + data
                + struct.pack('>I', zlib.crc32(name + data)))
    head = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head)
            + chunk(b'IDAT', zlib.compress(b'')) + chunk(b'IEND', b''))


@pytest.mark.parametrize('data', [
    b'', b'no image', bytes(1000), png(2 ** 31 - 1, 2), png(0, 5),
    encoded(Image.fromarray(PIXELS[..., 0].astype(np.uint16)), 'PNG'),
    encoded(Image.fromarray(PIXELS[..., 0].astype(np.float32)), 'TIFF')])
def test_what_is_no_8_bit_image(data):
    with pytest.raises(InputError, match='^x.png: '):
        images.read_image('x.png', data)


def test_a_gigapixel_head_over_a_small_file():
    with pytest.raises(InputError, match='^x.png: more than 178956970 pixels'):
        images.read_image('x.png', png(40000, 40000))


@pytest.mark.parametrize('mode', ['RGB', 'RGBA', 'CMYK'])
def test_other_modes_of_the_same_colours(mode):
    data = encoded(Image.fromarray(PIXELS).convert(mode), 'TIFF')
    np.testing.assert_array_equal(images.read_image('x', data), PIXELS)


@pytest.mark.parametrize('mode', ['L', 'LA', '1', 'P'])
def test_modes_with_less_than_rgb(mode):
    image = Image.fromarray(PIXELS).convert(mode)
    np.testing.assert_array_equal(
        images.read_image('x', encoded(image, 'PNG')),
        np.array(image.convert('RGB')))


def region(*vertices):
    return '<Region><Vertices>' + ''.join(
        f'<Vertex X="{x}" Y="{y}"/>' for x, y in vertices
    ) + '</Vertices></Region>'


SQUARE = region((1, 1), (1, 3), (3, 3), (3, 1))
BOMB = ('<!DOCTYPE a [<!ENTITY l0 "lol">' + ''.join(
    f'<!ENTITY l{level} "{f"&l{level - 1};" * 10}">' for level in range(1, 11))
    + ']><A>&l10;</A>')


def test_damaged_annotations():
    data = f'<Annotations>{SQUARE * 20}</Annotations>'.encode()
    assert len(annotations.parse(data, 'whole')) == 20
    for copy in damaged(data, 60):
        outlines = answer(annotations.parse, copy, 'damaged')
        assert outlines is None or (
            annotations.fill(outlines, 9, 9).shape == (9, 9))


@pytest.mark.parametrize('xml', [
    '', 'no XML', '<A></B>', '<A/>', '<A>' + '<A>' * 9, BOMB,
    '<!DOCTYPE a [<!ENTITY l SYSTEM "file:///etc/hostname">]><A>&l;</A>',
    *(f'<A>{outline}</A>' for outline in (
        region(), region((1, 1)), region((1, 1), (2, 2)),
        region((1, 1), (2, 'nan'), (3, 3)), region((1, 1), (2, 'x'), (3, 3)),
        region((1, 1), (2, '1e999'), (3, 3)),
        SQUARE.replace('X=', 'Z=')))])
def test_what_is_no_annotation(xml):
    with pytest.raises(InputError, match='^x.xml: '):
        annotations.parse(xml.encode(), 'x.xml')


@pytest.mark.parametrize('vertices, expected', [
    # Outside the image on all sides.
    ([(-9, -9), (-9, 99), (99, 99), (99, -9)], np.ones((3, 3))),
    ([(50, 50), (50, 60), (60, 60)], np.zeros((3, 3))),
    # A figure of eight: its two triangles meet at (1, 1).
    ([(-.5, -.5), (2.5, 2.5), (2.5, -.5), (-.5, 2.5)],
     [[0, 0, 0], [1, 0, 1], [0, 0, 0]])])
def test_odd_outlines(vertices, expected):
    outlines = annotations.parse(f'<A>{region(*vertices)}</A>'.encode(), 'x')
    filled = annotations.fill(outlines, 3, 3)
    # On the two diagonals, which are the crossing sides, the rule for
    # centres on an outline decides.
    clear = np.ones((3, 3), bool)
    if len(vertices) == 4 and vertices[0] == (-.5, -.5):
        clear[[0, 1, 2, 0, 2], [0, 1, 2, 2, 0]] = False
    np.testing.assert_array_equal(filled[clear], np.array(expected)[clear])


@pytest.mark.parametrize('values, said', [
    ((0, 1), None), ((0, 255), None), ((0, 0), None), ((1, 1), None),
    ((0, 1, 2), 'no binary mask'), ((0, 128), 'no binary mask'),
    ((0, 254, 255), 'no binary mask')])
def test_masks(values, said):
    mask = np.resize(np.array(values, np.uint8), (6, 5))
    data = encoded(Image.fromarray(mask), 'PNG')
    if said:
        with pytest.raises(InputError, match=said):
            images.read_mask('x.png', data)
    else:
        np.testing.assert_array_equal(images.read_mask('x.png', data),
                                      mask > 0)


def contents(path):
    """All that is read of a store."""
    with store.open_store(path) as file:
        whole = list(store.whole_images(file))
        with store.reading(file):
            patches = [file[f'patches/{name}'][()] for name in store.PATCHES]
        return (store.image_names(file), store.image_digests(file),
                store.identity(file), whole, patches)


def test_damaged_stores(program, tmp_path):
    """Nothing else than what was written is ever read."""
    mask = np.zeros((256, 300), bool)
    mask[9:40, 9:40] = True
    image = np.random.RandomState(2).randint(0, 256, (256, 300, 3)).astype(
        np.uint8)
    whole = str(tmp_path / 'whole.h5')
    store.write_store(whole, {'seed': 3, 'source': 'made here', 'fold': '0',
                              'source_digest': 'd', 'split': 'train'},
                      [example('a', image, mask)])
    expected = contents(whole)
    with open(whole, 'rb') as file:
        data = file.read()
    path = str(tmp_path / 'validation.h5')
    failed = 0
    for copy in damaged(data, 150):
        with open(path, 'wb') as file:
            file.write(copy)
        found = answer(contents, path)
        if found is None:
            failed += 1
        else:
            np.testing.assert_equal(found, expected)
    assert failed >= 50  # those cut short at least
    # 1.15's HDF5 has more to say at the end of a process that met with damage
    # in the head of a dataset.
    head = data.index(b'OHDR', data.index(b'OHDR') + 1)
    with open(path, 'wb') as file:
        file.write(data[:head + 6] + bytes([data[head + 6] ^ 1])
                   + data[head + 7:])
    one_line(program('--mode=eval', '--net=unet', f'--data_dir={tmp_path}'),
             path, 'delete it')


def test_damaged_weights(trained, tmp_path):
    with open(trained / 'unet' / 'weights.h5', 'rb') as file:
        data = file.read()
    images_ = np.zeros((1, 32, 32, 3), np.float32)

    def predict():
        with checkpoints.restored_model(
                str(tmp_path), 'unet') as (forward, _, _):
            return forward(images_)

    for copy in damaged(data, 12):
        with open(os.path.join(str(tmp_path), 'weights.h5'), 'wb') as file:
            file.write(copy)
        prediction = answer(predict)
        assert prediction is None or prediction.shape == (1, 32, 32, 1)
