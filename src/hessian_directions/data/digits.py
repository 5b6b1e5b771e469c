"""scikit-learn's digits: 1,797 real images of 8×8 pixels inside a dependency."""

from pathlib import Path

import numpy as np
from PIL import Image

from hessian_directions.data.dataset import Dataset, Normalisation, assemble
from hessian_directions.data.images import converter
from hessian_directions.data.keys import Colours, Seed
from hessian_directions.data.source import Choice, Source
from hessian_directions.settings import Count

# Over all pixels of all 1,797 images, whose values are the integers 0 to 16.
NORMALISATION = Normalisation(mean=(4.884164579855,), deviation=(6.016787548672,))


def digits(
    *,
    cache: Path,
    n_test: Count = 450,
    seed: Seed = 0,
    size: Count | None = None,
    channels: Colours = 1,
) -> Dataset:
    """(n, 1, 8, 8) images, standardised by one mean and deviation, in a seeded stratified split.

    Args:
        n_test: Test images. The default, a quarter, leaves 1,347 for training and a standard error
            of about one percentage point to an accuracy of 0.95.
        seed: Of the split.
        size: Side that the images are scaled to (bilinear) for networks that divide it often, in
            pixels; None: 8.
        channels: 1, or 3 equal ones for networks that take colour images.
    """
    # Half a second, which stages on other data need not spend.
    from sklearn.datasets import load_digits

    bunch = load_digits()
    convert = converter(size, channels)
    images = np.stack([convert(Image.fromarray(image)) for image in bunch.images.astype(np.uint8)])
    everything = Source("digits", bunch.target, lambda places: images[places])
    stored, classes, more = Choice(n_test=n_test, seed=seed).of(everything, None, 10)
    units = Normalisation(NORMALISATION.mean * channels, NORMALISATION.deviation * channels)
    return assemble("digits", "digits", stored, classes, units, more=more)
