"""Fill the templates of report.html and of the README files in a bundle."""

from __future__ import annotations

from pathlib import Path

from keras_convmixer.environment.install import install_command
from keras_convmixer.files.printable import printable

from .text import escape_markdown

try:  # imported before an export begins, and needed at its end
    import jinja2
    import markupsafe
except ImportError as error:
    raise ImportError(f"the report needs {error.name}: {install_command('export')}") from None


def fill_template(name: str, /, **values: object) -> str:
    """Return a template of this folder with its values filled in.

    Control characters in values are shown as escapes. In a template whose name has ".html", values are escaped; in the
    others, which are Markdown, the filter `markdown` stands at each value that comes from outside, such as a label.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=".html" in name,
        finalize=_without_control_characters,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "kilobytes": lambda size: f"{size / 1000:,.0f}",
        "markdown": escape_markdown,
        "percent": lambda share: "not known" if share is None else f"{share:.2%}",
    }
    return environment.get_template(name).render(**values)


def _without_control_characters(value):
    # HTML's escaping leaves them in. Markup is text of the template itself.
    return printable(value) if isinstance(value, str) and not isinstance(value, markupsafe.Markup) else value
