"""Compiles LLVM IR to machine code for this processor, and caches that on disk."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from functools import cache
from typing import Any

import llvmlite
from llvmlite import binding

from ...codegen.llvm import Target
from .disk_cache import cache_folder


@cache
def host_features() -> frozenset[str]:
    """The optional instruction sets of the processor."""
    return frozenset(name for name, on in binding.get_host_cpu_features().items() if on)


@cache
def target(dtype: str) -> Target:
    """Vectors of `dtype` in the widest registers of this processor."""
    size = 8 if dtype == "float64" else 4
    widest = 64 if "avx512f" in host_features() else 32 if "avx" in host_features() else 16
    return Target(dtype, widest // size, widest == 64)


class MachineCode:
    """The functions of a module, by name. Their memory is freed with this object."""

    def __init__(self, text: str, names: list[str]) -> None:
        machine = _machine()
        self._engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
        self._engine.add_object_file(binding.ObjectFileRef.from_data(_object(text)))
        self._engine.finalize_object()
        self.addresses = {name: self._engine.get_function_address(name) for name in names}


def _object(text: str) -> bytes:
    """The object file of `text`, from the cache if it has a valid copy."""
    processor = [binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten(), llvmlite.__version__]
    key = hashlib.sha256("\0".join([*processor, text]).encode()).hexdigest()[:32]
    path = cache_folder() / f"fastrnn_{key}.o"
    with contextlib.suppress(OSError):
        content = path.read_bytes()
        if hashlib.sha256(content[32:]).digest() == content[:32]:
            return content[32:]
    made = _compile(text)
    with contextlib.suppress(OSError):
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(hashlib.sha256(made).digest() + made)
        os.replace(file.name, path)
    return made


def _compile(text: str) -> bytes:
    machine = _machine()
    module = binding.parse_assembly(text)
    module.triple, module.data_layout = machine.triple, str(machine.target_data)
    module.verify()
    options = binding.create_pipeline_tuning_options(speed_level=3)
    # The code is vectorized and unrolled already.
    options.loop_vectorization = options.slp_vectorization = options.loop_unrolling = False
    builder = binding.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    made: bytes = machine.emit_object(module)
    return made


def _machine() -> Any:
    """A target machine for this processor; a new one each time, as an engine takes ownership of it."""
    _initialize()
    triple = binding.Target.from_triple(binding.get_process_triple())
    features = binding.get_host_cpu_features().flatten()
    return triple.create_target_machine(binding.get_host_cpu_name(), features, opt=3, jit=True)


@cache
def _initialize() -> None:
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
