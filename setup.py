"""Builds the kernels where there is a compiler; without one the install still works."""

import platform
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ATTENTION = Path("services/attention_worker/kernels")
ROWS = Path("services/layer_worker/kernels")

IS_X86 = platform.machine() in ("x86_64", "AMD64")

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
ROW_FLAGS = ["-fopenmp", "-fno-trapping-math", "-fno-math-errno"]
"""On torch's own threads; the others only say that nobody looks at the processor's flags."""


def sources() -> list[Path]:
    """List the translation units that make sense on this machine."""
    found = sorted(ATTENTION.glob("*.cpp"))
    return [path for path in found if IS_X86 or path.stem not in INSTRUCTION_SETS]


class BuildKernels(build_ext):
    """Compiles each translation unit with flags of its own, into a library without Python."""

    def get_ext_filename(self, fullname: str) -> str:
        """Name the library after its module, with nothing about Python in it."""
        return str(Path(*fullname.split("."))) + ".so"

    def build_extension(self, extension: Extension) -> None:
        """Compile and link."""
        objects = []
        for source in extension.sources:
            own = INSTRUCTION_SETS.get(Path(source).stem, [])
            flags = [*FLAGS, *extension.extra_compile_args, *own]
            objects += self.compiler.compile(
                [source], output_dir=self.build_temp, extra_postargs=flags
            )
        library = self.get_ext_fullpath(extension.name)
        self.compiler.link_shared_object(
            objects, library, extra_postargs=extension.extra_link_args, target_lang="c++"
        )


setup(
    ext_modules=[
        Extension(
            "services.attention_worker.kernels.libglinthawk_attention",
            [str(path) for path in sources()],
            depends=[str(path) for path in ATTENTION.glob("*.h")],
            extra_link_args=["-pthread"],
            language="c++",
            optional=True,
        ),
        Extension(
            "services.layer_worker.kernels.libglinthawk_rows",
            [str(ROWS / "rows.cpp")],
            depends=[str(ROWS / "rows.h")],
            extra_compile_args=ROW_FLAGS + ["-mprefer-vector-width=512"] * IS_X86,
            extra_link_args=["-fopenmp"],
            language="c++",
            optional=True,
        ),
    ],
    cmdclass={"build_ext": BuildKernels},
)
