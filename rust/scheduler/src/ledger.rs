//! The node's resources: what it has, what is free, and what one grant holds.

use ray_rs_types::resources::{CPU, GPU};
use ray_rs_types::{Quantity, ResourceSet};

use crate::gpus::{Gpus, Share};

/// What one lease or actor holds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Holding {
    pub resources: ResourceSet,
    pub gpus: Vec<Share>,
    /// Its CPUs are lent to others while its task sleeps.
    pub cpu_lent: bool,
    /// It took its CPUs back after a sleep, perhaps without their being free.
    pub cpu_retaken: bool,
}

impl Holding {
    pub fn cpu(&self) -> Quantity {
        self.resources.get(CPU)
    }

    pub fn gpu_indices(&self) -> Vec<u32> {
        self.gpus.iter().map(|share| share.device).collect()
    }

    /// What comes free when it ends.
    pub fn returns(&self) -> ResourceSet {
        let mut resources = self.resources.clone();
        if self.cpu_lent {
            resources.set(CPU, Quantity::ZERO);
        }
        resources
    }
}

#[derive(Debug)]
pub(crate) struct Ledger {
    pub total: ResourceSet,
    pub available: ResourceSet,
    pub gpus: Gpus,
}

impl Ledger {
    pub fn new(total: ResourceSet) -> Self {
        let gpus = Gpus::new(total.get(GPU));
        Self {
            available: total.clone(),
            total,
            gpus,
        }
    }

    pub fn fits(&self, demand: &ResourceSet) -> bool {
        self.available.covers(demand) && self.gpus.fits(demand.get(GPU))
    }

    /// Whether the empty node could serve it.
    pub fn feasible(&self, demand: &ResourceSet) -> bool {
        self.total.covers(demand) && Gpus::new(self.total.get(GPU)).fits(demand.get(GPU))
    }

    pub fn take(&mut self, demand: &ResourceSet) -> Holding {
        self.available.subtract(demand);
        let gpus = self.gpus.take(demand.get(GPU));
        Holding {
            resources: demand.clone(),
            gpus,
            cpu_lent: false,
            cpu_retaken: false,
        }
    }

    pub fn give_back(&mut self, holding: &Holding) {
        self.available.add(&holding.returns());
        self.gpus.give_back(&holding.gpus);
    }

    /// Turns what an actor needed to be placed into what it runs with. Its GPUs stay when their amount does.
    pub fn swap(&mut self, holding: Holding, running: &ResourceSet) -> Holding {
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
            gpus,
            cpu_lent: false,
            cpu_retaken: false,
        }
    }

    pub fn lend_cpu(&mut self, holding: &mut Holding) {
        if !holding.cpu_lent {
            holding.cpu_lent = true;
            holding.cpu_retaken = false;
            self.available.add(&cpu_only(holding.cpu()));
        }
    }

    pub fn retake_cpu(&mut self, holding: &mut Holding) {
        if holding.cpu_lent {
            holding.cpu_lent = false;
            holding.cpu_retaken = true;
            self.available.subtract(&cpu_only(holding.cpu()));
        }
    }
}

fn cpu_only(amount: Quantity) -> ResourceSet {
    let mut set = ResourceSet::new();
    set.set(CPU, amount);
    set
}
