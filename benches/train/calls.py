"""Calls of programs by `benches/train/books`, within the time that there is."""

import subprocess
import time


class Failure(Exception):
    """What went wrong with one run or stage, in one line."""


class Budget:
    """Time that may be used from now on."""

    def __init__(self, seconds):
        self.begin, self.seconds = time.monotonic(), seconds

    def left(self):
        """Seconds; None without a limit."""
        return self.seconds and max(0.0, self.begin + self.seconds - time.monotonic())

    def has(self, seconds):
        """Whether so much is left."""
        return self.seconds is None or self.left() > seconds


def call(command, log, budget):
    """Runs a command with its errors in a file; its output, and the seconds it took."""
    start = time.monotonic()
    with open(log, "a", encoding="utf-8") as errors:
        try:
            done = subprocess.run(
                [str(word) for word in command], stdout=subprocess.PIPE, stderr=errors,
                text=True, check=False, timeout=budget.left(),
            )
        except subprocess.TimeoutExpired as error:
            raise Failure("out of time") from error
        except OSError as error:
            raise Failure(f"{command[0]}: {error.strerror}") from error
    if done.returncode:
        lines = [line for line in log.read_text().splitlines() if line.strip()]
        reason = next((l for l in reversed(lines) if "rror" in l), lines[-1] if lines else "")
        raise Failure(f"failed ({done.returncode}): {reason.strip()[:200]}".replace("|", "/"))
    return done.stdout, time.monotonic() - start
