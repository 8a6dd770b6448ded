"""Names that scripts written before the folders use."""

from __future__ import annotations

import subprocess
import sys


def test_models_is_what_adapters_are() -> None:
    code = (
        "import warnings; warnings.simplefilter('error'); "
        "import tokenprune.hf.adapters.llava as new\n"
        "try:\n import tokenprune.models\n"
        "except DeprecationWarning as told:\n assert 'tokenprune.hf.adapters' in str(told)\n"
        "else:\n raise SystemExit('no word of it')\n"
        "warnings.simplefilter('ignore'); import tokenprune.models; import tokenprune.models.llava as old\n"
        "assert old.LlavaAdapter is new.LlavaAdapter\n"
        "assert tokenprune.models.adapter_for is tokenprune.hf.adapters.adapter_for\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
