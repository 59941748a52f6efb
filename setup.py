"""The native library; everything else about the package stands in pyproject.toml.

It is plain C++ behind a C interface, loaded by ctypes: no torch and no Python header is needed to build it, and where
there is no compiler the package installs without it (`optional`) and runs on torch alone.
"""

from glob import glob

from setuptools import Extension, setup

setup(
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
