"""A report as a text and as a page of HTML that needs no other file."""

import textwrap
from base64 import b64encode
from collections.abc import Sequence
from html import escape

from ._findings import Finding

__all__ = ["report_page", "report_text"]

_MARKS = {"good": "\N{CHECK MARK}", "note": "\N{BULLET}", "problem": "\N{MULTIPLICATION X}"}
_COLORS = {"good": "#1a7f37", "note": "#9a6700", "problem": "#cf222e"}

_WIDTH = 100

_STYLE = """
.simclr-report { font-family: system-ui, sans-serif; max-width: 1100px; line-height: 1.45; color: #1f2328;
  background: #ffffff; padding: 0.5em 1em; }
.simclr-report h2 { font-size: 1.3em; margin: 0.4em 0; }
.simclr-report img { max-width: 100%; height: auto; }
.simclr-report ul { list-style: none; padding: 0; }
.simclr-report li { border-left: 4px solid; padding: 0.1em 0.8em; margin: 0.6em 0; }
.simclr-report li span { color: #1f2328; display: block; }
.simclr-report table { border-collapse: collapse; }
.simclr-report th, .simclr-report td { padding: 0.25em 0.8em; border-bottom: 1px solid #d1d9e0;
  text-align: right; }
.simclr-report th:first-child, .simclr-report td:first-child, .simclr-report td:last-child,
.simclr-report th:last-child { text-align: left; }
"""


def report_text(title: str, findings: Sequence[Finding], rows: Sequence[tuple[str, ...]]) -> str:
    """Return a report as plain text.

    Parameters
    ----------
    title : str
        Title of the report.
    findings : list of Finding
        Findings of the report, in order.
    rows : list of (str, str, str, str, str)
        Rows of the table: measure, value, untrained, chance, meaning.

    Returns
    -------
    str
        Lines of at most 100 characters, but for a long title.
    """
    lines = [title, "=" * len(title), ""]
    for finding in findings:
        lines.append(f"{_MARKS[finding.level]} {finding.title[0].upper()}{finding.title[1:]}")
        lines += textwrap.wrap(finding.advice, _WIDTH - 2, initial_indent="  ", subsequent_indent="  ")
    lines.append("")
    head = ("", "value", "untrained", "chance")
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(4)]
    for row in [head, *rows]:
        cells = [row[0].ljust(widths[0])] + [row[i].rjust(widths[i]) for i in range(1, 4)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def report_page(
    title: str,
    findings: Sequence[Finding],
    rows: Sequence[tuple[str, ...]],
    picture: bytes | None,
    whole: bool,
) -> str:
    """Return a report as HTML.

    Parameters
    ----------
    title, findings, rows
        As in `report_text`.
    picture : bytes or None
        PNG.
    whole : bool
        Whether to return a document, or a part of one.

    Returns
    -------
    str
        Well-formed as XML, too.
    """
    parts = ['<div class="simclr-report">', f"<style>{_STYLE}</style>", f"<h2>{escape(title)}</h2>", "<ul>"]
    for finding in findings:
        head = f"{_MARKS[finding.level]} {finding.title[0].upper()}{finding.title[1:]}"
        parts.append(
            f'<li class="{escape(finding.level)}" style="color: {_COLORS[finding.level]}">'
            f"<strong>{escape(head)}</strong><span>{escape(finding.advice)}</span></li>"
        )
    parts.append("</ul>")
    if picture is not None:
        data = b64encode(picture).decode("ascii")
        parts.append(f'<img alt="{escape(title)}" src="data:image/png;base64,{data}" />')
    parts.append("<table><thead><tr>")
    parts += [f"<th>{name}</th>" for name in ("", "value", "untrained", "chance", "meaning")]
    parts.append("</tr></thead><tbody>")
    parts += ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    parts += ["</tbody></table>", "</div>"]
    body = "\n".join(parts)
    if not whole:
        return body
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8" />'
        f"<title>{escape(title)}</title></head>\n<body>\n{body}\n</body></html>\n"
    )
