"""What a run found, as one page (`build_report`) and as pictures (`overlay`, `heatmap`, `strip`)."""

from maskwright.data.pictures import heatmap
from maskwright.report.build import build_report
from maskwright.report.contact_sheet import write_picture
from maskwright.report.pictures import overlay, strip

__all__ = ["build_report", "heatmap", "overlay", "strip", "write_picture"]
