"""From annotated images to HDF5 stores, and from stores to batches."""
