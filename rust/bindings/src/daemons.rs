//! Starting and stopping a node, and the bodies of its daemons: all composed by `ray_rs_cli`.

use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use pyo3::exceptions::{PyConnectionError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyList;
use ray_rs_cli::{HeadConfig, Session, SessionInfo};

use crate::executor::title::Title;

/// What this process has launched; stopping them waits for their processes.
static LAUNCHED: Mutex<Vec<Session>> = Mutex::new(Vec::new());

fn json(info: &SessionInfo) -> PyResult<String> {
    serde_json::to_string(info).map_err(|error| PyRuntimeError::new_err(error.to_string()))
}

#[pyfunction]
pub fn launch_head(py: Python<'_>, config_json: &str) -> PyResult<String> {
    let config: HeadConfig = serde_json::from_str(config_json)
        .map_err(|error| PyValueError::new_err(format!("bad configuration: {error}")))?;
    let session = py
        .detach(|| ray_rs_cli::launch_head(&config))
        .map_err(|error| PyRuntimeError::new_err(error.to_string()))?;
    let text = json(&session.info)?;
    LAUNCHED.lock().push(session);
    Ok(text)
}

#[pyfunction]
pub fn stop_head(py: Python<'_>, session_dir: PathBuf) {
    py.detach(|| {
        let mine = {
            let mut launched = LAUNCHED.lock();
            let found = launched
                .iter()
                .position(|session| session.info.session_dir == session_dir);
            found.map(|index| launched.swap_remove(index))
        };
        match mine {
            Some(session) => ray_rs_cli::stop(session),
            // Launched by another process, such as the command line.
            None => {
                if let Some(info) = SessionInfo::read(Path::new(&session_dir)) {
                    ray_rs_cli::stop_session(&info);
                }
            }
        }
    });
}

/// The living sessions of this user, each as `launch_head` gives it.
#[pyfunction]
pub fn list_sessions(py: Python<'_>) -> PyResult<Vec<String>> {
    py.detach(ray_rs_cli::session::living).iter().map(json).collect()
}

/// The nodes of a cluster that this process need not be connected to.
#[pyfunction]
pub fn list_nodes<'py>(py: Python<'py>, address: &str, token_path: PathBuf) -> PyResult<Bound<'py, PyList>> {
    let nodes = py
        .detach(|| ray_rs_cli::list_nodes(address, &token_path))
        .map_err(|error| PyConnectionError::new_err(format!("{error:#}")))?;
    crate::control::node_list(py, nodes)
}

/// Asks a node to leave its cluster in its time; an empty text, or why it does not. `remaining_ms` 0: it takes its time.
#[pyfunction]
pub fn drain_node(
    py: Python<'_>,
    address: &str,
    token_path: PathBuf,
    node_id: Vec<u8>,
    reason: u32,
    message: String,
    remaining_ms: u64,
) -> PyResult<String> {
    let request = ray_rs_core_worker::v1::DrainNodeRequest {
        node_id,
        reason,
        message,
        remaining_ms,
    };
    let reply = py
        .detach(|| ray_rs_cli::drain_node(address, &token_path, request))
        .map_err(|error| PyConnectionError::new_err(format!("{error:#}")))?;
    Ok(reply.rejection)
}

#[pyfunction]
pub fn discover(py: Python<'_>, address: &str) -> PyResult<Option<String>> {
    py.detach(|| ray_rs_cli::discover(address))
        .as_ref()
        .map(json)
        .transpose()
}

/// Shows what this process is in the place of its command line.
fn entitle(title: &str) {
    Title::new(title);
}

#[pyfunction]
pub fn run_head(py: Python<'_>, gcs_config_json: &str, raylet_config_json: &str) -> i32 {
    py.detach(|| ray_rs_cli::run_head(gcs_config_json, raylet_config_json, entitle))
}

#[pyfunction]
pub fn run_raylet(py: Python<'_>, config_json: &str) -> i32 {
    py.detach(|| ray_rs_cli::run_raylet(config_json, entitle))
}

#[pyfunction]
pub fn run_scheduler(py: Python<'_>, config_json: &str) -> i32 {
    py.detach(|| ray_rs_cli::run_scheduler(config_json, entitle))
}
