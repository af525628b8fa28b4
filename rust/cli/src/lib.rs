//! Composition: what a node's processes are made of, how a session is launched, found, stopped and swept away.
//!
//! | module | does |
//! | --- | --- |
//! | [`mod@launch`] | makes a session's directory and starts its gcs and raylet |
//! | [`session`] | finds sessions, tells living ones from dead ones, removes what dead ones left |
//! | [`mod@stop`] | ends a session |
//! | [`boot`] | makes the two daemons of a head node out of one process |
//! | [`daemons`] | what those processes run |
//! | [`list_nodes`] | asks a cluster from outside |
//! | [`autoscaling`] | the autoscaler's configuration, and nodes that it starts on this machine |
//! | [`web`] | the web service's socket, and the process that serves it |
//! | [`resources`] | what a node has when nobody says otherwise |
//!
//! The launcher binds both Unix sockets itself and hands them over listening, so a client may connect at once and
//! nobody polls for readiness. What a process has to receive comes through its standard input (its socket, or a channel
//! with both): that needs no code between fork and exec, so a large driver is not copied to start a small daemon.

mod ask;
pub mod autoscaling;
pub mod boot;
mod daemon;
pub mod daemons;
pub mod launch;
pub mod resources;
pub mod session;
pub mod stop;
pub mod web;

pub use ask::{drain_node, is_client, list_nodes};
pub use boot::run_head;
pub use daemon::Daemon;
pub use daemons::{run_gcs, run_raylet, run_scheduler};
pub use launch::{HeadConfig, LaunchError, Session, launch_head};
pub use ray_rs_transport::code_pages::give_back_code;
pub use ray_rs_transport::process_mark;
pub use ray_rs_web as web_service;
pub use session::{SessionInfo, discover, sweep};
pub use stop::{stop, stop_session};
pub use web::{WebArguments, serve_web};
