//! Starting and stopping a node, and the bodies of its daemons: all composed by `ray_rs_cli`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use pyo3::exceptions::{PyConnectionError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyList;
use ray_rs_cli::web_service::{Answer, Api, Printed};
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
pub fn run_gcs(py: Python<'_>, config_json: &str, raylet_pid: &str) -> i32 {
    py.detach(|| ray_rs_cli::run_gcs(config_json, raylet_pid, entitle))
}

#[pyfunction]
pub fn run_raylet(py: Python<'_>, config_json: &str) -> i32 {
    py.detach(|| ray_rs_cli::run_raylet(config_json, entitle))
}

/// Answers of the web service, given by Python.
struct Answers {
    answer: Py<PyAny>,
    printed: Py<PyAny>,
}

/// Python is to blame, and who asks learns no more than that.
fn failed(py: Python<'_>, error: PyErr) -> Answer {
    error.write_unraisable(py, None);
    Answer {
        status: 500,
        content_type: "text/plain".to_owned(),
        body: Bytes::from_static(b"The service failed to answer; logs/dashboard.log of the session says why."),
    }
}

impl Api for Answers {
    fn answer(&self, operation: &str, arguments: serde_json::Value) -> Answer {
        Python::attach(|py| {
            let answered = self.answer.call1(py, (operation, arguments.to_string()));
            let said = answered.and_then(|said| said.extract::<(u16, String, Vec<u8>)>(py));
            match said {
                Ok((status, content_type, body)) => Answer {
                    status,
                    content_type,
                    body: body.into(),
                },
                Err(error) => failed(py, error),
            }
        })
    }

    fn printed(&self, job: &str, offset: u64) -> Result<Printed, Answer> {
        Python::attach(|py| {
            let answered = self.printed.call1(py, (job, offset));
            let said = answered.and_then(|said| said.extract::<(u16, Vec<u8>, bool)>(py));
            match said {
                Ok((200, bytes, is_last)) => Ok(Printed {
                    bytes: bytes.into(),
                    is_last,
                }),
                Ok((status, text, _)) => Err(Answer {
                    status,
                    content_type: "text/plain".to_owned(),
                    body: text.into(),
                }),
                Err(error) => Err(failed(py, error)),
            }
        })
    }
}

/// Serves on the socket that is this process's standard input until nobody has been connected for a while; `answer` and
/// `printed` are called on threads of the engine. `page_dir` has the files of the page.
#[pyfunction]
pub fn serve_web(
    py: Python<'_>,
    session_dir: PathBuf,
    page_dir: PathBuf,
    answer: Py<PyAny>,
    printed: Py<PyAny>,
) -> PyResult<()> {
    let answers = Arc::new(Answers { answer, printed });
    py.detach(|| ray_rs_cli::serve_web(&session_dir, page_dir, answers))
        .map_err(|error| PyRuntimeError::new_err(format!("{error:#}")))
}

#[pyfunction]
pub fn run_scheduler(py: Python<'_>, config_json: &str) -> i32 {
    py.detach(|| ray_rs_cli::run_scheduler(config_json, entitle))
}
