//! Which GPU indices are in use, and by how much.

use ray_rs_types::Quantity;

/// A part of one GPU, in units of [`Quantity`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Share {
    pub device: u32,
    pub units: i64,
}

/// The free part of each GPU of the node.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gpus {
    free: Vec<i64>,
}

impl Gpus {
    pub fn new(total: Quantity) -> Self {
        let whole = usize::try_from(total.0 / Quantity::UNITS_PER_ONE).unwrap_or(0);
        let mut free = vec![Quantity::UNITS_PER_ONE; whole];
        let rest = total.0 % Quantity::UNITS_PER_ONE;
        if rest > 0 {
            free.push(rest);
        }
        Self { free }
    }

    /// The parts of GPUs that a bundle has.
    pub fn of_shares(shares: &[Share]) -> Self {
        let devices = shares.iter().map(|share| share.device as usize + 1).max().unwrap_or(0);
        let mut gpus = Self { free: vec![0; devices] };
        gpus.give_back(shares);
        gpus
    }

    pub fn fits(&self, amount: Quantity) -> bool {
        let whole = amount.0 / Quantity::UNITS_PER_ONE;
        let rest = amount.0 % Quantity::UNITS_PER_ONE;
        let untouched = self
            .free
            .iter()
            .filter(|free| **free == Quantity::UNITS_PER_ONE)
            .count() as i64;
        if untouched < whole {
            return false;
        }
        // The fraction may share a device that is in use already, or break an untouched one that the whole part spares.
        rest == 0
            || untouched > whole
            || self
                .free
                .iter()
                .any(|free| *free != Quantity::UNITS_PER_ONE && *free >= rest)
    }

    /// Whole GPUs are given whole; a fraction goes where it leaves the least unused, so that whole ones stay whole.
    pub fn take(&mut self, amount: Quantity) -> Vec<Share> {
        debug_assert!(self.fits(amount), "SCH-4: GPUs are taken only where they fit");
        let mut whole = amount.0 / Quantity::UNITS_PER_ONE;
        let rest = amount.0 % Quantity::UNITS_PER_ONE;
        let mut shares = Vec::new();
        for (device, free) in self.free.iter_mut().enumerate() {
            if whole > 0 && *free == Quantity::UNITS_PER_ONE {
                *free = 0;
                whole -= 1;
                shares.push(Share {
                    device: device as u32,
                    units: Quantity::UNITS_PER_ONE,
                });
            }
        }
        if rest > 0 {
            let best = self
                .free
                .iter()
                .enumerate()
                .filter(|(_, free)| **free >= rest)
                .min_by_key(|(_, free)| **free);
            if let Some((device, _)) = best {
                self.free[device] -= rest;
                shares.push(Share {
                    device: device as u32,
                    units: rest,
                });
            }
        }
        shares
    }

    pub fn give_back(&mut self, shares: &[Share]) {
        for share in shares {
            self.free[share.device as usize] += share.units;
        }
    }

    pub fn free(&self) -> &[i64] {
        &self.free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices(shares: &[Share]) -> Vec<u32> {
        shares.iter().map(|share| share.device).collect()
    }

    #[test]
    fn whole_gpus_are_distinct_and_fractions_share() {
        let mut gpus = Gpus::new(Quantity::from_f64(3.0));
        let half = Quantity::from_f64(0.5);
        let first = gpus.take(half);
        let second = gpus.take(half);
        assert_eq!((devices(&first), devices(&second)), (vec![0], vec![0]));
        assert_eq!(devices(&gpus.take(Quantity::from_f64(2.0))), vec![1, 2]);
        assert!(!gpus.fits(Quantity::from_f64(0.1)));
        gpus.give_back(&first);
        assert!(gpus.fits(half) && !gpus.fits(Quantity::from_f64(0.6)));
        assert!(
            !gpus.fits(Quantity::from_f64(1.0)),
            "a half-used device is no whole one"
        );
    }
}
