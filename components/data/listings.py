"""Files that list images with their labels: CSV, SageMaker's `.lst`, and manifests of JSON lines.

Sources: .lst: SageMaker image classification, "Input/Output Interface", image format. Manifests: the same, augmented
manifest image format, and SageMaker Ground Truth, "Classification Job Output".
"""

import csv
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from components.data.splits import SPELLINGS, is_hidden, split_at_end
from serving.errors import DataError

logger = logging.getLogger(__name__)

CSV_SUFFIXES: Final = (".csv", ".tsv")
LST_SUFFIX: Final = ".lst"
JSON_SUFFIXES: Final = (".manifest", ".jsonl", ".ndjson")
DELIMITERS: Final = ",;\t|"
IMAGE_SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".heic", ".avif")
"""By these the first line of a CSV without a header is known to be an image."""

# Names that people give their columns, the surest first.
FILE_COLUMNS: Final = (
    "file", "filename", "file_name", "filepath", "filepaths", "file_path", "path", "image_path", "image_file",
    "image_filename", "image_name", "image_id", "image", "img", "img_path", "img_name", "source_ref", "id",
)  # fmt: skip
LABEL_COLUMNS: Final = (
    "label", "labels", "label_name", "class", "classes", "class_name", "category", "category_name", "target", "breed",
    "species", "class_id", "label_id", "category_id",
)  # fmt: skip
SPLIT_COLUMNS: Final = ("split", "data_set", "dataset", "subset", "set", "partition", "fold")
SOURCE: Final = "source-ref"
METADATA: Final = "-metadata"


@dataclass(frozen=True)
class Row:
    """One image of a listing."""

    line: int
    file: str
    """Path or address as written."""
    label: str
    split: str
    """Empty: the listing does not say."""


def find_listings(folder: Path) -> dict[str, Path]:
    """Listings right in a folder, by the split that their name says; a single one that says none has the name "".

    Raises:
        DataError: There are several and it cannot be told what each is for.
    """
    found = sorted(path for path in folder.iterdir() if not is_hidden(path) and is_listing(path))
    if len(found) < 2:
        return {split_at_end(path.stem) or "": path for path in found}
    named: dict[str, Path] = {}
    for path in found:
        split = split_at_end(path.stem)
        if split is None:
            logger.warning("%s lists images but its name does not end in train, valid or test: it is not read", path)
        elif split in named:
            raise DataError(f"{str(named[split])!r} and {str(path)!r} both list the {split} split: keep one")
        else:
            named[split] = path
    if not named:
        names = ", ".join(repr(path.name) for path in found)
        raise DataError(f"{str(folder)!r} has several listings ({names}): give the one you mean as --data FILE")
    return named


def is_listing(path: Path) -> bool:
    """Whether a file lists images with labels; a CSV of something else does not."""
    suffix = path.suffix.lower()
    if not path.is_file() or suffix not in (*CSV_SUFFIXES, LST_SUFFIX, *JSON_SUFFIXES):
        return False
    if suffix not in CSV_SUFFIXES:
        return True
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        head = file.readline(100_000)
    return _columns(next(csv.reader([head], delimiter=_delimiter(head)), [])) is not None


def read_listing(path: Path) -> list[Row]:
    """Rows of a listing that have a label.

    Raises:
        DataError: It is not text, has no rows, lacks a column or has a value that nobody can read; names the line.
    """
    suffix = path.suffix.lower()
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if suffix in JSON_SUFFIXES:
                rows = list(_json_rows(path, list(file)))
            elif suffix == LST_SUFFIX:
                rows = list(_lst_rows(path, file))
            else:
                rows = list(_csv_rows(path, file.read().splitlines(keepends=True)))
    except UnicodeDecodeError as error:
        raise DataError(f"listing {str(path)!r} is not UTF-8 text ({error.reason}): save it as UTF-8") from error
    except csv.Error as error:
        raise DataError(f"listing {str(path)!r} cannot be read as CSV: {error}") from error
    labelled = [row for row in rows if row.label]
    if not labelled:
        raise DataError(f"listing {str(path)!r} has no rows with a label")
    if len(labelled) < len(rows):
        logger.warning(
            "%s: %d of %d rows have no label and are left out, the first is line %d",
            path, len(rows) - len(labelled), len(rows), next(row.line for row in rows if not row.label),
        )  # fmt: skip
    return labelled


@dataclass(frozen=True)
class _Columns:
    file: int
    label: int
    split: int | None
    has_header: bool


def _delimiter(head: str) -> str:
    return max(DELIMITERS, key=head.count)


def _columns(header: Sequence[str]) -> _Columns | None:
    names = [re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") for name in header]

    def place_of(known: Sequence[str]) -> int | None:
        return next((names.index(name) for name in known if name in names), None)

    file, label, split = place_of(FILE_COLUMNS), place_of(LABEL_COLUMNS), place_of(SPLIT_COLUMNS)
    if file is not None and label is not None:
        return _Columns(file, label, split, has_header=True)
    if len(header) in {2, 3} and header[0].strip().lower().endswith(IMAGE_SUFFIXES):
        return _Columns(0, 1, 2 if len(header) == 3 else None, has_header=False)
    return None


def _csv_rows(path: Path, lines: Sequence[str]) -> Iterator[Row]:
    delimiter = _delimiter(lines[0]) if lines else ","
    reader = csv.reader(lines, delimiter=delimiter)
    header = next(reader, [])
    columns = _columns(header)
    if columns is None:
        found = ", ".join(header[:6]) or "nothing"
        raise DataError(
            f"listing {str(path)!r} begins with {found!r}, expected a header with a column for the file (such as file) "
            "and one for the label (such as label), and perhaps one called split"
        )
    if not columns.has_header:
        reader = csv.reader(lines, delimiter=delimiter)
    needed = max(columns.file, columns.label, columns.split or 0)
    for row in reader:
        if not any(field.strip() for field in row):
            continue
        if len(row) <= needed:
            raise _bad_line(path, reader.line_num, f"has {len(row)} fields, expected at least {needed + 1}")
        split = "" if columns.split is None else _split(path, reader.line_num, row[columns.split])
        yield _row(path, reader.line_num, row[columns.file], row[columns.label], split)


def _lst_rows(path: Path, lines: Iterator[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        fields = line.rstrip("\r\n").split("\t")
        if len(fields) != 3:
            raise _bad_line(
                path, number, f"has {len(fields)} fields between tabs, expected three: a number, one label and a path"
            )
        yield _row(path, number, fields[2], _plain(fields[1]), "")


def _json_rows(path: Path, lines: Sequence[str]) -> Iterator[Row]:
    objects: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
        except ValueError as error:
            raise _bad_line(path, number, f"is not JSON ({error}), expected an object on every line") from error
        if not isinstance(content, dict):
            raise _bad_line(path, number, f"holds a {type(content).__name__}, expected an object")
        objects.append((number, content))
    names = _names_of_numbers(content for _, content in objects)
    for number, content in objects:
        if SOURCE in content:
            yield _row(path, number, str(content[SOURCE]), _manifest_label(path, number, content, names), "")
            continue
        keys = list(content)
        columns = _columns(keys)
        if columns is None:
            raise _bad_line(
                path, number, f"has {', '.join(keys[:6])}; expected source-ref and a label, or file and label"
            )
        split = "" if columns.split is None else _split(path, number, str(content[keys[columns.split]]))
        label = _scalar(path, number, content[keys[columns.label]])
        yield _row(path, number, str(content[keys[columns.file]]), label, split)


def _manifest_label(path: Path, number: int, content: Mapping[str, Any], names: Mapping[tuple[str, str], str]) -> str:
    attributes = [name for name in content if name != SOURCE and not name.endswith((METADATA, "-ref"))]
    if not attributes:
        return ""
    # Each labelling job appends its own attribute; those of another kind (boxes) have no class name.
    named = [name for name in attributes if "class-name" in _metadata(content, name)] or attributes
    attribute = named[-1]
    given = _metadata(content, attribute).get("class-name")
    if isinstance(given, str):
        return given
    value = _scalar(path, number, content[attribute])
    return names.get((attribute, value), value)


def _names_of_numbers(objects: Iterator[Mapping[str, Any]]) -> dict[tuple[str, str], str]:
    """What a label's number is called, from the lines that say so: in one manifest some lines may and others not."""
    names: dict[tuple[str, str], str] = {}
    for content in objects:
        for attribute in content:
            given = _metadata(content, attribute).get("class-name")
            if isinstance(given, str) and isinstance(content[attribute], str | int | float):
                names[attribute, _plain(str(content[attribute]))] = given
    return names


def _metadata(content: Mapping[str, Any], attribute: str) -> Mapping[str, Any]:
    found = content.get(attribute + METADATA)
    return found if isinstance(found, dict) else {}


def _scalar(path: Path, number: int, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _bad_line(path, number, f"has the label {json.dumps(value)}, expected one name or one number")
    return _plain(str(value))


def _plain(label: str) -> str:
    """`3.000000`, as im2rec writes it, is 3."""
    return re.sub(r"^(\d+)\.0+$", r"\1", label.strip())


def _split(path: Path, number: int, value: str) -> str:
    split = SPELLINGS.get(value.strip().lower())
    if split is None:
        raise _bad_line(path, number, f"is of the split {value!r}, expected train, valid or test")
    return split


def _row(path: Path, number: int, file: str, label: str, split: str) -> Row:
    if not file.strip():
        raise _bad_line(path, number, "names no file")
    return Row(number, file.strip(), label.strip(), split)


def _bad_line(path: Path, number: int, what: str) -> DataError:
    return DataError(f"line {number} of listing {str(path)!r} {what}")
