import hashlib

import numpy as np
import pytest

from lattice.windows.attribution_windows import AttributionWindows, draw_windows, parse_window
from wukong_jax.errors import UserError

WINDOWS = AttributionWindows(("1h", "1d", "7d"), (0.2, 0.3, 0.5), seed=4)


def make_signatures(rows: int, seed: int = 0) -> np.ndarray:
    """Returns user, item and ascending time; many users and items repeat."""
    random = np.random.default_rng(seed)
    times = 1_700_000_000 + np.sort(random.integers(0, 10 * rows, rows))
    return np.column_stack([random.zipf(1.5, rows) % 1000, random.integers(0, 50, rows), times])


def slow_draw(signature: list[int], windows: AttributionWindows) -> int:
    """Draws one window in Python integers: SplitMix64 over the signature, then a loop over the shares."""

    def mix(value: int) -> int:
        value = (value + 0x9E3779B97F4A7C15) % 2**64
        value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
        return value ^ (value >> 31)

    state = mix(windows.seed)
    for value in signature:
        state = mix(state ^ (value % 2**64))
    uniform, total = (state >> 11) / 2**53, 0.0
    for window, share in enumerate(windows.drawing_shares):
        total += share
        if uniform < total:
            return window
    return len(windows.names) - 1


@pytest.mark.parametrize(
    ("name", "seconds"), [("90m", 5400), ("1h", 3600), ("7d", 604800), ("45s", 45), ("2w", 1209600)]
)
def test_a_windows_name_is_its_length(name, seconds):
    assert parse_window(name) == seconds


@pytest.mark.parametrize("name", ["", "h", "1", "0d", "-1h", "1.5h", "1h ", "1y", "99999999d", "٣h"])
def test_a_name_that_is_no_length_is_refused(name):
    with pytest.raises(UserError, match=r"^window "):
        parse_window(name)


def test_windows_equal_their_twin_impression_by_impression():
    signatures = make_signatures(3000)
    signatures[::7, 0] = -1  # a row without a user
    for windows in (WINDOWS, AttributionWindows(), AttributionWindows(("1h",))):
        expected = [slow_draw(signature, windows) for signature in signatures.tolist()]
        np.testing.assert_array_equal(draw_windows(signatures, windows), expected)


def test_windows_of_a_seed_never_change():
    """A log may be replayed a year later, or by another worker, and must be judged as before."""
    signatures = np.arange(30_000).reshape(10_000, 3)
    drawn = draw_windows(signatures, WINDOWS)
    assert drawn.dtype == np.int32
    assert hashlib.sha256(drawn.tobytes()).hexdigest()[:16] == "384c8f02d2fc5cb9"


def test_the_shares_are_approached():
    rows = 200_000
    counts = np.bincount(draw_windows(make_signatures(rows), WINDOWS), minlength=3)
    shares = np.array(WINDOWS.shares)
    deviations = (counts - rows * shares) / np.sqrt(rows * shares * (1 - shares))
    assert np.abs(deviations).max() < 5


def test_no_shares_are_equal_shares():
    signatures = make_signatures(1000)
    equal = AttributionWindows(("1h", "1d"), (0.5, 0.5))
    np.testing.assert_array_equal(
        draw_windows(signatures, AttributionWindows(("1h", "1d"))), draw_windows(signatures, equal)
    )


@pytest.mark.parametrize("part", [0, 1, 2])
def test_every_part_of_the_signature_counts(part):
    """With one part changed the windows are unrelated to the first: equal as often as two draws are."""
    rows = 20_000
    signatures = make_signatures(rows)
    other = signatures.copy()
    other[:, part] += 1
    equal = (draw_windows(signatures, WINDOWS) == draw_windows(other, WINDOWS)).mean()
    expected = np.square(WINDOWS.shares).sum()
    assert equal == pytest.approx(expected, abs=5 * np.sqrt(expected * (1 - expected) / rows))


def test_another_seed_draws_other_windows_and_another_order_of_rows_the_same():
    signatures = make_signatures(20_000)
    drawn = draw_windows(signatures, WINDOWS)
    other = draw_windows(signatures, AttributionWindows(WINDOWS.names, WINDOWS.shares, seed=5))
    assert (drawn == other).mean() < 0.45  # 0.38 where they are unrelated
    np.testing.assert_array_equal(draw_windows(signatures[::-1], WINDOWS), drawn[::-1])
    np.testing.assert_array_equal(draw_windows(signatures[17:900], WINDOWS), drawn[17:900])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"names": ()}, r"windows = \(\): at least one"),
        ({"names": ("1d", "1h")}, "windows = 1d,1h: 1h after 1d"),
        ({"names": ("60m", "1h")}, "1h after 60m; windows must ascend"),
        ({"names": ("1h", "day")}, "window 'day'"),
        ({"names": ("1h", "1d"), "shares": (1.0,)}, "shares = 1: 1 for 2 windows"),
        ({"names": ("1h", "1d"), "shares": (0.0, 1.0)}, "shares = 0,1: each must be above 0"),
        ({"names": ("1h", "1d"), "shares": (0.5, 0.6)}, "of sum 1.1; must be 1"),
        ({"names": ("1h", "1d"), "shares": (float("nan"), 0.6)}, "each must be above 0"),
        ({"seed": -1}, "seed = -1: must be at least 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        AttributionWindows(**settings)
