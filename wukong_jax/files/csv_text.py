"""Quotes values of CSV files by RFC 4180."""


def quote_csv(text: str) -> str:
    """Returns a value as a field of a CSV file, in quotes only if a reader would misread it without."""
    if text and text == text.strip() and not any(letter in text for letter in ',"\r\n'):
        return text
    return '"' + text.replace('"', '""') + '"'
