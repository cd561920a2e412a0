"""The machine that a bench ran on."""

import platform

import jax


def describe_machine() -> str:
    """Processor, device and JAX release, in a line."""
    device = jax.devices()[0]
    return f"{platform.machine()}, {device.platform} {device.device_kind}, JAX {jax.__version__}"
