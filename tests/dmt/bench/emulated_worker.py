"""Worker process for the tests of the emulated cluster: runs collectives over either mesh axis, timed and checked."""

import os
import time

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dmt.bench.cluster_process import join_cluster, serve

AXES = ("host", "chip")
COLLECTIVES = {
    "all_to_all": lambda x, axes: jax.lax.all_to_all(x, axes, 0, 0, tiled=True),
    "all_gather": lambda x, axes: jax.lax.all_gather(x, axes, tiled=True),
    "reduce_scatter": lambda x, axes: jax.lax.psum_scatter(x, axes, tiled=True),
    "all_reduce": jax.lax.psum,
}


def build_collective(mesh, name, axes):
    spec = PartitionSpec(AXES)
    # The result of a sum over one axis is still stored per device, so that every collective has one output layout.
    body = jax.shard_map(
        lambda x: COLLECTIVES[name](x, axes), mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
    )
    return jax.jit(body)


def make_input(mesh, elements):
    """Returns [H*C*elements] float32; element i of device d is d * elements + i."""
    everything = np.arange(mesh.size * elements, dtype=np.float32)
    sharding = NamedSharding(mesh, PartitionSpec(AXES))
    return jax.make_array_from_callback(everything.shape, sharding, lambda index: everything[index])


def main():
    place = join_cluster()
    mesh = Mesh(np.array(jax.devices()).reshape(place.hosts, place.chips), AXES)
    built = {}

    def run(collective, axes, elements, steps):
        key = (collective, tuple(axes), elements)
        if key not in built:
            step = build_collective(mesh, collective, tuple(axes))
            value = make_input(mesh, elements)
            built[key] = step, value
        step, value = built[key]
        begin = time.perf_counter()
        for _ in range(steps):
            result = jax.block_until_ready(step(value))
        seconds = time.perf_counter() - begin
        shards = sorted(result.addressable_shards, key=lambda shard: shard.device.id)
        firsts = [np.asarray(shard.data)[:: max(1, elements // mesh.size)].tolist() for shard in shards]
        return {"seconds": seconds, "firsts": firsts, "devices": len(jax.devices())}

    def fail(host):
        if place.host == host:
            print("about to fail", flush=True)
            raise ValueError("asked to")
        return place.host

    def end(host):
        if place.host == host:
            os.write(2, b"last words\n")
            os._exit(7)
        time.sleep(60)

    serve({"run": run, "fail": fail, "end": end})


if __name__ == "__main__":
    main()
