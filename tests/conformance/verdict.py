"""Runs the Autobahn cases against the echo server at the URL given, and judges the outcome. Further arguments: which cases."""

import asyncio
import collections
import os
import sys

from kosoku import FailureError, run_fuzzingclient

# In these two a frame that arrives in pieces goes bad in its middle. Failing at once is asked for "strictly" only; we look at a
# frame when it is complete.
NON_STRICT = {"6.4.3", "6.4.4"}
# Autobahn only notes what these do: data after a close frame, and close codes that nobody has defined.
INFORMATIONAL = {"7.1.6", "7.13.1", "7.13.2"}
# permessage-deflate, which we do not speak.
COMPRESSION = ("12.", "13.")
# How many cases there are, and how many of them are about compression.
CASES, COMPRESSED = 517, 216


async def run(url, cases):
    try:
        return await run_fuzzingclient(url, cases or None, None, concurrency=4)
    except FailureError as failure:
        # It counts as failed what is not implemented.
        return failure.results


def expected(case):
    if case.case_id.startswith(COMPRESSION):
        return ("UNIMPLEMENTED", "OK")
    if case.case_id in NON_STRICT:
        return ("NON-STRICT", "OK")
    if case.case_id in INFORMATIONAL:
        return ("INFORMATIONAL", "INFORMATIONAL")
    return ("OK", "OK")


def main():
    url, *cases = sys.argv[1:]
    results = asyncio.run(run(url, cases))
    counts, wrong = collections.Counter(), []
    for case in results:
        behavior, close = case.behavior.value, case.behavior_close.value
        counts[behavior] += 1
        # Whatever is better than expected is right too.
        if (behavior, close) not in (expected(case), ("OK", "OK")):
            wrong.append(f"{case.case_id}: {behavior}, close {close}: {case.result} {case.result_close}")
    seen = {case.case_id for case in results}
    compressed = sum(case.startswith(COMPRESSION) for case in seen)
    if not cases and (len(seen), compressed) != (CASES, COMPRESSED):
        wrong.append(f"{len(seen)} cases, {compressed} with compression, not {CASES} and {COMPRESSED}")
    if cases and not seen:
        wrong.append("no such case")
    for line in wrong:
        print(line)
    print("autobahn: " + ", ".join(f"{n} {name.lower()}" for name, n in sorted(counts.items())))
    print(f"autobahn: {len(seen)} cases, {len(wrong)} failed")
    # Not by way of the interpreter's end: kosoku's native threads may abort it there, after everything was judged.
    sys.stdout.flush()
    os._exit(1 if wrong else 0)


main()
