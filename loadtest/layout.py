"""How tables look."""

from rich.table import Table


def new_table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold")


def add_columns(one: Table, *headings: str) -> None:
    """Of numbers."""
    for heading in headings:
        one.add_column(heading, justify="right", no_wrap=True)


def number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
