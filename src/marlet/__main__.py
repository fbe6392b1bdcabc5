"""`python -m marlet` is `marlet`."""

import os
import signal
import sys
import threading


def main() -> int:
    """The command line, ready for Ctrl-C while it is still being imported, and while something is compiled beside it."""
    sys.unraisablehook = come_again
    try:
        from marlet.cli import main as command
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    code = command()
    if code == 130 and {thread for thread in threading.enumerate() if not thread.daemon} != {threading.main_thread()}:
        # Python would wait for what is still being compiled, and another Ctrl-C meanwhile would make it crash.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def come_again(lost: "sys.UnraisableHookArgs") -> None:
    """Ctrl-C that came where nothing can be raised, such as in JAX's callback of the garbage collector, comes once more."""
    if lost.exc_type is KeyboardInterrupt:
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(lost)


if __name__ == "__main__":
    sys.exit(main())
