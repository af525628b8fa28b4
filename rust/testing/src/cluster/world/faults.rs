//! What goes wrong.

use super::*;

impl World {
    pub(super) fn fault(&mut self, fault: Fault) {
        let others: Vec<usize> = (1..self.nodes.len()).filter(|index| self.nodes[*index].is_up).collect();
        let other = others.get(self.rng.below(others.len() as u64) as usize).copied();
        let now = self.now;
        let name = match fault {
            Fault::WorkerDies => {
                let hosts: Vec<Proc> = self.hosts.keys().copied().collect();
                let Some(who) = hosts.get(self.rng.below(hosts.len() as u64) as usize) else {
                    return;
                };
                self.end(*who);
                "worker killed"
            }
            Fault::DriverDies => {
                let drivers: Vec<Proc> = self.drivers.keys().copied().collect();
                let Some(who) = drivers.get(self.rng.below(drivers.len() as u64) as usize) else {
                    return;
                };
                self.end(*who);
                "driver killed"
            }
            Fault::NodeDies => {
                let Some(node) = other else { return };
                self.end_node(node);
                "node killed"
            }
            Fault::GcsDies { away } => {
                self.gcs_dies(away);
                "control store killed"
            }
            Fault::ChannelBreaks => {
                let node = self.rng.below(self.nodes.len() as u64) as usize;
                self.break_channel(node, Duration::from_millis(50));
                "channel broken"
            }
            Fault::Cut { lasts } => {
                let Some(node) = other else { return };
                let until = now + lasts;
                self.nodes[node].cut_until = self.nodes[node].cut_until.max(until);
                self.quiet_from = self.quiet_from.max(until);
                if self.rng.chance(70) {
                    self.break_channel(node, Duration::from_secs(3));
                }
                "node cut off"
            }
            Fault::NodeFreezes { lasts } => {
                let Some(node) = other else { return };
                self.nodes[node].frozen_until = now + lasts;
                "node frozen"
            }
            Fault::GcsFreezes { lasts } => {
                if self.gcs.is_none() {
                    return;
                }
                self.gcs_frozen_until = now + lasts;
                self.quiet_from = self.quiet_from.max(now + lasts);
                "control store frozen"
            }
            Fault::DiskFails { lasts } => {
                self.disk.set_failing(true);
                self.schedule(lasts, Event::DiskWorks);
                "disk failed"
            }
            Fault::ClockJumps { by_ms } => {
                self.wall_ms += by_ms;
                "clock set"
            }
        };
        *self.report.faults.entry(name).or_default() += 1;
    }
}
