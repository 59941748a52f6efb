"""The process that `icsbound.training.pool` starts: trains the runs named on its standard input, one after another."""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from pathlib import Path
from typing import Any, TextIO

from icsbound import records
from icsbound.training import loop, pool
from icsbound.training.config import TrainConfig


def main() -> None:
    """Serve runs until the input ends."""
    # What anything here prints must not mix with the messages: file descriptor 1 becomes the error output.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lines: queue.Queue[str | None] = queue.Queue()
    ended = threading.Event()

    def listen() -> None:
        for line in sys.stdin:
            lines.put(line)
        ended.set()
        lines.put(None)

    threading.Thread(target=listen, daemon=True).start()
    while (line := lines.get()) is not None and not ended.is_set():
        _serve(json.loads(line), out, ended)


def _serve(task: dict[str, Any], out: TextIO, ended: threading.Event) -> None:
    def say(text: str) -> None:
        try:
            out.write(text + "\n")
            out.flush()
        except BrokenPipeError:  # the parent is gone; the input has ended too, and the run stops after this step
            ended.set()

    tell = pool.now_and_then(lambda event: say(pool.event_line(event)))
    try:
        config = TrainConfig.from_dict(task["config"])
        out_folder, snapshots = Path(task["out"]), task["snapshots"]
        result = loop.train(config, out_folder, progress=tell, stop=ended.is_set, snapshots=snapshots)
        say(json.dumps({"result": json.loads(records.to_line(result))}))
    except KeyboardInterrupt:
        say(json.dumps({"stopped": True}))
    except loop.EXPECTED as error:
        say(json.dumps({"failed": str(error)}))


if __name__ == "__main__":
    main()
