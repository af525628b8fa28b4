//! Connections: how many at once, how slow they may be, and when the service ends.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::Semaphore;

use crate::events::Watch;
use crate::gate::Gate;
use crate::page::Page;
use crate::{Api, WebConfig, routes};

/// More wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 256;
/// A request's head has to be there within this time, and a connection that is kept ends after it.
const HEAD_LIMIT: Duration = Duration::from_secs(15);
/// Requests that ask the [`Api`] at once; more wait.
const MAX_THREADS: usize = 16;

/// Serves until nobody has been connected for a while, or `end` resolves.
///
/// # Errors
/// When there can be no runtime, the listener is none, or there is no page.
pub fn serve(
    listener: TcpListener,
    config: &WebConfig,
    api: Arc<dyn Api>,
    end: impl Future<Output = ()>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(MAX_THREADS)
        .build()?;
    listener.set_nonblocking(true)?;
    let gate = Gate {
        key: config.key.clone(),
        hosts: config.hosts.clone(),
    };
    let (page, watch) = (Page::read(&config.page_dir)?, Arc::new(Watch::default()));
    let service = routes::router(
        Arc::clone(&api),
        config.package_dir.clone(),
        gate,
        page,
        Arc::clone(&watch),
    );
    let outcome = runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        tokio::select! {
            outcome = accept(listener, service, config.idle) => outcome,
            () = watch.run(api) => Ok(()),
            () = end => Ok(()),
        }
    });
    runtime.shutdown_background();
    outcome
}

async fn accept(listener: tokio::net::TcpListener, service: axum::Router, idle: Duration) -> io::Result<()> {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("never closed");
        let accepted = loop {
            // One place is held here.
            let nobody = places.available_permits() == MAX_CONNECTIONS - 1;
            match tokio::time::timeout(idle, listener.accept()).await {
                Ok(accepted) => break accepted,
                Err(_) if nobody && places.available_permits() == MAX_CONNECTIONS - 1 => return Ok(()),
                Err(_) => {}
            }
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            // Of that connection alone, or there are no descriptors: the next may fare better.
            Err(error) => {
                tracing::warn!(%error, "a connection could not be taken");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(service.clone());
        tokio::spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_LIMIT)
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection broke");
            }
            drop(place);
        });
    }
}
