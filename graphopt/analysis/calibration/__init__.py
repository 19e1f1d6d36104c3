"""Times of nodes on this machine's CPU: measured on small graphs and on models, fitted by operator, and kept."""

from graphopt.analysis.calibration.model import CalibratedTimes, calibrate, calibrated
from graphopt.analysis.calibration.samples import Sample, measure_nodes

__all__ = ["CalibratedTimes", "Sample", "calibrate", "calibrated", "measure_nodes"]
