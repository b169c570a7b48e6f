"""Reports: `Results` in, files out. The comparison as text, Markdown, CSV and LaTeX, and figures as PNG and PDF."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from unlearnbench.judge.results import Results

from .statistics import control_table, inference_tables
from .tables import comparison, controls, latex, markdown, methods, terminal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["comparison", "control_table", "is_current", "latex", "markdown", "render", "terminal"]

FORMATS = {"png": {"Software": None}, "pdf": {"CreationDate": None}}  # metadata: the same figure, the same bytes


def render(results: Results, out: Path, figures: Mapping[str, Callable[[Results], Figure | None]]) -> list[Path]:
    """Write ``comparison.{csv,md,tex,txt}``, ``controls.md``, ``methods.{csv,md}``, the `inference_tables` as CSV,
    and every figure as PNG and PDF under ``out``; return what was written.

    Each file appears whole or not at all. A figure that raises is left out with a warning; of one that does not apply,
    or that failed, no file of an earlier report stays behind.
    """
    out.mkdir(parents=True, exist_ok=True)
    written = [_replace(out / name, text.encode()) for name, text in _tables(results)]
    for name, draw in figures.items():
        try:
            files = _figure_files(draw(results))
        except Exception as error:  # a figure is a plugin: whatever it raises must not cost the others
            warnings.warn(f"figure {name!r} failed: {type(error).__name__}: {error}", RuntimeWarning, stacklevel=2)
            files = {}
        for suffix in FORMATS:
            path = out / f"{name}.{suffix}"
            if suffix in files:
                written.append(_replace(path, files[suffix]))
            else:
                path.unlink(missing_ok=True)
    return written


def is_current(results: Results, out: Path) -> bool:
    """Whether ``out`` already holds a report of these very numbers."""
    expected = ((out / name, text.encode()) for name, text in _tables(results))
    return any(out.glob("*.png")) and all(path.exists() and path.read_bytes() == text for path, text in expected)


def _tables(results: Results) -> Iterator[tuple[str, str]]:
    yield "comparison.csv", comparison(results).to_csv(index=False)
    yield "comparison.md", markdown(results)
    yield "comparison.tex", latex(results)
    yield "comparison.txt", terminal(results)
    yield "controls.md", controls(results)
    yield "methods.md", methods(results)
    yield "methods.csv", results.methods.to_csv(index=False)
    for name, table in inference_tables(results).items():
        yield f"{name}.csv", table.to_csv(index=False)


def _figure_files(figure: Figure | None) -> dict[str, bytes]:
    """The figure in each format; no pyplot, so the caller's backend and settings stay as they are."""
    if figure is None:
        return {}
    from matplotlib import rc_context

    files = {}
    with rc_context({"pdf.fonttype": 42}):  # text in a PDF stays text
        if layout := figure.get_layout_engine():  # once, not once per format
            layout.execute(figure)
            figure.set_layout_engine("none")
        for suffix, metadata in FORMATS.items():
            buffer = io.BytesIO()
            figure.savefig(buffer, format=suffix, dpi=200, metadata=metadata)
            files[suffix] = buffer.getvalue()
    return files


def _replace(path: Path, data: bytes) -> Path:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
