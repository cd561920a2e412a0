"""Worker of the benchmark on one emulated host: builds variants of a run over the whole cluster and times steps.

python -m dmt.bench.worker            (started by `dmt.bench.emulated_cluster`, not by hand)
"""

import json
import time
from typing import Any

import jax

from dmt.bench.cluster_process import join_cluster, serve
from wukong_jax.config import build_run_config
from wukong_jax.data.blocks.batch import Batch
from wukong_jax.data.blocks.loader import Position, iterate_batches
from wukong_jax.data.planted.clicks import PlantedClicks, PlantedClicksConfig
from wukong_jax.runs.evaluation import put_batch
from wukong_jax.sharding.host_allocator import keep_freed_memory
from wukong_jax.sharding.mesh import find_own_rows
from wukong_jax.sharding.traffic.step_traffic import measure_traffic
from wukong_jax.strict_mapping import build_dataclass
from wukong_jax.training.run import Run, build_run
from wukong_jax.training.size import count_flops

_BATCHES = 4  # distinct batches, used in turn


class Bench:
    """The variants built so far, each with its compiled step and state."""

    def __init__(self) -> None:
        """Starts without variants."""
        self._variants: dict[str, tuple[Run, Any, Any, list[Batch]]] = {}
        self._clicks: dict[str, PlantedClicks] = {}

    def build(self, name: str, config: dict[str, Any]) -> dict[str, Any]:
        """Builds and compiles a variant over all devices of the cluster.

        Args:
          name: name of the variant.
          config: run config as JSON; its data are planted clicks.

        Returns:
          `traffic`: rows of the compiled step's collectives; `flops`: per example; `seconds`: compile time.
        """
        run_config = build_run_config(config)
        planted = build_dataclass(PlantedClicksConfig, run_config.data.options, "config.data.options")
        clicks = self._clicks.setdefault(json.dumps(config["data"]), PlantedClicks(planted))
        run = build_run(run_config, clicks.schema(), jax.devices())
        state = run.init_state()
        batches = self._make_batches(run, clicks)
        began = time.monotonic()
        step = run.jit_train_step().lower(state, batches[0]).compile()
        seconds = time.monotonic() - began
        hosts, chips = run.mesh.devices.shape
        traffic = measure_traffic(step.as_text(), hosts, chips, transport="gloo")
        self._variants[name] = (run, step, state, batches)
        return {"traffic": traffic.to_rows(), "flops": count_flops(run)["train_flops_per_example"], "seconds": seconds}

    def run(self, name: str, steps: int) -> list[float]:
        """Runs training steps.

        Args:
          name: name of a built variant.
          steps: number of steps.

        Returns:
          Seconds of each step, measured from the time all devices of this host finished the previous one.
        """
        run, step, state, batches = self._variants[name]
        seconds = []
        for index in range(steps):
            began = time.perf_counter()
            state, metrics = step(state, batches[index % len(batches)])
            jax.block_until_ready((state, metrics))
            seconds.append(time.perf_counter() - began)
        self._variants[name] = (run, step, state, batches)
        return seconds

    def _make_batches(self, run: Run, clicks: PlantedClicks) -> list[Batch]:
        """Returns this host's slices of the first few global batches, on its devices."""
        batches = iterate_batches(
            clicks.source("train"),
            run.schema,
            run.config.training.batch_size,
            position=Position(0, run.config.seed, 0),
            shuffle=False,
            epochs=1,
            own_rows=find_own_rows(run.mesh, run.config.training.batch_size),
            threads=0,
        )
        made = [put_batch(next(batches)[0], run.mesh) for _ in range(_BATCHES)]
        batches.close()
        return made


def main() -> None:
    """Joins the cluster and serves the driver."""
    keep_freed_memory()
    join_cluster()
    bench = Bench()
    serve({"build": bench.build, "run": bench.run})


if __name__ == "__main__":
    main()
