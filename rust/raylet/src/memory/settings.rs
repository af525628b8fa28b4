//! What people may set, as variables of the raylet's environment.

use std::path::PathBuf;
use std::time::Duration;

use ray_rs_scheduler::memory::MemoryOptions;

const THRESHOLD: &str = "RAY_memory_usage_threshold";
const REFRESH_MS: &str = "RAY_memory_monitor_refresh_ms";
const MIN_FREE_BYTES: &str = "RAY_min_memory_free_bytes";
const OWN_LIMIT_BYTES: &str = "RAY_RS_MEMORY_LIMIT_BYTES";
const ROOT: &str = "RAY_RS_MEMORY_ROOT";

#[derive(Debug)]
pub(super) struct Settings {
    pub options: MemoryOptions,
    /// Only what this node's workers and object store use is counted, against this.
    pub own_limit_bytes: Option<u64>,
    /// Where the kernel's files are looked for.
    pub root: PathBuf,
}

impl Settings {
    pub fn from_env() -> Self {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let number = |name: &str| {
            let text = variable(name).filter(|text| !text.is_empty())?;
            let number = text.trim().parse::<f64>().ok().filter(|number| number.is_finite());
            if number.is_none() {
                tracing::warn!(name, text, "is not a number; its default is used");
            }
            number
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as u64;
        let mut options = MemoryOptions {
            growth_bytes_per_second: cores * (3 << 29),
            ..MemoryOptions::default()
        };
        if let Some(share) = number(THRESHOLD) {
            options.threshold = share.clamp(0.0, 1.0);
        }
        if let Some(ms) = number(REFRESH_MS) {
            options.refresh = Duration::from_millis(ms.max(0.0) as u64);
        }
        options.min_free_bytes = number(MIN_FREE_BYTES)
            .filter(|bytes| *bytes >= 0.0)
            .map(|bytes| bytes as u64);
        let own = number(OWN_LIMIT_BYTES).filter(|bytes| *bytes > 0.0);
        let root = variable(ROOT).filter(|path| !path.is_empty());
        Self {
            options,
            own_limit_bytes: own.map(|bytes| bytes as u64),
            root: root.map_or_else(|| PathBuf::from("/"), PathBuf::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(given: &[(&str, &str)]) -> Settings {
        let given: Vec<(String, String)> = given.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        Settings::from_variables(|name| {
            given
                .iter()
                .find(|(key, _)| key == name)
                .map(|(_, value)| value.clone())
        })
    }

    #[test]
    fn rays_variables_mean_what_they_mean_there() {
        let plain = settings(&[
            ("RAY_min_memory_free_bytes", "-1"),
            ("RAY_memory_usage_threshold", "much"),
        ]);
        assert_eq!(plain.options.threshold, 0.95);
        assert_eq!(plain.options.refresh, Duration::from_millis(250));
        assert_eq!((plain.options.min_free_bytes, plain.own_limit_bytes), (None, None));
        let set = settings(&[
            ("RAY_memory_usage_threshold", "0.5"),
            ("RAY_memory_monitor_refresh_ms", "0"),
            ("RAY_min_memory_free_bytes", "1000"),
            ("RAY_RS_MEMORY_LIMIT_BYTES", "2000"),
        ]);
        assert_eq!((set.options.threshold, set.options.refresh), (0.5, Duration::ZERO));
        assert_eq!(
            (set.options.min_free_bytes, set.own_limit_bytes),
            (Some(1000), Some(2000))
        );
    }
}
