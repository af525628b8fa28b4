//! The HTTP service of a head node: the page, and REST of jobs and of the state of the cluster.
//!
//! It runs in a process of its own that the control store starts when somebody connects for the first time, and that
//! ends when nobody has been connected for a while: a cluster that nobody looks at pays for a listening socket. What
//! there is to know of jobs and of the state comes from an [`Api`], which the process that serves implements; here are
//! routes, limits, and who gets in.
//!
//! | module | holds or does |
//! | --- | --- |
//! | [`gate`] | who gets in: the key, and from which pages |
//! | [`routes`] | what is where, and what it asks the [`Api`] |
//! | [`openapi`] | the table of routes, and the description that is made of it |
//! | [`page`] | the files that the page is made of |
//! | [`board`] | decides: who looks at what, when that is looked at again, and what is told to whom |
//! | [`events`] | the stream of events around it |
//! | [`packages`] | archives that are uploaded, to a file, within a limit |
//! | [`server`] | connections: how many, how slow, and when the service ends |
//!
//! Shapes are those of Ray's dashboard (its REST pages for jobs and for the state API), version 4 of its jobs interface.

pub mod board;
mod events;
pub mod gate;
mod openapi;
mod packages;
mod page;
mod routes;
mod server;

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

pub use server::serve;

/// What a request comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Of HTTP.
    pub status: u16,
    pub content_type: String,
    pub body: Bytes,
}

/// A part of what a job has printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Printed {
    pub bytes: Bytes,
    /// The job has ended, and this is the last of it.
    pub is_last: bool,
}

/// Answers requests. Called on threads that may wait.
pub trait Api: Send + Sync + 'static {
    /// Answers `operation`, a name of [`routes`]' table, with its arguments as a JSON object.
    fn answer(&self, operation: &str, arguments: Value) -> Answer;

    /// What a job has printed from the byte `offset` on; the answer to who asks when it is not known.
    fn printed(&self, job: &str, offset: u64) -> Result<Printed, Answer>;
}

/// How the service is run.
#[derive(Debug, Clone)]
pub struct WebConfig {
    /// Where uploaded archives go.
    pub package_dir: PathBuf,
    /// The files that the page is made of.
    pub page_dir: PathBuf,
    /// The key that requests show; none: everybody who can connect gets in.
    pub key: Option<String>,
    /// Names besides numeric addresses and "localhost" under which browsers may know the service.
    pub hosts: Vec<String>,
    /// The service ends when nobody has been connected for so long.
    pub idle: Duration,
}
