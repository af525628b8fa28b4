//! What is where. Most requests become an operation of the [`Api`] with a JSON object of arguments:
//!
//! | route | operation | arguments |
//! | --- | --- | --- |
//! | `GET /api/version` | `version` | |
//! | `GET /api/jobs/` | `list_jobs` | |
//! | `POST /api/jobs/` | `submit_job` | the request's object |
//! | `GET /api/jobs/{id}` | `get_job` | `id` |
//! | `DELETE /api/jobs/{id}` | `delete_job` | `id` |
//! | `POST /api/jobs/{id}/stop` | `stop_job` | `id` |
//! | `GET /api/jobs/{id}/logs` | `job_logs` | `id` |
//! | `GET /api/v0/{kind}` | `list_state` | `kind`, `query`: as in the address |
//! | `GET /api/v0/{kind}/summarize` | `summarize_state` | `kind`, `query` |
//! | `GET /api/v0/tasks/timeline` | `timeline` | |
//! | `GET /api/cluster_status` | `cluster_status` | |
//! | `GET /metrics` | `metrics` | |
//! | `GET /nodes` | `nodes` | `query` |
//! | `GET /nodes/{id}` | `node` | `id` |
//! | `GET /logical/actors` | `actors` | |
//! | `GET /api/gcs_healthz`, `/api/healthz`, `/api/local_raylet_healthz` | `health` | |
//! | `GET /api/page/{part}` | `page` | `part`, `query` |
//! | `POST /api/page/stack`, `POST /api/page/flame` | `stack`, `flame` | the request's object |
//! | `GET /api/page/events?sections=a,b` | `look`, again and again | `section` |
//!
//! `GET /api/openapi.json` describes all this, and is made of the very table that the router is.
//! `/` and `/page/...` are the files of the page; `POST /page/session` gives a browser that shows the key a cookie in its place.
//! `GET /api/jobs/{id}/logs/tail` is a WebSocket on which each message is what the job has printed since the last, until
//! it ends; `GET` and `PUT /api/packages/{protocol}/{name}` are for archives.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{DefaultBodyLimit, Path, Query, RawQuery, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::events::Watch;
use crate::gate::{self, Gate};
use crate::openapi::{self, Content, Entry};
use crate::packages::{self, Rejected};
use crate::page::{self, Page};
use crate::{Answer, Api, Printed};

/// Of a request that is no archive.
const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;
/// Where the description of all this is.
const DESCRIPTION: &str = "/api/openapi.json";
/// Of a job that is submitted; the service's other half checks them.
const JOB_FIELDS: [(&str, &str); 9] = [
    ("entrypoint", "string"),
    ("submission_id", "string"),
    ("runtime_env", "object"),
    ("metadata", "object"),
    ("entrypoint_num_cpus", "number"),
    ("entrypoint_num_gpus", "number"),
    ("entrypoint_memory", "integer"),
    ("entrypoint_resources", "object"),
    ("entrypoint_label_selector", "object"),
];
/// Between two looks at the file of a job that has printed nothing new.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

#[derive(Clone)]
struct Service {
    api: Arc<dyn Api>,
    package_dir: Arc<PathBuf>,
    gate: Arc<Gate>,
    page: Arc<Page>,
    watch: Arc<Watch>,
}

pub(crate) fn router(api: Arc<dyn Api>, package_dir: PathBuf, gate: Gate, page: Page, watch: Arc<Watch>) -> Router {
    let gate = Arc::new(gate);
    let service = Service {
        api,
        package_dir: Arc::new(package_dir),
        gate: Arc::clone(&gate),
        page: Arc::new(page),
        watch,
    };
    let table = table();
    let described = openapi::description(&table).to_string();
    let description = move || async move { ([(header::CONTENT_TYPE, "application/json")], described) };
    openapi::router(table)
        .route(DESCRIPTION, get(description))
        .fallback(nothing_there)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(axum::middleware::from_fn_with_state(gate, gate::guard))
        .layer(axum::middleware::map_response(with_usual_headers))
        .with_state(service)
}

/// All there is, but for its description.
fn table() -> Vec<Entry<Service>> {
    let asks = |operation| get(move |State(service): State<Service>| plain(service, operation));
    let job = "/api/jobs/{id}";
    let package = "/api/packages/{protocol}/{name}";
    let mut table = vec![
        Entry::new("get", "/", "The page", get(document)).answers("200", Content::Text),
        Entry::new("get", "/page/{file}", "A file of the page", get(page_file)).answers("200", Content::Text),
        Entry::new("post", "/page/session", "A cookie for the key", post(begin_session))
            .answers("204", Content::Nothing),
        Entry::new(
            "get",
            "/api/page/events",
            "Rows that change, as they change",
            get(page_events),
        )
        .query("sections", "string", "names of sections, with commas between")
        .answers("200", Content::Events),
        Entry::new(
            "post",
            "/api/page/stack",
            "Where the threads of a worker are",
            post(stack),
        )
        .body(Content::Json, &[("pid", "integer"), ("node_id", "string")])
        .answers("200", Content::Text),
        Entry::new(
            "post",
            "/api/page/flame",
            "Where the threads of a worker spend their time",
            post(flame),
        )
        .body(
            Content::Json,
            &[("pid", "integer"), ("node_id", "string"), ("seconds", "number")],
        )
        .answers("200", Content::Json),
        Entry::new(
            "get",
            "/api/page/{part}",
            "tasks, timeline, why, files, log, worker_log or search",
            get(page_part),
        )
        .query(
            "offset",
            "integer",
            "of tasks: so many are passed over; of a log: from this byte on",
        )
        .query("limit", "integer", "so many tasks at most")
        .query("name", "string", "tasks of this name")
        .query(
            "search",
            "string",
            "tasks with this in their name, or with an id that begins with it",
        )
        .query(
            "state",
            "string",
            "tasks in this state; UNFINISHED: those that have not ended",
        )
        .query("from_us", "integer", "of the timeline: microseconds since 1970")
        .query("to_us", "integer", "the same")
        .query("columns", "integer", "of the timeline")
        .query("id", "string", "of what why is asked")
        .query("file", "string", "the log")
        .query("pid", "integer", "of a worker's log")
        .query(
            "node_id",
            "string",
            "where that worker, or the log that is read or searched, is; of a log the head when none",
        )
        .query("text", "string", "that is searched for"),
        Entry::new("get", "/api/version", "Versions", asks("version")),
        Entry::new("get", job, "One job", get(get_job)),
        Entry::new("delete", job, "Forget a job that has ended", delete(delete_job)),
        Entry::new("post", "/api/jobs/{id}/stop", "Stop a job", post(stop_job)),
        Entry::new("get", "/api/jobs/{id}/logs", "What a job has printed", get(job_logs)),
        Entry::new(
            "get",
            "/api/jobs/{id}/logs/tail",
            "The same as a WebSocket, as it is printed",
            get(tail),
        )
        .answers("101", Content::Nothing),
        Entry::new("get", package, "Whether an archive is there", get(has_package)).answers("200", Content::Nothing),
        Entry::new("put", package, "Upload an archive", put(put_package))
            .body(Content::Bytes, &[])
            .answers("200", Content::Nothing),
        Entry::new(
            "get",
            "/api/v0/tasks/timeline",
            "A trace that Perfetto opens",
            asks("timeline"),
        ),
        Entry::new("get", "/api/v0/{kind}", "Rows of the state API", get(list_state))
            .query("limit", "integer", "so many rows at most; 100 unless said otherwise")
            .query("timeout", "number", "seconds to wait for the cluster")
            .query("detail", "boolean", "with the columns that only detailed rows have")
            .query("filter_keys", "string", "a column; may come several times")
            .query("filter_predicates", "string", "= or !=, as often")
            .query("filter_values", "string", "what is compared with, as often")
            .query("node_id", "string", "of logs: the node")
            .query("node_ip", "string", "the same by its address")
            .query("glob", "string", "of logs: names that match"),
        Entry::new(
            "get",
            "/api/v0/{kind}/summarize",
            "Counts of tasks, actors or objects",
            get(summarize_state),
        ),
        Entry::new(
            "get",
            "/api/cluster_status",
            "Nodes, resources, demand",
            asks("cluster_status"),
        ),
        Entry::new("get", "/metrics", "What Prometheus reads", asks("metrics")).answers("200", Content::Metrics),
        Entry::new("get", "/nodes", "All nodes", get(nodes)).query("view", "string", "without effect"),
        Entry::new("get", "/nodes/{id}", "One node", get(node)),
        Entry::new("get", "/logical/actors", "All actors by id", asks("actors")),
    ];
    for jobs in ["/api/jobs", "/api/jobs/"] {
        table.push(Entry::new("get", jobs, "All jobs", get(list_jobs)));
        table.push(Entry::new("post", jobs, "Submit a job", post(submit_job)).body(Content::Json, &JOB_FIELDS));
    }
    for health in ["/api/gcs_healthz", "/api/healthz", "/api/local_raylet_healthz"] {
        table.push(
            Entry::new("get", health, "Whether the cluster answers", asks("health")).answers("200", Content::Text),
        );
    }
    table
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, [(header::CONTENT_TYPE, self.content_type)], self.body).into_response()
    }
}

async fn plain(service: Service, operation: &'static str) -> Response {
    service.ask(operation, json!({})).await
}

impl Service {
    async fn ask(self, operation: &'static str, arguments: Value) -> Response {
        let api = Arc::clone(&self.api);
        match tokio::task::spawn_blocking(move || api.answer(operation, arguments)).await {
            Ok(answer) => answer.into_response(),
            Err(error) => {
                tracing::error!(%error, operation, "no answer");
                (
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "The service failed to answer; its log says more.",
                )
                    .into_response()
            }
        }
    }

    async fn printed(&self, job: &str, offset: u64) -> Result<Printed, Answer> {
        let (api, job) = (Arc::clone(&self.api), job.to_owned());
        let failed = || Answer {
            status: 500,
            content_type: "text/plain".to_owned(),
            body: Bytes::new(),
        };
        tokio::task::spawn_blocking(move || api.printed(&job, offset))
            .await
            .unwrap_or_else(|_| Err(failed()))
    }
}

async fn nothing_there(request: Request) -> Response {
    (
        StatusCode::NOT_FOUND,
        format!("There is nothing at {} {}.", request.method(), request.uri().path()),
    )
        .into_response()
}

async fn with_usual_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.extend(page::ALWAYS);
    // What goes on in a cluster is in nobody's cache.
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response
}

// ---------------------------------------------------------------------------------------------------------------- page

async fn document(State(service): State<Service>, headers: HeaderMap) -> Response {
    service.page.answer(None, headers.get(header::IF_NONE_MATCH))
}

async fn page_file(State(service): State<Service>, Path(file): Path<String>, headers: HeaderMap) -> Response {
    service.page.answer(Some(&file), headers.get(header::IF_NONE_MATCH))
}

/// Who comes here has shown the key.
async fn begin_session(State(service): State<Service>, headers: HeaderMap) -> Response {
    match service.gate.cookie(&headers) {
        Some(cookie) => (StatusCode::NO_CONTENT, [(header::SET_COOKIE, cookie)]).into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    }
}

#[derive(serde::Deserialize)]
struct Wanted {
    #[serde(default)]
    sections: String,
}

async fn page_events(State(service): State<Service>, Query(wanted): Query<Wanted>) -> Response {
    service.watch.open(&wanted.sections)
}

async fn page_part(State(service): State<Service>, Path(part): Path<String>, RawQuery(query): RawQuery) -> Response {
    let arguments = json!({ "part": part, "query": query.unwrap_or_default() });
    service.ask("page", arguments).await
}

async fn stack(State(service): State<Service>, body: Bytes) -> Response {
    ask_with(service, "stack", &body).await
}

async fn flame(State(service): State<Service>, body: Bytes) -> Response {
    ask_with(service, "flame", &body).await
}

/// Asks with what the body says, which is an object.
async fn ask_with(service: Service, what: &'static str, body: &[u8]) -> Response {
    match serde_json::from_slice::<Map<String, Value>>(body) {
        Ok(arguments) => service.ask(what, Value::Object(arguments)).await,
        Err(error) => (
            StatusCode::BAD_REQUEST,
            format!("The body must be a JSON object: {error}"),
        )
            .into_response(),
    }
}

// ---------------------------------------------------------------------------------------------------------------- jobs

async fn list_jobs(State(service): State<Service>) -> Response {
    service.ask("list_jobs", json!({})).await
}

async fn submit_job(State(service): State<Service>, body: Bytes) -> Response {
    ask_with(service, "submit_job", &body).await
}

async fn get_job(State(service): State<Service>, Path(id): Path<String>) -> Response {
    service.ask("get_job", json!({ "id": id })).await
}

async fn delete_job(State(service): State<Service>, Path(id): Path<String>) -> Response {
    service.ask("delete_job", json!({ "id": id })).await
}

async fn stop_job(State(service): State<Service>, Path(id): Path<String>) -> Response {
    service.ask("stop_job", json!({ "id": id })).await
}

async fn job_logs(State(service): State<Service>, Path(id): Path<String>) -> Response {
    service.ask("job_logs", json!({ "id": id })).await
}

async fn tail(State(service): State<Service>, Path(id): Path<String>, upgrade: WebSocketUpgrade) -> Response {
    match service.printed(&id, 0).await {
        Ok(first) => upgrade.on_upgrade(move |socket| follow(service, id, first, socket)),
        Err(answer) => answer.into_response(),
    }
}

/// Sends what the job prints until it ends or the other side goes.
async fn follow(service: Service, id: String, first: Printed, mut socket: WebSocket) {
    let mut offset = 0;
    let mut printed = first;
    loop {
        let whole = &printed.bytes[..whole_letters(&printed)];
        let text = String::from_utf8_lossy(whole).into_owned();
        offset += whole.len() as u64;
        let has_more = !whole.is_empty();
        if !text.is_empty() && socket.send(Message::Text(text.into())).await.is_err() {
            return;
        }
        if printed.is_last && !has_more {
            let end = axum::extract::ws::CloseFrame {
                code: close_code::NORMAL,
                reason: "".into(),
            };
            let _ = socket.send(Message::Close(Some(end))).await;
            return;
        }
        if !has_more {
            tokio::select! {
                () = tokio::time::sleep(LOOK_PAUSE) => {}
                // A close, or an error; what else a client says means nothing here.
                said = socket.recv() => if !matches!(said, Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Text(_) | Message::Binary(_)))) {
                    return;
                },
            }
        }
        printed = match service.printed(&id, offset).await {
            Ok(printed) => printed,
            // Deleted meanwhile.
            Err(_) => return,
        };
    }
}

/// So many bytes are whole letters: the last may have been printed in part. In the end what is no text is shown as such.
fn whole_letters(printed: &Printed) -> usize {
    match std::str::from_utf8(&printed.bytes) {
        Err(error) if error.error_len().is_none() && !printed.is_last => error.valid_up_to(),
        // What follows a byte that belongs to no letter may be cut as well.
        Err(error) if !printed.is_last => error.valid_up_to() + error.error_len().expect("the arm above"),
        Ok(_) | Err(_) => printed.bytes.len(),
    }
}

// ------------------------------------------------------------------------------------------------------------ packages

async fn has_package(State(service): State<Service>, Path((protocol, name)): Path<(String, String)>) -> Response {
    match packages::path_of(&service.package_dir, &protocol, &name) {
        Some(path) if path.is_file() => StatusCode::OK.into_response(),
        Some(_) => (
            StatusCode::NOT_FOUND,
            format!("Package {protocol}://{name} does not exist"),
        )
            .into_response(),
        None => (
            StatusCode::BAD_REQUEST,
            format!("{protocol}://{name} can't be the name of a package"),
        )
            .into_response(),
    }
}

async fn put_package(
    State(service): State<Service>,
    Path((protocol, name)): Path<(String, String)>,
    body: Body,
) -> Response {
    match packages::receive(&service.package_dir, &protocol, &name, body).await {
        Ok(()) => StatusCode::OK.into_response(),
        Err(Rejected::BadName) => (
            StatusCode::BAD_REQUEST,
            format!("{protocol}://{name} can't be the name of a package"),
        )
            .into_response(),
        Err(Rejected::TooLarge) => {
            let limit = packages::MAX_BYTES >> 20;
            (StatusCode::PAYLOAD_TOO_LARGE, format!("A package may have {limit} MiB")).into_response()
        }
        Err(Rejected::Broken(error)) => (StatusCode::BAD_REQUEST, error).into_response(),
        Err(Rejected::Disk(error)) => (
            StatusCode::INSUFFICIENT_STORAGE,
            format!("The package could not be written: {error}"),
        )
            .into_response(),
    }
}

// --------------------------------------------------------------------------------------------------------------- state

async fn list_state(State(service): State<Service>, Path(kind): Path<String>, RawQuery(query): RawQuery) -> Response {
    service
        .ask(
            "list_state",
            json!({ "kind": kind, "query": query.unwrap_or_default() }),
        )
        .await
}

async fn summarize_state(
    State(service): State<Service>,
    Path(kind): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    service
        .ask(
            "summarize_state",
            json!({ "kind": kind, "query": query.unwrap_or_default() }),
        )
        .await
}

async fn nodes(State(service): State<Service>, RawQuery(query): RawQuery) -> Response {
    service
        .ask("nodes", json!({ "query": query.unwrap_or_default() }))
        .await
}

async fn node(State(service): State<Service>, Path(id): Path<String>) -> Response {
    service.ask("node", json!({ "id": id })).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(bytes: &'static [u8], is_last: bool) -> usize {
        whole_letters(&Printed {
            bytes: Bytes::from_static(bytes),
            is_last,
        })
    }

    #[test]
    fn letters_are_not_torn() {
        assert_eq!(cut(b"", false), 0);
        assert_eq!(cut(b"plain", false), 5);
        assert_eq!(cut("h\u{fc}".as_bytes(), false), 3);
        assert_eq!(cut(b"h\xc3", false), 1, "its second half has not been printed yet");
        assert_eq!(cut(b"h\xc3", true), 2, "and never will");
        assert_eq!(cut(b"h\xff\xc3", false), 2);
        assert_eq!(cut(b"\xff", false), 1);
    }
}
