"""The synthetic sample: plausible, and the same for the same seed."""
import numpy as np

from histology import synthetic
from input_pipeline.prepare import find_sample
from input_pipeline.splits import assign_splits


def test_find_names_16_images():
    entries = synthetic.find(0)
    splits = assign_splits(entries, 0, '0')
    assert [len(chosen) for chosen in splits.values()] == [9, 3, 4]
    assert len({entry.name for entry in entries}) == 16


def test_seed_and_name_make_the_image():
    def load(seed, index):
        data = find_sample(seed)
        return list(data.load(data.entries[index], None))

    image, (instances, has_instances) = load(0, 0)
    again, (instances_again, _) = load(0, 0)
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(instances, instances_again)
    assert has_instances
    for other in (load(0, 1), load(1, 0)):
        assert (image != other[0]).any()


def test_nuclei():
    image, instances = synthetic.make(np.random.RandomState(0), 384)
    assert image.shape == (384, 384, 3) and image.dtype == np.uint8
    assert instances.shape == (384, 384) and instances.dtype == np.int32
    numbers, areas = np.unique(instances, return_counts=True)
    np.testing.assert_array_equal(numbers, np.arange(len(numbers)))
    assert len(numbers) > 30
    # The area of the middle one lies between those of circles of radius 11
    # and 18; MoNuSeg's nuclei cover 22 % of its images.
    assert np.pi * 11 ** 2 < np.median(areas[1:]) < np.pi * 18 ** 2
    assert 0.15 < (instances > 0).mean() < 0.35


def test_stains():
    image, instances = synthetic.make(np.random.RandomState(0), 384)
    nuclei = image[instances > 0].mean(axis=0)
    stroma = image[instances == 0].mean(axis=0)
    # Haematoxylin, blue to purple, takes red light most of all that eosin,
    # pink, lets through.
    assert nuclei[0] < stroma[0] - 50
    assert nuclei[2] > nuclei[0] > nuclei[1]
    assert stroma[0] > stroma[1] and stroma[2] > stroma[1]
