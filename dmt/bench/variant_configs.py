"""The config of each variant of the bench, on the emulated cluster's mesh."""

import json
from typing import Any

from ml_collections import ConfigDict

from dmt.bench.step_times import Variant
from wukong_jax.config import build_run_config, run_config_to_json
from wukong_jax.errors import UserError


def place_variant(config: ConfigDict, variant: Variant, hosts: int, chips: int, batch: int) -> dict[str, Any]:
    """A variant's config on a mesh, as JSON values.

    Args:
      config: of the variant, as its file returned it.
      variant: names the exchange.
      hosts: of the mesh.
      chips: of a host.
      batch: rows of the global batch.

    Raises:
      UserError: a config whose rows the bench cannot use, or a bad value in it.
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
