"""XML without what makes it dangerous: no document types and no entities."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from xml.parsers import expat

from maskwright.errors import DataError


def parse_xml(
    path: Path,
    start: Callable[[str, dict[str, str]], object],
    end: Callable[[str], object] | None = None,
    characters: Callable[[str], object] | None = None,
) -> None:
    """Read a file element by element; what was told before an error stays told.

    Args:
        path: of the file.
        start: gets the name and the attributes of each element as it begins.
        end: gets its name as it ends.
        characters: gets pieces of text.

    Raises:
        DataError: no such file, not well-formed, or with a document type; the message does not name the file.
    """
    parser = expat.ParserCreate()
    # An entity can be made to grow to any size, or to name another file; it needs one of these declarations.
    parser.StartDoctypeDeclHandler = _refuse
    parser.EntityDeclHandler = _refuse
    parser.StartElementHandler = start
    if end is not None:
        parser.EndElementHandler = end
    if characters is not None:
        parser.CharacterDataHandler = characters
    try:
        with open(path, "rb") as stream:
            parser.ParseFile(stream)
    except expat.ExpatError as error:
        raise DataError(f"not valid XML ({error})") from error
    except OSError as error:
        raise DataError(f"cannot be read ({error})") from error


def _refuse(*_: object) -> None:
    raise DataError("declares a document type, which is not read: annotation tools write none")
