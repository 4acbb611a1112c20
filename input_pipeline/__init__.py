"""From the annotated images on disk to batches of patches."""
