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

from histology import listing, pairs

# The slides of The Cancer Genome Atlas that the challenge's images are of.
SLIDE = re.compile(r'TCGA-\w\w-\w{4}-01[AZ]-\d\d-(?:DX|TS|BS)\w')


def find(folder):
    """Find annotated images, at any depth of a folder, as `pairs.find` does.

    If no folder says the split, an image beside its XML is a test image, as
    in the archives.

    Raises:
        InputError: as `pairs.find`, or an image is in both splits.
    """
    entries = pairs.find(folder, folder, flags=['monuseg_dir'] * 2)
    for index, (_, _, why, image, annotation) in enumerate(entries):
        if (not why and annotation.lower().endswith('.xml')
                and posixpath.dirname(image) == posixpath.dirname(annotation)):
            why = 'for they lie beside their XML, as in its test archive'
            entries[index] = entries[index]._replace(split='test', why=why)
    return listing.ordered(entries, key=lambda entry: entry.name)
