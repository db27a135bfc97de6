"""The HTML page of measurements: one file that loads nothing, for phones and desks, light and dark, and paper."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Iterable, Mapping, Sequence

STYLE = """
:root{--ground:#fff;--card:#f4f6f8;--line:#d5dbe1;--text:#17212b;--soft:#55636f;--good:#0b6e4f;--bad:#b3261e;
--warn:#fff4e0;--warn-line:#d98a00;--fine:#e8f5ee;--data:#2f6db3;--second:#d9730d;--shade:#e3e7eb;
--s0:#7b8794;--s1:#2a9d8f;--s2:#a3b18a;--s3:#2f6db3;--s4:#e0a030}
@media screen and (prefers-color-scheme:dark){:root{--ground:#11161b;--card:#1b232b;--line:#35414c;--text:#e4e9ee;
--soft:#9aa8b5;--good:#5fd0a5;--bad:#ff8a80;--warn:#33270f;--warn-line:#e0a030;--fine:#12291f;--data:#6aa9ee;
--second:#f0a050;--shade:#2a333c;--s0:#8d99a6;--s3:#5b98dd}}
*{box-sizing:border-box}html{-webkit-text-size-adjust:100%}
body{font:16px/1.5 system-ui,sans-serif;margin:0;background:var(--ground);color:var(--text);color-scheme:light dark;
overflow-wrap:break-word;-webkit-print-color-adjust:exact;print-color-adjust:exact}
main{max-width:70rem;margin:0 auto;padding:1rem}
h1{font-size:1.6rem;line-height:1.25;margin:.5rem 0}h2{font-size:1.25rem;margin:2.2rem 0 .5rem}
h3{font-size:1.05rem;margin:1.8rem 0 .4rem}p{margin:.5rem 0;max-width:60rem}a{color:var(--data)}
section>h2{border-top:1px solid var(--line);padding-top:1rem}.soft,footer{color:var(--soft);font-size:.9rem}
section>div,main>div{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9rem}
th{font-weight:600;color:var(--soft);vertical-align:bottom}td,th{padding:.25rem .6rem;text-align:left}
tr{border-bottom:1px solid var(--line)}.numbers td,.numbers th{white-space:nowrap}
.numbers td:not(:first-child),.numbers th:not(:first-child){text-align:right}
.numbers td:first-child,.numbers th:first-child{position:sticky;left:0;background:var(--ground);padding-left:0}
.wide td{min-width:4.5rem;max-width:34rem;vertical-align:top}.wide td:first-child{min-width:8.5rem}
.wide td:first-child,.wide th:first-child{padding-left:0}.summary td:last-child{min-width:14rem}
div+div{margin-top:1rem}.charts,.plot{margin-top:.6rem}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(6.4rem,1fr));gap:.6rem;margin:1rem 0}
.cards p{margin:0;background:var(--card);border-radius:.5rem;padding:.6rem .8rem;font-size:.85rem;color:var(--soft)}
.cards b{display:block;font-size:1.5rem;line-height:1.2;color:var(--text);font-variant-numeric:tabular-nums}
.box{border-left:.35rem solid var(--warn-line);background:var(--warn);border-radius:.3rem;padding:.6rem 1rem;
margin:1rem 0}.box.fine{border-color:var(--good);background:var(--fine)}.box ul{margin:.3rem 0;padding-left:1.2rem}
.box p{margin:0;font-weight:600}dl{display:grid;grid-template-columns:minmax(6rem,max-content) 1fr;gap:.15rem 1.2rem;
font-size:.9rem}dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}code{font-size:.85em;overflow-wrap:anywhere}
img{max-width:100%;height:auto}summary{cursor:pointer}pre{overflow-x:auto}
.layers{font-size:.8rem;line-height:1.3}.layers td{white-space:nowrap;padding:.2rem .4rem}
figure{margin:1rem 0}figcaption{font-weight:600;font-size:.9rem}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,24rem),1fr));gap:0 1.5rem}
.plot{position:relative;height:11rem;margin:.6rem 1.4rem 1.9rem 3.2rem;font-size:.75rem;color:var(--soft);
font-variant-numeric:tabular-nums}.plot.tall{height:15rem}.plot svg{position:absolute;inset:0;width:100%;height:100%}
.plot span{position:absolute;white-space:nowrap}.plot .y{right:100%;transform:translateY(50%);padding-right:.4rem}
.plot .x{top:100%;transform:translateX(-50%);padding-top:.25rem}
svg path{fill:none;stroke:var(--data);stroke-width:1.5;vector-effect:non-scaling-stroke;stroke-linejoin:round}
svg path.area{fill:var(--data);stroke:none}svg path.grid{stroke:var(--line);stroke-width:1}
svg path.p50{stroke:var(--good);stroke-width:2}svg path.p99{stroke:var(--second);stroke-width:2;stroke-dasharray:5 3}
svg path.step{stroke:var(--bad);stroke-width:2}svg rect.shade{fill:var(--shade)}
.legend{display:flex;flex-wrap:wrap;gap:.15rem 1.1rem;font-size:.85rem;margin:.3rem 0;padding:0;list-style:none}
.legend i{display:inline-block;width:.8rem;height:.8rem;border-radius:.15rem;margin-right:.35rem;background:var(--data);
vertical-align:-.08rem}.legend .p50{background:var(--good)}.legend .p99{background:var(--second)}
.legend .none{display:none}.legend .step{background:var(--bad)}
.legend .shade{background:var(--shade);border:1px solid var(--soft)}
.bar{display:flex;height:1.7rem;border-radius:.3rem;overflow:hidden;margin:.4rem 0}.bar i{display:block;min-width:1px}
.bars{display:grid;grid-template-columns:minmax(5rem,max-content) 1fr max-content;gap:.35rem .8rem;align-items:center;
font-size:.85rem;font-variant-numeric:tabular-nums}.bars i{display:block;height:.9rem;border-radius:.2rem;
background:var(--data)}nav ol{margin:.3rem 0;padding-left:1.4rem}nav a{text-decoration:none}
@media (max-width:40rem){dl{grid-template-columns:minmax(4rem,34%) 1fr}.plot{margin-left:2.7rem}}
@media print{body{font-size:10.5pt}main{max-width:none;padding:0}section>div,main>div{overflow:visible}
table{font-size:8.5pt}td,th{padding:.1rem .35rem}
.numbers td,.numbers th{white-space:normal}.wide td{min-width:0!important}
figure,.box,.cards,tr{break-inside:avoid}h2,h3{break-after:avoid}
.result{break-before:page}}
"""


def page(title: str, *parts: str) -> bytes:
    """A whole page under its title; `parts` are HTML."""
    name, body = html.escape(title), "\n".join(parts)
    text = f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none';style-src 'unsafe-inline';img-src data:">
<title>{name}</title><link rel="icon" href="data:,">
<style>{STYLE}</style></head>
<body><main>
<h1>{name}</h1>
{body}
</main></body>
</html>
"""
    return text.encode(errors="backslashreplace")  # file names may hold bytes that are no UTF-8


def section(title: str, *parts: str, level: int = 2, name: str = "", style: str = "") -> str:
    """A part of the page under a heading; `name` is what a link to it says, `style` a class."""
    head = f"<h{level}>{html.escape(title)}</h{level}>"
    marks = (f' id="{html.escape(name)}"' if name else "") + (f' class="{style}"' if style else "")
    return f"<section{marks}>{head}\n" + "\n".join(parts) + "\n</section>"


def soft(text: str) -> str:
    """A remark."""
    return f'<p class="soft">{html.escape(text)}</p>'


def cards(figures: Mapping[str, str]) -> str:
    """Large figures over their names."""
    parts = (f"<p><b>{html.escape(value)}</b>{html.escape(name)}</p>" for name, value in figures.items())
    return f'<div class="cards">{"".join(parts)}</div>'


def html_table(columns: Iterable[str], rows: Iterable[Sequence[str]], style: str = "") -> str:
    """A table of plain text; `style` is a class of the page's."""
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "\n".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div><table class="{style}"><tr>{head}</tr>\n{body}\n</table></div>'


def bars(values: Mapping[str, float], text: Callable[[float], str]) -> str:
    """One bar a name, all on one scale from 0, with its value as `text` writes it."""
    most = max(values.values(), default=0.0) or 1.0
    rows = "".join(
        f'<span>{html.escape(name)}</span><i style="width:{100 * value / most:.2f}%"></i>'
        f"<span>{html.escape(text(value))}</span>"
        for name, value in values.items()
    )
    return f'<div class="bars">{rows}</div>'


def box(title: str, reasons: Sequence[str]) -> str:
    """A box that catches the eye where there are reasons, and a calm one where there are none."""
    style = "box" if reasons else "box fine"
    return f'<div class="{style}"><p>{html.escape(title)}</p>{bullets(reasons) if reasons else ""}</div>'


def bullets(lines: Iterable[str]) -> str:
    """A list."""
    return f"<ul>{''.join(f'<li>{html.escape(line)}</li>' for line in lines)}</ul>"


def links(names: Iterable[tuple[str, str]]) -> str:
    """A table of contents: names of sections, and their titles."""
    rows = "".join(f'<li><a href="#{html.escape(name)}">{html.escape(title)}</a></li>' for name, title in names)
    return f'<nav aria-label="Contents"><ol>{rows}</ol></nav>'


def file_links(titles: Mapping[str, str]) -> str:
    """Links to files beside the page: names, and what they are."""
    rows = "".join(f'<li><a href="{html.escape(name)}">{html.escape(title)}</a></li>' for name, title in titles.items())
    return f'<nav aria-label="Files"><ul>{rows}</ul></nav>'


def code(text: str) -> str:
    """What was typed."""
    return f"<p><code>{html.escape(text)}</code></p>"


def heading(text: str) -> str:
    """A heading below the title."""
    return f"<h2>{html.escape(text)}</h2>"


def paragraph(text: str) -> str:
    """Plain words."""
    return f"<p>{html.escape(text)}</p>"


def meanings(words: Mapping[str, str]) -> str:
    """What names mean, as a list."""
    return "<dl>" + "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in words.items()) + "</dl>"


def inline_image(alt: str, content: bytes, kind: str = "png") -> str:
    """A picture inside the page; `kind` is ``png`` or ``jpeg``."""
    return f'<img alt="{html.escape(alt)}" src="data:image/{kind};base64,{base64.b64encode(content).decode()}">'
