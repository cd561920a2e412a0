"""Takes train steps of small models on meshes of eight devices and of one, for tests of split dense weights."""

import functools
import math
from typing import Any

import chex
import jax

from tests.training.test_microbatches import B, make_batch
from wukong_jax.config import build_run_config
from wukong_jax.runs.evaluation import put_batch
from wukong_jax.schema import CategoricalColumn, DenseColumn, LabelColumn, Schema, Source
from wukong_jax.training.run import Run, build_run

FIELDS = 8
SCHEMA = Schema(
    "made_up",
    Source("csv"),
    labels=(LabelColumn("click"), LabelColumn("like")),
    dense=(DenseColumn("age"), DenseColumn("price")),
    categorical=tuple(CategoricalColumn(f"c{i}", rows=40, encoding="identity") for i in range(FIELDS)),
    domain="place",
    domain_values=("home", "shop"),
)
WUKONG = {
    **{"layers": 2, "fmb_tokens": 4, "lcb_tokens": 4, "rank": 4, "fmb_hidden": (16,), "head_hidden": (8,)},
    **{"embedding_dropout": 0.2, "fmb_dropout": 0.3, "head_dropout": 0.1},
}
DCNV2 = {"cross_layers": 2, "deep_hidden": (16, 8), "bottom_hidden": (8,), "deep_dropout": 0.2}
MODELS: dict[str, dict[str, Any]] = {
    "wukong": {"factory": "wukong_jax.models.wukong:build", "options": WUKONG},
    "dcnv2": {"factory": "wukong_jax.models.dcnv2:build", "options": DCNV2},
    "lattice": {"factory": "lattice.network:build", "options": {"layers": 2, "head_dropout": 0.2}},
    "lattice in 8 bits": {"factory": "lattice.network:build", "options": {"layers": 2, "float8": "row"}},
    "star": {"factory": "lattice.baselines.star:build", "options": {"star_hidden": (16, 8)}},
}
TOWER_EXCHANGE = {"factory": "dmt.tower_exchange:build"}
MESH_OF_EIGHT = {"hosts": 2, "chips": 4}


def put_towers_before(model: dict[str, Any]) -> dict[str, Any]:
    """Returns the model behind four towers of two columns, with weights of their own."""
    module = {"kind": "wukong", "fmb_hidden": (16,)}
    over = {"over": model["factory"], "over_options": model["options"]}
    return {"factory": "dmt.model:build", "options": {"towers": 4, "module": module, **over}}


def make_run(model: dict[str, Any], mesh: dict[str, Any], *, trains: bool = True, **parts: Any) -> Run:
    """Builds a run; without an exchange, tables are on every device."""
    training = {"batch_size": B, "evaluation_batch_size": B, "steps": 10, "microbatch": 0, **parts.pop("training", {})}
    if mesh.get("fsdp", "none") != "none":
        mesh = {"fsdp_min_size": 64, **mesh}
    config = {
        "name": "split",
        "data": {"factory": "blocks", "path": "unused"},
        "embeddings": {"width": 8, "optimizer": {"kind": "sgd", "learning_rate": 0.05}},
        # plain gradient steps show a gradient of the wrong size, where Adam would hide it
        "optimizer": {"factory": "sgd", "learning_rate": 0.1},
        "model": model,
    }
    return build_run(build_run_config(config | {"training": training, "mesh": mesh} | parts), SCHEMA, trains=trains)


def take_steps(run: Run, steps: int = 2) -> Any:
    """Returns the metrics of every step, the dense state after the last, its predictions and the tables' rows."""
    step, state, metrics = run.jit_train_step(), run.init_state(), []
    for seed in range(steps):
        state, made = step(state, put_batch(make_batch(seed, SCHEMA), run.mesh))
        metrics.append(made)
    logits = run.predict_step(state.params, state.statistics, state.tables, put_batch(make_batch(9, SCHEMA), run.mesh))
    tables = {name: arrays["rows"] for name, arrays in run.exchange.export_tables(state.tables).items()}
    return jax.device_get((metrics, state.params, state.optimizer_state, state.statistics, logits, tables))


@functools.cache
def take_steps_on_one_device(name: str, towers: bool = False, compute_dtype: str = "float32") -> Any:
    """Returns `take_steps` of a model on one device, under plain settings."""
    model = put_towers_before(MODELS[name]) if towers else MODELS[name]
    return take_steps(make_run(model, {"hosts": 1, "chips": 1}, training={"compute_dtype": compute_dtype}))


def check_steps(
    name: str, fsdp: str, remat: bool, microbatch: int, towers: bool = False, tolerance: float = 1e-6
) -> Run:
    """Checks that two steps on eight devices are those on one, and returns the run."""
    parts = {"exchange": TOWER_EXCHANGE} if towers else {}
    model = put_towers_before(MODELS[name]) if towers else MODELS[name]
    training = {"remat": remat, "microbatch": microbatch}
    run = make_run(model, MESH_OF_EIGHT | {"fsdp": fsdp}, training=training, **parts)
    # sums over devices add in another order
    chex.assert_trees_all_close(take_steps(run), take_steps_on_one_device(name, towers), rtol=1e-4, atol=tolerance)
    return run


def count_device_bytes(tree: Any, sharding: Any) -> int:
    """Counts the bytes of one device's parts of a pytree of shapes."""
    parts = jax.tree.map(lambda leaf, own: math.prod(own.shard_shape(leaf.shape)) * leaf.dtype.itemsize, tree, sharding)
    return sum(jax.tree.leaves(parts))
