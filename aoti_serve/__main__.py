"""The program: `python -m aoti_serve`, or `aoti-serve`."""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command line. Ctrl-C ends it quietly while it is still being imported."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:  # unless a shell has switched Ctrl-C off
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from aoti_serve.cli import app

    signal.signal(signal.SIGINT, handler)
    app(prog_name="aoti-serve")


if __name__ == "__main__":
    main()
