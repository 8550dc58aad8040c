"""Compiled CPU kernel of CPP pooling; import it where it is needed."""

from __future__ import annotations

from maskwright.cpu.compiled import jit


@jit
def count_labels(labels, row_starts, column_starts, ignored, counts):
    """Count the labels of each cell.

    Args:
        labels: `(B, H, W)` integer.
        row_starts: where each row of cells starts, and where the last one ends, `(h + 1,)` int64.
        column_starts: the same of columns, `(w + 1,)`.
        ignored: label that is counted last.
        counts: `(B, h, w, C + 1)` int32, zero; added to.

    Returns:
        Whether a label is neither one of 0..C-1 nor the ignored one; such are not counted.
    """
    batch, rows, columns, classes = counts.shape[0], counts.shape[1], counts.shape[2], counts.shape[3] - 1
    wrong = False
    for image in range(batch):
        for cell_row in range(rows):
            for y in range(row_starts[cell_row], row_starts[cell_row + 1]):
                line, cells = labels[image, y], counts[image, cell_row]
                for column in range(columns):
                    x, stop = column_starts[column], column_starts[column + 1]
                    # Labels come in runs, and a run is one addition.
                    while x < stop:
                        label, start = line[x], x
                        while x < stop and line[x] == label:
                            x += 1
                        if label == ignored:
                            cells[column, classes] += x - start
                        elif 0 <= label < classes:
                            cells[column, label] += x - start
                        else:
                            wrong = True
    return wrong
