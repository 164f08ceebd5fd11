"""Compile the loops of the numba backend for arm64, with vectors of 16 bytes. They are not run there."""

from __future__ import annotations

import os
import re

os.environ |= {"FASTRNN_LANE_BYTES": "16", "FASTRNN_BACKEND": "numba"}

import llvmlite.binding as llvm
import numpy as np

import fastrnn
from fastrnn.jit import backward_loop, forward_loop

# What only x86-64 has: how denormals are flushed, and a counter of Numba's own that is optimised already.
MODE = re.compile(r"\n.*x86\.sse\.(st|ld)mxcsr.*")
COUNTER = re.compile(r"(\ndefine [^\n]*@NRT_decref\([^\n]*\{\n).*?\n\}", re.DOTALL)
TARGET = re.compile(r'target (triple|datalayout) = .*|"target-(cpu|features)"="[^"]*"')

llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()
for layer in (fastrnn.LSTM(5, 6, proj_size=3), fastrnn.GRU(5, 6, dtype="float64")):
    (y, _), backward = layer.vjp(np.ones((3, 2, 5)))
    backward(y)
for loop in (forward_loop.forward, backward_loop.backward):
    for code in loop.inspect_llvm().values():
        code = COUNTER.sub(r"\1  ret void\n}", TARGET.sub("", MODE.sub("", code)))
        for triple in ("aarch64-linux-gnu", "arm64-apple-macosx", "aarch64-pc-windows-msvc"):
            module = llvm.parse_assembly(code)
            module.triple = triple
            machine = llvm.Target.from_triple(triple).create_target_machine(opt=2)
            multiply_adds = machine.emit_assembly(module).count("fmla")
            print(f"{loop.__name__} for {triple}: {multiply_adds} multiply-adds of vectors")
            assert multiply_adds > 50
