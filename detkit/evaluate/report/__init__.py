"""An evaluation, or two models side by side, as one HTML file that needs nothing else."""

from __future__ import annotations

from detkit.evaluate.report.comparison import write_comparison
from detkit.evaluate.report.evaluation import write_report
from detkit.evaluate.report.page import check_jinja2

__all__ = ["check_jinja2", "write_comparison", "write_report"]
