//! Archives of working directories and modules, uploaded before a job that needs them is submitted.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::Body;
use tokio::io::AsyncWriteExt;
use tokio_stream::StreamExt;

/// Ray's bound for what a working directory may come to.
pub(crate) const MAX_BYTES: u64 = 512 * 1024 * 1024;

/// Why an archive was not taken.
#[derive(Debug)]
pub(crate) enum Rejected {
    BadName,
    TooLarge,
    Broken(String),
    Disk(io::Error),
}

static UPLOADS: AtomicU64 = AtomicU64::new(0);

/// Where an archive of this name lies; none for what is no name of one.
pub(crate) fn path_of(dir: &Path, protocol: &str, name: &str) -> Option<PathBuf> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    let is_name = !name.is_empty() && name.len() <= 200 && name.bytes().all(plain) && !name.starts_with('.');
    (protocol == "gcs" && is_name).then(|| dir.join(name))
}

/// Takes an archive in: it is there whole, under its name, or not at all.
pub(crate) async fn receive(dir: &Path, protocol: &str, name: &str, body: Body) -> Result<(), Rejected> {
    let path = path_of(dir, protocol, name).ok_or(Rejected::BadName)?;
    tokio::fs::create_dir_all(dir).await.map_err(Rejected::Disk)?;
    let partial = dir.join(format!(
        ".{}-{}",
        std::process::id(),
        UPLOADS.fetch_add(1, Ordering::Relaxed)
    ));
    let outcome = write(&partial, body).await;
    let outcome = match outcome {
        Ok(()) => tokio::fs::rename(&partial, &path).await.map_err(Rejected::Disk),
        Err(error) => Err(error),
    };
    if outcome.is_err() {
        // Perhaps it was never made.
        let _ = tokio::fs::remove_file(&partial).await;
    }
    outcome
}

async fn write(path: &Path, body: Body) -> Result<(), Rejected> {
    let mut options = tokio::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(path).await.map_err(Rejected::Disk)?;
    let mut stream = body.into_data_stream();
    let mut size = 0;
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| Rejected::Broken(error.to_string()))?;
        size += chunk.len() as u64;
        if size > MAX_BYTES {
            return Err(Rejected::TooLarge);
        }
        file.write_all(&chunk).await.map_err(Rejected::Disk)?;
    }
    file.flush().await.map_err(Rejected::Disk)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_nowhere_else() {
        let dir = Path::new("/packages");
        assert_eq!(
            path_of(dir, "gcs", "_ray_pkg_1a.zip"),
            Some(PathBuf::from("/packages/_ray_pkg_1a.zip"))
        );
        for (protocol, name) in [
            ("gcs", ".."),
            ("gcs", ""),
            ("gcs", "a/b"),
            ("gcs", ".hidden"),
            ("gcs", "a\0b"),
            ("s3", "a.zip"),
            ("gcs", "ä.zip"),
        ] {
            assert_eq!(path_of(dir, protocol, name), None, "{protocol} {name:?}");
        }
        assert_eq!(path_of(dir, "gcs", &"a".repeat(201)), None);
    }
}
