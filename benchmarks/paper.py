"""The original's results by simulation, written into docs/planning.md, with its figures.

    python -m benchmarks.paper

The configurations are the published ones (`benchmarks/published/configs.csv`); what they do not say is
in `benchmarks/published/assumptions.yaml`.
"""

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.published.additions import additions_section, paging_section
from benchmarks.published.sections import SECTIONS

_DOCUMENT = Path("docs/planning.md")
_SECTIONS = {**SECTIONS, "additions": additions_section, "paging": paging_section}


def main(
    document: Annotated[Path, typer.Option(help="To write the tables into.")] = _DOCUMENT,
) -> None:
    """Simulate everything, draw the figures, and replace every table between its marks."""
    text = document.read_text(encoding="utf-8")
    figures = document.parent / "planning"
    figures.mkdir(exist_ok=True)
    for name, section in _SECTIONS.items():
        content = section(figures)
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        before, _, rest = text.partition(begin)
        text = before + begin + content + end + rest.partition(end)[2]
        print(content)
    document.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
