"""Reads hints from the names of columns, for what the values alone do not tell."""

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words that name things (whose numbers are codes) and words that name amounts.
_THINGS = _words(
    "id ids uid gid pid guid uuid key code zip zipcode postcode postal sku isbn ean hash user item product movie film "
    "song track artist video author ad advert advertiser ads campaign creative publisher site app device model brand "
    "category cate cat genre genres class city country region state store shop seller merchant vendor supplier "
    "customer member visitor session query agent company channel carrier position slot tag tags ip browser os route "
    "origin destination airport hotel room bank branch department"
)
_AMOUNTS = _words(
    "count counts cnt num n number amount price cost fare fee income revenue age days hours minutes seconds duration "
    "length size width height distance score rate ratio share percent total sum avg mean average quantity qty times "
    "lag lead wait waiting nights balance salary wage gains losses views clicks impressions"
)
_USERS = _words("user userid uid user_id member memberid customer customerid visitor visitorid cookie")
_TIMES = _words("time timestamp ts date datetime day hour created updated at event_time unixtime epoch when")
_OTHER_DATES = _words("birth birthday born dob release released expiry expires signup registered joined")
_ORDERED = _words("history hist sequence seq recent last previous clicked viewed watched past")
_WEIGHTS = frozenset(("instance_weight", "sample_weight", "row_weight", "case_weight", "example_weight"))


def split_name(name: str) -> list[str]:
    """Splits a column's name into its words in lower case: "movieId" and "movie_id" to movie, id."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return [word for word in re.split(r"[\W_]+", spaced.lower()) if word]


def names_a_thing(name: str) -> bool:
    """Returns whether a name says that numbers are codes; its last word counts, "item_price" is an amount."""
    words = split_name(name)
    last = words[-1] if words else ""
    return last in _THINGS or last.removesuffix("id") in _THINGS - {"id", ""}


def names_an_amount(name: str) -> bool:
    """Returns whether a name says that numbers are amounts."""
    words = split_name(name)
    if len(words) >= 2 and words[0] in ("num", "number", "count", "total", "n", "days"):
        return True
    return bool(words) and words[-1] in _AMOUNTS


def names_a_user(name: str) -> bool:
    """Returns whether a column looks like the user, by whom GAUC groups rows."""
    words = split_name(name)
    return "_".join(words) in _USERS or (len(words) == 2 and words[1] == "id" and words[0] in _USERS)


def names_a_time(name: str) -> bool:
    """Returns whether a name says that its values are moments."""
    return bool(_TIMES & set(split_name(name)))


def names_another_date(name: str) -> bool:
    """Returns whether a name says that its dates are not when the row happened."""
    return bool(_OTHER_DATES & set(split_name(name)))


def names_a_sequence(name: str) -> bool:
    """Returns whether a bag's name says that the order of its ids matters."""
    return bool(_ORDERED & set(split_name(name)))


def names_row_weights(name: str) -> bool:
    """Returns whether a name says that the column weights the rows."""
    return "_".join(split_name(name)) in _WEIGHTS
