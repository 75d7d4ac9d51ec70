"""Runs the checks of this directory: each is a function that returns what it counted, or raises."""

import os
import sys
import time
import traceback

import alerts
import drift
import image
import lint
import manifests
import mutants
import pods
import settings
import templates

CHECKS = [
    *lint.CHECKS,
    *templates.CHECKS,
    *pods.CHECKS,
    *settings.CHECKS,
    *mutants.CHECKS,
    *image.CHECKS,
    *drift.CHECKS,
    *manifests.CHECKS,
    *alerts.CHECKS,
]


def run(check):
    """Does the check pass? Says so in one line, or says why not."""
    name, start = f"{check.__module__}.{check.__name__}", time.monotonic()
    try:
        counted = check()
        print(f"ok   {name} ({time.monotonic() - start:.1f} s): {counted}", flush=True)
        return True
    except AssertionError as error:
        print(f"FAIL {name}: {error}", flush=True)
    except Exception:
        print(f"FAIL {name}: {traceback.format_exc()}", flush=True)
    return False


def main():
    wanted = sys.argv[1:]
    chosen = [c for c in CHECKS if not wanted or any(word in f"{c.__module__}.{c.__name__}" for word in wanted)]
    os.chdir(templates.ROOT)
    results = [run(check) for check in chosen]
    print(f"{results.count(True)} passed, {results.count(False)} failed")
    return 0 if results and all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
