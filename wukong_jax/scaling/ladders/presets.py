"""Lists the model sizes of the Wukong paper: its Table 5 (internal data) and its Criteo Terabyte grid for Wukong.

None of these can be trained on a laptop. The entries serve to compare the costs that the paper prints with those of
our reading of its sizes. The paper does not disclose dense columns, biases and norms; here all 720 features count as
embeddings of width 160.

Printed units: GFLOP are for training on one example (models/cost.py). Parameters include the tables and seem to be in
units of 2**30, of which the tables take about 627.65 (our reading, consistent with the DLRM rows).

Results of the comparison: DLRM, DCN, AFN+ (except for one row) and MaskNet agree within 6 %, the large sizes within
2 %. FinalMLP agrees if the gates of the first stream read all features and those of the second read one. For AutoInt+
with a large MLP, we count half of the printed GFLOP and parameters. The difference is explained by an MLP that also
reads the attention's output (720 x 512 numbers into 8192: 3.02e9 weights, 2.81 of the missing 2.83 units), while in the
AutoInt paper and here the two are side by side. For Wukong, our counts are below the printed ones for small sizes and
above them for large sizes.
"""

import dataclasses
import importlib
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from wukong_jax.models.cost import Cost, count_cost
from wukong_jax.models.shape import ModelShape
from wukong_jax.scaling.law.curve import CannotFitError
from wukong_jax.scaling.law.fit import fit_paper_form

INTERNAL_TOKENS, INTERNAL_WIDTH = 720, 160
_FEATURES = tuple(f"feature_{number}" for number in range(INTERNAL_TOKENS))
TABLE_UNITS, PARAMETER_UNIT = 627.65, 2**30


@dataclasses.dataclass(frozen=True)
class Preset:
    """One row of Table 5."""

    model: str
    size: str  # as described in the paper
    options: Mapping[str, Any]
    gflop: float  # printed, per example
    parameters: float  # printed, in units of 2**30, including tables
    task_1: float | None  # printed log loss relative to the smallest DLRM, percent; None: exploded, no number printed
    task_2: float | None
    exploded: bool = False

    @property
    def shape(self) -> ModelShape:
        """Shape of the internal data: 720 features of width 160; AFN+ has two tables of that width."""
        width = INTERNAL_WIDTH * (2 if self.model == "AFN+" else 1)
        return ModelShape(0, INTERNAL_TOKENS, width, 1, token_columns=_FEATURES)


_MODULES = {
    "AFN+": "afn",
    "AutoInt+": "autoint",
    "DCN": "dcnv2",
    "DLRM": "dlrm",
    "FinalMLP": "finalmlp",
    "MaskNet": "masknet",
    "Wukong": "wukong",
}


def _afn(deep: int, afn: int, neurons: int) -> dict[str, Any]:
    return {"deep_hidden": (deep,) * 4, "afn_hidden": (afn,) * 4, "log_neurons": neurons}


def _autoint(dim: int, heads: int, deep: tuple[int, ...]) -> dict[str, Any]:
    return {"attention_layers": 3, "attention_dim": dim, "attention_heads": heads, "deep_hidden": deep}


def _dcn(width: int) -> dict[str, Any]:
    return {"cross_layers": 2, "cross_rank": 512, "deep_hidden": (width,) * 4}


def _finalmlp(first: tuple[int, ...], second: tuple[int, ...], gates: tuple[int, ...] = ()) -> dict[str, Any]:
    contexts = {"fs1_context": _FEATURES, "fs2_context": _FEATURES[:1]}
    selection = {"use_fs": True, "fs_hidden": gates, **contexts} if gates else {"use_fs": False}
    return {"mlp1_hidden": first, "mlp2_hidden": second, "heads": 256} | selection


def _masknet(hidden: tuple[int, ...], blocks: int, reduction: float) -> dict[str, Any]:
    widths = {"block_widths": (128,) * blocks, "reduction_ratio": reduction}
    return {"structure": "parallel", "head_hidden": hidden} | widths


def _wukong(layers: int, tokens: int, rank: int, width: int) -> dict[str, Any]:
    hidden = {"fmb_hidden": (width,) * 3, "head_hidden": (width,) * 3}
    return {"layers": layers, "fmb_tokens": tokens, "lcb_tokens": tokens, "rank": rank} | hidden


TABLE_5 = (
    Preset("AFN+", "DNN 4x2048, afn 4x2048, nlog 1024", _afn(2048, 2048, 1024), 4.41, 628.22, 0.11, 0.05),
    Preset("AFN+", "DNN 4x4096, afn 4x2048, nlog 1024", _afn(4096, 2048, 1024), 7.65, 628.74, 0.12, 0.06),
    Preset("AFN+", "DNN 4x4096, afn 4x4096, nlog 2048", _afn(4096, 4096, 2048), 13.08, 629.46, 0.21, 0.14),
    Preset("AFN+", "DNN 4x8192, afn 4x8192, nlog 4096", _afn(8192, 8192, 4096), 43.4, 633.95, 0.12, 0.06),
    Preset("AutoInt+", "attn 3x256, 4 heads, DNN 2x256", _autoint(256, 4, (256,) * 2), 7.72, 627.73, 0.39, 0.24),
    Preset("AutoInt+", "attn 3x512, 4 heads, DNN 2x256", _autoint(512, 4, (256,) * 2), 18.58, 627.77, 0.15, 0.05),
    Preset("AutoInt+", "attn 3x512, 8 heads, DNN 3x8192", _autoint(512, 8, (8192,) * 3), 42.53, 631.49, -0.09, -0.16),
    Preset(
        "AutoInt+", "attn 3x512, 16 heads, DNN 3x10240", _autoint(512, 16, (10240,) * 3), 49.58, 632.59, -0.10, -0.20
    ),
    Preset(
        "AutoInt+",
        "attn 3x512, 16 heads, DNN 3x16384",
        _autoint(512, 16, (16384,) * 3),
        68.83,
        635.57,
        0.13,
        0.01,
        exploded=True,
    ),
    Preset("DCN", "l=2, rank 512, MLP 4x2048", _dcn(2048), 3.0, 628.11, -0.27, -0.27),
    Preset("DCN", "l=2, rank 512, MLP 4x4096", _dcn(4096), 4.67, 628.37, -0.29, -0.32),
    Preset("DCN", "l=2, rank 512, MLP 4x16384", _dcn(16384), 17.85, 630.42, -0.38, -0.41),
    Preset("DCN", "l=2, rank 512, MLP 4x32768", _dcn(32768), 43.88, 634.46, -0.43, -0.45),
    Preset("DCN", "l=2, rank 512, MLP 4x51200", _dcn(51200), 84.71, 640.79, None, None, exploded=True),
    Preset("DLRM", "top 2x512", {"top_hidden": (512,) * 2}, 1.37, 627.78, 0.0, 0.0),
    Preset("DLRM", "top 4x512", {"top_hidden": (512,) * 4}, 1.37, 627.78, -0.11, -0.08),
    Preset("DLRM", "top 4x2048", {"top_hidden": (2048,) * 4}, 3.85, 628.17, -0.23, -0.21),
    Preset("DLRM", "top 4x4096", {"top_hidden": (4096,) * 4}, 7.29, 628.7, -0.28, -0.27),
    Preset("DLRM", "top 4x8192", {"top_hidden": (8192,) * 4}, 14.61, 629.84, -0.32, -0.31),
    Preset("DLRM", "top 4x16384", {"top_hidden": (16384,) * 4}, 31.0, 632.39, -0.37, -0.35),
    Preset("DLRM", "top 4x32768", {"top_hidden": (32768,) * 4}, 71.23, 638.62, -0.36, -0.34),
    Preset(
        "FinalMLP", "4x4096 / 2x1024, out 64, no FS", _finalmlp((4096,) * 4, (1024,) * 2), 3.93, 628.25, -0.11, -0.16
    ),
    Preset(
        "FinalMLP",
        "4x4096 / 2x1024, FS 1x2048",
        _finalmlp((4096,) * 4, (1024,) * 2, (2048,)),
        8.17,
        628.91,
        -0.23,
        -0.27,
    ),
    Preset(
        "FinalMLP",
        "4x8192 / 2x2048, FS 1x4096",
        _finalmlp((8192,) * 4, (2048,) * 2, (4096,)),
        16.9,
        630.27,
        -0.34,
        -0.36,
    ),
    Preset(
        "FinalMLP",
        "8x8192 / 4x2048, FS 2x4096",
        _finalmlp((8192,) * 8, (2048,) * 4, (4096,) * 2),
        18.77,
        630.56,
        -0.37,
        -0.38,
    ),
    Preset(
        "FinalMLP",
        "4x16384 / 2x4096, FS 1x8192",
        _finalmlp((16384,) * 4, (4096,) * 2, (8192,)),
        36.26,
        633.27,
        -0.34,
        -0.34,
    ),
    Preset(
        "FinalMLP",
        "4x24576 / 2x6144, FS 1x12288",
        _finalmlp((24576,) * 4, (6144,) * 2, (12288,)),
        58.12,
        636.67,
        -0.37,
        -0.38,
    ),
    Preset("MaskNet", "MLP 1x512, 1 block, dim 128, red. 0.01", _masknet((512,), 1, 0.01), 1.76, 627.92, -0.09, -0.12),
    Preset("MaskNet", "MLP 1x512, 4 blocks, red. 0.01", _masknet((512,), 4, 0.01), 6.8, 628.7, -0.22, -0.25),
    Preset("MaskNet", "MLP 3x2048, 4 blocks, red. 0.01", _masknet((2048,) * 3, 4, 0.01), 6.88, 628.71, -0.28, -0.30),
    Preset("MaskNet", "MLP 3x2048, 4 blocks, red. 0.05", _masknet((2048,) * 3, 4, 0.05), 32.36, 632.67, -0.37, -0.37),
    Preset("MaskNet", "MLP 3x2048, 4 blocks, red. 0.1", _masknet((2048,) * 3, 4, 0.1), 64.21, 637.61, -0.40, -0.40),
    Preset("Wukong", "l=2, n_L=n_F=8, k=24, MLP 3x2048", _wukong(2, 8, 24, 2048), 0.53, 627.74, -0.35, -0.32),
    Preset("Wukong", "l=4, n_L=n_F=32, k=24, MLP 3x2048", _wukong(4, 32, 24, 2048), 1.25, 627.82, -0.45, -0.43),
    Preset("Wukong", "l=8, n_L=n_F=32, k=24, MLP 3x2048", _wukong(8, 32, 24, 2048), 2.12, 627.95, -0.53, -0.49),
    Preset("Wukong", "l=8, n_L=n_F=48, k=48, MLP 3x4096", _wukong(8, 48, 48, 4096), 5.6, 628.46, -0.60, -0.60),
    Preset("Wukong", "l=8, n_L=n_F=96, k=96, MLP 3x8192", _wukong(8, 96, 96, 8192), 22.23, 630.96, -0.67, -0.66),
    Preset("Wukong", "l=8, n_L=n_F=96, k=96, MLP 3x16384", _wukong(8, 96, 96, 16384), 61.0, 636.99, -0.70, -0.69),
    Preset("Wukong", "l=8, n_L=n_F=192, k=192, MLP 3x16384", _wukong(8, 192, 192, 16384), 108.0, 644.0, -0.76, -0.76),
)


def count_preset(preset: Preset) -> Cost:
    """Counts the cost of a row in our reading, without allocating arrays."""
    module = importlib.import_module(f"wukong_jax.models.{_MODULES[preset.model]}")
    return count_cost(module.build(preset.options, preset.shape), preset.shape, batch=64)


def compare_with_printed(preset: Preset) -> dict[str, Any]:
    """Compares a row's counted costs with the printed ones."""
    cost = count_preset(preset)
    gflop = cost.train_flops_per_example / 1e9
    units = cost.dense_parameters / PARAMETER_UNIT
    return {
        "model": preset.model,
        "size": preset.size,
        "exploded": preset.exploded,
        "printed_gflop": preset.gflop,
        "counted_gflop": round(gflop, 3),
        "gflop_ratio": round(gflop / preset.gflop, 3),
        "printed_parameters": preset.parameters,
        "counted_parameters": round(TABLE_UNITS + units, 2),
        "printed_dense_parameters": round(preset.parameters - TABLE_UNITS, 2),
        "counted_dense_parameters": round(units, 3),
        "printed_task_1_percent": preset.task_1,
        "printed_task_2_percent": preset.task_2,
    }


def fit_printed_losses() -> list[dict[str, Any]]:
    """Fits the paper's form of a law (`law.fit.fit_paper_form`) to its printed losses, for each model and task.

    Returns:
      Rows of `model`, `task`, `points`, `scale`, `exponent` (of printed GFLOP) and `problem`, the reason if no law can
      be fitted. Exploded rows are left out, even if they have a printed loss.
    """
    fits = []
    for model, task in itertools.product(dict.fromkeys(preset.model for preset in TABLE_5), (1, 2)):
        rows = [preset for preset in TABLE_5 if preset.model == model and not preset.exploded]
        losses = [loss for row in rows if (loss := row.task_1 if task == 1 else row.task_2) is not None]
        fit: dict[str, Any] = {"model": model, "task": task, "points": len(losses)}
        try:
            law = fit_paper_form([row.gflop for row in rows], losses)
            fit |= {"scale": law.amplitude, "exponent": law.exponent, "problem": None}
        except CannotFitError as error:
            fit |= {"scale": None, "exponent": None, "problem": str(error)}
        fits.append(fit)
    return fits


def criteo_wukong_grid() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields name and options of the paper's grid for Wukong on Criteo Terabyte (26 embeddings of width 128).

    There are 13 dense columns. The paper does not say which size is best; it prints 28.0 million dense parameters and
    173.73 MFLOP.
    """
    for layers, tokens, depth, width in itertools.product((1, 2, 3, 4), (8, 16), (1, 2, 3, 4), (512, 1024, 2048)):
        options = {
            "layers": layers,
            "fmb_tokens": tokens,
            "lcb_tokens": tokens,
            "rank": 24,
            "bottom_hidden": (512, 256),
            "fmb_hidden": (width,) * depth,
            "head_hidden": (width,) * depth,
        }
        yield f"l={layers}, n={tokens}, MLP {depth}x{width}", options
