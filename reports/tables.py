"""The comparison for people: terminal text, Markdown, LaTeX. All three render the same panels (panels.py)."""

from __future__ import annotations

import io
import re
import textwrap
import unicodedata

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from unlearnbench.judge.results import Results
from unlearnbench.judge.validation import DOUBTED, overall
from unlearnbench.plan.cards import card
from unlearnbench.plan.spec import UnlearnBenchError

from .legend import legend
from .panels import Entry, Line, Panel, comparison, sections
from .printed import clean
from .statistics import control_table

__all__ = ["comparison", "controls", "latex", "markdown", "methods", "terminal"]

EMPTY = "No results yet."
ROLE_STYLES = {"oracle": "", "method": "", "control": "dim", "floor": "italic dim"}
CONTROLS = (
    "Controls are models of which the truth is known: the original untouched, an honest retrain, useless models. "
    "*pass*: the metric puts the control where it belongs; *FAIL*: it does not, so nothing can be concluded from it in "
    "this scenario; *uninformative*: it did not tell the original from the oracle, whatever it ranks first; *not "
    "contradicted*: no test tells an honest retrain from others, which proves nothing; *not tested*: too few runs or "
    "retrains for a test. A test raises a false alarm in at most one of twenty cases, and with few runs it misses "
    "much. Of a control without an entry nothing is expected."
)
UNNAMED = ("method", "floor")  # roles that the name of a line need not repeat


# --- terminal --------------------------------------------------------------------------------------------------------


def terminal(results: Results, width: int = 100, color: bool = False, *, brief: bool = False) -> str:
    """The tables as text of at most ``width`` columns; too wide a panel goes on below itself. ``brief``: the headline.

    The best method is bold where ``color`` allows escape codes, else it carries a ``*``.
    """
    file = io.StringIO()
    console = Console(
        file=file, width=width, force_terminal=color, color_system="standard" if color else None,
        markup=False, highlight=False, emoji=False, legacy_windows=False, _environ={},
    )  # fmt: skip
    for section in sections(results, brief=brief):
        console.print(Text(f"{clean(results.title, 60)}: {section.title}\n", style="bold"))
        for panel in section.panels:
            console.print(Text(panel.title, style="italic"))
            for part in _parts(panel, console, color):
                console.print(_grid(part, color))
                console.print()
            for letter, sentence in panel.notes:
                console.print(Text(_wrapped(f"[{letter}] " if letter else "", sentence, width), style="dim"))
            if panel.notes:
                console.print()
    below = legend(results, "bold" if color else "marked *") if file.getvalue() else [EMPTY]
    for paragraph in below:
        console.print(Text(textwrap.fill(paragraph, width), style="dim"))
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


def _parts(panel: Panel, console: Console, color: bool) -> list[Panel]:
    unlimited = console.options.update(width=100_000)
    parts, start = [], 0
    for stop in range(1, len(panel.headers) + 1):
        needed = console.measure(_grid(panel.columns(start, stop), color), options=unlimited).maximum
        if needed > console.width and stop - start > 1:
            parts.append(panel.columns(start, stop - 1))
            start = stop - 1
    return [*parts, panel.columns(start, len(panel.headers))] if panel.headers else []


def _grid(panel: Panel, color: bool) -> Table:
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("Method", no_wrap=True, max_width=36, vertical="bottom")
    for label, unit in panel.headers:
        table.add_column(Text(f"{textwrap.fill(label, 12)}\n{unit}"), justify="right", no_wrap=True, vertical="bottom")
    for line in panel.lines:
        marks = f" [{line.marks}]" if line.marks else ""
        name = Text(line.method + f" ({line.role})" * (line.role not in UNNAMED) + marks)
        table.add_row(name, *(_cell(entry, color) for entry in line.entries), style=ROLE_STYLES[line.role])
    return table


def _cell(entry: Entry, color: bool) -> Text:
    marks = f" [{entry.marks}]" if entry.marks else ""
    return Text("*" * (entry.best and not color) + entry.text + marks, style="bold" if entry.best else "")


def _wrapped(mark: str, sentence: str, width: int) -> str:
    return textwrap.fill(mark + sentence, width, subsequent_indent=" " * len(mark))


# --- Markdown --------------------------------------------------------------------------------------------------------


def markdown(results: Results) -> str:
    """The tables in GitHub's Markdown; the best method is bold."""
    blocks = [f"# {_md(clean(results.title, 60))}"]
    for section in sections(results):
        blocks.append(f"## {_md(section.title)}")
        for panel in section.panels:
            blocks.append(f"### {_md(panel.title)}")
            if panel.headers:
                head = ["Method", *(f"{_md(label)} {_md(unit)}" for label, unit in panel.headers)]
                rows = [head, [":--", *("--:" for _ in panel.headers)], *map(_md_line, panel.lines)]
                blocks.append("\n".join("| " + " | ".join(row) + " |" for row in rows))
            blocks += [_md_marks(letter) + " " * bool(letter) + _md(sentence) for letter, sentence in panel.notes]
    blocks += ["\n".join(f"- {part}" for part in legend(results, "bold"))] if len(blocks) > 1 else [EMPTY]
    return "\n\n".join(blocks) + "\n"


def _md_line(line: Line) -> list[str]:
    name = _md(line.method) + f" *({line.role})*" * (line.role not in UNNAMED) + _md_marks(line.marks)
    entries = ((f"**{_md(e.text)}**" if e.best else _md(e.text)) + _md_marks(e.marks) for e in line.entries)
    return [name, *entries]


def _md_marks(marks: str) -> str:
    return f"<sup>{marks}</sup>" if marks else ""


def _md(text: str) -> str:
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|~#!]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))", r"\\\1", text)


def controls(results: Results) -> str:
    """The suite testing itself, in Markdown: headline metric x control, scenario by scenario, and every other metric
    that they speak against."""
    blocks = [f"# {_md(clean(results.title, 60))}: where the metrics put the controls", CONTROLS]
    for (dataset, scenario), table in control_table(results).groupby(["dataset", "scenario"], sort=False):
        blocks.append(f"## {_md(clean(f'{dataset} · {scenario}', 120))}")
        lines = [table.columns[2:], *table.iloc[:, 2:].to_numpy()]
        head, *rows = ([_md(clean(x, 300)) for x in line] for line in lines)
        rows = [head, [":--" for _ in head], *rows]
        blocks.append("\n".join("| " + " | ".join(row) + " |" for row in rows))
    verdicts = overall(results.controls)
    others = verdicts[verdicts["verdict"].isin(DOUBTED) & ~verdicts["metric"].isin(results.headline)]
    if len(others):
        blocks.append("## Beyond the headline")
        blocks.append("\n".join(
            f"- {_md(clean(f'{row.dataset} {row.scenario} {row.metric}', 120))}: {row.verdict}, "
            f"{_md(clean(row.reason, 300))}" for row in others.itertuples()
        ))  # fmt: skip
    return "\n\n".join(blocks) + "\n"


def methods(results: Results) -> str:
    """The card of every method in the table, in Markdown: paper, objective, what was read, defaults, failures."""
    blocks = [f"# {_md(clean(results.title, 60))}: the methods"]
    for name in results.methods["plugin"].unique():
        try:
            text = card("methods", name)
        except UnlearnBenchError as error:
            text = str(error)
        lines = ("".join(c if c.isprintable() else " " for c in line) for line in text.splitlines())
        blocks.append("\n".join(f"    {line}".rstrip() for line in lines))  # indented: nothing in it is markup
    return "\n\n---\n\n".join(blocks) + "\n"


# --- LaTeX -----------------------------------------------------------------------------------------------------------

PREAMBLE = r"""\documentclass[10pt]{article}
\usepackage[a4paper,landscape,margin=10mm]{geometry}
\usepackage{booktabs}
\setlength{\parindent}{0pt}\setlength{\tabcolsep}{4pt}\pagestyle{empty}
\begin{document}
"""
LATEX_COLUMNS = 10  # as many as fit across the page
LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "|": r"\textbar{}", "<": r"\textless{}",
    ">": r"\textgreater{}", '"': "''", "`": "{`}", "-": "{-}",
    "†": r"\dag{}", "±": r"$\pm$", "≈": r"$\approx$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "≡": r"$\equiv$",
    "·": r"$\cdot$",
    "\N{MULTIPLICATION SIGN}": r"$\times$", "—": "---", "…": r"\ldots{}", "µ": r"$\mu$",
}  # fmt: skip


def latex(results: Results) -> str:
    """A document that compiles as it stands, with one booktabs table per panel to copy from; the best is bold."""
    blocks = [rf"{{\Large\bfseries {_tex(clean(results.title, 60))}\par}}"]
    for section in sections(results):
        title = [rf"\bigskip{{\large\bfseries {_tex(section.title)}\par}}\medskip"]  # stays with the first panel
        for panel in section.panels:
            starts = range(0, len(panel.headers), LATEX_COLUMNS)
            grids = [_tex_grid(panel.columns(start, start + LATEX_COLUMNS)) for start in starts]
            notes = [
                _tex_marks(letter) + " " * bool(letter) + _tex(sentence) + r"\par" for letter, sentence in panel.notes
            ]
            body = [
                *title,
                rf"\textit{{{_tex(panel.title)}}}\par\smallskip",
                *grids,
                r"\smallskip\footnotesize",
                *notes,
            ]
            blocks.append("\n".join([r"\medskip\begin{minipage}{\linewidth}\small", *body, r"\end{minipage}\par"]))
            title = []
    below = legend(results, "bold") if len(blocks) > 1 else [EMPTY]
    blocks.append(rf"\bigskip{{\footnotesize {chr(10).join(_tex(part) + chr(92) + 'par' for part in below)}}}")
    return PREAMBLE + "\n\n".join(blocks) + "\n\\end{document}\n"


def _tex_grid(panel: Panel) -> str:
    stacks = [r"\\".join(_tex(part) for part in [*textwrap.wrap(label, 14), unit]) for label, unit in panel.headers]
    heads = (rf"\begin{{tabular}}[b]{{@{{}}r@{{}}}}{stack}\end{{tabular}}" for stack in stacks)
    head, *rows = [["Method", *heads], *map(_tex_line, panel.lines)]
    top = [rf"\begin{{tabular}}{{l{'r' * len(stacks)}}}", r"\toprule", " & ".join(head) + r" \\", r"\midrule"]
    return "\n".join([*top, *(" & ".join(row) + r" \\" for row in rows), r"\bottomrule", r"\end{tabular}\par"])


def _tex_line(line: Line) -> list[str]:
    name = _tex(line.method) + rf" \textit{{({line.role})}}" * (line.role not in UNNAMED) + _tex_marks(line.marks)
    texts = [(_tex(entry.text).replace("{-}", "$-$"), entry) for entry in line.entries]
    return [name, *((rf"\textbf{{{text}}}" if e.best else text) + _tex_marks(e.marks) for text, e in texts)]


def _tex_marks(marks: str) -> str:
    return rf"\textsuperscript{{{marks}}}" if marks else ""


def _tex(text: str) -> str:
    def character(c: str) -> str:
        plain = c if c.isascii() else unicodedata.normalize("NFKD", c).encode("ascii", "ignore").decode()
        return LATEX.get(c) or "".join(LATEX.get(p, p) for p in plain) or "?"

    return "".join(character(c) for c in text)
