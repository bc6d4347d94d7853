"""Tables in Markdown files, between markers that name them, so that a script can write them anew."""

import re


def markdown(header, rows):
    """Return a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def put(path, name, text):
    """Write a text between ``<!-- name: ... -->`` and ``<!-- end of name -->`` of a file.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    name : str
        Name of the markers.
    text : str
        What stands between them from now on.

    Raises
    ------
    ValueError
        If the file has no such markers.
    """
    page = path.read_text(encoding="utf-8")
    pattern = rf"(<!-- {re.escape(name)}: [^\n]*-->\n).*?(<!-- end of {re.escape(name)} -->)"
    page, found = re.subn(pattern, lambda marks: f"{marks[1]}{text}\n{marks[2]}", page, flags=re.DOTALL)
    if not found:
        raise ValueError(f"{path} has no lines <!-- {name}: ... --> and <!-- end of {name} -->")
    path.write_text(page, encoding="utf-8")
