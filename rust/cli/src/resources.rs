//! What a node has when nobody says otherwise.

use std::collections::BTreeMap;
use std::fs;

use ray_rs_types::resources::{CPU, GPU, MEMORY, OBJECT_STORE_MEMORY};

use crate::launch::HeadConfig;

/// The store takes this part of the memory that is available, the `memory` resource the rest.
const STORE_SHARE: f64 = 0.3;
/// Smallest and largest size of a store that nobody asked for.
const SMALLEST_STORE_BYTES: u64 = 64 << 20;
const LARGEST_STORE_BYTES: u64 = 200 << 30;

/// The size of the arena, and the amounts of all resources.
pub(crate) fn of_node(config: &HeadConfig) -> (u64, BTreeMap<String, f64>) {
    let available = available_memory_bytes();
    let store_bytes = config
        .object_store_memory
        .unwrap_or_else(|| ((available as f64 * STORE_SHARE) as u64).clamp(SMALLEST_STORE_BYTES, LARGEST_STORE_BYTES));
    let cpus = config
        .num_cpus
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from) as f64);
    let gpus = config.num_gpus.unwrap_or_else(|| visible_gpus() as f64);
    let memory = config
        .memory
        .unwrap_or_else(|| available.saturating_sub(store_bytes) as f64);
    let mut resources = config.resources.clone();
    resources.insert(CPU.to_owned(), cpus);
    resources.insert(GPU.to_owned(), gpus);
    resources.insert(MEMORY.to_owned(), memory);
    resources.insert(OBJECT_STORE_MEMORY.to_owned(), store_bytes as f64);
    resources.insert(format!("node:{}", config.node_ip), 1.0);
    if config.join.is_none() {
        resources.insert("node:__internal_head__".to_owned(), 1.0);
    }
    resources.retain(|_, amount| *amount > 0.0);
    (store_bytes, resources)
}

/// What this process may still use, by the machine's account and the control group's.
fn available_memory_bytes() -> u64 {
    let machine = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
            Some(line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok()? << 10)
        })
        .unwrap_or(1 << 30);
    let group = [
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ];
    group
        .iter()
        .filter_map(|(limit, used)| Some(read_number(limit)?.saturating_sub(read_number(used)?)))
        .fold(machine, u64::min)
}

fn read_number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn visible_gpus() -> usize {
    let there = fs::read_dir("/proc/driver/nvidia/gpus").map_or(0, |entries| entries.flatten().count());
    match std::env::var("CUDA_VISIBLE_DEVICES") {
        Ok(list) if matches!(list.trim(), "" | "-1" | "NoDevFiles") => 0,
        Ok(list) => list.split(',').count().min(there),
        Err(_) => there,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_wins_and_zeros_are_absent() {
        let config = HeadConfig {
            num_cpus: Some(0.0),
            num_gpus: Some(2.0),
            object_store_memory: Some(100 << 20),
            resources: BTreeMap::from([("special".to_owned(), 0.5)]),
            ..HeadConfig::default()
        };
        let (store, resources) = of_node(&config);
        assert_eq!(store, 100 << 20);
        assert_eq!(
            (resources.get(CPU), resources[GPU], resources["special"]),
            (None, 2.0, 0.5)
        );
        assert_eq!(resources["node:127.0.0.1"], 1.0);
        assert!(resources[MEMORY] > 0.0);
    }

    #[test]
    fn defaults_are_what_the_machine_has() {
        let (store, resources) = of_node(&HeadConfig::default());
        assert!(store >= SMALLEST_STORE_BYTES && resources[CPU] >= 1.0);
        assert!(store <= available_memory_bytes().max(SMALLEST_STORE_BYTES));
    }
}
