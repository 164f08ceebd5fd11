"""The page about porting a model: what it does in torch, and what it does after that, on the files that this makes.

Its files in `tests/data/port` are made by `python tests/parity/test_port_page_torch.py`.
"""

from __future__ import annotations

import doctest
import os
import re
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data" / "port"
PAGE = (ROOT / "docs" / "port-a-model.md").read_text()


def run_in_torch() -> None:
    """Step 1 of the page, in the working folder."""
    exec(re.search(r"^```python\n(import .*?)^```", PAGE, re.MULTILINE | re.DOTALL)[1], {})


def test_the_five_steps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_in_torch()
    page = PAGE.replace(f"{DATA.relative_to(ROOT).as_posix()}/", "")
    examples = doctest.DocTestParser().get_doctest(page, {}, "port-a-model.md", None, 0)
    assert len(examples.examples) > 8
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    assert doctest.DocTestRunner(optionflags=flags).run(examples).failed == 0


def test_the_files_of_the_page_are_what_torch_wrote(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_in_torch()
    new, old = (torch.load(folder / "tagger.pt") for folder in (tmp_path, DATA))
    assert list(new) == list(old)
    assert all(torch.equal(new[name], old[name]) for name in new)
    new, old = (np.load(folder / "tagger_golden.npz") for folder in (tmp_path, DATA))
    np.testing.assert_array_equal(new["tokens"], old["tokens"])
    np.testing.assert_allclose(new["logits"], old["logits"], rtol=0, atol=1e-6)


if __name__ == "__main__":
    os.chdir(DATA)
    run_in_torch()
