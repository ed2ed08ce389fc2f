"""Adds the wire contract to the package: proto/ compiled into one descriptor set.

Everything else is in pyproject.toml. The descriptor set holds no generated code, so that one wheel
works with every protobuf runtime, whichever protoc compiled it.
"""

import shutil
from pathlib import Path

from setuptools import Command, setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = Path(__file__).resolve().parent
DESCRIPTORS = Path("sage_client", "sage_v1.binpb")


def proto_root() -> Path:
    """The contract's folder: beside this file in a source distribution, else the repository's."""
    shipped = HERE / "proto"
    return shipped if shipped.is_dir() else HERE.parents[1] / "proto"


def proto_files() -> "list[Path]":
    """The contract's files."""
    files = sorted(proto_root().rglob("*.proto"))
    if not files:
        raise FileNotFoundError(f"no .proto files below {proto_root()}")
    return files


def compile_descriptors(out: Path) -> None:
    """Compiles the contract, with all that it imports, into the descriptor set `out`."""
    import grpc_tools
    from grpc_tools import protoc

    root = proto_root()
    arguments = [
        "protoc",
        f"-I{root}",
        f"-I{Path(grpc_tools.__file__).parent / '_proto'}",
        "--include_imports",
        f"--descriptor_set_out={out}",
    ]
    if protoc.main([*arguments, *map(str, proto_files())]) != 0:
        raise RuntimeError(f"protoc could not compile {root}")


class BuildPy(build_py):
    """Python files, and the descriptor set."""

    def run(self) -> None:
        """Builds into the build folder, or in place for an editable installation."""
        super().run()
        root = HERE if self.editable_mode else Path(self.build_lib)
        (root / DESCRIPTORS).parent.mkdir(parents=True, exist_ok=True)
        compile_descriptors(root / DESCRIPTORS)


class SourceDistribution(sdist):
    """The folder, and the contract that it is built from."""

    def make_release_tree(self, base_dir: str, files: "list[str]") -> None:
        """Copies proto/ beside this file."""
        super().make_release_tree(base_dir, files)
        for path in proto_files():
            target = Path(base_dir, "proto", path.relative_to(proto_root()))
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)


COMMANDS: "dict[str, type[Command]]" = {"build_py": BuildPy, "sdist": SourceDistribution}

setup(cmdclass=COMMANDS)
