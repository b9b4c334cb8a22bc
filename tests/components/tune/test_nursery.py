"""The process that workers are forked from."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support.engine import ROOT

CHILD = """
import json, os, sys
from pathlib import Path
found = {"parent": os.getppid(), "is_loaded": "components.tune.worker" in sys.modules}
Path(__file__).with_name(f"{os.getpid()}.json").write_text(json.dumps(found))
"""


PARENT = """
import runpy, sys
from components.tune import nursery
for _ in range(2):
    nursery.prepare()
    process = nursery.CONTEXT.Process(target=runpy.run_path, args=(sys.argv[1],))
    process.start()
    process.join()
    assert process.exitcode == 0
"""
"""In a process of its own: in this one, other tests may have started another server."""


def test_workers_come_from_one_process_that_has_loaded_what_they_need(tmp_path: Path) -> None:
    child = tmp_path / "child.py"
    child.write_text(CHILD)
    subprocess.run([sys.executable, "-c", PARENT, str(child)], cwd=ROOT, check=True)
    first, second = (json.loads(path.read_text()) for path in tmp_path.glob("*.json"))
    assert first == second == {"parent": first["parent"], "is_loaded": True}
    assert first["parent"] != os.getpid()


def test_it_can_be_started_before_torch_is_loaded_here() -> None:
    code = "import sys; from components.tune import nursery; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
