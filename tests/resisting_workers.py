"""Workers that resist being stopped, each in its own way, and say :HERE when they have begun."""

HERE = """
import ctypes, os, signal, subprocess, sys, time
from damad import events

def here():
    events.dispatch_sync({"type": ":HERE"})
"""

RESISTS = {
    "ignores SIGTERM": """
        def main():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            here()
            while True:
                time.sleep(1000)
    """,
    "blocks every signal": """
        def main():
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            here()
            while True:
                time.sleep(1000)
    """,
    "catches what SIGTERM raises": """
        def main():
            here()
            while True:
                try:
                    time.sleep(1000)
                except BaseException:
                    pass
    """,
    "stops itself": """
        def main():
            here()
            os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(1000)
    """,
    "stops its parent": """
        def main():
            os.kill(os.getppid(), signal.SIGSTOP)
            here()
            time.sleep(1000)
    """,
    "stops its parent and itself": """
        def main():
            os.kill(os.getppid(), signal.SIGSTOP)
            here()
            os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(1000)
    """,
    "kills its parent": """
        def main():
            os.kill(os.getppid(), signal.SIGKILL)
            here()
            time.sleep(1000)
    """,
    "is deaf in C": """
        def main():
            here()
            re = __import__("re")
            re.match(r"(a+)+$", "a" * 60 + "b")
    """,
    "has grandchildren that left its session": """
        def main():
            for _ in range(3):
                if os.fork() == 0:
                    os.setsid()
                    if os.fork() == 0:
                        os.setsid()
                        signal.signal(signal.SIGTERM, signal.SIG_IGN)
                        signal.signal(signal.SIGHUP, signal.SIG_IGN)
                        os.execvp("sleep", ["sleep", "1000"])
                    os._exit(0)
                os.wait()
            here()
            time.sleep(1000)
    """,
    "forks whenever a child of it dies": """
        def main():
            for _ in range(3):
                if os.fork() == 0:
                    os.setsid()
                    while True:
                        if os.fork() == 0:
                            os.setsid()
                            time.sleep(1000)
                        os.wait()
            here()
            time.sleep(1000)
    """,
}  # fmt: skip
