"""Tables in plain text."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def text_table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[int] = ()
) -> str:
    """Lay out cells in aligned columns, under a header and a rule.

    Args:
        headers: The names of the columns.
        rows: The cells, as many in each row as there are headers.
        right: Which columns are aligned to the right, as numbers are.

    Returns:
        The lines of the table, without spaces at their ends.
    """
    cells = [headers, *rows]
    widths = [max(len(row[k]) for row in cells) for k in range(len(headers))]

    def line(row: Sequence[str]) -> str:
        aligned = (
            cell.rjust(width) if k in right else cell.ljust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join(aligned).rstrip()

    return "\n".join(line(row) for row in (headers, ["-" * width for width in widths], *rows))
