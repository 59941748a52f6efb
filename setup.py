"""The native library; everything else about the package stands in pyproject.toml.

It is plain C++ behind a C interface, loaded by ctypes: no torch and no Python header is needed to build it, and where
there is no compiler the package installs without it (`optional`) and runs on torch alone.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


class BuildSideBySide(build_ext):
    """Compiles the sources of an extension at the same time: three of them are the same kernels for as many
    instruction sets, and take nearly all of the time.
    """

    def build_extension(self, ext: Extension) -> None:
        one_by_one = self.compiler.compile

        def compile_all(sources: list[str], *args: Any, **settings: Any) -> list[str]:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                objects = list(pool.map(lambda source: one_by_one([source], *args, **settings), sources))
            return [name for names in objects for name in names]

        self.compiler.compile = compile_all
        super().build_extension(ext)


setup(
    cmdclass={"build_ext": BuildSideBySide},
    ext_modules=[
        Extension(
            "icsbound._kernels",
            sources=sorted(glob("src/native/*.cpp")),
            depends=sorted(glob("src/native/*.h")),
            language="c++",
            optional=True,
            py_limited_api=True,
            extra_compile_args=["-O3", "-std=c++17", "-fopenmp-simd", "-fno-math-errno", "-g0"],
        )
    ]
    if glob("src/native/*.cpp")
    else [],
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
