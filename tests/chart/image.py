"""The image holds the program and nothing else, and what is not a static program of its architecture does not come into it."""

import pathlib
import tempfile

import settings
import templates


def build(*arguments):
    return templates.command("bash", "tests/image.sh", *arguments)


def it_is_reproducible_and_runs():
    """tests/image.sh builds twice and compares, unpacks, and runs the program from there."""
    with tempfile.TemporaryDirectory() as work:
        archive = pathlib.Path(work) / "image.tar"
        code, digest, said = build(settings.BINARY, archive)
        assert code == 0 and digest.startswith("sha256:"), said
        inspected = templates.output("skopeo", "inspect", "--format", "{{.Digest}} {{.Architecture}}", f"oci-archive:{archive}")
        assert inspected.split() == [digest.strip(), "amd64"], f"the archive has {inspected}, and not {digest}"
        return f"{digest.strip()}, {archive.stat().st_size} bytes"


def other_programs_are_refused():
    with tempfile.TemporaryDirectory() as work:
        archive = pathlib.Path(work) / "image.tar"
        for arguments, hint in [(("/bin/ls", archive), "is not static"), ((settings.BINARY, archive, "arm64"), "is not a program for arm64")]:
            code, _, said = build(*arguments)
            assert code != 0 and hint in said and not archive.exists(), f"{arguments}: {said}"
    return "2 cases"


CHECKS = [it_is_reproducible_and_runs, other_programs_are_refused]
