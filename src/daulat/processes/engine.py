"""The engine's own process, run inside the sandbox: `python -I -S engine.py '<json of engines.port.Launch>'`.

Nothing of Daulat is visible there, so this file imports the standard library and `xllamacpp` alone, which stands beside
it. On stdout it says one JSON line when the engine listens. llama.cpp's reasons for failing are on stderr.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any, Final

_HTTP_THREADS: Final = 64  # each keep-alive connection holds one; health must always find a free one


def drop(uid: int | None) -> None:
    """Become the sandbox's own uid for good: leaving uid 0 clears every capability (capabilities(7))."""
    os.umask(0o077)
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)


def parameters(engine: Any, launch: dict[str, Any]) -> Any:
    """llama.cpp's parameters for `launch` (see engines.port.Launch)."""
    chosen = engine.CommonParams()
    chosen.model.path = launch["model"]
    chosen.model_alias = {launch["name"]}
    chosen.hostnames = [launch["socket"]]
    chosen.n_parallel = launch["slots"]
    chosen.n_ctx = launch["context"] * launch["slots"]  # divided by n_parallel again
    chosen.cpuparams.n_threads = launch["threads"]
    chosen.cpuparams_batch.n_threads = launch["threads"]
    chosen.n_threads_http = _HTTP_THREADS
    chosen.cache_type_k = chosen.cache_type_v = engine.ggml_type.GGML_TYPE_F16
    chosen.flash_attn_type = engine.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED
    chosen.cache_ram_mib = 0  # requests name their slot; a second cache in memory would only grow
    chosen.cache_idle_slots = False
    chosen.n_gpu_layers = 0
    chosen.fit_params = False  # what was asked for, or a failure that says so
    chosen.ui = False
    chosen.cors_origins = chosen.cors_headers = chosen.cors_methods = ""
    chosen.cors_credentials = False
    chosen.endpoint_metrics = True
    chosen.endpoint_slots = chosen.endpoint_props = False  # saving and restoring slots goes without the former
    chosen.slot_save_path = launch["scratch"].rstrip("/") + "/"
    chosen.offline = True
    if launch["embeds"]:
        chosen.embedding = True
        chosen.kv_unified = True  # apart, inputs of unequal length are cut to equal ones, and pooled only in part
        chosen.n_batch = chosen.n_ubatch = launch["context"]  # an input is read in one go, or not at all
    return chosen


def end_with_input() -> None:
    """End when standard input does: whoever started us is gone.

    bubblewrap's `--die-with-parent` does not see that while it sets up.
    """
    os.read(0, 1)
    os._exit(0)


def main() -> None:
    launch = json.loads(sys.argv[1])
    drop(launch["uid"])
    threading.Thread(target=end_with_input, daemon=True).start()
    stopping = threading.Event()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        stopping.set()

    signal.signal(signal.SIGTERM, stop)
    sys.path.insert(0, str(Path(__file__).parent))
    import xllamacpp  # noqa: PLC0415  only after the capabilities are gone

    try:
        server = xllamacpp.Server(parameters(xllamacpp, launch))
    except RuntimeError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(1)
    sys.stdout.write(json.dumps({"listening": server.listening_address, "version": xllamacpp.__version__}) + "\n")
    sys.stdout.flush()
    stopping.wait()
    os._exit(0)  # llama.cpp's own end may take seconds, and nothing is left to save


if __name__ == "__main__":
    main()
