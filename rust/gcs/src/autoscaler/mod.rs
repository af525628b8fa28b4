//! Nodes that come and go as work needs them: the loop around [`ray_rs_scheduler::autoscale`].
//!
//! Every now and then it looks at the tables, lets the state machine decide, and has its orders carried out: a
//! [`NodeProvider`] starts and ends nodes, and nodes are asked to leave like by anybody else. When the session ends, whatever
//! was started is ended before the control store itself.

pub mod command;
pub mod provider;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use ray_rs_proto::v1;
use ray_rs_scheduler::autoscale::{Autoscaler, Config, Effect, Event};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::service::drain;
use crate::state::State;
use command::CommandProvider;
use provider::{ClusterPlace, INSTANCE_LABEL, NodeProvider, Order, TYPE_LABEL};

/// Time between two looks.
const LOOK_PAUSE: Duration = Duration::from_millis(500);
/// When the session ends, nodes have so long to be ended.
const LAST_LIMIT: Duration = Duration::from_secs(20);
/// A start that is under way then is waited for so long, before what has come of it is ended.
const LAST_START_LIMIT: Duration = Duration::from_secs(8);
/// `DrainInfo.reason`.
const IDLE_TERMINATION: u32 = 1;

/// What a gcs is told of the nodes that it may start.
#[derive(Debug, Clone)]
pub struct Autoscaling {
    pub config: Config,
    /// Further labels of each type's nodes.
    pub labels: BTreeMap<String, BTreeMap<String, String>>,
    pub provider: Arc<dyn NodeProvider>,
}

impl Autoscaling {
    fn order(&self, instance: String, node_type: String, cluster: ClusterPlace) -> Order {
        let known = self.config.types.iter().find(|known| known.name == node_type);
        let resources = known.map(|known| known.resources.iter());
        let resources = resources.into_iter().flatten();
        let mut labels = self.labels.get(&node_type).cloned().unwrap_or_default();
        labels.insert(INSTANCE_LABEL.to_owned(), instance.clone());
        labels.insert(TYPE_LABEL.to_owned(), node_type.clone());
        Order {
            instance,
            resources: resources
                .map(|(name, amount)| (name.to_owned(), amount.to_f64()))
                .collect(),
            node_type,
            labels,
            cluster,
        }
    }
}

/// The loop's end: [`Self::end`] ends all nodes.
pub(crate) struct Running {
    stop: watch::Sender<bool>,
    ended: tokio::task::JoinHandle<()>,
}

impl Running {
    pub fn start(state: Arc<Mutex<State>>, autoscaling: Autoscaling, cluster: ClusterPlace) -> Self {
        let (stop, stopped) = watch::channel(false);
        let ended = tokio::spawn(run(state, autoscaling, cluster, stopped));
        Self { stop, ended }
    }

    /// Resolves when nothing of what was started is left, or cannot be ended in time.
    pub async fn end(self) {
        self.stop.send_replace(true);
        if let Err(error) = self.ended.await {
            tracing::error!(%error, "the autoscaler broke down");
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("a broken state ends the process")
}

async fn run(
    state: Arc<Mutex<State>>,
    autoscaling: Autoscaling,
    cluster: ClusterPlace,
    mut stopped: watch::Receiver<bool>,
) {
    let mut scaler = Autoscaler::new(autoscaling.config.clone(), &fresh_life());
    let (answers, mut answered) = mpsc::unbounded_channel();
    let began = Instant::now();
    let mut next = began;
    let mut starts = Starts::new();
    loop {
        let event = tokio::select! {
            _ = stopped.changed() => break,
            Some(event) = answered.recv() => event,
            () = tokio::time::sleep_until(next) => {
                next = Instant::now() + LOOK_PAUSE;
                Event::Looked(lock(&state).autoscaler_view())
            }
        };
        let mut effects = Vec::new();
        let now = began.elapsed();
        let failures = scaler.report().failures.len();
        scaler.on_event(now, event, &mut effects);
        let report = scaler.report();
        for failure in report.failures.iter().skip(failures) {
            tracing::warn!(
                instance = failure.instance,
                why = failure.why,
                "a node of the autoscaler"
            );
        }
        lock(&state).autoscaler_report = Some(crate::convert::autoscaler_report(&report, now));
        for effect in effects {
            tracing::info!(?effect, "the autoscaler");
            carry_out(effect, &state, &autoscaling, &cluster, answers.clone(), &mut starts);
        }
    }
    end_all(&autoscaling, scaler.instances(), starts).await;
}

/// Of no other control store of this cluster.
fn fresh_life() -> String {
    // Not of the clock, which may be set back.
    let mut bytes = [0; 3];
    getrandom::fill(&mut bytes).expect("the kernel's random numbers");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The starts that are under way, by their nodes.
type Starts = BTreeMap<String, tokio::task::JoinHandle<()>>;

fn carry_out(
    effect: Effect,
    state: &Arc<Mutex<State>>,
    autoscaling: &Autoscaling,
    cluster: &ClusterPlace,
    answers: mpsc::UnboundedSender<Event>,
    starts: &mut Starts,
) {
    let provider = Arc::clone(&autoscaling.provider);
    match effect {
        Effect::Start { instance, node_type } => {
            let order = autoscaling.order(instance.clone(), node_type, cluster.clone());
            let name = instance.clone();
            let start = tokio::spawn(async move {
                let event = match provider.start(order).await {
                    Ok(()) => Event::Started { instance },
                    Err(why) => Event::StartFailed { instance, why },
                };
                let _ = answers.send(event);
            });
            starts.retain(|_, start| !start.is_finished());
            starts.insert(name, start);
        }
        Effect::Drain { instance, node } => {
            let state = Arc::clone(state);
            tokio::spawn(async move {
                let request = v1::DrainNodeRequest {
                    node_id: node.0.to_vec(),
                    reason: IDLE_TERMINATION,
                    message: "the autoscaler gives it up".to_owned(),
                    remaining_ms: 0,
                };
                let reply = drain(&state, request).await;
                let refused = (!reply.accepted).then_some(reply.rejection);
                let _ = answers.send(Event::DrainAnswered { instance, refused });
            });
        }
        Effect::End { instance } => {
            tokio::spawn(async move {
                let event = match provider.end(instance.clone()).await {
                    Ok(()) => Event::Ended { instance },
                    Err(why) => Event::EndFailed { instance, why },
                };
                let _ = answers.send(event);
            });
        }
    }
}

async fn end_all(autoscaling: &Autoscaling, instances: Vec<String>, mut starts: Starts) {
    let mut ending = tokio::task::JoinSet::new();
    for instance in instances {
        let provider = Arc::clone(&autoscaling.provider);
        let start = starts.remove(&instance);
        ending.spawn(async move {
            if let Some(mut start) = start
                && tokio::time::timeout(LAST_START_LIMIT, &mut start).await.is_err()
            {
                start.abort();
            }
            if let Err(why) = provider.end(instance.clone()).await {
                tracing::error!(instance, why, "a node could not be ended; look after it yourself");
            }
        });
    }
    let all = async { while ending.join_next().await.is_some() {} };
    if tokio::time::timeout(LAST_LIMIT, all).await.is_err() {
        tracing::error!("not all nodes have been ended in time; look after them yourself");
    }
}

/// The provider of commands that a configuration names.
pub fn by_commands(
    start: command::Template,
    end: Option<command::Template>,
    start_limit: Duration,
    log_dir: std::path::PathBuf,
) -> Arc<dyn NodeProvider> {
    Arc::new(CommandProvider {
        start,
        end,
        start_limit,
        log_dir,
    })
}
