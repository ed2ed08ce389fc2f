#!/usr/bin/env python3
"""Counts test cases: prints "PASSED FAILED SKIPPED" for a folder of results, or for pytest's reports.

The folder holds ctest.junit, with one entry a program, and for each GoogleTest program NAME.xml,
with one entry a case. A program without the latter counts as one case; one that failed although
none of its cases did (a crash, a timeout, a leak), or could not be started, counts as one failure.

    count_results.py FOLDER
    count_results.py --pytest REPORT.xml...
"""
import pathlib
import sys
import xml.etree.ElementTree as ElementTree


def count_cases(report):
    """Returns [passed, failed, skipped] of one GoogleTest report."""
    counts = [0, 0, 0]
    for case in ElementTree.parse(report).iter("testcase"):
        if case.find("failure") is not None:
            counts[1] += 1
        elif case.get("result") == "completed":
            counts[0] += 1
        else:
            counts[2] += 1
    return counts


def count_pytest(reports):
    """Returns [passed, failed, skipped] of what pytest wrote with --junitxml."""
    total = [0, 0, 0]
    for report in reports:
        for suite in ElementTree.parse(report).iter("testsuite"):
            failed = int(suite.get("failures")) + int(suite.get("errors"))
            skipped = int(suite.get("skipped"))
            total[0] += max(0, int(suite.get("tests")) - failed - skipped)
            total[1] += failed
            total[2] += skipped
    return total


def count_ctest(folder):
    """Returns [passed, failed, skipped] of a folder of results."""
    total = [0, 0, 0]
    for program in ElementTree.parse(folder / "ctest.junit").iter("testcase"):
        status = program.get("status")  # run, fail, notrun or disabled
        skipped = program.find("skipped")
        if skipped is not None and not skipped.get("message", "").startswith("SKIP_"):
            status = "fail"
        report = folder / (program.get("name") + ".xml")
        counts = count_cases(report) if report.exists() else [0, 0, 0]
        if status == "fail" and counts[1] == 0:
            counts[1] += 1
        elif not report.exists():
            counts[0 if status == "run" else 2] += 1
        total = [a + b for a, b in zip(total, counts)]
    return total


def main():
    if sys.argv[1] == "--pytest":
        print(*count_pytest(sys.argv[2:]))
    else:
        print(*count_ctest(pathlib.Path(sys.argv[1])))


if __name__ == "__main__":
    main()
