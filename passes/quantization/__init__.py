"""What the pass `quantize` is made of: profiles of targets, placement, calibration, and writing it into the graph."""
