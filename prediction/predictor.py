"""The one way from an image to its nuclei, for predict, eval and notebooks.

    predictor = Predictor.load('checkpoints/pretrained/unet')
    nuclei = predictor(image)                    # uint8 [H, W, 3]
    nuclei.probability, nuclei.mask, nuclei.labels, nuclei.table()
"""
import collections
import dataclasses
import numbers
import os
from typing import Callable, Optional

import numpy as np

import nets
from histology import resample
from histology.resolution import PLAUSIBLE
from prediction import instances, measurements, tiling, writers

MIN_AREA = instances.MIN_AREA * resample.PIXEL_AREA


@dataclasses.dataclass(eq=False, repr=False)
class Predictor:
    """A trained network and how it is applied.

    Args:
        forward, stride, max_pixels, average: see `tiling.predict_rows`.
        threshold: nucleus is where the probability is above this, 0 to 1.
        record: dict, what the network was trained on and how, or None.
        folder: the model folder, or None.
        precision: what `forward` multiplies in, for records.
        halo: see `nets`, of blocks of slides.
        min_area: smaller pieces of the mask are debris, square micrometres.
        splitting: `min_height` of `instances.separate`.
        weights_sha1: digest of weights.h5, '' if there is none.
        accelerate: whether `forward` is, see `nets.tf1.precision`.
    """

    forward: Callable
    stride: int
    threshold: float = instances.THRESHOLD
    max_pixels: int = tiling.MAX_TILE_PIXELS
    average: bool = True
    record: Optional[dict] = None
    folder: Optional[str] = None
    precision: str = 'float32'
    halo: int = nets.HALO
    min_area: float = MIN_AREA
    splitting: float = instances.MIN_HEIGHT
    weights_sha1: str = ''
    accelerate: bool = False

    @classmethod
    def load(cls, folder, net=None, width=None, output_stride=None,
             accelerate=False, **settings):
        """Load the predictor of a model folder.

        Args:
            folder: path of a model folder, which is looked up in the
                project's folder if it does not exist here.
            net, width, output_stride: what the network must be, or None.
            accelerate: see `nets.tf1`.
            settings: `threshold`, `max_pixels`, `average`, `min_area` and
                `splitting` of Predictor.

        Raises:
            InputError: there is no network, it is another one, or it cannot
                be read.
        """
        from nets import saved, tf1  # here, for a fast start of main.py
        folder = saved.find_folder(os.fspath(folder))
        session, model, record, digest = saved.load_network(
            folder, net, width, output_stride, accelerate)
        return cls(
            session.make_callable(model.output, [model.input]), model.stride,
            record=record, folder=folder, weights_sha1=digest,
            precision=tf1.precision(accelerate), accelerate=accelerate,
            halo=getattr(nets.module_of(record['net']), 'HALO', nets.HALO),
            **settings)

    def identity(self):
        """Return what its results depend on, a dict for JSON."""
        return {name: getattr(self, name) for name in (
            'weights_sha1', 'precision', 'threshold', 'average', 'max_pixels',
            'min_area', 'splitting')}

    def rows(self, image, progress=None):
        """Compute the probability of nucleus as `tiling.predict_rows` does."""
        return tiling.predict_rows(image, self.forward, self.stride,
                                   self.max_pixels, self.average, progress)

    def __call__(self, image, microns_per_pixel=None, name='image',
                 progress=None):
        """Find the Nuclei of an image.

        Args:
            image: uint8 [H, W, 3], RGB.
            microns_per_pixel: of the image, or None for the networks' own.
                The network sees the image resampled to its own; the results
                have the size of the image.
            name: of the image, for messages.
            progress: function called with the fraction that the network
                has seen.

        Raises:
            ValueError: `image` has another shape or dtype, or the threshold
                or `microns_per_pixel` is out of range.
            InputError: the image is too small or too large, or as `rows`.
        """
        return self.separate(self.see(image, microns_per_pixel, name,
                                      progress))

    def see(self, image, microns_per_pixel=None, name='image', progress=None):
        """Classify the pixels of an image: the tuple that `separate` takes.

        The arguments are those of a call, and so are the errors.
        """
        image = np.asarray(image)
        if (image.ndim, image.dtype) != (3, np.uint8) or image.shape[2] != 3:
            raise ValueError(f'{name} is {image.dtype} {list(image.shape)}; '
                             'give one image, uint8 [H, W, 3], RGB')
        if microns_per_pixel is not None:
            _check_range('microns_per_pixel', microns_per_pixel, *PLAUSIBLE)
        size = resample.network_size(image.shape[:2], microns_per_pixel, name)
        pixels = (image if size == image.shape[:2]
                  else resample.Resampled(image, size))
        return (image, *self.classify(pixels, progress), microns_per_pixel)

    def separate(self, seen):
        """Make the Nuclei of what `see` returns."""
        image, mask, probability, microns_per_pixel = seen
        labels, mask = self.labels_of(mask, probability)
        size = image.shape[:2]
        if labels.shape != size:
            count = labels.max()
            labels = instances.in_reading_order(  # some may have vanished
                resample.resample_labels(labels, size), count)
        return Nuclei(image, resample.resample_labels(mask, size),
                      resample.resample(probability, size), labels,
                      microns_per_pixel)

    def labels_of(self, mask, probability):
        """Separate the nuclei of a mask, see `instances.separate`."""
        return instances.separate(
            mask, probability, self.threshold,
            min_area=self.min_area / resample.PIXEL_AREA,
            min_height=self.splitting)

    def classify(self, image, progress=None):
        """Classify the pixels of an image; arguments as for `rows`.

        Returns:
            mask: uint8 [H, W] of 0 and 1, before gaps are closed.
            probability: uint8 [H, W], 255 times the probability of nucleus.
        """
        _check_range('threshold', self.threshold, 0, 1)
        mask, probability = np.empty((2, *image.shape[:2]), np.uint8)
        top = 0
        for part in self.rows(image, progress):
            rows = slice(top, top + len(part))
            mask[rows] = part > self.threshold
            part *= 255
            probability[rows] = np.rint(part, out=part)
            top = rows.stop
        return mask, probability


class Nuclei(collections.namedtuple(
        'Nuclei', 'image mask probability_uint8 labels microns_per_pixel')):
    """The nuclei of an image.

    Args:
        image: uint8 [H, W, 3], RGB.
        mask: uint8 [H, W] of 0 and 1; small holes and gaps between touching
            nuclei are closed.
        probability_uint8: uint8 [H, W], 255 times the probability of nucleus,
            rounded.
        labels: int32 [H, W], 0 in the background and 1 to N in the nuclei.
        microns_per_pixel: of the image, or None if it is not known.
    """

    _measured = None

    @property
    def probability(self):
        """The probability of nucleus, float32 [H, W], in steps of 1 / 255."""
        return self.probability_uint8 / np.float32(255)

    def measured(self):
        """List the `measurements.Batch`es, measured once for several files."""
        if self._measured is None:
            self._measured = list(measurements.measure(
                self.labels, self.probability_uint8, self.image))
        return self._measured

    def table(self):
        """Return the CSV file's columns, a dict of names to float64 [N]."""
        self._measured = None  # the labels may have changed
        names = [name for _, _, name, _
                 in writers.columns(self.microns_per_pixel)]
        rows = [row for batch in self.measured()
                for row in writers.rows(batch, self.microns_per_pixel)]
        table = np.array(rows, float).reshape(-1, len(names))  # [N, columns]
        return dict(zip(names, table.T))


def _check_range(name, value, low, high):
    if not isinstance(value, numbers.Real) or not low <= value <= high:
        raise ValueError(f'{name} is {value!r}; give a number from {low} to '
                         f'{high}')
