"""A slow, obvious twin of the reader of text files: one character at a time, one file at once, without polars."""

from wukong_jax.data.raw.quoted_records import TextLayout


def read_text(text: str, layout: TextLayout, max_bytes: int) -> tuple[list[tuple[int, list[str]]], list[int], int]:
    """Returns the rows with the line where each starts, the refused lines, and the number of lines; lines from 1."""
    lines = [line + "\n" for line in text.removesuffix("\n").split("\n")] if text else []
    rows, refused, at = [], [], 0
    while at < len(lines):
        if layout.fields > 1 and lines[at] in ("\n", "\r\n"):
            at += 1
            continue
        fields, stop = _read_record(lines, at, layout, max_bytes)
        if fields is None or len(fields) != layout.fields or _swallows_rows(lines[at:stop], layout):
            refused.append(at + 1)
            at += 1
        else:
            rows.append((at + 1, fields))
            at = stop
    return rows, refused, len(lines)


def _read_record(lines: list[str], first: int, layout: TextLayout, max_bytes: int) -> tuple[list[str] | None, int]:
    """Returns the fields of the record that starts at a line, None if it is malformed, and the line after it."""
    separator, text, at = layout.separator.decode(), "".join(lines[first:]), 0
    fields: list[str] = []
    if "\0" in lines[first]:
        return None, 0
    while True:
        value = ""
        if layout.quoted and text[at : at + 1] == '"':
            at += 1
            while text[at : at + 1] != '"' or text[at : at + 2] == '""':
                if at >= len(text):
                    return None, 0
                value += text[at]
                at += 2 if text[at] == '"' else 1
            at += 1
            if "\n" in text[:at] and len(text[:at].encode()) > max_bytes:
                return None, 0
        else:
            while not text.startswith((separator, "\n", "\r\n"), at):
                if text[at] == "\r":
                    return None, 0
                value += text[at]
                at += 1
        fields.append(value)
        if text.startswith(("\n", "\r\n"), at):
            return fields, first + text[: text.index("\n", at) + 1].count("\n")
        if not text.startswith(separator, at):
            return None, 0
        at += 1


def _swallows_rows(lines: list[str], layout: TextLayout) -> bool:
    if any("\0" in line for line in lines):
        return True
    return len(lines) > 1 and layout.fields > 1 and all(_could_be_row(line.rstrip("\r\n"), layout) for line in lines)


def _could_be_row(line: str, layout: TextLayout) -> bool:
    fields = line.split(layout.separator.decode())
    if not line or len(fields) != layout.fields:
        return not line
    values = [fields[at].strip(' \t"') for at in layout.numbers]
    return all(value in ("", *layout.missing) or _is_number(value) for value in values)


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True
