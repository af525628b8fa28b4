#!/usr/bin/env bash
# Who may depend on whom. The folders under rust/ are layers (words, decide, floor, do, edges): a crate may use what stands
# below it, never beside or above it, and a crate that decides knows no runtime, no wire and no Python.
# Only normal and build-time edges of our own crates count; dev-dependencies of tests are free.
set -euo pipefail
cd "$(dirname "$0")/.."

failed=0
complain() {
    echo "check_layers: $*" >&2
    failed=1
}

# crate : the crates of this workspace that it may name in its Cargo.toml
allowed() {
    case "$1" in
    types) echo "" ;;
    telemetry) echo "" ;;
    proto) echo "types" ;;
    lanes) echo "types" ;;
    scheduler | ownership | dispatch | actors | explain | object_store) echo "types" ;;
    transport) echo "types proto telemetry lanes" ;;
    gcs) echo "types proto telemetry transport scheduler actors" ;;
    raylet) echo "types proto telemetry transport lanes scheduler object_store" ;;
    core_worker) echo "types proto telemetry transport lanes ownership dispatch actors explain object_store" ;;
    web) echo "" ;;
    cli) echo "types proto telemetry transport scheduler raylet gcs web" ;;
    bindings) echo "types telemetry core_worker cli object_store" ;;
    testing) echo "types proto telemetry lanes scheduler ownership dispatch actors object_store transport gcs raylet core_worker cli web" ;;
    *) return 1 ;;
    esac
}

# crate : outside crates that must not be reachable from it, by any path
forbidden() {
    case "$1" in
    types) echo "tokio tonic prost pyo3" ;;
    proto | transport) echo "pyo3" ;;
    lanes) echo "tokio tonic prost pyo3" ;;
    scheduler | ownership | dispatch | actors | explain | object_store) echo "tokio tonic prost pyo3" ;;
    gcs | raylet | core_worker | cli | web) echo "pyo3" ;;
    *) echo "" ;;
    esac
}

tree() { cargo tree --quiet --locked --edges normal --prefix none --format '{p}' --package "$@"; }

for manifest in rust/*/Cargo.toml; do
    folder=$(basename "$(dirname "$manifest")")
    package=ray-rs-${folder//_/-}
    if ! may_use=$(allowed "$folder"); then
        complain "rust/$folder has no row in tools/check_layers.sh: say which layer it belongs to"
        continue
    fi
    for used in $(tree "$package" --depth 1 | sed -n 's/^ray-rs-\([a-z-]*\) .*/\1/p' | tr - _ | sort -u); do
        [[ $used == "$folder" ]] && continue
        [[ " $may_use " == *" $used "* ]] || complain "$folder must not depend on $used"
    done
    outside=$(tree "$package" | awk '{print $1}' | sort -u)
    for crate in $(forbidden "$folder"); do
        if grep -qx -- "$crate" <<<"$outside"; then
            complain "$folder must not reach $crate (cargo tree -p $package -i $crate)"
        fi
    done
done

# Python meets Rust through a few modules only; everything else of the package goes through them.
while IFS= read -r file; do
    case "$(basename "$file")" in
    api.py | remote_function.py | actor.py | runtime_context.py | internal_kv.py | __init__.py | _*.py) continue ;;
    placement_group.py | scheduling_strategies.py) continue ;;
    esac
    case "$file" in
    */_private/*) ;;
    *) complain "$file imports _core: it is not one of the modules that may (see this script)" ;;
    esac
done < <(grep -lE '^[[:space:]]*(from ray_rs\._core import|import ray_rs\._core|from \. import _core|from \._core import|from ray_rs import _core)' \
    --recursive --include='*.py' python/ray_rs || true)

[[ $failed == 0 ]] && echo "check_layers: ok"
exit "$failed"
