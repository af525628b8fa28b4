//! What clients may ask.

use ray_rs_proto::v1;
use ray_rs_proto::v1::from_raylet::Body as From;
use ray_rs_proto::v1::to_raylet::Body as To;
use ray_rs_scheduler::{ClientKey, Event, LeaseKey, RequestKey, WorkerKey};
use ray_rs_types::ActorId;

use crate::clients::Role;
use crate::input::{ConnKey, Input};
use crate::raylet::Raylet;

/// What anybody of this user may ask without being a driver or a worker: it changes nothing.
fn is_question(body: &To) -> bool {
    match body {
        To::ClusterView(_) | To::StoreStats(_) | To::ListObjects(_) | To::Describe(_) => true,
        To::GcsCall(call) => {
            let method = call.method.as_str();
            method.starts_with("List") || method.starts_with("Get") || matches!(method, "KvGet" | "KvKeys")
        }
        _ => false,
    }
}

impl Raylet {
    pub fn take_frame(&mut self, conn: ConnKey, body: To) {
        let Some(client) = self.clients.get_mut(&conn) else {
            return;
        };
        if client.role == Role::Remote && !client.registered {
            return client.held.push(body);
        }
        if let To::Register(request) = body {
            return self.register(conn, request);
        }
        if !client.registered && !is_question(&body) {
            tracing::warn!(pid = client.pid, "a client asks before it is registered");
            return;
        }
        let (role, outbox, key) = (client.role, client.outbox.clone(), ClientKey(conn.0));
        match body {
            To::Register(_) => unreachable!("taken above"),
            To::RequestLease(request) => self.lease_requested(conn, request),
            To::OpenPeer(request) => self.open_peer(conn, &request),
            To::PullObject(request) => self.pull_object(conn, request),
            To::ForgetCopy(request) => self.forget_copy(&request),
            To::WorkerReady(v1::WorkerReady {}) => {
                if let Role::Worker(token) = role {
                    self.worker_ready(token);
                }
            }
            To::CancelLeaseRequest(request) => {
                self.cluster.no_longer_waits(conn, request.request_id);
                self.decide(Event::LeaseRequestCancelled {
                    client: key,
                    request: RequestKey(request.request_id),
                });
            }
            To::LeaseBegun(begun) => self.decide(Event::LeaseBegun {
                client: key,
                lease: LeaseKey(begun.lease_id),
            }),
            To::ReturnLease(request) => self.decide(Event::LeaseReturned {
                client: key,
                lease: LeaseKey(request.lease_id),
                worker_gone: request.worker_gone,
            }),
            To::Blocked(v1::Blocked {}) => {
                if let Role::Worker(token) = role {
                    self.decide(Event::WorkerBlocked {
                        worker: WorkerKey(token.0),
                    });
                }
            }
            To::Unblocked(v1::Unblocked {}) => {
                if let Role::Worker(token) = role {
                    self.decide(Event::WorkerUnblocked {
                        worker: WorkerKey(token.0),
                    });
                }
            }
            To::RequestExtent(request) => {
                self.store.request_extent(conn, &request, &self.clients);
            }
            To::ReturnExtent(request) => {
                self.store.return_extent(conn, &request, &self.clients);
            }
            To::FreeObject(request) => self.store.free_object(&request, &self.clients),
            To::RestoreObjects(request) => self.store.restore_objects(conn, request, &self.clients),
            To::RestoredTaken(request) => {
                self.store.objects_taken(conn, request.request_id);
                self.store.pump(&self.clients);
            }
            To::ObjectHandedOver(request) => self.store.handed_over(&request),
            To::ListObjects(request) => {
                let reply = self.store.objects(request.request_id, &self.clients);
                outbox.send(From::ListObjectsReply(reply));
            }
            To::GcsCall(call) => {
                if call.method == "AddTaskEvents" {
                    self.tells_gcs(conn, call.request_id);
                }
                let (gcs, inputs) = (self.gcs.clone(), self.inputs.clone());
                tokio::spawn(async move {
                    let (payload, error) = match gcs.call(&call.method, call.payload.into()).await {
                        Ok(payload) => (payload.into(), String::new()),
                        Err(error) => (Vec::new(), error),
                    };
                    let reply = v1::GcsReply {
                        request_id: call.request_id,
                        payload,
                        error,
                    };
                    // Behind what the control store has ordered before it answered.
                    let _ = inputs.send(Input::CallAnswered { conn, reply }).await;
                });
            }
            To::SubscribeActor(request) => {
                if let Ok(actor) = ActorId::from_bytes(&request.actor_id) {
                    self.follow_actor(conn, actor, request.is_new);
                }
            }
            To::CreateGroup(spec) => self.create_group(conn, spec),
            To::RemoveGroup(request) => self.remove_group(request),
            To::FollowGroup(request) => self.follow_group(conn, &request),
            To::WhyDied(request) => self.why_died(conn, &request),
            To::FlushLogs(request) => {
                let (logs, mut sink) = self.logs_and_sink();
                logs.read_everything(&mut sink);
                outbox.send(From::LogsFlushed(v1::LogsFlushed {
                    request_id: request.request_id,
                }));
            }
            // Names travel in the files themselves, so that they keep their place among the lines.
            To::LogContext(_) => {}
            To::RunningTasks(answer) => {
                if let Role::Worker(token) = role {
                    self.worker_says_what_runs(token, answer);
                }
            }
            To::Describe(request) => self.describe(conn, request),
            To::Description(answer) => self.described(conn, answer),
            To::Shutdown(v1::Shutdown {}) => self.client_says_goodbye(conn),
            To::ClusterView(request) => self.tell_cluster(conn, request.request_id),
            To::Stays(v1::Stays {}) => self.worker_stays(conn),
            To::Retires(v1::Retires {}) => {
                if let Some(token) = self.worker_of(conn) {
                    self.decide(Event::WorkerRetires {
                        worker: WorkerKey(token.0),
                    });
                }
            }
            To::Unneeded(v1::Unneeded {}) => {
                if let Some(token) = self.worker_of(conn) {
                    self.decide(Event::WorkerUnneeded {
                        worker: WorkerKey(token.0),
                    });
                }
            }
            To::StoreStats(request) => {
                outbox.send(From::StoreStatsReply(v1::StoreStatsReply {
                    sent_bytes: self.transfers.sent_bytes(),
                    fetched_bytes: self.transfers.fetched_bytes(),
                    ..self.store.stats(request.request_id)
                }));
            }
        }
    }

    /// The driver that the session belongs to ends the session; any other client has merely gone.
    fn client_says_goodbye(&mut self, conn: ConnKey) {
        let Some(client) = self.clients.get(&conn) else { return };
        let owns_session =
            client.role == Role::Driver && self.config.driver_pid == Some(client.pid) && !self.config.outlives_goodbye;
        self.disconnected(conn);
        if owns_session {
            self.end_session("its driver said so");
        }
    }
}
