"""From stores to trained weights: loss, loop, records and clusters."""
