"""Describes the machine of a benchmark."""

import platform

import jax


def describe_machine() -> str:
    """Returns processor, device and JAX version in one line."""
    device = jax.devices()[0]
    return f"{platform.machine()}, {device.platform} {device.device_kind}, JAX {jax.__version__}"
