//! Conversions between wire types and `ray-rs-types`. Input from the wire may be anything, so they can fail.

use ray_rs_types::placing::{LabelRule, LabelTest, Placing, Strategy};
use ray_rs_types::task_columns::{ColumnFilter, TaskColumn, TaskKind};
use ray_rs_types::{IdError, NodeId, Quantity, ResourceSet, WorkerAddress, WorkerId};

use crate::v1;

impl From<&WorkerAddress> for v1::WorkerAddress {
    fn from(address: &WorkerAddress) -> Self {
        Self {
            node_id: address.node_id.0.to_vec(),
            worker_id: address.worker_id.0.to_vec(),
            pid: address.pid,
        }
    }
}

impl TryFrom<&v1::WorkerAddress> for WorkerAddress {
    type Error = IdError;

    fn try_from(wire: &v1::WorkerAddress) -> Result<Self, IdError> {
        Ok(Self {
            node_id: NodeId::from_bytes(&wire.node_id)?,
            worker_id: WorkerId::from_bytes(&wire.worker_id)?,
            pid: wire.pid,
        })
    }
}

impl From<&ResourceSet> for v1::ResourceSet {
    fn from(set: &ResourceSet) -> Self {
        Self {
            quantities: set.iter().map(|(name, amount)| (name.to_owned(), amount.0)).collect(),
        }
    }
}

impl From<&v1::ResourceSet> for ResourceSet {
    fn from(wire: &v1::ResourceSet) -> Self {
        wire.quantities
            .iter()
            .map(|(name, units)| (name.clone(), Quantity(*units)))
            .collect()
    }
}

/// A filter is about a column that there is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoSuchColumn(pub String);

impl TryFrom<&v1::ColumnFilter> for ColumnFilter {
    type Error = NoSuchColumn;

    fn try_from(wire: &v1::ColumnFilter) -> Result<Self, NoSuchColumn> {
        let column = TaskColumn::named(&wire.column).ok_or_else(|| NoSuchColumn(wire.column.clone()))?;
        Ok(Self::new(column, wire.differs, wire.value.as_deref()))
    }
}

/// Reads filters.
///
/// # Errors
/// [`NoSuchColumn`]
pub fn column_filters(wire: &[v1::ColumnFilter]) -> Result<Vec<ColumnFilter>, NoSuchColumn> {
    wire.iter().map(ColumnFilter::try_from).collect()
}

/// As in `TaskCount.kind`.
pub fn kind_number(kind: TaskKind) -> u32 {
    match kind {
        TaskKind::Normal => 1,
        TaskKind::Creation => 2,
        TaskKind::Call => 3,
    }
}

/// What [`kind_number`] gives; other numbers are a normal task's.
pub fn kind_of_number(kind: u32) -> TaskKind {
    match kind {
        2 => TaskKind::Creation,
        3 => TaskKind::Call,
        _ => TaskKind::Normal,
    }
}

impl From<&v1::LabelRule> for LabelRule {
    fn from(wire: &v1::LabelRule) -> Self {
        let values = wire.values.clone();
        let test = match wire.test {
            1 => LabelTest::NotIn(values),
            2 => LabelTest::Exists,
            3 => LabelTest::DoesNotExist,
            _ => LabelTest::In(values),
        };
        Self {
            key: wire.key.clone(),
            test,
        }
    }
}

/// The rules of a selector; an absent one has none.
pub fn label_rules(wire: Option<&v1::LabelSelector>) -> Vec<LabelRule> {
    wire.into_iter()
        .flat_map(|selector| &selector.rules)
        .map(LabelRule::from)
        .collect()
}

impl TryFrom<&v1::SchedulingStrategy> for Placing {
    type Error = IdError;

    fn try_from(wire: &v1::SchedulingStrategy) -> Result<Self, IdError> {
        let strategy = match wire.kind {
            1 => Strategy::Spread,
            2 => Strategy::NodeAffinity {
                node: NodeId::from_bytes(&wire.node_id)?,
                soft: wire.soft,
                spill_on_unavailable: wire.spill_on_unavailable,
                fail_on_unavailable: wire.fail_on_unavailable,
            },
            3 => Strategy::NodeLabels {
                hard: label_rules(wire.hard.as_ref()),
                soft: label_rules(wire.preferred.as_ref()),
            },
            _ => Strategy::Default,
        };
        let selectors = wire.selectors.iter().map(|selector| label_rules(Some(selector)));
        Ok(Self {
            strategy,
            selectors: selectors.collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips() {
        let address = WorkerAddress {
            node_id: NodeId([3; 28]),
            worker_id: WorkerId([4; 28]),
            pid: 5,
        };
        assert_eq!(WorkerAddress::try_from(&v1::WorkerAddress::from(&address)), Ok(address));
        let set = ResourceSet::new().with("CPU", 1.5).with("x", 0.0001);
        assert_eq!(ResourceSet::from(&v1::ResourceSet::from(&set)), set);
        assert!(WorkerAddress::try_from(&v1::WorkerAddress::default()).is_err());
    }
}
