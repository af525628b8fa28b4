//! How every process logs: one subscriber, one environment variable, one list of field names.
//!
//! Called once by each process's `main` (through `cli`) and by tests. Lines go to stderr, which the launcher points at a
//! file in the session's `logs/`. By default only warnings and errors are written, so that a session in which nothing
//! odd happened leaves no log. What is deliberately not here: metrics exporters.

pub mod fields;

use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Environment variable with the levels: `debug`, or `warn,ray_rs_gcs=debug`.
pub const LEVELS_VARIABLE: &str = "RAY_RS_LOG";

/// Installs the process's subscriber; `process` ("gcs", "raylet") starts each line's span. A second call does nothing.
pub fn init(process: &'static str) {
    let (levels, complaint) = levels(std::env::var(LEVELS_VARIABLE).ok().as_deref());
    let format = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(true);
    if tracing_subscriber::registry()
        .with(levels)
        .with(format)
        .try_init()
        .is_ok()
    {
        if let Some(complaint) = complaint {
            tracing::warn!(process, "{complaint}");
        }
        tracing::debug!(process, pid = std::process::id(), "started");
    }
}

/// What the variable asks for, and what to say when it cannot be read.
fn levels(wanted: Option<&str>) -> (Targets, Option<String>) {
    let default = Targets::new().with_default(LevelFilter::from_level(Level::WARN));
    match wanted.map(str::trim) {
        None | Some("") => (default, None),
        Some(text) => match text.parse() {
            Ok(targets) => (targets, None),
            Err(error) => (
                default,
                Some(format!("{LEVELS_VARIABLE}={text:?} was not understood ({error})")),
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tracing_levels_come_from_the_variable() {
        let (targets, complaint) = levels(Some("warn,ray_rs_gcs=debug"));
        assert!(complaint.is_none());
        assert!(targets.would_enable("ray_rs_gcs::service", &Level::DEBUG));
        assert!(!targets.would_enable("h2", &Level::INFO));
    }

    #[test]
    fn nonsense_falls_back_to_warnings_and_says_so() {
        let (targets, complaint) = levels(Some("=,=="));
        assert!(complaint.expect("a complaint").contains(LEVELS_VARIABLE));
        assert!(targets.would_enable("ray_rs_raylet", &Level::WARN));
        assert!(!targets.would_enable("ray_rs_raylet", &Level::INFO));
    }

    #[test]
    fn init_may_be_called_twice() {
        init("test");
        init("test");
        tracing::warn!({ fields::PROCESS } = "test", "a field name is a constant");
    }
}
