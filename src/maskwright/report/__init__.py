"""What a run found, as one page (`build_report`) and as pictures (`overlay`, `heatmap`, `strip`)."""

from maskwright.report.build import build_report
from maskwright.report.pictures import heatmap, overlay, strip, write_picture

__all__ = ["build_report", "heatmap", "overlay", "strip", "write_picture"]
