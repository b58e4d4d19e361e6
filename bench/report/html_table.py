"""Sheets as one HTML page without scripts: it works from disk, on a phone (a wide table scrolls by itself) and on paper."""

from html import escape

from bench.report.sheet import Cell, Sheet

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem auto; max-width: 72rem; padding: 0 1rem; color: #1a1a1a; }
h1 { font-size: 1.1rem; margin: 2rem 0 .3rem; }
p, li { font-size: .85rem; margin: .15rem 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .55rem; text-align: right; white-space: nowrap; }
th { font-weight: 600; border-bottom: 1px solid #999; }
.name { text-align: left; font-weight: 400; border-bottom: 0; }
thead .name { font-weight: 600; border-bottom: 1px solid #999; }
.group { text-align: center; border-bottom: 0; }
.section td { text-align: left; font-style: italic; border-top: 1px solid #999; }
.second { text-decoration: underline; }
.alarm { color: #b00020; font-weight: 600; }
@media print { body { max-width: none; margin: 0; } .wide { overflow: visible; } }
""".strip()


def html(sheets: list[Sheet]) -> str:
    """See `View.html`."""
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(sheets[0].caption[0]) if sheets else 'bench table'}</title>",
        f"<style>{_STYLE}</style></head><body>",
        *(_table(sheet) for sheet in sheets),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _table(sheet: Sheet) -> str:
    first, *rest = map(escape, sheet.caption)
    lines = [f"<h1>{first}</h1>", *(f"<p>{line}</p>" for line in rest), '<div class="wide"><table><thead>']
    columns = range(len(sheet.header))
    if sheet.grouped:
        spans = sheet.spans(columns[sheet.stubs :])
        groups = "".join(f'<th class="group" colspan="{count}">{escape(title)}</th>' for title, count in spans)
        lines.append("<tr>" + "<td></td>" * sheet.stubs + groups + "</tr>")
    stubs, numbers = sheet.header[: sheet.stubs], sheet.header[sheet.stubs :]
    names = [f'<th scope="col" class="name">{escape(title)}</th>' for title in stubs]
    names += [f'<th scope="col">{escape(title)}</th>' for title in numbers]
    lines += [f"<tr>{''.join(names)}</tr>", "</thead>"]
    for section in sheet.sections:
        lines.append("<tbody>")
        if section.title:
            lines.append(f'<tr class="section"><td colspan="{len(columns)}">{escape(section.title)}</td></tr>')
        for row in section.rows:
            heads = "".join(f'<th scope="row" class="name">{escape(each.text)}</th>' for each in row[: sheet.stubs])
            lines.append(f"<tr>{heads}{''.join(map(_cell, row[sheet.stubs :]))}</tr>")
        lines.append("</tbody>")
    lines += ["</table></div>", "<ul>"]
    for note in sheet.notes:
        alarm = ' class="alarm"' if note.startswith("!!") else ""
        lines.append(f"<li{alarm}>{escape(note)}</li>")
    if sheet.marks:
        lines.append('<li><b>best</b>, <span class="second">second</span></li>')
    return "\n".join([*lines, "</ul>"])


def _cell(each: Cell) -> str:
    text, star = escape(each.text), "*" if each.star else ""
    if each.place == 1:
        text = f"<b>{text}</b>"
    elif each.place == 2:
        text = f'<span class="second">{text}</span>'
    return f"<td>{text}{star}</td>"
