"""docs/choices.md has what the registries have.  To make it anew: python tests/test_docs_choices.py."""

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "choices.md"
BETWEEN = re.compile(r"(<!-- made from .*? -->\n).*?(<!-- end -->)", re.S)


def made(page):
    """The page with the tables of now, in a process in which no test has registered anything."""
    code = (
        "import trainer, sys; from simulator.settings_choices import choices_tables; sys.stdout.write(choices_tables())"
    )
    tables = subprocess.run(
        [sys.executable, "-c", code], cwd=PAGE.parent.parent, capture_output=True, check=True
    ).stdout
    return BETWEEN.sub(lambda found: f"{found[1]}\n{tables.decode()}\n{found[2]}", page)


def test_the_page_has_what_there_is():
    page = PAGE.read_text(encoding="utf-8")
    assert len(BETWEEN.findall(page)) == 1
    assert page == made(page), f"make it anew: python {Path(__file__).name}"


if __name__ == "__main__":
    PAGE.write_text(made(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
