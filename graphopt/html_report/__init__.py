"""The report of a compilation as one HTML page, the facts that it shows, and what can be measured for it."""

from graphopt.html_report.facts import graph_facts, skeleton
from graphopt.html_report.files import check_suffix, read_report, with_peaks, write_report
from graphopt.html_report.page import html_page
from graphopt.html_report.roofline import Peaks, measure_peaks

__all__ = [
    "Peaks",
    "check_suffix",
    "graph_facts",
    "html_page",
    "measure_peaks",
    "read_report",
    "skeleton",
    "with_peaks",
    "write_report",
]
