//! Logical resources in fixed point, as in Ray: one unit is 0.0001 of a resource.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// An amount of one resource in units of 0.0001.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Quantity(pub i64);

impl Quantity {
    pub const UNITS_PER_ONE: i64 = 10_000;
    pub const ZERO: Self = Self(0);

    pub fn from_f64(value: f64) -> Self {
        Self((value * Self::UNITS_PER_ONE as f64).round() as i64)
    }

    pub fn to_f64(self) -> f64 {
        self.0 as f64 / Self::UNITS_PER_ONE as f64
    }
}

/// Amounts by resource name; a name that is absent stands for zero, and no zero is stored. Its order means nothing, but is
/// always the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct ResourceSet(BTreeMap<String, Quantity>);

/// The resource that a running task holds while it computes and gives back while it waits.
pub const CPU: &str = "CPU";
pub const GPU: &str = "GPU";
pub const MEMORY: &str = "memory";
pub const OBJECT_STORE_MEMORY: &str = "object_store_memory";

impl ResourceSet {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn get(&self, name: &str) -> Quantity {
        self.0.get(name).copied().unwrap_or_default()
    }

    pub fn set(&mut self, name: impl Into<String>, amount: Quantity) {
        let name = name.into();
        if amount == Quantity::ZERO {
            self.0.remove(&name);
        } else {
            self.0.insert(name, amount);
        }
    }

    pub fn with(mut self, name: impl Into<String>, amount: f64) -> Self {
        self.set(name, Quantity::from_f64(amount));
        self
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, Quantity)> {
        self.0.iter().map(|(name, amount)| (name.as_str(), *amount))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `demand` fits into what is here.
    pub fn covers(&self, demand: &Self) -> bool {
        demand.iter().all(|(name, amount)| self.get(name) >= amount)
    }

    pub fn add(&mut self, other: &Self) {
        for (name, amount) in other.iter() {
            self.change(name, amount.0);
        }
    }

    /// Subtracts; amounts may go below zero (over-subscription by a worker that woke from a blocking call).
    pub fn subtract(&mut self, other: &Self) {
        for (name, amount) in other.iter() {
            self.change(name, -amount.0);
        }
    }

    /// Makes no new string where the name stays.
    fn change(&mut self, name: &str, by: i64) {
        match self.0.get_mut(name) {
            Some(amount) if amount.0 + by != 0 => amount.0 += by,
            Some(_) => drop(self.0.remove(name)),
            None => self.set(name, Quantity(by)),
        }
    }
}

impl FromIterator<(String, Quantity)> for ResourceSet {
    fn from_iter<I: IntoIterator<Item = (String, Quantity)>>(iter: I) -> Self {
        let mut set = Self::new();
        for (name, amount) in iter {
            set.set(name, amount);
        }
        set
    }
}

impl fmt::Display for ResourceSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (index, (name, amount)) in self.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{name}: {}", amount.to_f64())?;
        }
        f.write_str("}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn covers_and_arithmetic() {
        let mut node = ResourceSet::new().with(CPU, 2.0).with("special", 0.5);
        let demand = ResourceSet::new().with(CPU, 1.5);
        assert!(node.covers(&demand));
        node.subtract(&demand);
        assert!(!node.covers(&demand));
        assert_eq!(node.get(CPU), Quantity(5_000));
        node.add(&demand);
        assert_eq!(node.to_string(), "{CPU: 2, special: 0.5}");
    }
}
