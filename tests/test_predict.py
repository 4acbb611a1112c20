"""Prediction of image files: what is written, and what is refused."""
import imageio.v3
import numpy as np
import pytest

from eval import display, predict
from input_pipeline.files import InputError


def red_channel(batch):
    return batch[..., :1]


def run(images, output_dir):
    return predict.predict_files(images, str(output_dir), red_channel, 32,
                                 0.5, 1024 * 1024, False)


def write_image(path, height=40, width=50):
    """Red from 0 to 255 over the columns, so that half of them are nuclei."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.linspace(0, 255, width).round()
    imageio.v3.imwrite(str(path), image, plugin='pillow')
    return image


def test_outputs_of_two_images(tmp_path):
    (tmp_path / 'in').mkdir()
    a = write_image(tmp_path / 'in' / 'a.png')
    write_image(tmp_path / 'in' / 'b.png', 64, 33)
    (tmp_path / 'in' / 'c.png').mkdir()  # matches, but is no file
    out = tmp_path / 'new' / 'out'
    assert run(str(tmp_path / 'in' / '*.png'), out) == []
    assert sorted(path.name for path in out.iterdir()) == [
        f'{stem}_{kind}.png' for stem in 'ab'
        for kind in ('mask', 'overlay', 'probability')]

    def read(name):
        return imageio.v3.imread(out / name, plugin='pillow')

    # Red is the probability: 255 times it is red again, and above 0.5 means
    # 128 or more.
    mask = read('a_mask.png')
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, np.where(a[..., 0] >= 128, 255, 0))
    np.testing.assert_array_equal(read('a_probability.png'), a[..., 0])
    np.testing.assert_array_equal(read('a_overlay.png'),
                                  display.overlay(a, mask))
    assert read('b_mask.png').shape == (64, 33)
    assert read('b_overlay.png').shape == (64, 33, 3)


def test_a_bad_image_among_good_ones(tmp_path, capsys):
    (tmp_path / 'in').mkdir()
    write_image(tmp_path / 'in' / 'a.png')
    (tmp_path / 'in' / 'b.png').write_bytes(b'no image')
    write_image(tmp_path / 'in' / 'c.png', 20, 40)
    write_image(tmp_path / 'in' / 'd.png')
    skipped = run(str(tmp_path / 'in' / '*.png'), tmp_path / 'out')
    assert skipped == [str(tmp_path / 'in' / name)
                       for name in ('b.png', 'c.png')]
    written = {path.name for path in (tmp_path / 'out').iterdir()}
    assert {'a_mask.png', 'd_mask.png'} <= written and len(written) == 6
    told = [line for line in capsys.readouterr().err.splitlines()
            if line.endswith('(left out)')]
    assert [str(path) in line for path, line in zip(skipped, told)] == [
        True, True]


def test_a_file_whose_name_looks_like_a_pattern(tmp_path):
    folder = tmp_path / 'in [1]'
    folder.mkdir()
    write_image(folder / 'a[1].png')
    for pattern in ('a[1].png', '*.png'):
        out = tmp_path / pattern[0]
        assert run(str(folder / pattern), out) == []
        assert (out / 'a[1]_mask.png').exists()


def test_nothing_matches(tmp_path):
    with pytest.raises(InputError, match=r'--images .*\.tif: no such file'):
        run(str(tmp_path / '*.tif'), tmp_path / 'out')


def test_two_images_of_one_stem(tmp_path):
    paths = [str(tmp_path / name) for name in ('a.png', 'a.tif')]
    for path in paths:
        write_image(path)
    with pytest.raises(InputError, match=r'a\.tif.*a\.png'):
        run(paths, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_no_input_can_be_overwritten(tmp_path):
    write_image(tmp_path / 'a.png')
    truth = write_image(tmp_path / 'a_mask.png')
    with pytest.raises(InputError, match='--output_dir .*a.png'):
        run([str(tmp_path / 'a.png')], tmp_path)
    np.testing.assert_array_equal(
        imageio.v3.imread(tmp_path / 'a_mask.png', plugin='pillow'), truth)


def test_output_folder_that_is_a_file(tmp_path):
    (tmp_path / 'in').mkdir()
    write_image(tmp_path / 'in' / 'a.png')
    (tmp_path / 'out').write_text('')
    with pytest.raises(InputError, match='--output_dir .*out: cannot'):
        run(str(tmp_path / 'in' / 'a.png'), tmp_path / 'out')
