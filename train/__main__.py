"""`python -m train RECIPE [--key value ...]`."""

import os
import signal
import sys

# XLA asks the C library for its large buffers anew in every step. From pages of 2 MB instead of 4 kB they come with
# far fewer page faults: a training step takes two thirds of the time (docs/results.md). glibc reads this setting before
# the program begins, so the program is begun again with it; other C libraries ignore it.
MALLOC = 'GLIBC_TUNABLES', 'glibc.malloc.hugetlb=1'

# Worker processes import this file again under another name: they must not start a run.
if __name__ == '__main__':
    # Until the first step there is nothing to save: Ctrl-C ends the process as SIGTERM does, at once and silently,
    # wherever it is, be it in an import, a compiler or a reader of data. `train.stop` takes over for the steps.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    name, setting = MALLOC
    if sys.platform == 'linux' and name not in os.environ:
        # While the interpreter starts again, it would answer with a traceback: a signal then waits.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, name: setting})
    if sys.platform != 'win32':
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    from train.cli import main

    sys.exit(main(sys.argv[1:]))
