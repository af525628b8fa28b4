#!/usr/bin/env bash
# Makes a release: `tools/release.sh 0.2.0`. It changes nothing unless --tag is given, and never publishes by itself.
#
# Everything that may fail is done first: the versions agree, the changelog has a section, nothing is uncommitted, the
# checks pass, the wheel and the source distribution are built and looked at. Then --tag makes the tag, and says what
# is left to do by hand.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    echo "usage: tools/release.sh VERSION [--tag] [--skip-checks]" >&2
    exit 2
}

version="" tag=0 checks=1
for word in "$@"; do
    case "$word" in
    --tag) tag=1 ;;
    --skip-checks) checks=0 ;; # for who has just run them
    -*) usage ;;
    *) [[ -z $version ]] && version="$word" || usage ;;
    esac
done
[[ $version =~ ^[0-9]+\.[0-9]+\.[0-9]+((a|b|rc)[0-9]+)?$ ]] || usage

failed=0
wrong() {
    echo "release $version: $*" >&2
    failed=1
}

said_by() { # FILE SED-EXPRESSION
    sed -nE "$2" "$1" | head -n 1
}

[[ $(said_by pyproject.toml 's/^version = "(.*)"$/\1/p') == "$version" ]] || wrong "pyproject.toml is of another version"
[[ $(said_by Cargo.toml 's/^version = "(.*)"$/\1/p') == "$version" ]] || wrong "Cargo.toml is of another version"
[[ $(said_by python/ray_rs/__init__.py 's/^__version__ = "(.*)"$/\1/p') == "$version" ]] ||
    wrong "python/ray_rs/__init__.py is of another version"
[[ $(said_by deploy/helm/ray-rs/Chart.yaml 's/^appVersion: "?([^"]*)"?$/\1/p') == "$version" ]] ||
    wrong "deploy/helm/ray-rs/Chart.yaml is of another version"
grep -qE "^## \[$version\] - [0-9]{4}-[0-9]{2}-[0-9]{2}\$" CHANGELOG.md ||
    wrong "CHANGELOG.md has no section '## [$version] - YYYY-MM-DD': what is under [Unreleased] belongs there"
[[ -z $(git status --porcelain) ]] || wrong "there is something that is not committed"
! git rev-parse --quiet --verify "refs/tags/v$version" >/dev/null || wrong "the tag v$version is there already"
((failed == 0)) || exit 1

if ((checks)); then
    make check
fi
rm -rf dist
make wheel
make wheel-check

if ((tag == 0)); then
    echo "release $version: all is well. Nothing was changed; --tag makes the tag v$version."
    exit 0
fi
git tag --annotate "v$version" --message "ray_rs $version"
echo "release $version: tagged v$version. Left to do: git push origin v$version, and upload what lies in dist/."
