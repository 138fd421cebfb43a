"""The requirements files pin everything that their packages require, so pip has nothing to resolve.

What a package requires is in its installed metadata. Pinned versions not installed here are skipped: those for other
platforms, for other Python versions and for CUDA. To check them too, name the site-packages folders of environments
that have them: `FLATFAB_SITE_PACKAGES=FOLDER:FOLDER`. The test fails if a pin for this environment is not installed.
"""

import importlib.metadata
import os
import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
DECLARED = {
    "requirements.txt": PROJECT["project"]["dependencies"] + EXTRAS["cpu"],
    "requirements-gpu.txt": PROJECT["project"]["dependencies"] + EXTRAS["gpu"],
    "requirements-dev.txt": PROJECT["project"]["dependencies"]
    + [line for extra in ("cpu", "search", "notebook", "dev") for line in EXTRAS[extra]],
    "requirements-build.txt": PROJECT["dependency-groups"]["build"],
}

PLATFORMS = {
    "Linux x86-64": {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"},
    "Linux arm64": {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "aarch64"},
    "macOS arm64": {"sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "arm64"},
}
CPYTHON = {"os_name": "posix", "implementation_name": "cpython", "platform_python_implementation": "CPython"}
ENVIRONMENTS = {
    f"Python {minor}.{patch}, {platform}": {
        **(CPYTHON | markers),
        "python_version": minor,
        "python_full_version": f"{minor}.{patch}",
        "implementation_version": f"{minor}.{patch}",
    }
    for minor in ("3.11", "3.12", "3.13")
    for patch in (0, 99)  # some packages treat the first releases of a Python differently
    for platform, markers in PLATFORMS.items()
}

PIN = re.compile(r"(?P<pin>[^=<>~!]+==[\w.+!]+( ; [^#]+?)?)(\s+--hash=sha256:[0-9a-f]{64})+\s*")


def pins(text: str) -> list[Requirement]:
    """The pins of a list, in which every line is an exact version with its hashes."""
    lines = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    matches = [PIN.fullmatch(line) for line in lines if line.strip()]
    assert all(matches), [line[:80] for line in lines if line.strip() and not PIN.fullmatch(line)]
    return [Requirement(match["pin"]) for match in matches if match]


def version_of(pin: Requirement) -> str:
    return next(iter(pin.specifier)).version


class Metadata(NamedTuple):
    """What a version of a package requires."""

    requires: list[Requirement]
    python: SpecifierSet


def installed_metadata() -> dict[tuple[str, str], Metadata]:
    """Package and version -> its metadata, for everything installed here and in FLATFAB_SITE_PACKAGES."""
    others = [folder for folder in os.environ.get("FLATFAB_SITE_PACKAGES", "").split(os.pathsep) if folder]
    return {
        (canonicalize_name(package.name), package.version): Metadata(
            [Requirement(line) for line in package.requires or []],
            SpecifierSet(package.metadata["Requires-Python"] or ""),
        )
        for package in importlib.metadata.distributions(path=[*sys.path, *others])
    }


LISTS = {path.name: pins(path.read_text(encoding="utf-8")) for path in sorted(ROOT.glob("requirements*.txt"))}
METADATA = installed_metadata()


def applies(requirement: Requirement, environment: dict[str, str], extras: set[str] = frozenset()) -> bool:
    """Whether an environment needs a requirement of a package that is installed with these extras."""
    marker = requirement.marker
    return marker is None or any(marker.evaluate({**environment, "extra": extra}) for extra in ("", *extras))


def problems(listed: list[Requirement], declared: list[str], environment: dict[str, str]) -> Iterator[str]:
    """Requirements that no pin meets in an environment, and pins that exclude each other.

    A requirement with an extra, such as `google-auth[pyopenssl]`, needs a pin written with the same extra: when pip
    before 23.3 resolves, it does not apply a pin without it. What the extra itself requires must be pinned, too.
    """
    chosen: dict[str, Requirement] = {}
    for pin in listed:
        if applies(pin, environment):
            if canonicalize_name(pin.name) in chosen:
                yield f"{pin.name} has two pins"
            chosen[canonicalize_name(pin.name)] = pin
    wanted = [("pyproject.toml", line) for line in map(Requirement, declared) if applies(line, environment)]
    for name, pin in chosen.items():
        metadata = METADATA.get((name, version_of(pin)))
        if metadata is None:
            continue
        wanted += [(str(pin), line) for line in metadata.requires if applies(line, environment, pin.extras)]
        if not metadata.python.contains(environment["python_full_version"]):
            yield f"{pin} is not for this Python"
    for source, requirement in wanted:
        pinned = chosen.get(canonicalize_name(requirement.name))
        if pinned is None:
            yield f"{source} requires {requirement}: there is no pin"
        elif not requirement.specifier.contains(version_of(pinned), prereleases=True):
            yield f"{source} requires {requirement}: the pin is {pinned}"
        elif not set(map(canonicalize_name, requirement.extras)) <= set(map(canonicalize_name, pinned.extras)):
            yield f"{source} requires {requirement}: the pin {pinned} lacks the extra"


def test_there_is_a_list_for_each_purpose() -> None:
    assert LISTS.keys() == DECLARED.keys()


@pytest.mark.parametrize("environment", ENVIRONMENTS.values(), ids=ENVIRONMENTS)
@pytest.mark.parametrize("name", LISTS)
def test_every_requirement_of_every_package_in_a_list_is_met_by_a_pin(name: str, environment: dict[str, str]) -> None:
    assert list(problems(LISTS[name], DECLARED[name], environment)) == []


def test_every_pin_for_this_environment_is_installed() -> None:
    here = {canonicalize_name(pin.name): version_of(pin) for pin in LISTS["requirements-dev.txt"] if applies(pin, {})}
    assert [pin for pin in here.items() if pin not in METADATA] == [], "install requirements-dev.txt again"


def test_all_lists_have_the_same_version_of_a_package() -> None:
    versions: dict[str, set[tuple[str, ...]]] = defaultdict(set)
    for listed in LISTS.values():
        by_name: dict[str, set[str]] = defaultdict(set)
        for pin in listed:
            by_name[pin.name].add(version_of(pin))
        for package, pinned in by_name.items():
            versions[package].add(tuple(sorted(pinned, key=Version)))
    assert {package: pinned for package, pinned in versions.items() if len(pinned) > 1} == {}


def test_a_problem_in_a_list_is_reported() -> None:
    listed, declared = LISTS["requirements.txt"], DECLARED["requirements.txt"]
    environment = next(iter(ENVIRONMENTS.values()))

    def with_pin(package: str, *pinned: str) -> str:
        rest = [pin for pin in listed if pin.name != package]
        return "\n".join(problems([*rest, *map(Requirement, pinned)], declared, environment))

    (auth,) = (str(pin) for pin in listed if pin.name == "google-auth")
    assert with_pin("google-auth", auth) == ""
    assert "google-auth[pyopenssl]" in with_pin("google-auth", auth.replace("[pyopenssl]", ""))
    assert "two pins" in with_pin("google-auth", auth, auth)
    assert "cryptography" in with_pin("cryptography")
    assert "the pin is cryptography==1.0" in with_pin("cryptography", "cryptography==1.0")
    assert "there is no pin" in with_pin("cryptography", "cryptography==50.0 ; sys_platform == 'darwin'")
    assert "pyproject.toml requires keras" in with_pin("keras", "keras==3.14.0")
