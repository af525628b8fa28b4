//! Between the words of `ray_rs_actors::lifecycle` and those of the wire.

use ray_rs_actors::lifecycle::{Death, Phase, Restored, Status};
use std::collections::BTreeMap;
use std::time::Duration;

use ray_rs_proto::v1;
use ray_rs_scheduler::autoscale::{Report, Stage};
use ray_rs_scheduler::bottom_up::heartbeat::Heartbeat;
use ray_rs_types::{ActorId, NodeId, Quantity, ResourceSet, WorkerAddress};

/// Values of `ActorUpdate.state`.
pub fn phase_number(phase: Phase) -> u32 {
    match phase {
        Phase::PendingCreation => 0,
        Phase::Placed => 1,
        Phase::Alive => 2,
        Phase::Restarting => 3,
        Phase::Dead => 4,
    }
}

fn phase_from(number: u32) -> Option<Phase> {
    [
        Phase::PendingCreation,
        Phase::Placed,
        Phase::Alive,
        Phase::Restarting,
        Phase::Dead,
    ]
    .into_iter()
    .find(|phase| phase_number(*phase) == number)
}

/// What followers of the actor are told: a death only when it has come, and then who died.
pub fn published(actor: ActorId, status: Status<'_>, spec: Option<&v1::ActorSpec>) -> v1::ActorUpdate {
    let mut update = persisted(actor, status);
    update.death = update.death.filter(|_| status.phase == Phase::Dead);
    update.starting_on = Vec::new();
    if let (Some(death), Some(spec)) = (&mut update.death, spec) {
        death.name.clone_from(&spec.name);
        death.namespace.clone_from(&spec.namespace);
    }
    update
}

/// What is kept: also the death that an ending actor is going to have.
pub fn persisted(actor: ActorId, status: Status<'_>) -> v1::ActorUpdate {
    v1::ActorUpdate {
        actor_id: actor.0.to_vec(),
        state: phase_number(status.phase),
        worker: status.worker.as_ref().map(v1::WorkerAddress::from),
        incarnation: status.incarnation,
        death: status.death.map(death_to_wire),
        node_ip: String::new(),
        moves: status.moves,
        starting_on: status.starting_on.map(|node| node.0.to_vec()).unwrap_or_default(),
    }
}

/// `None` when the record is not one of ours.
pub fn restored(update: &v1::ActorUpdate, has_arguments: bool) -> Option<Restored> {
    let worker = match &update.worker {
        Some(worker) => Some(WorkerAddress::try_from(worker).ok()?),
        None => None,
    };
    let death = update.death.clone().map(death_from_wire);
    Some(Restored {
        phase: phase_from(update.state)?,
        worker,
        starting_on: NodeId::from_bytes(&update.starting_on).ok(),
        incarnation: update.incarnation,
        moves: update.moves,
        death,
        has_arguments,
    })
}

fn death_to_wire(death: &Death) -> v1::ActorDeath {
    let (cause, message, creation_error) = match death {
        Death::WorkerDied(message) => (1, message.clone(), Vec::new()),
        Death::Killed => (2, String::new(), Vec::new()),
        Death::CreationFailed { message, error } => (3, message.clone(), error.clone()),
        Death::OutOfScope => (4, String::new(), Vec::new()),
        Death::ExitedItself(message) => (5, message.clone(), Vec::new()),
        Death::OwnerDied(message) => (6, message.clone(), Vec::new()),
        Death::CannotBeScheduled(message) => (7, message.clone(), Vec::new()),
        Death::EnvironmentFailed(message) => (8, message.clone(), Vec::new()),
        Death::NoNode(message) => (11, message.clone(), Vec::new()),
        Death::GroupRemoved { ran: false } => (9, String::new(), Vec::new()),
        Death::GroupRemoved { ran: true } => (10, String::new(), Vec::new()),
    };
    v1::ActorDeath {
        cause,
        message,
        creation_error,
        name: String::new(),
        namespace: String::new(),
    }
}

fn death_from_wire(death: v1::ActorDeath) -> Death {
    let message = death.message;
    match death.cause {
        2 => Death::Killed,
        3 => Death::CreationFailed {
            message,
            error: death.creation_error,
        },
        4 => Death::OutOfScope,
        5 => Death::ExitedItself(message),
        6 => Death::OwnerDied(message),
        7 => Death::CannotBeScheduled(message),
        8 => Death::EnvironmentFailed(message),
        11 => Death::NoNode(message),
        9 | 10 => Death::GroupRemoved { ran: death.cause == 10 },
        _ => Death::WorkerDied(message),
    }
}

/// How a process ended, for people.
pub fn end_of_process(report: Option<&v1::DeathReport>) -> String {
    let Some(report) = report.filter(|report| report.known) else {
        return "its process has ended; how is not known".to_owned();
    };
    let mut text = match report.signal {
        0 => format!("its process (pid {}) exited with code {}", report.pid, report.exit_code),
        9 if report.out_of_memory.is_some() => format!("its process (pid {}) was ended", report.pid),
        9 => format!(
            "its process (pid {}) was killed (SIGKILL): by the kernel for want of memory, or by a user",
            report.pid
        ),
        signal => format!("its process (pid {}) was ended by {}", report.pid, signal_name(signal)),
    };
    if !report.detail.is_empty() {
        text.push_str("; ");
        text.push_str(&report.detail);
    }
    if !report.last_stderr.is_empty() {
        text.push_str("\nThe last it wrote to stderr:\n");
        text.push_str(&report.last_stderr);
    }
    text
}

/// The signals that end programs, as Linux numbers them on x86 and ARM.
fn signal_name(signal: i32) -> String {
    let name = match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        31 => "SIGSYS",
        _ => return format!("signal {signal}"),
    };
    format!("signal {signal} ({name})")
}

/// Amounts that are zero take a name away, and so are kept.
pub fn heartbeat(wire: &v1::NodeHeartbeat) -> Heartbeat {
    let amounts = wire.available.iter().flat_map(|available| &available.quantities);
    let shape = |count: &v1::ShapeCount| (set(count.resources.as_ref()), count.count);
    Heartbeat {
        life: 0,
        number: wire.number,
        base: wire.base,
        total: wire.total.as_ref().map(ResourceSet::from),
        labels: None,
        available: amounts.map(|(name, units)| (name.clone(), Quantity(*units))).collect(),
        backlog: wire.waiting.iter().map(shape).collect(),
        hold: wire.hold_ns.map(Duration::from_nanos),
        draining: wire.drain.as_ref().map(|_| true),
    }
}

/// `now`: by the autoscaler's clock.
pub fn autoscaler_report(report: &Report, now: Duration) -> v1::AutoscalerReport {
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let age = |since: Duration| ms(now.saturating_sub(since));
    let shapes = |shapes: &BTreeMap<ResourceSet, u32>, why: &dyn Fn(&ResourceSet) -> String| {
        let shape = |(shape, count): (&ResourceSet, &u32)| v1::ShapeCount {
            resources: Some(shape.into()),
            count: *count,
            why: why(shape),
            ..v1::ShapeCount::default()
        };
        shapes.iter().map(shape).collect()
    };
    let no_type = |shape: &ResourceSet| format!("no type of node has {shape}");
    let limit = |_: &ResourceSet| "as many nodes as may be are there, or starts have failed lately".to_owned();
    v1::AutoscalerReport {
        instances: (report.instances.iter())
            .map(|instance| v1::AutoscalerInstance {
                instance: instance.instance.clone(),
                node_type: instance.node_type.clone(),
                stage: match instance.stage {
                    Stage::Ordered => 0,
                    Stage::Starting => 1,
                    Stage::Joined => 2,
                    Stage::Draining => 3,
                    Stage::Ending => 4,
                },
                node_id: instance.node.map(|node| node.0.to_vec()).unwrap_or_default(),
                age_ms: age(instance.since),
            })
            .collect(),
        failures: (report.failures.iter())
            .map(|failure| v1::AutoscalerFailure {
                node_type: failure.node_type.clone(),
                instance: failure.instance.clone(),
                why: failure.why.clone(),
                age_ms: age(failure.at),
            })
            .collect(),
        infeasible: shapes(&report.infeasible, &no_type),
        delayed: shapes(&report.delayed, &limit),
        pauses: (report.paused.iter())
            .filter(|(_, until)| *until > now)
            .map(|(node_type, until)| v1::AutoscalerPause {
                node_type: node_type.clone(),
                remaining_ms: ms(until.saturating_sub(now)),
            })
            .collect(),
    }
}

/// The other way, for replicas of the global scheduler.
pub fn wire_heartbeat(beat: Heartbeat) -> v1::NodeHeartbeat {
    let amounts = beat.available.into_iter().map(|(name, amount)| (name, amount.0));
    let count = |(shape, count): (ResourceSet, u32)| v1::ShapeCount {
        resources: Some((&shape).into()),
        count,
        ..v1::ShapeCount::default()
    };
    v1::NodeHeartbeat {
        number: beat.number,
        base: beat.base,
        total: beat.total.as_ref().map(Into::into),
        available: Some(v1::ResourceSet {
            quantities: amounts.collect(),
        }),
        waiting: beat.backlog.into_iter().map(count).collect(),
        hold_ns: beat.hold.map(|hold| hold.as_nanos() as u64),
        ..v1::NodeHeartbeat::default()
    }
}

fn set(wire: Option<&v1::ResourceSet>) -> ResourceSet {
    wire.map(ResourceSet::from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ray_rs_types::{JobId, WorkerId};

    #[test]
    fn a_persisted_status_comes_back_as_it_was() {
        let actor = ActorId::new([3; 12], JobId::from_int(1));
        let worker = WorkerAddress {
            node_id: NodeId([1; 28]),
            worker_id: WorkerId([2; 28]),
            pid: 3,
        };
        let deaths = [
            Death::WorkerDied("w".to_owned()),
            Death::Killed,
            Death::CreationFailed {
                message: "c".to_owned(),
                error: vec![1],
            },
            Death::OutOfScope,
            Death::ExitedItself("e".to_owned()),
            Death::OwnerDied("its job has finished".to_owned()),
            Death::CannotBeScheduled("s".to_owned()),
            Death::EnvironmentFailed("no such package".to_owned()),
            Death::NoNode("no such node".to_owned()),
            Death::GroupRemoved { ran: true },
            Death::GroupRemoved { ran: false },
        ];
        for death in &deaths {
            for (phase, worker) in [(Phase::Dead, None), (Phase::Alive, Some(worker))] {
                let status = Status {
                    phase,
                    worker,
                    starting_on: None,
                    incarnation: 4,
                    moves: 2,
                    death: Some(death),
                };
                let back = restored(&persisted(actor, status), true).expect("ours");
                assert_eq!(
                    back,
                    Restored {
                        phase,
                        worker,
                        starting_on: None,
                        incarnation: 4,
                        moves: 2,
                        death: Some(death.clone()),
                        has_arguments: true,
                    }
                );
                let spec = v1::ActorSpec {
                    name: "box".to_owned(),
                    ..v1::ActorSpec::default()
                };
                let told = published(actor, status, Some(&spec)).death.map(|death| death.name);
                assert_eq!(told.as_deref(), (phase == Phase::Dead).then_some("box"));
            }
        }
        assert!(
            restored(
                &v1::ActorUpdate {
                    state: 9,
                    ..v1::ActorUpdate::default()
                },
                true
            )
            .is_none()
        );
    }

    #[test]
    fn ends_are_told_in_words() {
        let report = v1::DeathReport {
            pid: 7,
            exit_code: -1,
            signal: 9,
            known: true,
            ..v1::DeathReport::default()
        };
        assert!(end_of_process(Some(&report)).contains("SIGKILL"));
        let report = v1::DeathReport { signal: 11, ..report };
        assert!(end_of_process(Some(&report)).contains("SIGSEGV"));
        let report = v1::DeathReport {
            exit_code: 3,
            signal: 0,
            last_stderr: "oh".to_owned(),
            ..report
        };
        assert_eq!(
            end_of_process(Some(&report)),
            "its process (pid 7) exited with code 3\nThe last it wrote to stderr:\noh"
        );
        assert!(end_of_process(None).contains("not known"));
    }
}
