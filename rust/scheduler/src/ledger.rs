//! The node's resources: what it has, what is free, and what one grant holds.
//!
//! A demand by the names of a placement group's resources is served from that group's bundles ([`crate::bundles`]), any
//! other from what is in no bundle.

use ray_rs_types::bundles::{BundleDemand, cpus_of};
use ray_rs_types::resources::{CPU, GPU};
use ray_rs_types::{PlacementGroupId, Quantity, ResourceSet};

use crate::bundles::Bundles;
use crate::gpus::{Gpus, Share};
use crate::shape::Shape;

/// What one lease or actor holds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Holding {
    /// In a bundle: by the names of the bundle and of its group.
    pub resources: ResourceSet,
    /// The bundle that it is in, and what it takes there.
    pub inside: Option<BundleDemand>,
    pub gpus: Vec<Share>,
    /// Its CPUs are lent to others while its task sleeps.
    pub cpu_lent: bool,
    /// It took its CPUs back after a sleep, perhaps without their being free.
    pub cpu_retaken: bool,
}

impl Holding {
    pub fn cpu(&self) -> Quantity {
        cpus_of(&self.resources)
    }

    pub fn group(&self) -> Option<PlacementGroupId> {
        self.inside.as_ref().map(|inside| inside.group)
    }

    pub fn gpu_indices(&self) -> Vec<u32> {
        self.gpus.iter().map(|share| share.device).collect()
    }

    /// What comes free when it ends.
    pub fn returns(&self) -> ResourceSet {
        match &self.inside {
            _ if !self.cpu_lent => self.resources.clone(),
            Some(inside) => {
                let mut inside = inside.clone();
                inside.resources.set(CPU, Quantity::ZERO);
                inside.by_name()
            }
            None => {
                let mut resources = self.resources.clone();
                resources.set(CPU, Quantity::ZERO);
                resources
            }
        }
    }
}

#[derive(Debug)]
pub(crate) struct Ledger {
    pub total: ResourceSet,
    /// Of what is in no bundle.
    pub available: ResourceSet,
    pub gpus: Gpus,
    pub bundles: Bundles,
    /// Counts the changes.
    pub changes: u64,
}

impl Ledger {
    pub fn new(total: ResourceSet) -> Self {
        let gpus = Gpus::new(total.get(GPU));
        Self {
            available: total.clone(),
            total,
            gpus,
            bundles: Bundles::default(),
            changes: 0,
        }
    }

    pub fn fits(&self, demand: &Shape) -> bool {
        self.fits_in(demand.inside().as_ref(), demand)
    }

    /// The same of a demand of which is known where it is to be served.
    pub fn fits_in(&self, inside: Option<&BundleDemand>, demand: &ResourceSet) -> bool {
        match inside {
            Some(inside) => self.bundles.pick(inside).is_some(),
            None => self.available.covers(demand) && self.gpus.fits(demand.get(GPU)),
        }
    }

    /// Whether the empty node, or the empty bundles that are here, could serve it.
    pub fn feasible(&self, demand: &Shape) -> bool {
        self.feasible_in(demand.inside().as_ref(), demand)
    }

    /// The same of a demand of which is known where it is to be served.
    pub fn feasible_in(&self, inside: Option<&BundleDemand>, demand: &ResourceSet) -> bool {
        match inside {
            Some(inside) => self.bundles.is_feasible(inside),
            None => self.total.covers(demand) && Gpus::new(self.total.get(GPU)).fits(demand.get(GPU)),
        }
    }

    /// What is free of each resource that `demand` names.
    pub fn free_for(&self, demand: &ResourceSet) -> ResourceSet {
        match BundleDemand::group_of(demand) {
            Some(group) => self.bundles.available_by_name(group),
            None => self.available.clone(),
        }
    }

    /// What there would be of each resource that `demand` names if nothing were granted.
    pub fn total_for(&self, demand: &ResourceSet) -> ResourceSet {
        match BundleDemand::group_of(demand) {
            Some(group) => self.bundles.total_by_name(group),
            None => self.total.clone(),
        }
    }

    pub fn take(&mut self, demand: &ResourceSet) -> Holding {
        self.changes += 1;
        if let Some(mut inside) = BundleDemand::of(demand) {
            let picked = self.bundles.pick(&inside).expect("SCH-1: taken only where it fits");
            inside.index = Some(picked);
            let gpus = self.bundles.take(&inside);
            return Holding {
                resources: inside.by_name(),
                inside: Some(inside),
                gpus,
                cpu_lent: false,
                cpu_retaken: false,
            };
        }
        self.available.subtract(demand);
        let gpus = self.gpus.take(demand.get(GPU));
        Holding {
            resources: demand.clone(),
            inside: None,
            gpus,
            cpu_lent: false,
            cpu_retaken: false,
        }
    }

    pub fn give_back(&mut self, holding: &Holding) {
        self.changes += 1;
        match &holding.inside {
            Some(inside) => {
                let mut returns = inside.resources.clone();
                if holding.cpu_lent {
                    returns.set(CPU, Quantity::ZERO);
                }
                self.bundles.give_back(inside, &returns, &holding.gpus);
            }
            None => {
                self.available.add(&holding.returns());
                self.gpus.give_back(&holding.gpus);
            }
        }
    }

    /// Turns what an actor needed to be placed into what it runs with, in the same bundle. Its GPUs stay when their
    /// amount does.
    pub fn swap(&mut self, holding: Holding, running: &ResourceSet) -> Holding {
        self.changes += 1;
        if let Some(inside) = &holding.inside {
            let resources = BundleDemand::of(running)
                .map(|demand| demand.resources)
                .unwrap_or_default();
            let running = BundleDemand {
                resources,
                ..inside.clone()
            };
            self.bundles.give_back(inside, &inside.resources, &holding.gpus);
            let gpus = self.bundles.take(&running);
            return Holding {
                resources: running.by_name(),
                inside: Some(running),
                gpus,
                cpu_lent: false,
                cpu_retaken: false,
            };
        }
        let keeps_gpus = holding.resources.get(GPU) == running.get(GPU);
        self.available.add(&holding.returns());
        self.available.subtract(running);
        let gpus = if keeps_gpus {
            holding.gpus
        } else {
            self.gpus.give_back(&holding.gpus);
            if self.gpus.fits(running.get(GPU)) {
                self.gpus.take(running.get(GPU))
            } else {
                Vec::new()
            }
        };
        Holding {
            resources: running.clone(),
            inside: None,
            gpus,
            cpu_lent: false,
            cpu_retaken: false,
        }
    }

    pub fn lend_cpu(&mut self, holding: &mut Holding) {
        if !holding.cpu_lent {
            holding.cpu_lent = true;
            holding.cpu_retaken = false;
            self.changes += 1;
            let cpus = cpu_only(holding.cpu());
            match &holding.inside {
                Some(inside) => self.bundles.give_back(inside, &cpus, &[]),
                None => self.available.add(&cpus),
            }
        }
    }

    pub fn retake_cpu(&mut self, holding: &mut Holding) {
        if holding.cpu_lent {
            holding.cpu_lent = false;
            holding.cpu_retaken = true;
            self.changes += 1;
            let cpus = cpu_only(holding.cpu());
            match &holding.inside {
                Some(inside) => self.bundles.take_anyway(inside, &cpus),
                None => self.available.subtract(&cpus),
            }
        }
    }

    /// In use by what is in no bundle.
    pub fn used_outside_bundles(&self) -> ResourceSet {
        let mut used = self.total.clone();
        used.subtract(&self.available);
        used.subtract(&self.bundles.reserved());
        used
    }
}

fn cpu_only(amount: Quantity) -> ResourceSet {
    let mut set = ResourceSet::new();
    set.set(CPU, amount);
    set
}
