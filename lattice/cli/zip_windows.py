"""Label impressions with a mix of attribution windows, from a conversion log (Lattice Zipper).

    wukong-jax zip_windows --impressions=DIR --conversions=FILE --objective=conversion --output=OUT
        [--windows=1h,1d,7d] [--shares=0.2,0.3,0.5] [--now=SECONDS] [--policy=1d] [--test_conversions=FILE]

Each training impression is labelled by one window and emitted when that window closes. OUT holds the impressions
emitted by the cut-off, in emission order. Every delayed objective becomes one objective per window, such as
conversion@1h, and the last of them serves. Train on OUT with config.data.factory = "blocks" and config.data.path = OUT.

If the conversion log of the validation or test split is given, its rows get the labels of all windows; otherwise only
that of the longest window, which is their final label. Prints what each policy emits by the cut-off, which is also
written to OUT/report.json.
"""

import dataclasses
from typing import Annotated

from wukong_jax.ranges import AtLeast


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The command's flags."""

    impressions: Annotated[str, "folder of row blocks, with training rows in time order"]
    conversions: Annotated[str, "conversion log of the training rows (.npz)"]
    validation_conversions: Annotated[str | None, "conversion log of the validation rows"] = None
    test_conversions: Annotated[str | None, "conversion log of the test rows"] = None
    objective: Annotated[tuple[str, ...], "one or more delayed objectives"]
    windows: Annotated[tuple[str, ...], "attribution windows in ascending order, with units s, m, h, d, w"] = (
        "90m",
        "1d",
        "7d",
    )
    shares: Annotated[tuple[float, ...], "shares of the windows, with sum 1 (default: equal)"] = ()
    now: Annotated[int | None, "cut-off in seconds (default: time of the first validation or test row)"] = None
    policy: Annotated[str, "zipper, or one window for all impressions: its name, or longest"] = "zipper"
    signature: Annotated[tuple[str, ...], "id columns that, with the timestamp, identify an impression"] = (
        "user",
        "item",
    )
    last_rows: Annotated[
        int | None, "maximum number of training rows to keep, the latest emitted (default: all)", AtLeast(1)
    ] = None
    seed: Annotated[int, "seed of the draw of windows", AtLeast(0)] = 0
    output: Annotated[str, "folder to create; must not exist"]


def run(settings: Settings) -> None:
    """Writes the labelled rows and prints what each policy emits."""
    from lattice.windows.attribution_windows import AttributionWindows
    from lattice.windows.zipper import ZipperSettings, write_zipped
    from wukong_jax.data.blocks.conversion_log import load_conversion_log

    zipper = ZipperSettings(
        objectives=settings.objective,
        windows=AttributionWindows(settings.windows, settings.shares, settings.seed),
        policy=settings.policy,
        now=settings.now,
        signature=settings.signature,
        last_rows=settings.last_rows,
    )
    paths = {
        "train": settings.conversions,
        "validation": settings.validation_conversions,
        "test": settings.test_conversions,
    }
    logs = {split: load_conversion_log(path) for split, path in paths.items() if path is not None}
    zipped = write_zipped(settings.impressions, logs, settings.output, zipper)["zipper"]
    print(f"cut-off {zipped['now']}\npolicy      emitted  not yet  age at emission  positives")
    for name, counts in zipped["policies"].items():
        positives = sum(sum(window["positives"]) for window in counts["by_window"].values())
        age = "-" if counts["emitted"] == 0 else f"{counts['mean_age_at_emission'] / 3600:.2f} h"
        print(f"{name:8} {counts['emitted']:10} {counts['not_yet_emitted']:8} {age:>16} {positives:10}")
    serving = ", ".join(f"{objective} by {head}" for objective, head in zipped["serving"].items())
    print(f"wrote {settings.output}: policy {zipped['policy']}, serving {serving}")
