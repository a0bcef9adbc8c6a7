"""Builds the attention kernels where there is a compiler; without one the install still works."""

import platform
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

KERNELS = Path("services/attention_worker/kernels")

FLAGS = [
    "-std=c++17",
    "-O3",
    "-g0",
    "-fPIC",
    "-ffp-contract=off",
    "-fvisibility=hidden",
    "-pthread",
]
FLAGS += ["-Wno-maybe-uninitialized"]  # gcc 12 says it of its own headers
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mprefer-vector-width=512"]
INSTRUCTION_SETS = {
    "path_avx2": AVX2,
    "path_avx512": AVX512,
    "path_avx512_bf16": [*AVX512, "-mavx512bf16", "-mavx512vnni"],
}
"""The flags of each translation unit that not every processor can run."""


def sources() -> list[Path]:
    """List the translation units that make sense on this machine."""
    is_x86 = platform.machine() in ("x86_64", "AMD64")
    found = sorted(KERNELS.glob("*.cpp"))
    return [path for path in found if is_x86 or path.stem not in INSTRUCTION_SETS]


class BuildKernels(build_ext):
    """Compiles each translation unit with flags of its own, into a library without Python."""

    def get_ext_filename(self, fullname: str) -> str:
        """Name the library after its module, with nothing about Python in it."""
        return str(Path(*fullname.split("."))) + ".so"

    def build_extension(self, extension: Extension) -> None:
        """Compile and link."""
        objects = []
        for source in extension.sources:
            flags = [*FLAGS, *INSTRUCTION_SETS.get(Path(source).stem, [])]
            objects += self.compiler.compile(
                [source], output_dir=self.build_temp, extra_postargs=flags
            )
        library = self.get_ext_fullpath(extension.name)
        self.compiler.link_shared_object(
            objects, library, extra_postargs=["-pthread"], target_lang="c++"
        )


setup(
    ext_modules=[
        Extension(
            "services.attention_worker.kernels.libglinthawk_attention",
            [str(path) for path in sources()],
            depends=[str(path) for path in KERNELS.glob("*.h")],
            language="c++",
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildKernels},
)
