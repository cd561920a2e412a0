import pytest

from wukong_jax.sharding.backend import describe_slow_compiler


@pytest.mark.parametrize("platform", ["gpu", "cuda", "rocm"])
@pytest.mark.parametrize("version", ["0.10.2", "0.11.0"])
def test_old_jax_on_a_gpu_is_told_in_one_line(platform, version):
    line = describe_slow_compiler(platform, version)
    assert line.startswith(f"JAX = {version}")
    assert "use Python 3.12 or later with JAX 0.12" in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("platform", "version"),
    [("gpu", "0.12.0"), ("gpu", "0.12.0.1"), ("gpu", "1.0.0"), ("cpu", "0.10.2"), ("tpu", "0.10.2")],
)
def test_other_platforms_and_later_versions_say_nothing(platform, version):
    assert describe_slow_compiler(platform, version) == ""
