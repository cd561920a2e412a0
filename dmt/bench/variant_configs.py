"""Builds the config of each variant of the bench for the mesh of the emulated cluster."""

import json
from typing import Any

from ml_collections import ConfigDict

from dmt.bench.step_times import Variant
from wukong_jax.config import build_run_config, run_config_to_json
from wukong_jax.errors import UserError


def place_variant(config: ConfigDict, variant: Variant, hosts: int, chips: int, batch: int) -> dict[str, Any]:
    """Returns the config of a variant on a mesh, as JSON values.

    Args:
      config: config of the variant, as returned by its file.
      variant: the variant, which names the exchange.
      hosts: hosts of the mesh.
      chips: chips per host.
      batch: rows of the global batch.

    Raises:
      UserError: the bench cannot use the config's rows, or a value is invalid.
    """
    config.mesh.hosts, config.mesh.chips = hosts, chips
    config.training.batch_size = config.training.evaluation_batch_size = batch
    config.exchange.factory, config.exchange.options = variant.exchange, variant.exchange_options
    built = build_run_config(config)
    if built.data.factory != "planted_clicks" or built.data.options["train_rows"] < 8 * batch:
        raise UserError(
            "--config: the bench needs planted clicks (config.data.factory) with at least 8 batches of training rows"
        )
    return json.loads(run_config_to_json(built))
