"""Finding MoNuSeg's images with their annotations.

Kumar et al., "A Multi-Organ Nucleus Segmentation Challenge", IEEE TMI 2020.
Three layouts are in circulation:
    Tissue Images/NAME.tif   with Annotations/NAME.xml, and some copies with
                             label images or masks in folders of their own
                             (the training archive)
    NAME.tif                 beside NAME.xml (the test archive)
    TissueImages/NAME.tif    with GroundTruth/NAME_bin_mask.png, both under
                             Training/ or Test/
"""
import posixpath
import re

from histology import pairs
from histology.files import InputError

# The slides of The Cancer Genome Atlas that the challenge's images are of.
SLIDE = re.compile(r'TCGA-\w\w-\w{4}-01[AZ]-\d\d-(?:DX|TS|BS)\w')


def find(folder):
    """Find the annotated images in a folder or zip archive.

    As `pairs.find` does. If no folder says the split, an image beside its XML
    is a test image, as in the archives.

    Args:
        folder: a folder at any level above the images and annotations, or
            one of the archives.

    Returns:
        List of `listing.Entry`, ordered by name.

    Raises:
        InputError: as `pairs.find`, or an image is in both splits.
    """
    entries = [_in_its_split(entry) for entry in pairs.find(
        folder, folder, flags=['monuseg_dir'] * 2)]
    for one, other in zip(entries, entries[1:]):
        if one.name == other.name:
            raise InputError(
                f'{other.image}: a {other.split} image, and also a '
                f'{one.split} image ({one.image}); remove one of them')
    return entries


def source_name(entries, folder):
    """Return 'MoNuSeg' if the images are its, or else the folder's name."""
    return ('MoNuSeg' if all(SLIDE.match(entry.name) for entry in entries)
            else folder)


def _in_its_split(entry):
    if (entry.why or not entry.annotation.lower().endswith('.xml')
            or posixpath.dirname(entry.image)
            != posixpath.dirname(entry.annotation)):
        return entry
    why = 'for they lie beside their XML, as in its test archive'
    return entry._replace(split='test', why=why)
